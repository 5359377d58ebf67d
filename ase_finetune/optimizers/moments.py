"""How large the second moments of Adam's family are beside the eps that bounds their inverse."""

from __future__ import annotations

from typing import Any

import torch


def second_moments(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the median of sqrt(v) and the share of coordinates where it is below eps.

    Where sqrt(v) falls below eps, Adam turns into gradient descent with momentum. v is corrected
    for its bias; coordinates that never had a gradient are left out. Coordinates are parameters,
    or those of the eigenbasis in SOAP; with AMSGrad, v is the present one and not the largest.

    Returns
    -------
    dict
        ``median_sqrt_v`` and ``share_below_eps``; empty for optimizers without second moments.
    """
    roots, below, total = [], 0, 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" not in state:
                continue
            v = state["exp_avg_sq"].detach() / (1.0 - _decay(group) ** _steps(group, state))
            root = v[v > 0].sqrt()
            roots.append(root)
            below += int((root < group["eps"]).sum())
            total += root.numel()
    if total == 0:
        return {}
    return {
        "median_sqrt_v": float(torch.cat(roots).median()),
        "share_below_eps": below / total,
    }


def _decay(group: dict[str, Any]) -> float:
    return float(group["betas"][1])


def _steps(group: dict[str, Any], state: dict[str, Any]) -> float:
    # schedulefree counts per group, all others per parameter.
    return float(state["step"] if "step" in state else group["k"])
