"""Weights as plain dictionaries: snapshots, averaging, and the one rule of what is deployed."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterator, Sequence

import torch

from ase_finetune.errors import ConfigError

Weights = dict[str, torch.Tensor]


def snapshot(module: torch.nn.Module) -> Weights:
    """Return a detached copy of the parameters."""
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def restore(module: torch.nn.Module, weights: Weights) -> None:
    """Copy a snapshot back."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights[name])


def frozen(module: torch.nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the parameters that match one of the patterns.

    Raises
    ------
    ConfigError
        If a pattern matches no parameter, or together they match all.
    """
    names = [name for name, _ in module.named_parameters()]
    chosen: set[str] = set()
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if not matching:
            raise ConfigError(
                f"No parameter is called {pattern!r}; the model has {', '.join(names)}."
            )
        chosen.update(matching)
    if len(chosen) == len(names):
        raise ConfigError("These patterns freeze every parameter; leave some to train.")
    return chosen


def freeze(module: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Keep the parameters whose names match one of the patterns as they are."""
    chosen = frozen(module, patterns)
    for name, parameter in module.named_parameters():
        if name in chosen:
            parameter.requires_grad_(False)


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


def evaluation_weights(
    module: torch.nn.Module,
    average: MovingAverage | None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Weights:
    """Return the weights that are validated, saved and deployed.

    These are the moving average where there is one, the averaged point x of a schedule-free
    optimizer, and the weights themselves otherwise.

    Parameters
    ----------
    module
        Holds the weights at which gradients are taken; of a schedule-free optimizer these are
        ``y = (1 - beta1) z + beta1 x`` (Defazio et al., arXiv 2405.15682, eq. 1).
    average, optimizer
        What the trainer keeps.
    """
    if average is not None:
        return {name: value.clone() for name, value in average.values.items()}
    weights = snapshot(module)
    if optimizer is None:
        return weights
    beta1 = {
        parameter: group["betas"][0]
        for group in optimizer.param_groups
        if "train_mode" in group
        for parameter in group["params"]
    }
    for name, parameter in module.named_parameters():
        z = optimizer.state.get(parameter, {}).get("z")
        if parameter in beta1 and z is not None:
            # The optimizer's own eval() computes this in place, and train() undoes it with a
            # rounding error that would make the training depend on how often it is validated.
            weights[name].lerp_(z, 1.0 - 1.0 / beta1[parameter])
    return weights


@contextlib.contextmanager
def use_weights(module: torch.nn.Module, weights: Weights) -> Iterator[None]:
    """Put other weights into a module for the body."""
    own = snapshot(module)
    restore(module, weights)
    try:
        yield
    finally:
        restore(module, own)
