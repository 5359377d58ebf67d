"""The HTML report of a run, from a synthetic folder with the numbers of a plausible one."""

# ruff: noqa: RUF001 - minus signs and dashes are what the page shows

from __future__ import annotations

import re
import shutil

import pytest
from report_runs import STAGES, Links, edit_results, read_page, write_run

from ase_finetune.report.page import write_report
from ase_finetune.report.tables import duration, in_unit, percent, property_name, significant


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mo")


@pytest.fixture(scope="module")
def page(full_run):
    path = write_report(full_run)
    assert path == full_run / "report.html"
    return read_page(path)


@pytest.fixture
def copy(full_run, tmp_path):
    return shutil.copytree(full_run, tmp_path / "mo")


@pytest.fixture
def light(copy):
    """The same without most of the figures, which take the time."""
    for name in ("predictions.npz", "curves.json", "log.jsonl"):
        (copy / name).unlink()
    return copy


def test_has_every_section_and_figure(page):
    found = Links(page)
    assert found.ids >= {"errors", "types", "properties", "elastic", "gsfe", "learning", "parity",
                         "use", "provenance"}  # fmt: skip
    # 2 elastic, 1 equation of state, 2 GSFE (relaxed ones are guests), 2 learning, 4 parity.
    assert len(found.alts) == 11


def test_loads_nothing_from_elsewhere_and_is_small(page):
    for target in Links(page).targets:
        assert target.startswith(("data:image/svg+xml;base64,", "#")), target[:80]
    assert not re.search(r"url\(|@import", page)
    assert len(page.encode()) < 2_000_000


def test_internal_links_lead_somewhere(page):
    found = Links(page)
    assert {t[1:] for t in found.targets if t.startswith("#")} <= found.ids


def test_shows_the_numbers_with_units(page):
    for text in (">406<", ">52.4<", ">47.3<", "−88 %", "meV/Å³", ">3.1617<", ">465.6<", "+0.82 %",
                 ">−10.9123<", ">0.015<", "J/m²", "160 gradient equivalents",
                 "6 min 53 s"):  # fmt: skip
        assert text in page, text
    assert "The force error on test_id fell from 406 to 47.3 meV/Å (8.6 times lower)." in page
    assert "9 of 9 quantities with a reference lie within 3 %" in page
    assert "(1 zero-shot)" in page
    assert "an RMSE of 0.015 J/m² ({110} rigid), 0.015 J/m² ({121} rigid)." in page
    assert "The energy error" not in page


def test_escapes_what_it_was_given(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;within&gt;" in page


def test_snippet_names_the_last_checkpoint(page, full_run):
    assert f'FineTunedCalculator("{(full_run / "checkpoints" / "refined").as_posix()}")' in page


def test_the_same_run_gives_the_same_page(page, full_run):
    assert read_page(write_report(full_run)) == page


def test_a_worse_result_is_called_worse(light):
    def worse(results):
        results["errors"]["refined"]["test_ood"]["force_rmse_meV_per_A"] = 1376.8
        results["errors"]["refined"]["test_id"]["energy_rmse_meV_per_atom"] = 90.0

    edit_results(light, worse)
    page = read_page(write_report(light))
    assert "The force error on test_ood rose from 688 to 1377 meV/Å (2.0 times higher)." in page
    assert "The energy error on test_id rose from 45.1 to 90.0 meV/atom." in page


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (640.0, "fell from 688 to 640 meV/Å (by 7.0 %)."),
        (700.0, "rose from 688 to 700 meV/Å (by 1.7 %)."),
    ],
)
def test_a_small_change_is_told_in_percent(light, value, said):
    def close(results):
        for stage, error in (("zero_shot", 688.0), ("refined", value)):
            results["errors"][stage]["test_ood"]["force_rmse_meV_per_A"] = error

    edit_results(light, close)
    assert said in read_page(write_report(light))


def test_forces_that_vanish_by_symmetry_are_not_ranked(light):
    def symmetric(results):
        for k, stage in enumerate(STAGES):
            entry = results["errors_by_type"][stage]["test_id"]["eos"]
            entry["force_rmse_meV_per_A"] = (3 - k) * 1e-15

    edit_results(light, symmetric)
    page = read_page(write_report(light))
    row = re.search(r"<tr><th scope=\"row\">eos</th>.*?</tr>", page)[0]
    assert row.count("&lt; 0.001") == 3
    assert "e−1" not in page
    assert row.count("best") == 1  # of the energies


def test_a_property_that_failed_is_said(light):
    def failed(results):
        results["failures"] = {"zero_shot": {"elastic": "The relaxation did not converge."}}
        for name in list(results["properties"]["zero_shot"]):
            if name not in ("a0", "a0_eos", "gamma_usf_110_rigid"):
                del results["properties"]["zero_shot"][name]

    edit_results(light, failed)
    page = read_page(write_report(light))
    assert "elastic failed for the zero-shot model: The relaxation did not converge." in page
    assert "Relative errors of elastic constants, by stage" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1376.8, "1377"), (52.44, "52.4"), (0.0314159, "0.0314"), (-2.5e-9, "−2.50e−09"),
     (99.96, "100"), (float("nan"), "–"), (None, "–")],
)  # fmt: skip
def test_significant_digits(value, text):
    assert significant(value) == text


def test_other_formats():
    assert in_unit(3.16149, "A") == "3.1615"
    assert in_unit(-0.25, "THz") == "−0.25"
    assert in_unit(12.34567, "cm^2/s") == "12.35"
    assert percent(-0.0042) == "−0.42\N{NO-BREAK SPACE}%"
    assert percent(0.126) == "+12.6\N{NO-BREAK SPACE}%"
    assert duration(4.25) == "4.2 s"
    assert duration(59.7) == "60 s"
    assert duration(412.7) == "6 min 53 s"
    assert duration(7384) == "2 h 3 min"
    assert property_name("C44") == "<i>C</i><sub>44</sub>"
    assert property_name("odd_<b>") == "odd &lt;b&gt;"
