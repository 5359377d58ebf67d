"""The switch that makes CUDA add up in a fixed order; it needs no such device to be thrown."""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils import deterministic

from ase_finetune.determinism import repeatable


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,
    )


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
