"""Several processes that share every step of one training, as started by ``torchrun``.

Each process evaluates its share of a step's frames; gradients and sums are added over the
processes, so that all of them take the same step as one process with the whole batch would.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch

from ase_finetune.errors import ConfigError

T = TypeVar("T")
# The first process may compute properties of the foundation while the others wait for it.
_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Processes:
    """The processes of a training.

    Attributes
    ----------
    rank, size
        Number of this process, and how many there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this process's part of what all of them work on."""
        return items if self.size == 1 else items[self.rank :: self.size]

    def total(self, values: Sequence[float]) -> list[float]:
        """Add numbers over the processes."""
        if self.size == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=_device())
        torch.distributed.all_reduce(summed)
        return [float(value) for value in summed]

    def of_first(self, values: Sequence[float]) -> list[float]:
        """Return the numbers of the first process."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=_device())
        torch.distributed.broadcast(shared, 0)
        return [float(value) for value in shared]

    def equalize(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Give all processes the parameters of the first, which others may round otherwise."""
        if self.size == 1:
            return
        for parameter in parameters:
            torch.distributed.broadcast(parameter.data, 0)

    def add_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add gradients over the processes; one that no process has stays None."""
        if self.size == 1:
            return
        flat = torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        )
        held = torch.tensor([float(p.grad is not None) for p in parameters]).to(flat)
        # Added up in float64, and in the same order by every process.
        joined = torch.cat([flat, held]).double().to(_device())
        torch.distributed.all_reduce(joined)
        joined = joined.to(flat)
        first = 0
        for parameter, anyone in zip(parameters, joined[flat.numel() :].tolist(), strict=True):
            part = joined[first : first + parameter.numel()]
            first += parameter.numel()
            parameter.grad = part.view_as(parameter).clone() if anyone else None


def _device() -> torch.device:
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def is_first() -> bool:
    """Tell whether this process is the one that writes and reports."""
    return not _several() or int(os.environ.get("RANK", "0")) == 0


def _several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started for the body; a process on its own is alone.

    Parameters
    ----------
    device
        ``cpu`` joins through gloo; ``cuda`` through NCCL, each process on its own device.

    Raises
    ------
    ConfigError
        If one CUDA device is named, there are fewer than processes on this machine, or the
        processes cannot be joined.
    """
    if not _several():
        yield Processes()
        return
    cuda = device.startswith("cuda")
    if ":" in device:
        raise ConfigError(f"Every process takes a device of its own; give cuda, not {device}.")
    if cuda:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"Process {local} has no CUDA device of its own; start fewer with torchrun."
            )
        torch.cuda.set_device(local)
    try:
        torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"The processes cannot be joined: {error}.") from error
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
