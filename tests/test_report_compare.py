"""One page that compares runs: its tables, what it warns of, and the command that writes it."""

# ruff: noqa: RUF001 - minus signs and dashes are what the page shows

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from report_runs import FORCE, Links, edit_results, read_page, write_run
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.errors import UserError
from ase_finetune.report.compare import by_system, document, read_runs, write_comparison
from ase_finetune.report.figures import learning_curves

CONFIG = (
    "optimizer: {}\nlr: 0.002\nepochs: 100\nseed: {}\nfreeze: []\n"
    "refine:\n  method: lbfgs\n  evaluations: 80\n"
)


class Tables(HTMLParser):
    """The text of every table: rows of cells, by the heading before it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.heading, self.text = {}, "", None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.found.setdefault(self.heading, []).append([])
        elif tag == "tr":
            self.found[self.heading][-1].append([])
        elif tag in ("th", "td", "h3", "h4", "summary"):
            self.text = ""

    def handle_endtag(self, tag):
        if tag in ("h3", "h4", "summary"):
            self.heading, self.text = " ".join(self.text.split()), None
        elif tag in ("th", "td") and self.text is not None:
            self.found[self.heading][-1][-1].append(" ".join(self.text.split()))
            self.text = None

    def handle_data(self, data):
        if self.text is not None:
            self.text += data


def change(folder, *, force=1.0, C11=None, optimizer="adamw", seed=1, **provenance):
    """Make a run differ: scaled force errors of the last stage, a constant, settings, origin."""

    def edit(results):
        for errors in results["errors"]["refined"].values():
            errors["force_rmse_meV_per_A"] *= force
        if C11 is not None:
            row = results["properties"]["refined"]["C11"]
            row.update(value=C11, relative_error=(C11 - row["reference"]) / row["reference"])
        results["provenance"].update(provenance)

    edit_results(folder, edit)
    (folder / "config.yaml").write_text(CONFIG.format(optimizer, seed))
    return folder


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    """Two runs of mo that differ in optimizer, seed and results, and one of another system."""
    root = tmp_path_factory.mktemp("compare")
    write_run(root / "adamw")
    for name in ("soap", "acac"):
        shutil.copytree(root / "adamw", root / name)
    change(root / "adamw")
    change(root / "soap", force=0.5, C11=400.0, optimizer="soap", seed=7)
    change(root / "acac", system="acetylacetone", data_hash="cd" * 32)
    edit_results(root / "soap", lambda results: results["budget"].update(gradient_equivalents=90.0))
    return root


@pytest.fixture(scope="module")
def page(runs_folder):
    runs = read_runs([runs_folder / name for name in ("adamw", "soap", "acac")])
    return read_page(write_comparison(runs, runs_folder / "out" / "compare.html"))


@pytest.fixture
def pair(runs_folder, tmp_path):
    """Copies of the two runs of mo, without the figures, which take the time."""
    folders = [shutil.copytree(runs_folder / n, tmp_path / n) for n in ("adamw", "soap")]
    for folder in folders:
        for name in ("predictions.npz", "curves.json", "log.jsonl"):
            (folder / name).unlink()
    return folders


def compared(folders):
    return read_page(write_comparison(read_runs(folders), folders[0].parent / "compare.html"))


def rows_of(page, heading, which=0):
    """Rows of a table by their first cell."""
    return {row[0]: row[1:] for row in Tables(page).found[heading][which] if row}


def test_the_page_is_whole_and_loads_nothing(page):
    found = Links(page)
    for target in found.targets:
        assert target.startswith(("data:image/svg+xml;base64,", "#")), target[:80]
    assert {t[1:] for t in found.targets if t.startswith("#")} <= found.ids
    assert max(Counter(re.findall(r'\bid="([^"]*)"', page)).values()) == 1
    assert not re.search(r"url\(|@import", page)
    parts = {"overview", "errors", "properties", "curves", "learning", "budgets", "settings",
             "provenance"}  # fmt: skip
    for group in ("g1", "g2"):
        assert {f"{group}-{part}" for part in parts} <= found.ids
    # Per system 2 bars, 1 equation of state, 2 GSFE and 2 learning curves.
    assert len(found.alts) == 14


def test_systems_are_not_mixed(page):
    overviews = Tables(page).found["Overview"]
    names = [[row[0] for row in table[2:]] for table in overviews]
    assert names == [["adamw", "soap"], ["acac"]]
    assert "mo: adamw, soap · acetylacetone: acac" in page.replace("&middot;", "·")


def test_errors_by_split_and_stage(page):
    head, stages, *rows = Tables(page).found["Forces (meV/Å)"][0]
    assert head[1:] == ["test_id (10 frames)", "test_ood (8 frames)"]
    assert stages == ["zero-shot", "fine-tuned", "refined"] * 2
    assert rows[0] == ["adamw", "406", "52.4", "47.3", "688", "122", "117"]
    assert rows[1] == ["soap", "406", "52.4", "23.7", "688", "122", "58.6"]
    value = FORCE["refined"]["test_id"] * 0.5
    assert f'<td data-v="{value}" class="best">23.7</td>' in page
    assert not re.search(r'class="best">406<', page)  # all runs agree on it
    seen = Tables(page).found["Forces (meV/Å)"][1]
    assert seen[0][1:] == ["valid (5 frames)", "train (28 frames)"]


def test_verdicts_name_the_run_and_its_numbers(page):
    assert (
        "The lowest force error on test_id is that of soap, 23.7 meV/Å; adamw follows with 47.3."
        in page
    )
    # C11 of soap is 13 % too low, which moves its median of nine.
    errors = {n: rows_of(page, "Overview")[n] for n in ("adamw", "soap")}
    assert errors["adamw"][-3] == "9" and errors["soap"][-3] == "8"
    assert errors["soap"][-1] == "C11 −13.4 %"
    assert "the median deviation from DFT is lowest for adamw" in page


def test_equal_runs_have_no_lowest(pair):
    (pair[1] / "results.json").write_text((pair[0] / "results.json").read_text())
    page = compared(pair)
    assert "The lowest force error on" not in page and "is lowest for" not in page
    assert 'class="verdict"' not in page and 'class="best"' not in page


def test_properties_stand_beside_dft(page):
    rows = rows_of(page, "Properties against the reference")
    assert rows["C111"] == ["GPa", "461.8", "465.6", "+0.82 %", "400.0", "−13.4 %"]
    earlier = rows_of(page, "Properties of the zero-shot models")
    assert earlier["C111"][:4] == ["GPa", "461.8", "360.2", "−22.0 %"]


def test_settings_that_differ_and_budgets(page):
    assert rows_of(page, "Settings that differ") == {
        "Setting": ["adamw", "soap"],
        "optimizer": ["adamw", "soap"],
        "seed": ["1", "7"],
    }
    shared = rows_of(page, "5 settings that all share")
    assert shared["refine.evaluations"] == ["80"] and shared["freeze"] == ["unset"]
    budgets = rows_of(page, "Budgets")
    assert budgets["adamw"][:3] == ["100", "60", "160"] and budgets["soap"][2] == "90"
    assert "spent between 90 and 160 gradient equivalents" in page


def test_provenance_says_what_is_shared_once(page):
    rows = rows_of(page, "Provenance")
    assert rows["data hash"] == ["abababababab"]
    assert rows["foundation hash"] == ["0f0f0f0f0f0f"]
    assert rows["version of torch"] == ["2.13.0"]
    assert len(rows["folder"]) == 2
    assert "<script>alert" not in page


def test_fair_runs_are_not_warned_of(pair):
    assert 'class="warning"' not in compared(pair)


def test_different_data_are_warned_of_and_not_ranked(pair):
    change(pair[1], data_hash="cd" * 32)
    page = compared(pair)
    assert "Different data: adamw: abababababab; soap: cdcdcdcdcdcd." in page
    assert "The lowest force error" not in page
    assert 'class="best"' not in page
    assert "median deviation from DFT" in page  # of properties, which need no frames


def test_replay_is_ranked_on_the_same_frames_only(pair):
    """Runs with a replay weight measure on half of the frames, and others on all."""

    def measured(error, digest):
        def edit(results):
            row = {**results["errors"]["refined"]["test_id"], "force_rmse_meV_per_A": error}
            results["errors"]["refined"]["replay"] = row
            results["provenance"]["measured_replay_hash"] = digest

        return edit

    lowest = "The lowest force error on replay is that of soap, 20.0 meV/Å"
    note = "Errors on replay are not ranked"
    for digest, ranked, why in (
        ("12" * 32, True, ""),
        ("34" * 32, False, "same labels: adamw: 121212121212; soap: 343434343434."),
        (None, False, "same labels: soap does not state which these were."),
    ):
        edit_results(pair[0], measured(30.0, "12" * 32))
        edit_results(pair[1], measured(20.0, digest))
        page = compared(pair)
        assert (lowest in page) == ranked and (note in page) != ranked
        assert ('class="best">20.0<' in page) == ranked
        assert why in page
        assert "The lowest force error on test_id is that of soap" in page
        told = rows_of(page, "Provenance").get("measured replay hash")
        assert told == (["121212121212"] if ranked else ["121212121212", (digest or "–")[:12]])


def test_different_foundations_are_warned_of(pair):
    change(pair[1], foundation={"name": "small", "sha256": "12" * 32})
    page = compared(pair)
    assert "Different foundations: adamw: seed 0f0f0f0f0f0f; soap: small 121212121212." in page


def test_moved_references_and_versions_are_told(pair):
    def move(results):
        results["properties"]["refined"]["C44"]["reference"] = 99.0
        results["provenance"]["versions"]["torch"] = "2.12.0"

    edit_results(pair[1], move)
    page = compared(pair)
    assert "Different references: C44." in page
    assert "The runs used different versions of torch." in page


def test_units_that_differ_cannot_be_compared(pair):
    edit_results(
        pair[1], lambda results: results["properties"]["refined"]["C44"].update(unit="N/m")
    )
    with pytest.raises(UserError, match=r"C44 is given by .*adamw in GPa and .*soap in N/m"):
        compared(pair)


def test_failures_and_stopped_runs_are_listed(pair):
    def stop(results):
        results["budget"] = {}
        del results["errors"]["refined"], results["properties"]["refined"]
        results["failures"] = {"finetuned": {"phonons": "NotConvergedError: no minimum"}}

    edit_results(pair[1], stop)
    page = compared(pair)
    assert "The property phonons failed for the fine-tuned model: NotConvergedError" in page
    assert "Not ended: soap; shown as far as known." in page
    assert rows_of(page, "Overview")["soap"][0] == "fine-tuned"
    assert "is that of adamw (refined), 47.3 meV/Å; soap (fine-tuned) follows with 52.4." in page


def test_properties_alone_stand_beside_a_run(pair):
    """The folder of `properties --calculator`: no errors, one stage named after the calculator."""

    def alone(results):
        results["properties"] = {"emt": results["properties"]["zero_shot"]}
        for key in ("errors", "errors_by_type", "budget"):
            results[key] = {}
        results["provenance"] = {"system": "mo", "calculator": "emt"}

    edit_results(pair[1], alone)
    (pair[1] / "config.yaml").unlink()
    page = compared(pair)
    assert rows_of(page, "Overview")["soap"][0] == "emt"
    assert list(rows_of(page, "Forces (meV/Å)"))[-1] == "adamw"
    assert "soap states no data hash" in page
    assert "Only adamw states its settings." in page
    assert rows_of(page, "Properties against the reference")["C111"][4] == "360.2"


def test_own_data_joins_the_system_that_shares_it(pair):
    edit_results(pair[1], lambda results: results["provenance"].pop("system"))
    assert list(by_system(read_runs(pair))) == ["mo"]
    change(pair[1], data_hash="cd" * 32)
    assert {k: list(v) for k, v in by_system(read_runs(pair)).items()} == {
        "mo": ["adamw"],
        "Own data": ["soap"],
    }


def test_names_that_repeat_become_paths(pair, tmp_path):
    again = shutil.copytree(pair[0], tmp_path / "second" / "adamw")
    assert list(read_runs([pair[0], again])) == ["adamw", "second/adamw"]


def test_the_document_holds_the_numbers(pair):
    found = document(read_runs(pair))["systems"]["mo"]
    assert found["warnings"] == []
    assert found["settings_that_differ"]["optimizer"] == {"adamw": "adamw", "soap": "soap"}
    errors = found["runs"]["soap"]["errors"]["refined"]["test_id"]
    assert errors["force_rmse_meV_per_A"] == FORCE["refined"]["test_id"] * 0.5
    assert found["runs"]["soap"]["settings"]["seed"] == 7


def test_learning_curves_join_the_stages():
    row = {"stage": "finetuned", "gradient_equivalents": 1.0, "y": 8.0}
    log = [
        row,
        {**row, "gradient_equivalents": 2.0, "y": 4.0},
        {"stage": "refined", "gradient_equivalents": 3.0, "y": 5.0},
    ]
    figure = learning_curves({"a": log, "b": [row]}, "y", "y", before={"a": 10.0, "b": None})
    first, joint, lowest, second, *_ = figure.axes[0].lines
    np.testing.assert_array_equal(first.get_xydata(), [[0, 10], [1, 8], [2, 4], [5, 5]])
    np.testing.assert_array_equal(joint.get_xydata(), [[2, 4]])
    np.testing.assert_array_equal(lowest.get_xydata(), [[2, 4]])
    np.testing.assert_array_equal(second.get_xydata(), [[1, 8]])
    assert first.get_color() != second.get_color()
    assert [t.get_text() for t in figure.legends[0].texts] == ["a", "b"]


def call(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def refused(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def test_the_command_writes_one_page_or_a_comparison(pair, tmp_path):
    result = call(pair[0])
    assert result.exit_code == 0, result.output
    assert "Fine-tuning report" in read_page(pair[0] / "report.html")
    out = tmp_path / "pages" / "both.html"
    for _ in range(2):  # the second time over our own page
        result = call(*pair, "--out", out, "--json")
        assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["report"] == str(out)
    assert list(found["systems"]["mo"]["runs"]) == ["adamw", "soap"]
    assert "Comparison of 2 runs" in read_page(out)


def test_the_command_refuses_with_one_sentence(pair, tmp_path):
    nothing = tmp_path / "nothing"
    assert f"There is no folder {nothing}." in refused(pair[0], nothing)
    assert f"{pair[0]} is given twice." in refused(pair[0], pair[0])
    (tmp_path / "mine.html").write_text("my page")
    assert "is no page of ours" in refused(*pair, "--out", tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "my page"
    assert "is a folder" in refused(*pair, "--out", tmp_path)
    (pair[1] / "results.json").write_text('{"errors": {"refined": {"test_id": 3}}}')
    assert f"The files in {pair[1]} do not belong together" in refused(*pair)
    (pair[1] / "results.json").write_text("{")
    assert f"{pair[1] / 'results.json'} is not valid JSON" in refused(*pair)
