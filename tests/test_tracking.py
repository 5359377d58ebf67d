"""TensorBoard events of a run say what its log says."""

from __future__ import annotations

import json
import sys

import pytest
import yaml
from ase.io import write
from conftest import TINY, cu_frames
from typer.testing import CliRunner

from ase_finetune.cli.app import app
from ase_finetune.errors import ConfigError
from ase_finetune.tracking import Events, StepLog, Tracking

COMPARED = ("train_loss", "valid_force_rmse_meV_per_A", "valid_energy_rmse_meV_per_atom")


@pytest.fixture(scope="module")
def accumulator():
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed (pip install 'ase-finetune[tracking]')",
    )
    return module.EventAccumulator


def scalars(accumulator, folder):
    """Steps and values by name, as TensorBoard shows them."""
    found = accumulator(str(folder))
    found.Reload()
    return {
        name: [(event.step, event.value) for event in found.Scalars(name)]
        for name in found.Tags()["scalars"]
    }


def record(epoch, force, stage="finetuned"):
    return {"stage": stage, "epoch": epoch, "epochs": 9, "lr": 0.5, "note": "text",
            "valid_force_rmse_meV_per_A": force}  # fmt: skip


def write_events(out, *records):
    events = Events(out, True)
    for row in records:
        events.add(row)
    events.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    write(folder / "train.xyz", cu_frames(8, 1))
    write(folder / "valid.xyz", cu_frames(3, 2))
    settings = {"foundation": "scratch", "architecture": TINY, "epochs": 3, "lr": 0.01,
                "refine": {"evaluations": 24}}  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder


def train(data, out, *more):
    result = CliRunner().invoke(
        app,
        ["train", "--data", str(data / "train.xyz"), "--valid", str(data / "valid.xyz"),
         "--config", str(data / "settings.yaml"), "--out", str(out), *more],
    )  # fmt: skip
    return result


def test_events_equal_the_log(data, tmp_path, accumulator):
    assert train(data, tmp_path / "run", "--tensorboard").exit_code == 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    for stage in ("finetuned", "refined"):
        rows = [row for row in log if row["stage"] == stage]
        assert len(rows) >= 2
        found = scalars(accumulator, tmp_path / "run" / "tensorboard" / stage)
        for name in COMPARED:
            expected = [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in rows]
            assert found[name] == expected
    assert "lr" in scalars(accumulator, tmp_path / "run" / "tensorboard" / "finetuned")
    # They belong to the run: not mixed with another one, and replaced with it.
    (tmp_path / "run" / "results.json").unlink()
    assert train(data, tmp_path / "run").exit_code == 2
    assert train(data, tmp_path / "run", "--overwrite").exit_code == 0
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_nothing_is_written_unasked(tmp_path):
    events = Events(tmp_path, False)
    events.add(record(1, 2.0))
    events.close()
    assert list(tmp_path.iterdir()) == []


def test_a_continued_run_hides_what_it_does_again(tmp_path, accumulator):
    write_events(tmp_path, *(record(epoch, 10.0 * epoch) for epoch in (1, 2, 3)))
    write_events(
        tmp_path,
        record(3, 35.0),
        record(4, 45.0),
        record(1, 5.0, "refined"),
        record(2, 4.0, "refined"),
    )
    name = "valid_force_rmse_meV_per_A"
    tuned = scalars(accumulator, tmp_path / "tensorboard" / "finetuned")
    assert tuned[name] == [(1, 10.0), (2, 20.0), (3, 35.0), (4, 45.0)]
    assert set(tuned) == {name, "lr"}
    # Continued again after its refinement, which then begins anew.
    write_events(tmp_path, record(1, 3.0, "refined"))
    assert scalars(accumulator, tmp_path / "tensorboard" / "finetuned") == tuned
    assert scalars(accumulator, tmp_path / "tensorboard" / "refined")[name] == [(1, 3.0)]


def test_events_are_on_disk_before_a_kill(tmp_path, accumulator):
    events = Events(tmp_path, True)
    events.add(record(1, 7.0))
    found = scalars(accumulator, tmp_path / "tensorboard" / "finetuned")  # not closed
    assert found["valid_force_rmse_meV_per_A"] == [(1, 7.0)]


def test_without_tensorboard_one_sentence_and_no_folder(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = train(data, tmp_path / "run", "--tensorboard")
    assert result.exit_code == 2
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "pip install 'ase-finetune[tracking]'" in line
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError):
        Tracking(tensorboard=True)


def test_half_a_line_of_a_killed_run_is_cut(tmp_path):
    from ase_finetune.stages import Log

    class Silent:
        def record(self, row):
            pass

    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epo')
    Log(tmp_path / "log.jsonl", Silent(), Tracking()).add({"epoch": 2})
    assert (tmp_path / "log.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n'


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_per_step(data, tmp_path, accumulator):
    out = tmp_path / "run"
    assert train(data, out, "--log-steps", "--tensorboard", "--batch-size", "3").exit_code == 0
    steps, epochs = lines(out / "steps.jsonl"), lines(out / "log.jsonl")[:3]
    assert [row["step"] for row in steps] == list(range(1, 10))  # 8 frames by 3, 3 epochs
    assert [row["epoch"] for row in steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    for epoch in epochs:
        own = [row for row in steps if row["epoch"] == epoch["epoch"]]
        weights = (3 / 8, 3 / 8, 2 / 8)
        mean = sum(w * row["train_loss"] for w, row in zip(weights, own, strict=True))
        assert mean == pytest.approx(epoch["train_loss"], rel=1e-12)
        assert own[-1]["lr"] == epoch["lr"]
        assert all(row["gradient_norm"] > 0 for row in own)
    found = scalars(accumulator, out / "tensorboard" / "steps")["train_loss"]
    assert found == [(r["step"], pytest.approx(r["train_loss"], rel=1e-6)) for r in steps]
    assert train(data, out, "--overwrite").exit_code == 0
    assert not (out / "steps.jsonl").exists()


def test_steps_done_again_replace_the_first_try(tmp_path):
    path = tmp_path / "steps.jsonl"
    log = StepLog(path)
    for step in (1, 2, 3, 2):  # the third diverged, its epoch began at the second
        log.add({"step": step, "try": 1})
    with open(path, "a") as file:
        file.write('{"ste')  # a kill
    log = StepLog(path)
    log.add({"step": 2, "try": 2})
    log.add({"step": 3, "try": 2})
    assert lines(path) == [{"step": 1, "try": 1}, {"step": 2, "try": 2}, {"step": 3, "try": 2}]
