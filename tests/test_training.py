"""Loss, training, resuming and refinement."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from ase.build import bulk
from conftest import cu_frames

from ase_finetune import RefineConfig, Splits, TrainConfig, finetune, refine
from ase_finetune.checkpoint import SEED, Checkpoint
from ase_finetune.errors import CheckpointError, ConfigError, DataError
from ase_finetune.evaluate import predict_frames
from ase_finetune.graphs import collate, predict
from ase_finetune.loss import Loss
from ase_finetune.optimizers import list_optimizers
from ase_finetune.start import make_graphs, prepare
from ase_finetune.trainer import TrainingDivergedError


@pytest.fixture(scope="module")
def start(splits, tiny_config):
    return prepare(splits, tiny_config)


@pytest.fixture(scope="module")
def tuned(splits, tiny_config, start):
    return finetune(splits, tiny_config, start=start)


def same_weights(a, b) -> bool:
    return all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_loss_of_a_partition_adds_up_and_matches_numpy(splits, start):
    checkpoint = start.checkpoint
    frames = [*splits.train, *(a * (2, 1, 1) for a in splits.train[:0])]
    graphs = make_graphs(frames, checkpoint, "float64", stress=True)
    loss = Loss.for_graphs(graphs, 2.0, 3.0, 5.0)
    module = checkpoint.module()

    def share(part):
        batch = collate(part, 1)
        return float(loss(predict(module, batch, stress=True), batch))

    whole = share(graphs)
    assert share(graphs[:3]) + share(graphs[3:4]) + share(graphs[4:]) == pytest.approx(
        whole, rel=1e-12
    )
    p = predict_frames(checkpoint, frames)
    by_hand = (
        2.0 * np.mean(((p.energy - p.energy_ref) / p.n_atoms) ** 2)
        + 3.0 * np.mean((p.forces - p.forces_ref) ** 2)
        + 5.0 * np.mean((p.stress - p.stress_ref) ** 2)
    )
    assert whole == pytest.approx(by_hand, rel=1e-10)


def test_absent_labels_do_not_count(splits, start):
    graphs = make_graphs(splits.train, start.checkpoint, "float64", stress=True)
    bare = [dataclasses.replace(graphs[0], energy=None, stress=None), *graphs[1:]]
    loss = Loss.for_graphs(bare, 1.0, 0.0, 0.0)
    assert loss.n_frames == len(graphs) - 1
    module = start.checkpoint.module()
    batch = collate(bare[:1], 1)
    assert float(loss(predict(module, batch, stress=False), batch)) == 0.0


def test_training_learns_and_keeps_the_best_validated_weights(splits, start, tuned):
    before = predict_frames(start.checkpoint, splits.valid).errors()
    after = predict_frames(tuned, splits.valid).errors()
    assert after.force_rmse_meV_per_A < 0.5 * before.force_rmse_meV_per_A
    history = [r["valid_force_rmse_meV_per_A"] for r in tuned.metrics["history"]]
    # What was validated is what is deployed.
    assert after.force_rmse_meV_per_A == pytest.approx(min(history), rel=1e-9)
    assert tuned.stage == "finetuned"
    json.dumps(tuned.metrics)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(splits, tiny_config, tuned):
    assert same_weights(finetune(splits, tiny_config), tuned)
    other = dataclasses.replace(tiny_config, seed=2)
    assert not same_weights(finetune(splits, other), tuned)


class Stop(Exception):
    pass


@pytest.mark.parametrize("where", ["between epochs", "inside an epoch", "validating"])
def test_a_stopped_run_continues_to_the_same_bits(
    splits, tiny_config, start, tuned, tmp_path, monkeypatch, where
):
    if where == "between epochs":

        def progress(record):
            if record["epoch"] == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            finetune(splits, tiny_config, start=start, out=tmp_path, progress=progress)
    else:
        from ase_finetune import trainer

        home, name, stop = {
            "inside an epoch": (trainer._Trainer, "_step", 7),
            "validating": (trainer, "force_rmse", 3),
        }[where]
        real, calls = getattr(home, name), []

        def stopping(*args):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(home, name, stopping)
            finetune(splits, tiny_config, start=start, out=tmp_path)
    torch.load(tmp_path / "state.pt", weights_only=True)
    continued = finetune(splits, tiny_config, start=start, out=tmp_path, resume=True)
    assert same_weights(continued, tuned)
    epochs = [r["epoch"] for r in continued.metrics["history"]]
    assert epochs == list(range(1, tiny_config.epochs + 1))


@pytest.mark.parametrize("name", list_optimizers())
def test_every_optimizer_learns_deploys_what_it_validated_and_continues(
    splits, tiny_config, start, tmp_path, name
):
    config = dataclasses.replace(
        tiny_config, optimizer=name, lr=None, ema_decay=None, warmup_fraction=None, epochs=4
    )
    through = finetune(splits, config, start=start)
    history = [r["valid_force_rmse_meV_per_A"] for r in through.metrics["history"]]
    before = predict_frames(start.checkpoint, splits.valid).errors().force_rmse_meV_per_A
    deployed = predict_frames(through, splits.valid).errors().force_rmse_meV_per_A
    assert min(history) < before
    assert deployed == pytest.approx(min(history), rel=1e-9)

    def progress(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(splits, config, start=start, out=tmp_path, progress=progress)
    assert same_weights(finetune(splits, config, start=start, out=tmp_path, resume=True), through)


def test_a_second_average_or_a_schedule_is_refused_with_schedulefree(tiny_config):
    free = dataclasses.replace(
        tiny_config, optimizer="schedulefree", ema_decay=None, warmup_fraction=None
    )
    assert free.resolved()["ema_decay"] == 0.0
    assert free.resolved()["warmup_fraction"] == 0.05
    back = dataclasses.replace(free, optimizer="adam").resolved()
    assert (back["ema_decay"], back["warmup_fraction"]) == (0.99, 0.0)
    for change in ({"ema_decay": 0.99}, {"schedule": "cosine"}):
        with pytest.raises(ConfigError, match="averages its weights"):
            dataclasses.replace(free, **change)


def test_resuming_something_else_is_refused(splits, tiny_config, start, tmp_path):
    with pytest.raises(CheckpointError, match=r"no state\.pt"):
        finetune(splits, tiny_config, start=start, out=tmp_path, resume=True)
    short = dataclasses.replace(tiny_config, epochs=1)
    finetune(splits, short, start=start, out=tmp_path)
    other = dataclasses.replace(tiny_config, lr=1e-3)
    with pytest.raises(CheckpointError, match="other settings"):
        finetune(splits, other, start=start, out=tmp_path, resume=True)
    (tmp_path / "state.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged"):
        finetune(splits, short, start=start, out=tmp_path, resume=True)
    torch.save([torch.zeros(3)], tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="holds a list, not the state of a run"):
        finetune(splits, short, start=start, out=tmp_path, resume=True)


def test_divergence_is_an_error_and_the_last_good_state_is_kept(splits, tiny_config, tmp_path):
    wild = dataclasses.replace(tiny_config, lr=1e30, epochs=5)
    with pytest.raises(TrainingDivergedError, match="lower --lr"):
        finetune(splits, wild, out=tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert all(bool(torch.isfinite(v).all()) for v in state["parameters"].values())


def test_divergence_in_the_only_step_of_an_epoch(splits, tiny_config, tmp_path):
    wild = dataclasses.replace(tiny_config, lr=1e30, epochs=1, batch_size=100, ema_decay=0.0)
    with pytest.raises(TrainingDivergedError, match="validation forces"):
        finetune(splits, wild, out=tmp_path)


def test_warm_up_fixes_the_number_of_epochs(splits, tiny_config, start, tmp_path):
    short = dataclasses.replace(tiny_config, epochs=1, warmup_fraction=0.5)
    finetune(splits, short, start=start, out=tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        longer = dataclasses.replace(short, epochs=2)
        finetune(splits, longer, start=start, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    "values", [{"optimizer_options": {"betas": 2}}, {"device": "cuda:99"}], ids=["option", "device"]
)
def test_impossible_settings_stop_before_anything_is_computed(splits, tiny_config, values):
    with pytest.raises(ConfigError):
        prepare(splits, dataclasses.replace(tiny_config, **values))


def test_forces_against_those_of_the_foundation_stop(tiny_config):
    """Where no two frames are near, only the foundation knows the sign."""
    frames = []
    for index in range(6):
        atoms = bulk("Mo", cubic=True) * (2, 2, 1)
        atoms.rattle(0.2, seed=index)
        frames.append(atoms)
    seed = Checkpoint.load(SEED)
    found = predict_frames(seed, frames)
    for index, frame in enumerate(frames):
        frame.info["REF_energy"] = float(found.energy[index])
        frame.arrays["REF_forces"] = found.forces[8 * index : 8 * index + 8]
    config = TrainConfig(foundation="seed")
    prepare(Splits(frames[:5], frames[5:]), config)
    for frame in frames:
        frame.arrays["REF_forces"] = -frame.arrays["REF_forces"]
    both = Splits(frames[:5], frames[5:])
    with pytest.raises(DataError, match=r"train set run against .* seed \(correlation -1.00\)"):
        prepare(both, config)
    prepare(both, dataclasses.replace(tiny_config, stress_weight=0.0))


def test_patience_stops(splits, tiny_config):
    wild = dataclasses.replace(tiny_config, lr=0.3, epochs=30, patience=2, ema_decay=0.0)
    result = finetune(splits, wild)
    assert len(result.metrics["history"]) < 30


def test_float32_trains_on_large_total_energies(splits, tiny_config):
    """E0s are taken off in float64, so float32 sees only the binding energy."""
    shifted = []
    for frames in (splits.train, splits.valid):
        copies = [a.copy() for a in frames]
        for a in copies:
            a.info["REF_energy"] = a.info["REF_energy"] - 40_000.0 * len(a)
        shifted.append(copies)
    config = dataclasses.replace(tiny_config, default_dtype="float32")
    plain = finetune(splits, config)
    large = finetune(Splits(*shifted), config)
    a = plain.metrics["valid_force_rmse_meV_per_A"]
    assert large.metrics["valid_force_rmse_meV_per_A"] == pytest.approx(a, rel=1e-2)


def test_cosine_with_warm_up_ends_near_zero(splits, tiny_config):
    config = dataclasses.replace(
        tiny_config, schedule="cosine", warmup_fraction=0.3, weight_decay=1e-2
    )
    rates = [r["lr"] for r in finetune(splits, config).metrics["history"]]
    assert rates[0] < max(rates)
    assert rates[-1] < 0.2 * max(rates)


def test_no_validation_frames(splits, tiny_config, start):
    with pytest.raises(DataError, match="validation"):
        finetune(Splits(splits.train, []), tiny_config, start=start)


def test_refinement_lowers_the_full_loss_monotonically(splits, tuned):
    refined = refine(tuned, splits, RefineConfig(evaluations=25))
    losses = [r["train_loss"] for r in refined.metrics["history"]]
    assert len(losses) >= 5
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(losses))
    assert losses[-1] < 0.9 * losses[0]
    assert refined.metrics["gradient_equivalents"] <= 25
    assert refined.metrics["accepted"]
    found = predict_frames(refined, splits.valid).errors().force_rmse_meV_per_A
    assert found == pytest.approx(refined.metrics["valid_force_rmse_meV_per_A"], rel=1e-9)
    assert found < refined.metrics["valid_force_rmse_before_meV_per_A"]


def test_refinement_does_not_depend_on_how_frames_are_batched(splits, tuned):
    a = refine(tuned, splits, RefineConfig(evaluations=8, batch_atoms=4))
    b = refine(tuned, splits, RefineConfig(evaluations=8, batch_atoms=1000))
    for name, tensor in a.tensors.items():
        torch.testing.assert_close(tensor, b.tensors[name], rtol=1e-6, atol=1e-8)


def test_refinement_that_does_not_help_validation_changes_nothing(splits, tuned):
    """Validation frames that the start fits exactly: every step away is worse."""
    frames = [a.copy() for a in cu_frames(3, 9)]
    predicted = predict_frames(tuned, frames)
    first = 0
    for i, frame in enumerate(frames):
        frame.info["REF_energy"] = float(predicted.energy[i])
        frame.arrays["REF_forces"] = predicted.forces[first : first + len(frame)]
        first += len(frame)
    refined = refine(tuned, Splits(splits.train, frames), RefineConfig(evaluations=6))
    assert not refined.metrics["accepted"]
    for name, tensor in tuned.tensors.items():
        torch.testing.assert_close(refined.tensors[name], tensor, rtol=0, atol=0)


def test_a_proximal_term_keeps_the_weights_near(splits, tuned):
    def distance(checkpoint):
        return sum(
            float((checkpoint.tensors[n].double() - t.double()).square().sum())
            for n, t in tuned.tensors.items()
        )

    free = refine(tuned, splits, RefineConfig(evaluations=20))
    held = refine(tuned, splits, RefineConfig(evaluations=20, proximal=10.0))
    assert distance(held) < distance(free)
