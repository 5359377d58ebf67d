"""What must not decide the bits of a result: CUDA's order of sums, and what was computed before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mace_kinds import KINDS, NUMBERS, evaluation_batch, evaluation_frames, random_mace
from torch.utils import deterministic

from ase_finetune.determinism import repeatable
from ase_finetune.fast_mace import accelerate


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )


def test_backward_passes_stay_in_the_thread_on_cuda():
    assert torch._C._is_multithreading_enabled()
    with repeatable("cpu"):
        assert torch._C._is_multithreading_enabled()
    with repeatable("cuda"):
        assert not torch._C._is_multithreading_enabled()
    assert torch._C._is_multithreading_enabled()


def test_it_is_thrown_for_cuda_and_goes_back():
    before = switches()
    with repeatable("cpu"):
        assert switches() == before
    with pytest.raises(ValueError), repeatable("cuda:1"):
        assert switches() == (True, False, False)
        raise ValueError
    assert switches() == before
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_it_stays_until_the_last_user_leaves():
    before = switches()
    first, second = repeatable("cuda"), repeatable("cuda")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert switches() == (True, False, False)
    second.__exit__(None, None, None)
    assert switches() == before


_PROGRAM = """
import hashlib
from mace_kinds import KINDS, NUMBERS, derivatives, evaluation_batch, evaluation_frames, random_mace
from ase_finetune.fast_mace import accelerate

KINDS["large"] = {**KINDS["MP-0"], "max_ell": 3}
module = accelerate(random_mace("large", NUMBERS, "float32"))
batch = evaluation_batch(module, evaluation_frames(), "float32")
for _ in range(3):
    found = derivatives(module, batch)
    print(hashlib.sha256(b"".join(x.numpy().tobytes() for x in found.values())).hexdigest())
"""


def test_the_first_evaluation_of_a_process_is_like_the_next():
    """Scripted functions of TorchScript change after their first calls, and with them the bits."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        cwd=Path(__file__).parent,
        capture_output=True,
        check=True,
        text=True,
    )
    assert len(done.stdout.split()) == 3
    assert len(set(done.stdout.split())) == 1


class _Raises(torch.nn.Module):
    def __init__(self, scripted):
        super().__init__()
        self.weight = getattr(scripted, "weight", None)

    def forward(self, *_):
        raise AssertionError("a scripted function was called, whose bits change as it runs")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_called_that_torchscript_compiles_as_it_runs(kind):
    heads = [0, 1, 1, 0] if kind == "multi-head" else None
    module = random_mace(kind, NUMBERS)
    batch = evaluation_batch(module, evaluation_frames(), heads=heads)
    expected = accelerate(module)(dict(batch.inputs), compute_stress=True)
    scripted = [
        (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, torch.jit.ScriptModule)
    ]
    assert scripted
    for parent, name in scripted:
        setattr(parent, name, _Raises(getattr(parent, name)))
    with pytest.raises(AssertionError, match="scripted"):
        module(dict(batch.inputs))
    found = accelerate(module)(dict(batch.inputs), compute_stress=True)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
