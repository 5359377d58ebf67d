"""Runs that are killed without warning, again and again, end at the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from ase.io import write
from conftest import TINY, cu_frames
from safetensors.numpy import load_file

EPOCHS = 150
KILLS = {"finetuned": 7, "refined": 3}  # of each case, by the stage that they fall in
CASES = {
    "adamw, second stage, plateau, lbfgs": {
        "optimizer": "adamw",
        "schedule": "plateau",
        "scheduler_patience": 5,
        "start_stage_two": 60,
        "stage_two_energy_weight": 10.0,
        "refine": {"evaluations": 60},
    },
    "schedulefree, lm": {
        "optimizer": "schedulefree",
        "refine": {"method": "lm", "evaluations": 60},
    },
}


def weights(folder):
    return {
        stage: load_file(folder / "checkpoints" / stage / "model.safetensors")
        for stage in ("finetuned", "refined")
    }


def last_stage(folder):
    """The stage that a run's log has come to, or None."""
    path = folder / "log.jsonl"
    if not (path.exists() and (folder / "state.pt").exists()):
        return None
    lines = path.read_text().rpartition("\n")[0].splitlines()
    return json.loads(lines[-1])["stage"] if lines else None


def written(path):
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_a_run_ends_at_the_same_bits(tmp_path, case):
    write(tmp_path / "train.xyz", cu_frames(12, 1))
    write(tmp_path / "valid.xyz", cu_frames(4, 2))
    settings = {
        "foundation": "scratch",
        "architecture": TINY,
        "epochs": EPOCHS,
        "batch_size": 3,
        "stress_weight": 10.0,
        **CASES[case],
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))

    def command(out, *more):
        return [
            sys.executable, "-m", "ase_finetune.cli", "train",
            "--data", str(tmp_path / "train.xyz"), "--valid", str(tmp_path / "valid.xyz"),
            "--config", str(tmp_path / "settings.yaml"), "--out", str(out), *more,
        ]  # fmt: skip

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, capture_output=True)
    rows = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    seconds = {
        stage: max(row["wall_s"] for row in rows if row["stage"] == stage) for stage in KILLS
    }
    rng, more = np.random.default_rng(1), ()
    for stage, kills in KILLS.items():
        for _ in range(kills):
            before = written(killed / "log.jsonl")
            process = subprocess.Popen(
                command(killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            more = ("--resume",)
            while written(killed / "log.jsonl") == before or last_stage(killed) != stage:
                assert process.poll() is None, f"it ended before all kills of {stage}"
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, seconds[stage] / kills))
            assert process.poll() is None, f"it ended before all kills of {stage}"
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run(command(killed, *more), check=True, capture_output=True)
    expected, found = weights(whole), weights(killed)
    for stage, tensors in expected.items():
        for name, tensor in tensors.items():
            assert np.array_equal(found[stage][name], tensor), (stage, name)
    log = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in log if row["stage"] == "finetuned"]
    assert epochs == list(range(1, EPOCHS + 1))
