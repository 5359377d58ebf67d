"""What needs an accelerator: the numbers of the CPU, and the same bits twice. Skipped elsewhere."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from mace_kinds import (
    KINDS,
    NUMBERS,
    assert_same_gradients,
    derivatives,
    evaluation_batch,
    evaluation_frames,
    gradients_of,
    labelled_graphs,
    random_mace,
)

from ase_finetune import FineTunedCalculator
from ase_finetune.committee import select_frames
from ase_finetune.config import RefineConfig
from ase_finetune.cuda_graphs import KEPT, RECORD_AT
from ase_finetune.determinism import repeatable
from ase_finetune.evaluate import predict_frames
from ase_finetune.fast_mace import accelerate
from ase_finetune.optimizers import list_optimizers
from ase_finetune.refinement import refine
from ase_finetune.start import prepare
from ase_finetune.trainer import finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}


def assert_same_weights(a, b):
    other = [key for key in a.tensors if not torch.equal(a.tensors[key], b.tensors[key])]
    away = {k: float((a.tensors[k].double() - b.tensors[k].double()).abs().max()) for k in other}
    assert not other, away


@pytest.fixture
def on_cuda(tiny_config):
    return dataclasses.replace(tiny_config, device="cuda")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_fast_evaluation_gives_the_numbers_of_mace_torch_on_a_cpu(kind, dtype):
    heads = [0, 1, 1, 0] if kind == "multi-head" else None
    module = random_mace(kind, NUMBERS, dtype)
    exact = copy.deepcopy(module).to(torch.float64)
    expected = derivatives(exact, evaluation_batch(exact, evaluation_frames(), heads=heads))
    joined = evaluation_batch(module, evaluation_frames(), dtype, heads, device="cuda")
    peer = derivatives(module.to("cuda"), joined)
    found = derivatives(accelerate(module), joined)
    for key, value in expected.items():
        scale = float(value.abs().max())
        error = float((found[key].cpu() - value).abs().max()) / scale
        # Third derivatives in single precision: mace-torch's own rounding can be larger.
        own = float((peer[key].cpu() - value).abs().max()) / scale
        assert error < max(TOLERANCE[dtype], 3.0 * own), (key, error, own)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("optimizer", list_optimizers())
def test_training_repeats_to_the_bit_and_follows_the_cpu(splits, tiny_config, optimizer, fast):
    average = {} if optimizer != "schedulefree" else {"ema_decay": 0.0}
    on_cpu = dataclasses.replace(
        tiny_config, optimizer=optimizer, accelerate=fast, epochs=2, **average
    )
    on_cuda = dataclasses.replace(on_cpu, device="cuda")
    first, second = finetune(splits, on_cuda), finetune(splits, on_cuda)
    assert_same_weights(first, second)
    here = predict_frames(finetune(splits, on_cpu), splits.valid).forces
    there = predict_frames(first, splits.valid).forces
    # Rounding decides the first basis of SOAP where a gradient has little.
    reach = 1e-2 if optimizer == "soap" else 1e-7
    assert np.abs(here - there).max() < reach * np.abs(here).max()


def test_a_stopped_run_continues_to_the_same_bits(splits, on_cuda, tmp_path):
    start = prepare(splits, on_cuda)

    def progress(record):
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(splits, on_cuda, start=start, out=tmp_path, progress=progress)
    continued = finetune(splits, on_cuda, start=start, out=tmp_path, resume=True)
    assert_same_weights(continued, finetune(splits, on_cuda))


@pytest.mark.parametrize("method", ["lbfgs", "lm"])
def test_refinement_repeats_and_follows_the_cpu(splits, on_cuda, method):
    tuned = finetune(splits, on_cuda)
    config = RefineConfig(method=method, evaluations=12, device="cuda")
    first, second = refine(tuned, splits, config), refine(tuned, splits, config)
    assert_same_weights(first, second)
    here = refine(tuned, splits, dataclasses.replace(config, device="cpu"))
    for a, b in zip(first.metrics["history"], here.metrics["history"], strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_calculator_agrees_with_the_cpu_and_repeats(splits, on_cuda, dtype):
    tuned = finetune(splits, dataclasses.replace(on_cuda, epochs=1))
    frames = splits.valid[:3]
    here = FineTunedCalculator(tuned, dtype=dtype).evaluate_batch(frames)
    calculator = FineTunedCalculator(tuned, dtype=dtype, device="cuda")
    there, again = calculator.evaluate_batch(frames), calculator.evaluate_batch(frames)
    for a, b, c in zip(here, there, again, strict=True):
        for key in ("energy", "forces", "stress"):
            scale = max(float(np.abs(a[key]).max()), 1.0)
            assert np.abs(np.asarray(a[key]) - b[key]).max() < TOLERANCE[dtype] * scale
            assert np.array_equal(b[key], c[key])


def moved(frame, step):
    twin = frame.copy()
    twin.positions += np.random.default_rng(step).normal(0.0, 1e-3, twin.positions.shape)
    return twin


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_replayed_evaluation_has_the_bits_of_the_first(splits, on_cuda, dtype):
    tuned = finetune(splits, dataclasses.replace(on_cuda, epochs=1))
    used = FineTunedCalculator(tuned, dtype=dtype, device="cuda")
    ((module, _),) = used._modules
    path = [moved(splits.valid[0], step) for step in range(RECORD_AT + 3)]
    walked = [used.evaluate_batch([atoms])[0] for atoms in path]
    assert module.recorder.n_recorded == 1
    for atoms, found in zip(path, walked, strict=True):
        fresh = FineTunedCalculator(tuned, dtype=dtype, device="cuda").evaluate_batch([atoms])[0]
        here = FineTunedCalculator(tuned).evaluate_batch([atoms])[0]
        for key in ("energy", "forces", "stress"):
            assert np.array_equal(found[key], fresh[key]), key
            scale = max(float(np.abs(here[key]).max()), 1.0)
            assert np.abs(np.asarray(found[key]) - here[key]).max() < TOLERANCE[dtype] * scale


def test_no_more_recordings_are_kept_than_stated(splits, on_cuda):
    tuned = finetune(splits, dataclasses.replace(on_cuda, epochs=1))
    calculator = FineTunedCalculator(tuned, device="cuda")
    ((module, _),) = calculator._modules
    frames = [splits.valid[0] * (n, 1, 1) for n in range(1, KEPT + 3)]
    for _ in range(2):
        for atoms in frames:
            first, *_, last = (calculator.evaluate_batch([atoms])[0] for _ in range(RECORD_AT + 1))
            assert np.array_equal(first["forces"], last["forces"])
    assert module.recorder.n_recorded == KEPT


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "multi-head"])
def test_replayed_gradients_follow_the_weights_and_the_numbers(kind):
    exact, theirs = gradients_of(kind, accelerate=False)
    module, ours = gradients_of(kind, device="cuda")
    for step in range(RECORD_AT + 3):
        graphs, loss = labelled_graphs(float(exact.r_max), step)
        with torch.no_grad():
            for a, b in zip(exact.parameters(), module.parameters(), strict=True):
                a.mul_(1.01)
                b.copy_(a)
                a.grad = b.grad = None
        for _ in range(2):  # gradients add up
            value, expected = (g.add(graphs, loss, 0.5) for g in (ours, theirs))
        assert value == pytest.approx(expected, rel=1e-10)
        assert_same_gradients(module, exact, 1e-9)
    assert ours.recorder.n_recorded == 1


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "multi-head"])
def test_replayed_gradients_have_the_bits_of_the_first(kind):
    module, gradients = gradients_of(kind, device="cuda")
    graphs, loss = labelled_graphs(float(module.r_max), 0)
    found = []
    with repeatable("cuda"):
        for _ in range(RECORD_AT + 2):
            module.zero_grad()
            value = gradients.add(graphs, loss, 0.5)
            found.append([value, *(p.grad for p in module.parameters())])
    assert gradients.recorder.n_recorded == 1
    for first, *others in zip(*found, strict=True):
        assert all(
            x is first is None or torch.equal(*map(torch.as_tensor, (x, first))) for x in others
        )


def test_what_was_differentiated_before_decides_no_bits():
    graphs, loss = labelled_graphs(4.5, 0)
    found = []
    with repeatable("cuda"):
        for _ in range(2):
            module, gradients = gradients_of("MPA-0", device="cuda")
            gradients.add(graphs, loss, 0.5)
            found.append([p.grad for p in module.parameters()])
            x = torch.zeros(1, requires_grad=True)
            for _ in range(300_000):  # numbers of operations go on from here in this thread
                x = x + 1.0
    for first, second in zip(*found, strict=True):
        assert first is second is None or torch.equal(first, second)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_each_device_has_recordings_of_its_own(splits, on_cuda):
    tuned = finetune(splits, dataclasses.replace(on_cuda, epochs=1))
    found = []
    for device in ("cuda:0", "cuda:1"):
        calculator = FineTunedCalculator(tuned, device=device)
        path = [moved(splits.valid[0], step) for step in range(RECORD_AT + 2)]
        found.append([calculator.evaluate_batch([atoms])[0]["forces"] for atoms in path])
    for first, second in zip(*found, strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-10)


def test_a_committee_chooses_what_it_chooses_on_a_cpu(splits, tiny_config):
    members = [
        finetune(splits, dataclasses.replace(tiny_config, optimizer=name))
        for name in ("adamw", "soap")
    ]
    pool = [*splits.train, *splits.valid]
    found = [
        select_frames(pool, FineTunedCalculator(members, device=device), 3)
        for device in ("cpu", "cuda")
    ]
    assert found[0].indices == found[1].indices
    np.testing.assert_allclose(found[1].disagreement, found[0].disagreement, rtol=1e-6)
