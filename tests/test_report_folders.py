"""Folders that a report is asked of: partial, stopped, of properties alone, or damaged."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from report_runs import STAGES, Links, edit_results, read_page, write_run

from ase_finetune.errors import UserError
from ase_finetune.report.page import write_report


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "mo")


@pytest.fixture
def copy(full_run, tmp_path):
    return shutil.copytree(full_run, tmp_path / "mo")


@pytest.fixture
def light(copy):
    """The same without most of the figures, which take the time."""
    for name in ("predictions.npz", "curves.json", "log.jsonl"):
        (copy / name).unlink()
    return copy


def test_plain_training_run(copy):
    (copy / "curves.json").unlink()
    shutil.rmtree(copy / "checkpoints" / "refined")

    def only_trained(results):
        results["properties"] = {}
        for table in ("errors", "errors_by_type"):
            del results[table]["refined"]
        del results["provenance"]["system"], results["provenance"]["level_of_theory"]
        for stage in results["errors"].values():
            for errors in stage.values():
                errors["stress_rmse_meV_per_A3"] = None
        for splits in results["errors_by_type"].values():
            for split in splits:
                splits[split] = {"default": splits[split]["eos"]}

    edit_results(copy, only_trained)
    page = read_page(write_report(copy))
    found = Links(page)
    assert not found.ids & {"properties", "types", "gsfe", "elastic"}
    assert found.ids >= {"errors", "learning", "parity", "use"}
    assert "This run computed no properties." in page
    assert "no configuration types" in page
    assert "meV/Å³" not in page
    assert "refined" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.S)
    assert "checkpoints/finetuned" in page


def test_results_alone_are_enough(light):
    (light / "config.yaml").unlink()
    shutil.rmtree(light / "checkpoints")
    page = read_page(write_report(light))
    for text in ("no learning curves", "no parity plots", "no checkpoint", "no config.yaml"):
        assert text in page
    assert not Links(page).ids & {"learning", "parity", "gsfe", "use"}


def test_labels_may_lack(copy):
    with np.load(copy / "predictions.npz") as stored:
        arrays = dict(stored)
    for stage in STAGES:
        arrays[f"{stage}/test_id/energy_ref"][:] = np.nan
        arrays[f"{stage}/test_ood/forces_ref"][:6] = np.nan
    np.savez_compressed(copy / "predictions.npz", **arrays)
    page = read_page(write_report(copy))
    assert "Predicted against DFT energy on test_id" not in page
    assert "Predicted against DFT force on test_id" in page


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("results.json", None, "holds no results.json"),
        ("results.json", "{", "not valid JSON"),
        ("results.json", "[]", "holds no results"),
        ("results.json", '{"errors": [1]}', "no table of errors"),
        ("results.json", '{"errors": {}, "provenance": {}}', "no errors and no properties"),
        ("results.json", '{"errors": {"refined": {"test_id": 3}}, "provenance": {}}',
         "do not belong together"),
        ("log.jsonl", '{"stage": "finetuned"}\n{"sta\n', "Line 2"),
        ("log.jsonl", '{"stage": "finetuned"}\n', "gradient_equivalents"),
        ("predictions.npz", "not an archive", "cannot be read"),
        ("curves.json", '{"refined": {"gsfe_110": {"x": [0]}}}', "not a file of curves"),
        ("config.yaml", "a: [", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_damaged_folder_ends_with_one_sentence(copy, name, content, expected):
    (copy / "report.html").write_text("an earlier report")
    if content is None:
        (copy / name).unlink()
    else:
        (copy / name).write_text(content)
    with pytest.raises(UserError, match=expected) as caught:
        write_report(copy)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (copy / "report.html").read_text() == "an earlier report"
    assert not list(copy.glob(".report*"))


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        write_report(tmp_path / "nothing")


def test_a_folder_of_runs_is_told_from_a_run(copy):
    with pytest.raises(UserError, match=r"holds no results.json; .* has mo inside"):
        write_report(copy.parent)


def test_a_run_that_stopped_before_its_first_errors(copy):
    (copy / "results.json").unlink()
    (copy / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(UserError, match="continue it with --resume"):
        write_report(copy)


def test_a_page_that_cannot_be_written(light):
    (light / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        write_report(light, light / "file" / "report.html")


def stop_in_training(folder):
    """Leave what a run has that is killed in its fourth epoch, in the middle of a line."""

    def only_zero_shot(results):
        results["budget"] = {}
        for table in ("errors", "errors_by_type", "properties"):
            results[table] = {"zero_shot": results[table]["zero_shot"]}

    edit_results(folder, only_zero_shot)
    shutil.rmtree(folder / "checkpoints")
    lines = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(lines[:3]) + lines[3][:40])


def test_a_run_stopped_in_training_is_shown_as_far_as_it_came(copy):
    stop_in_training(copy)
    page = read_page(write_report(copy))
    assert "This run has not ended: its last record is epoch 3 of 100." in page
    assert "The last line of log.jsonl was cut off and is left out." in page
    assert Links(page).ids >= {"errors", "properties", "learning", "parity", "gsfe"}
    assert "The folder holds no checkpoint to attach." in page


def test_a_run_stopped_in_refinement(light):
    edit_results(light, lambda results: results.update(budget={}))
    row = {"stage": "refined", "epoch": 5, "evaluations": 7.0, "budget": 60, "train_loss": 1.0,
           "valid_force_rmse_meV_per_A": 50.0, "gradient_equivalents": 7.0}  # fmt: skip
    (light / "log.jsonl").write_text(json.dumps(row) + "\n")
    assert "its last record is evaluation 7 of 60 of the refinement." in read_page(
        write_report(light)
    )


def test_a_finished_run_is_not_called_unfinished(light):
    assert "has not ended" not in read_page(write_report(light))


def test_properties_alone(light):
    """The folder of `properties --out`: one stage named after the calculator, no training."""

    def alone(results):
        results["properties"] = {"mace:my_model.model": results["properties"]["refined"]}
        results["errors"], results["budget"] = {}, {}
        results["provenance"] = {"system": "mo", "calculator": "mace:my_model.model"}
        del results["errors_by_type"]

    edit_results(light, alone)
    (light / "config.yaml").unlink()
    shutil.rmtree(light / "checkpoints")
    page = read_page(write_report(light))
    found = Links(page)
    assert "properties" in found.ids and "elastic" in found.ids
    assert not found.ids & {"errors", "types", "learning", "parity", "use"}
    assert "mace:my_model.model" in page
    for text in ("has not ended", "no learning curves", "Fine-tuning report", "no checkpoint"):
        assert text not in page


def test_errors_alone(light):
    """The folder of `evaluate --out`, which states no provenance."""

    def alone(results):
        for key in ("properties", "budget", "provenance"):
            del results[key]
        for table in ("errors", "errors_by_type"):
            results[table] = {"refined": results[table]["refined"]}

    edit_results(light, alone)
    (light / "config.yaml").unlink()
    page = read_page(write_report(light))
    assert "The force error on test_id is 47.3 meV/Å." in page
    assert "has not ended" not in page


def test_failures_alone(light):
    """What `properties --out` leaves when every property fails."""

    def alone(results):
        for key in ("errors", "errors_by_type", "properties", "budget"):
            results[key] = {}
        results["provenance"] = {"system": "mo", "calculator": "emt"}
        results["failures"] = {"emt": {"lattice": "NotImplementedError: No EMT-potential for Mo"}}

    edit_results(light, alone)
    (light / "config.yaml").unlink()
    page = read_page(write_report(light))
    assert "lattice failed for the emt model: NotImplementedError" in page
    assert '<p class="lead">Properties</p>' in page
    assert not Links(page).ids & {"errors", "properties", "learning"}
