"""The same bits from the same seed on an accelerator too."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch
import torch.utils.deterministic

# cuBLAS reads this when it is first used in a process, so it is set before that and stays.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
_settings: Any = torch.utils.deterministic
_lock = threading.Lock()
_inside = 0
_before = (False, False, True)


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """Let PyTorch add up in a fixed order while the body runs.

    A CPU does by itself. CUDA adds with atomic operations, in any order, unless it is told; an
    operation without a fixed order is then an error of PyTorch's, not a wrong digit. That switch
    is the whole process's; it goes back when the last of several threads leaves. And backward
    passes stay in this thread: in a thread for each device, operations are numbered apart, and
    those of a second derivative would be ordered by what the process had done before.

    Parameters
    ----------
    device
        What the body computes on.
    """
    if not device.startswith("cuda"):
        yield
        return
    _enter()
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        _leave()


def _enter() -> None:
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
                _settings.fill_uninitialized_memory,
            )
            torch.use_deterministic_algorithms(True)
            # Only to find programs that read what they never wrote.
            _settings.fill_uninitialized_memory = False
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            enabled, warn_only, fill = _before
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            _settings.fill_uninitialized_memory = fill
