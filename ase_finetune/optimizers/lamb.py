"""LAMB: Adam's direction, scaled per tensor to the norm of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer


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


def evaluated(closure: Callable[[], float] | None) -> float | None:
    """Return the closure's loss, with gradients enabled while it runs."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def adam_direction(
    state: dict[str, Any], gradient: torch.Tensor, group: dict[str, Any]
) -> torch.Tensor:
    """Advance the moments in ``state`` and return ``m / (sqrt(v) + eps)``, bias-corrected."""
    if not state:
        state["step"] = 0
        state["exp_avg"] = torch.zeros_like(gradient)
        state["exp_avg_sq"] = torch.zeros_like(gradient)
    state["step"] += 1
    beta1, beta2 = group["betas"]
    first: torch.Tensor = state["exp_avg"].lerp_(gradient, 1.0 - beta1)
    second: torch.Tensor = state["exp_avg_sq"]
    second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    scale = (second / (1.0 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    direction: torch.Tensor = first / (1.0 - beta1 ** state["step"]) / scale
    return direction


def check_adam_settings(
    lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> None:
    """Raise ValueError unless the settings of an optimizer of Adam's family are in range."""
    if lr < 0.0 or eps < 0.0 or weight_decay < 0.0:
        raise ValueError("lr, eps and weight_decay must not be negative")
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError("betas must be two numbers from 0 up to but not including 1")
