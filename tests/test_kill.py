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

KILLS = 20


def weights(folder):
    return {
        stage: load_file(folder / "checkpoints" / stage / "model.safetensors")
        for stage in ("finetuned", "refined")
    }


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree"])
def test_killed_at_random_a_run_ends_at_the_same_bits(tmp_path, optimizer):
    write(tmp_path / "train.xyz", cu_frames(12, 1))
    write(tmp_path / "valid.xyz", cu_frames(4, 2))
    settings = {
        "foundation": "scratch",
        "architecture": TINY,
        "optimizer": optimizer,
        "epochs": 250,
        "batch_size": 3,
        "stress_weight": 10.0,
        "refine": {"evaluations": 60},
    }
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))

    def command(out, *more):
        return [
            sys.executable, "-m", "ase_finetune.cli", "train",
            "--data", str(tmp_path / "train.xyz"), "--valid", str(tmp_path / "valid.xyz"),
            "--config", str(tmp_path / "settings.yaml"), "--out", str(out), *more,
        ]  # fmt: skip

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    begun = time.monotonic()
    subprocess.run(command(whole), check=True, capture_output=True)
    wall = time.monotonic() - begun
    rng = np.random.default_rng(1)
    kills, more = 0, ()
    while True:
        process = subprocess.Popen(
            command(killed, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (killed / "state.pt").exists() and process.poll() is None:
            time.sleep(0.05)
        more = ("--resume",)
        if kills < KILLS:
            try:
                process.wait(timeout=float(rng.uniform(0.0, wall / 4)))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                continue
        assert process.wait() == 0
        break
    assert kills >= KILLS / 2
    print(f"{kills} kills")
    expected, found = weights(whole), weights(killed)
    for stage, tensors in expected.items():
        for name, tensor in tensors.items():
            assert np.array_equal(found[stage][name], tensor), (stage, name)
    log = [json.loads(line) for line in (killed / "log.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in log if row["stage"] == "finetuned"]
    assert epochs == list(range(1, 251))
