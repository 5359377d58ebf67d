"""What the optimizers written here share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
