"""The same bits from the same seed on an accelerator too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Let PyTorch add up in a fixed order while the body runs.

    A CPU does by itself. CUDA adds with atomic operations, in any order, unless it is told; an
    operation without a fixed order is then an error of PyTorch's, not a wrong digit.

    Parameters
    ----------
    device
        What the body computes on.
    """
    if not device.startswith("cuda"):
        yield
        return
    # Read by cuBLAS when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
