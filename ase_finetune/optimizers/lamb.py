"""LAMB: Adam's direction, scaled per tensor to the norm of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from ase_finetune.optimizers.common import adam_direction, check_adam_settings, evaluated


class Lamb(Optimizer):
    """Layer-wise adaptive moments (Y. You et al., arXiv 1904.00962, algorithm 2).

    With Adam's bias-corrected m and v, ``u = m / (sqrt(v) + eps) + decay w`` and each tensor steps
    by ``-lr |w| / |u| u``; where a norm is zero, by ``-lr u``. phi is the identity: e3nn weights
    have unit variance, so that a clamp of |w| at 10, as in some libraries, would bind everywhere.

    Parameters
    ----------
    params
        Parameters or groups.
    lr
        Relative step of each tensor.
    betas, eps
        As in Adam.
    weight_decay
        Added to the direction before it is scaled.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        check_adam_settings(lr, betas, eps, weight_decay)
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure, if given, is evaluated first."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                direction = adam_direction(self.state[parameter], parameter.grad, group)
                if group["weight_decay"]:
                    direction.add_(parameter, alpha=group["weight_decay"])
                weights, length = float(parameter.norm()), float(direction.norm())
                trust = weights / length if weights > 0.0 and length > 0.0 else 1.0
                parameter.add_(direction, alpha=-group["lr"] * trust)
        return loss
