"""Weights as plain dictionaries: snapshots, averaging, and the one rule of what is deployed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

Weights = dict[str, torch.Tensor]


def snapshot(module: torch.nn.Module) -> Weights:
    """Return a detached copy of the parameters."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def restore(module: torch.nn.Module, weights: Weights) -> None:
    """Copy a snapshot back."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


class MovingAverage:
    """Exponential moving average of a module's parameters.

    The decay is min(decay, (1 + t) / (10 + t)) at update t, so that early averages do not remember
    the start (as in torch-ema, which mace-torch uses).
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = snapshot(module)

    def update(self, module: torch.nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                self.values[name].lerp_(parameter, 1.0 - decay)


def evaluation_weights(module: torch.nn.Module, average: MovingAverage | None) -> Weights:
    """Return the weights that are validated, saved and deployed: the average where there is one."""
    if average is None:
        return snapshot(module)
    return {name: value.clone() for name, value in average.values.items()}


@contextlib.contextmanager
def use_weights(module: torch.nn.Module, weights: Weights) -> Iterator[None]:
    """Put other weights into a module for the body."""
    own = snapshot(module)
    restore(module, weights)
    try:
        yield
    finally:
        restore(module, own)
