"""Ranger: RAdam with Lookahead, in the precision of the weights and with true groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Ranger(torch.optim.RAdam):
    """Rectified Adam whose weights are pulled back every few steps.

    RAdam: L. Liu et al., arXiv 1908.03265; Lookahead: M. Zhang et al., arXiv 1907.08610. Every
    ``k`` steps the slow weights move by ``alpha`` towards the fast ones, which then restart there.
    Decay is decoupled.

    Parameters
    ----------
    params
        Parameters or groups.
    lr, betas, eps, weight_decay
        As in RAdam.
    k, alpha
        Steps between pulls, and how far the slow weights move, between 0 and 1.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        k: int = 6,
        alpha: float = 0.5,
    ) -> None:
        if k < 1 or not 0.0 < alpha <= 1.0:
            raise ValueError("k must be 1 or more and alpha above 0 and at most 1")
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
        )
        for group in self.param_groups:
            group.setdefault("k", k)
            group.setdefault("alpha", alpha)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure, if given, is evaluated first."""
        # RAdam takes an empty state for a fresh one, so the slow weights join it after its step.
        begun = {
            parameter: parameter.detach().clone()
            for group in self.param_groups
            for parameter in group["params"]
            if "slow" not in self.state.get(parameter, {})
        }
        loss: float | None = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if not state:
                    continue
                if "slow" not in state:
                    state["slow"] = begun[parameter]
                if int(state["step"]) % group["k"] == 0:
                    state["slow"].lerp_(parameter, group["alpha"])
                    parameter.copy_(state["slow"])
        return loss
