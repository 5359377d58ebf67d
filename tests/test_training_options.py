"""What goes beyond plain training: Huber, stages, plateau, freezing, L2-SP, the guard."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from ase_finetune import RefineConfig, finetune, refine
from ase_finetune.config import TrainConfig
from ase_finetune.errors import CheckpointError, ConfigError
from ase_finetune.graphs import collate, predict
from ase_finetune.loss import Loss
from ase_finetune.optimizers import build_optimizer
from ase_finetune.optimizers.moments import second_moments
from ase_finetune.schedule import plateau, warmup_and_decay
from ase_finetune.start import make_graphs, prepare
from ase_finetune.trainer import TrainingDivergedError


@pytest.fixture(scope="module")
def start(splits, tiny_config):
    return prepare(splits, tiny_config)


def weights_of(checkpoint):
    return dict(checkpoint.module().named_parameters())


def timeless(checkpoint):
    """The history, which holds losses of the weights trained last, without times and goal."""
    return [{**r, "wall_s": 0.0, "epochs": 0} for r in checkpoint.metrics["history"]]


def distance(a, b) -> float:
    a, b = weights_of(a), weights_of(b)
    return math.sqrt(sum(float((a[n] - b[n]).detach().square().sum()) for n in a))


def test_micro_batches_give_the_step_of_the_whole_batch(splits, tiny_config, start, monkeypatch):
    whole = finetune(splits, tiny_config, start=start)
    sizes = []

    def counted(graphs, *args):
        sizes.append(len(graphs))
        return collate(graphs, *args)

    monkeypatch.setattr("ase_finetune.gradients.collate", counted)
    parts = finetune(splits, dataclasses.replace(tiny_config, micro_batch_size=2), start=start)
    assert sizes[:7] == [2, 1, 2, 1, 2, 1, 1]  # 10 frames in steps of 3
    a, b = weights_of(whole), weights_of(parts)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-11)


def test_huber_is_the_square_below_delta_and_its_tangent_beyond(splits, start):
    graphs = make_graphs(splits.train, start.checkpoint, "float64", stress=True)
    batch = collate(graphs, 1)
    prediction = predict(start.checkpoint.module(), batch, stress=True)
    square = float(Loss.for_graphs(graphs, 1.0, 2.0, 3.0)(prediction, batch))
    wide = Loss.for_graphs(graphs, 1.0, 2.0, 3.0, huber_delta=1e3)
    assert float(wide(prediction, batch)) == pytest.approx(square, rel=1e-14)

    delta = 0.05
    forces = (prediction.forces - batch.forces).abs()
    assert bool((forces > delta).any()) and bool((forces < delta).any())
    by_hand = torch.where(forces < delta, forces**2, delta * (2 * forces - delta)).mean()
    narrow = Loss.for_graphs(graphs, 0.0, 2.0, 0.0, huber_delta=delta)
    assert float(narrow(prediction, batch)) == pytest.approx(2.0 * float(by_hand), rel=1e-12)


def test_the_trainer_uses_huber(splits, tiny_config, start):
    config = dataclasses.replace(tiny_config, epochs=1, lr=1e-9)
    losses = {
        delta: finetune(
            splits, dataclasses.replace(config, loss="huber", huber_delta=delta), start=start
        ).metrics["history"][0]["train_loss"]
        for delta in (1e3, 0.05)
    }
    plain = finetune(splits, config, start=start).metrics["history"][0]["train_loss"]
    assert losses[1e3] == pytest.approx(plain, rel=1e-9)
    assert losses[0.05] < 0.9 * plain


def test_the_second_stage_has_its_own_weights_rate_and_best(splits, tiny_config, start):
    config = dataclasses.replace(
        tiny_config, start_stage_two=4, stage_two_energy_weight=500.0, stage_two_lr=1e-4
    )
    result = finetune(splits, config, start=start)
    records = result.metrics["history"]
    assert [r["lr"] for r in records] == pytest.approx([1e-2] * 4 + [1e-4] * 2)
    assert result.metrics["best_epoch"] > 4
    plain = finetune(splits, tiny_config, start=start).metrics["history"]
    assert records[:4] == [
        {**r, "wall_s": q["wall_s"]} for r, q in zip(plain[:4], records, strict=False)
    ]
    assert records[4]["train_loss"] > 3 * plain[4]["train_loss"]  # the energy weighs 500 now
    assert config.weights(3)["energy_weight"] == 1.0
    assert config.weights(4) == {
        "energy_weight": 500.0,
        "forces_weight": 10.0,
        "stress_weight": 10.0,
    }


def test_refinement_goes_on_with_the_weights_of_the_second_stage(splits, tiny_config, start):
    config = dataclasses.replace(tiny_config, start_stage_two=5, stage_two_energy_weight=500.0)
    tuned = finetune(splits, config, start=start)
    first, given, default = (
        [r["train_loss"] for r in refine(tuned, splits, c).metrics["history"]]
        for c in (
            RefineConfig(evaluations=4, energy_weight=1.0),
            RefineConfig(evaluations=4, energy_weight=500.0),
            RefineConfig(evaluations=4),
        )
    )
    assert given == default != first


@pytest.mark.parametrize(
    "values",
    [
        {"start_stage_two": 2},
        {"stage_two_lr": 1e-3},
        {"start_stage_two": 6, "stage_two_lr": 1e-3},
        {"start_stage_two": 2, "stage_two_energy_weight": -1.0},
        {"loss": "mae"},
        {"huber_delta": 0.0},
        {"freeze": "radial*"},
        {"freeze": [3]},
        {"l2_sp": -1.0},
        {"lr_factor": 1.5},
        {"scheduler_patience": 0},
        {"micro_batch_size": -1},
        {"divergence_retries": -1},
        {"huber_delta": 0.1},
        {"lr_factor": 0.5},
        {"optimizer": "schedulefree", "start_stage_two": 2, "stage_two_lr": 1e-3},
    ],
    ids=str,
)
def test_impossible_settings(values):
    with pytest.raises(ConfigError):
        TrainConfig(**{"epochs": 6, **values})


def test_patience_counts_in_the_second_stage_only(splits, tiny_config, start):
    config = dataclasses.replace(
        tiny_config,
        lr=0.3,
        ema_decay=0.0,
        epochs=40,
        patience=2,
        start_stage_two=10,
        stage_two_energy_weight=2.0,
    )
    result = finetune(splits, config, start=start)
    assert 10 < len(result.metrics["history"]) < 40
    assert result.metrics["best_epoch"] > 10


def test_a_plateau_is_looked_for_in_each_stage(splits, tiny_config, start):
    config = dataclasses.replace(
        tiny_config,
        schedule="plateau",
        lr=0.3,
        lr_factor=0.1,
        scheduler_patience=1,
        ema_decay=0.0,
        start_stage_two=4,
        stage_two_lr=1e-4,
    )
    rates = [r["lr"] for r in finetune(splits, config, start=start).metrics["history"]]
    assert rates[3] < rates[0] and rates[4] == 1e-4


@pytest.mark.parametrize("place", ["second_moments", "evaluation_weights"])
@pytest.mark.parametrize("call", [3, 4])
def test_stopped_at_the_end_of_an_epoch(
    splits, tiny_config, start, tmp_path, monkeypatch, place, call
):
    """Ctrl-C between validation and record loses no record and goes on to the same bits."""
    import ase_finetune.trainer as module

    whole = finetune(splits, tiny_config, start=start)
    real, calls = getattr(module, place), []

    def stopping(*args):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, place, stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune(splits, tiny_config, start=start, out=tmp_path)
    monkeypatch.setattr(module, place, real)
    continued = finetune(splits, tiny_config, start=start, out=tmp_path, resume=True)
    assert distance(whole, continued) == 0.0
    assert timeless(continued) == timeless(whole)


def test_fewer_epochs_than_done_are_refused(splits, tiny_config, start, tmp_path):
    finetune(splits, tiny_config, start=start, out=tmp_path)
    with pytest.raises(CheckpointError, match="6 epochs already"):
        finetune(
            splits, dataclasses.replace(tiny_config, epochs=3), start=start, out=tmp_path,
            resume=True,
        )  # fmt: skip


def test_plateau_counts_epochs_without_a_new_best():
    config = TrainConfig(schedule="plateau", lr_factor=0.5, scheduler_patience=2)
    scores = [9.0, 8.0, 8.5, 8.2, 8.1, 8.3, 7.0, 7.5, 7.1]
    factors = [plateau(config, scores[:n]) for n in range(len(scores) + 1)]
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert plateau(TrainConfig(), scores) == 1.0


def test_plateau_lowers_the_learning_rate_and_resumes_to_the_same_bits(
    splits, tiny_config, start, tmp_path
):
    config = dataclasses.replace(
        tiny_config,
        schedule="plateau",
        lr=0.1,
        lr_factor=0.5,
        scheduler_patience=1,
        epochs=10,
        ema_decay=0.0,
    )
    whole = finetune(splits, config, start=start)
    rates = [r["lr"] for r in whole.metrics["history"]]
    assert rates[0] == 0.1 and rates[-1] < 0.1
    finetune(splits, dataclasses.replace(config, epochs=5), start=start, out=tmp_path)
    continued = finetune(splits, config, start=start, out=tmp_path, resume=True)
    assert distance(whole, continued) == 0.0
    assert timeless(continued) == timeless(whole)


def test_warm_up_and_cosine():
    config = TrainConfig(schedule="cosine", warmup_fraction=0.25)
    factors = [warmup_and_decay(config, step, 8) for step in range(9)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[-1] == pytest.approx(0.0, abs=1e-15)
    assert all(a > b for a, b in itertools.pairwise(factors[2:]))


def test_frozen_parameters_stay_and_the_rest_learns(splits, tiny_config, start):
    frozen = ["products.*", "node_embedding*"]
    config = dataclasses.replace(tiny_config, freeze=frozen, weight_decay=1e-2)
    tuned = finetune(splits, config, start=start)
    refined = [
        refine(tuned, splits, RefineConfig(method=method, evaluations=30))
        for method in ("lbfgs", "lm")
    ]
    assert all(c.metrics["accepted"] for c in refined)
    before = weights_of(start.checkpoint)
    for checkpoint in (tuned, *refined):
        for name, value in weights_of(checkpoint).items():
            kept = name.startswith(("products.", "node_embedding"))
            assert torch.equal(value, before[name]) == kept, name


@pytest.mark.parametrize(
    ("frozen", "sentence"), [(["radiol*"], "No parameter is called 'radiol\\*'"), (["*"], "every")]
)
def test_patterns_that_freeze_nothing_or_everything(splits, tiny_config, start, frozen, sentence):
    with pytest.raises(ConfigError, match=sentence):
        finetune(splits, dataclasses.replace(tiny_config, freeze=frozen), start=start)


@pytest.mark.parametrize("optimizer", ["adamw", "schedulefree", "sgd"])
def test_l2_sp_keeps_the_weights_near_the_foundation(splits, tiny_config, start, optimizer):
    config = dataclasses.replace(
        tiny_config, optimizer=optimizer, lr=1e-3, ema_decay=0.0, warmup_fraction=0.0
    )
    far, near, still = (
        distance(
            finetune(splits, dataclasses.replace(config, l2_sp=l2_sp), start=start),
            start.checkpoint,
        )
        for l2_sp in (0.0, 10.0, 100.0)
    )
    assert far > near > still


def test_the_l2_sp_gradient_is_that_of_its_penalty(splits, tiny_config, start):
    """One step of SGD without momentum moves by the gradient of loss and penalty."""
    config = dataclasses.replace(
        tiny_config,
        optimizer="sgd",
        optimizer_options={"momentum": 0.0, "nesterov": False},
        lr=1e-4,
        clip=0.0,
        ema_decay=0.0,
        batch_size=100,
        epochs=2,
    )
    plain, pulled = (
        finetune(splits, dataclasses.replace(config, l2_sp=l2_sp), start=start)
        for l2_sp in (0.0, 7.0)
    )
    origin, a, b = (weights_of(c) for c in (start.checkpoint, plain, pulled))
    first = {  # after one step, where the penalty is still zero
        n: v
        for n, v in weights_of(
            finetune(splits, dataclasses.replace(config, epochs=1), start=start)
        ).items()
    }
    for name in a:
        expected = -1e-4 * 7.0 * (first[name] - origin[name])
        torch.testing.assert_close(b[name] - a[name], expected, rtol=1e-6, atol=1e-14)


class Failing(Loss):
    """A loss that is not a number at chosen calls."""

    calls = 0
    bad: tuple[int, ...] = ()

    def __call__(self, prediction, batch):
        Failing.calls += 1
        factor = float("nan") if Failing.calls in Failing.bad else 1.0
        return super().__call__(prediction, batch) * factor


def test_a_diverged_epoch_begins_again_with_half_the_rate(
    splits, tiny_config, start, tmp_path, monkeypatch
):
    monkeypatch.setattr("ase_finetune.trainer.Loss", Failing)
    monkeypatch.setattr(Failing, "calls", 0)
    monkeypatch.setattr(Failing, "bad", (10, 14))  # four steps an epoch: in the third, twice
    result = finetune(splits, tiny_config, start=start, out=tmp_path)
    records = result.metrics["history"]
    assert [r["lr"] for r in records] == pytest.approx([1e-2] * 2 + [2.5e-3] * 4)
    assert [("note" in r) for r in records] == [False, False, True, False, False, False]
    assert "Epoch 3 was not finite: begun again 2 times" in records[2]["note"]

    # What it went back to is the end of the second epoch, to the bit.
    monkeypatch.setattr(Failing, "bad", ())
    short = dataclasses.replace(tiny_config, epochs=2)
    folder = tmp_path / "short"
    finetune(splits, short, start=start, out=folder)
    state = torch.load(folder / "state.pt", weights_only=True)
    state["state"]["failures"] = 2
    torch.save(state, folder / "state.pt")
    again = finetune(splits, tiny_config, start=start, out=folder, resume=True)
    assert distance(result, again) == 0.0


def test_the_guard_gives_up(splits, tiny_config, start, monkeypatch):
    monkeypatch.setattr("ase_finetune.trainer.Loss", Failing)
    monkeypatch.setattr(Failing, "calls", 0)
    monkeypatch.setattr(Failing, "bad", tuple(range(1, 100)))
    with pytest.raises(TrainingDivergedError, match="epoch 1"):
        finetune(splits, tiny_config, start=start)
    assert Failing.calls == 1 + tiny_config.divergence_retries


@pytest.mark.parametrize("name", ["adam", "adamw", "radam", "lamb", "ranger", "schedulefree"])
def test_second_moments_of_a_constant_gradient(name):
    """With a constant gradient the corrected v is its square at every step."""
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.float64))
    gradient = torch.tensor([0.0, 1e-12, 1e-3, 2.0], dtype=torch.float64)
    optimizer = build_optimizer(name, [parameter])
    for _ in range(7):
        parameter.grad = gradient.clone()
        optimizer.step()
    found = second_moments(optimizer)
    assert found["median_sqrt_v"] == pytest.approx(1e-3, rel=1e-9)
    assert found["share_below_eps"] == pytest.approx(1 / 3)


def test_no_second_moments(splits, tiny_config, start):
    records = finetune(
        splits, dataclasses.replace(tiny_config, optimizer="sgd", lr=1e-3, epochs=1), start=start
    ).metrics["history"]
    assert "median_sqrt_v" not in records[0]


def test_checkpoints_say_what_dispersion_their_labels_include(splits, tiny_config):
    stated = dataclasses.replace(splits, train=[a.copy() for a in splits.train])
    for atoms in stated.train:
        atoms.info["dispersion"] = "D3(BJ)"
    tuned = finetune(stated, dataclasses.replace(tiny_config, epochs=1))
    refined = refine(tuned, stated, RefineConfig(evaluations=2))
    assert tuned.dispersion == refined.dispersion == "D3(BJ)"
    assert finetune(splits, dataclasses.replace(tiny_config, epochs=1)).dispersion is None
