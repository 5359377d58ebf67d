"""Two processes take the steps that one takes with the whole batch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml
from ase.io import write
from conftest import TINY, cu_frames

from ase_finetune.checkpoint import Checkpoint

SETTINGS = {
    "foundation": "scratch",
    "architecture": TINY,
    "epochs": 4,
    "lr": 1e-2,
    "batch_size": 5,
    "stress_weight": 10.0,
    "l2_sp": 1e-3,
    "ema_decay": 0.9,
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def trained(folder, name, *launcher, options=(), **changes):
    """Train through the command line; return checkpoint, log and stdout."""
    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, **changes, "refine": None}))
    command = [sys.executable, *launcher, "-m", "ase_finetune.cli", "train", "--data"]
    command += [folder / "train.xyz", "--valid", folder / "valid.xyz"]
    command += ["--config", config, "--out", folder / name, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    log = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
    return Checkpoint.load(folder / name / "checkpoints" / "finetuned"), log, done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    write(folder / "train.xyz", cu_frames(11, 1))  # the last step of an epoch has a single frame
    write(folder / "valid.xyz", cu_frames(3, 2))
    return folder


def assert_same_trajectory(one, two, log, log2):
    """Weights and losses agree to the rounding of another order of summation."""
    for name, value in one.tensors.items():
        if not value.is_floating_point():
            assert bool((value == two.tensors[name]).all()), name
            continue
        scale = max(float(value.abs().max()), 1e-3)
        assert float((value - two.tensors[name]).abs().max()) < 1e-10 * scale, name
    for a, b in zip(log, log2, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-10)


# Of AdamW: optimizers of matrices bring what a gradient hardly has to the size of a step, and with
# it the rounding of another order of summation.
def test_two_processes_follow_the_trajectory_of_one(folder):
    one, log, _ = trained(folder, "one", optimizer="adamw")
    two, log2, output = trained(folder, "two", *TORCHRUN, optimizer="adamw")
    assert output.count("Checkpoint:") == 1
    assert_same_trajectory(one, two, log, log2)
    assert log[-1]["train_loss"] < 0.9 * log[0]["train_loss"]  # and it did move


def test_two_processes_share_replay_frames(folder):
    """Eleven frames of weight 1, three of weight 0.2: every process has its part of both."""
    trained(folder, "before", optimizer="adamw")
    write(folder / "replay.xyz", cu_frames(6, 3))
    settings = {"foundation": str(folder / "before" / "checkpoints" / "finetuned")}
    settings |= {"architecture": {}, "optimizer": "adamw"}
    options = ("--replay", folder / "replay.xyz", "--replay-weight", "0.2")
    one, log, _ = trained(folder, "one_replay", options=options, **settings)
    two, log2, _ = trained(folder, "two_replay", *TORCHRUN, options=options, **settings)
    assert_same_trajectory(one, two, log, log2)
    assert one.metrics["replay_hash"] == two.metrics["replay_hash"]
