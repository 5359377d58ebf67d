"""Refined weights that a dynamics does not survive are not taken."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from ase.io import write

from ase_finetune import RefineConfig, finetune, refine
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.nvt_gate import gate_for
from ase_finetune.replay import replay_frames
from ase_finetune.run import run_job


@pytest.fixture(scope="module")
def tuned(splits, tiny_config):
    return finetune(splits, tiny_config)


def same(a, b) -> bool:
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_an_objection_keeps_the_weights_of_before(splits, tuned):
    config = RefineConfig(evaluations=10)
    free = refine(tuned, splits, config)
    assert free.metrics["accepted"] and not same(free, tuned)

    seen = []

    def gate(checkpoint: Checkpoint) -> str:
        seen.append(checkpoint)
        return "atoms 1 and 2 met"

    held = refine(tuned, splits, config, gate=gate)
    assert same(seen[0], free) and same(held, tuned)
    assert held.metrics["objection"] == "atoms 1 and 2 met" and not held.metrics["accepted"]
    before = held.metrics["valid_force_rmse_before_meV_per_A"]
    assert held.metrics["valid_force_rmse_meV_per_A"] == before
    assert held.metrics["valid_force_rmse_refused_meV_per_A"] < before
    assert same(refine(tuned, splits, config, gate=lambda _: None), free)


def test_the_gate_is_a_real_dynamics(splits, tuned, tmp_path):
    """Weights that make atoms attract each other at contact blow up; the tuned ones do not."""
    config = RefineConfig(nvt_gate_ps=0.2, nvt_gate_K=300.0)
    gate = gate_for(splits, config, tmp_path / "refused")
    assert gate is not None and gate_for(splits, RefineConfig(), tmp_path / "refused") is None
    assert gate(tuned) is None and not (tmp_path / "refused").exists()
    module = tuned.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(-3.0)
    spoiled = Checkpoint.from_module(module, tuned.E0s, stage="refined", foundation={})
    objection = gate(spoiled)
    assert objection is not None and "step" in objection
    assert same(Checkpoint.load(tmp_path / "refused"), spoiled)  # kept, for whoever wants to look


def test_weights_are_kept_whatever_stops_the_dynamics(splits, tuned, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("ase_finetune.nvt_gate.nvt_trajectory", full)
    gate = gate_for(splits, RefineConfig(nvt_gate_ps=0.2), tmp_path / "refused")
    assert gate(tuned) == "no dynamics: RuntimeError: out of memory"
    assert same(Checkpoint.load(tmp_path / "refused"), tuned)


class Quiet:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def record(self, record) -> None:
        pass

    def steps(self, title: str):
        return lambda done, total: None


def test_a_run_measures_forgetting_and_reports_the_gate(
    splits, tiny_config, tuned, tmp_path, monkeypatch
):
    """Frames of the foundation's domain are labelled by it where they have no forces."""
    replay = [a.copy() for a in splits.tests["test_id"]]
    for atoms in replay:
        atoms.info, atoms.arrays = {}, {k: atoms.arrays[k] for k in ("numbers", "positions")}
    foreign = replay[0].copy()
    foreign.numbers[0] = 8
    write(tmp_path / "replay.xyz", [*replay, foreign])
    tuned.save(tmp_path / "foundation")
    config = dataclasses.replace(
        tiny_config, foundation=str(tmp_path / "foundation"), architecture={}, epochs=2
    )
    monkeypatch.setattr("ase_finetune.stages.gate_for", lambda *_: lambda _: "it blew up")
    reporter = Quiet()
    results = run_job(
        splits,
        config,
        RefineConfig(evaluations=8),
        tmp_path / "run",
        reporter,
        replay=tmp_path / "replay.xyz",
    )
    errors = {stage: rows["replay"] for stage, rows in results["errors"].items()}
    assert errors["zero_shot"]["force_rmse_meV_per_A"] == pytest.approx(0.0, abs=1e-6)
    assert errors["finetuned"]["force_rmse_meV_per_A"] > 1.0
    assert errors["finetuned"]["energy_rmse_meV_per_atom"] is None
    assert errors["finetuned"]["n_frames"] == len(replay)
    assert np.isfinite(errors["refined"]["force_rmse_meV_per_A"])
    assert any("not accepted (it blew up)" in note for note in reporter.notes)


def test_the_seed_brings_its_own_frames(splits):
    loaded = Checkpoint.load("seed")
    seed = dataclasses.replace(loaded, foundation={"name": "seed"})
    assert replay_frames(None, loaded).frames == ()
    replay = replay_frames(None, seed)
    frames = replay.frames
    assert "115 of 115 frames" in replay.notes[0]
    assert len(frames) > 100 and {a.info["config_type"] for a in frames} >= {"mo_bulk", "ice"}
    assert all("REF_energy" not in a.info and "REF_forces" in a.arrays for a in frames)
