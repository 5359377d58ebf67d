"""The preconditioner that an optimizer's state stands for, read from the real state.

An update is theta <- theta - lr (P m + decay), where m is momentum, a filter over time that is
reported apart from P (`filters`). Every P is the one that the next step would use if the next
gradient left the statistics as they are. Coordinates without state have P = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ase_finetune.curvature.preconditioners import Blockwise, LowRank, Preconditioner, Turned
from ase_finetune.errors import ConfigError
from ase_finetune.optimizers.blocks import Block
from ase_finetune.optimizers.matrix import MatrixOptimizer
from ase_finetune.optimizers.muon import COEFFICIENTS, RMS_OF_ADAM

State = dict[str, Any]


@dataclass(frozen=True)
class Decay:
    """Weight decay as it enters the preconditioned curvature.

    Attributes
    ----------
    diagonal
        Shape (size,), not negative.
    coupled
        Whether it belongs to the loss: then the curvature is F^T (H + diagonal) F. Decoupled
        decay is added outside, F^T H F + diagonal, exactly where F leaves each tensor to itself
        and the diagonal is constant on it.
    """

    diagonal: torch.Tensor
    coupled: bool


def from_optimizer(
    name: str, optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]
) -> tuple[Preconditioner, Decay | None]:
    """Return P and the decay of an optimizer of the registry.

    Parameters
    ----------
    name
        In the registry.
    optimizer
        After some steps.
    parameters
        All that it steps, in the order of the vectors.

    Raises
    ------
    ConfigError
        If no rule for this optimizer is known.
    """
    if name not in _RULES:
        raise ConfigError(
            f"There is no rule for the preconditioner of {name}; known are {', '.join(_RULES)}."
        )
    groups = {p: group for group in optimizer.param_groups for p in group["params"]}
    blocks = _blocks(optimizer)
    diagonal, turned, decays = [], [], []
    start = 0
    for parameter in parameters:
        group, state = groups[parameter], optimizer.state.get(parameter, {})
        values = torch.zeros_like(parameter).reshape(-1)
        factor = 1.0
        if state or name == "sgd":
            if blocks.get(parameter):
                turned += _TURNED[name](state, group, blocks[parameter], start)
            else:
                values = _RULES[name](state, group, parameter.detach()).reshape(-1)
        if name == "lamb" and state:
            factor = _trust(state, group, parameter.detach())
        diagonal.append(values.detach())
        decays.append(torch.full_like(diagonal[-1], group["weight_decay"] * factor))
        start += parameter.numel()
    decay = torch.cat(decays)
    # RAdam's decay is what its options say; the registry makes it decoupled.
    options = optimizer.param_groups[0]
    coupled = name in ("sgd", "adam") or not options.get("decoupled_weight_decay", True)
    return (
        Blockwise(torch.cat(diagonal), tuple(turned)),
        Decay(decay, coupled) if bool(decay.any()) else None,
    )


def _identity(state: State, group: State, parameter: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(parameter)


def _adam(state: State, group: State, parameter: torch.Tensor) -> torch.Tensor:
    v = state["max_exp_avg_sq"] if group.get("amsgrad") else state["exp_avg_sq"]
    corrected: torch.Tensor = v / (1.0 - group["betas"][1] ** _steps(state, group))
    found: torch.Tensor = 1.0 / (corrected.sqrt() + group["eps"])
    return found


def _steps(state: State, group: State) -> float:
    # schedulefree counts per group, all others per parameter.
    return float(state["step"] if "step" in state else group["k"])


def rectifier(step: float, beta2: float) -> float | None:
    """Return r_t of RAdam, or None while its variance is intractable (arXiv 1908.03265, eq. 5)."""
    last = 2.0 / (1.0 - beta2) - 1.0
    rho = last - 2.0 * step * beta2**step / (1.0 - beta2**step)
    if rho <= 5.0:
        return None
    return math.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho))


def _radam(state: State, group: State, parameter: torch.Tensor) -> torch.Tensor:
    step, beta2 = _steps(state, group), group["betas"][1]
    r = rectifier(step, beta2)
    if r is None:
        return torch.ones_like(parameter)
    # torch adds eps before the bias of v is corrected.
    v: torch.Tensor = state["exp_avg_sq"]
    found: torch.Tensor = r * math.sqrt(1.0 - beta2**step) / (v.sqrt() + group["eps"])
    return found


def _trust(state: State, group: State, parameter: torch.Tensor) -> float:
    """LAMB's ratio of norms at the present moments and weights."""
    first = state["exp_avg"] / (1.0 - group["betas"][0] ** state["step"])
    direction = first * _adam(state, group, parameter) + group["weight_decay"] * parameter
    weights, length = float(parameter.norm()), float(direction.norm())
    return weights / length if weights > 0.0 and length > 0.0 else 1.0


def _lamb(state: State, group: State, parameter: torch.Tensor) -> torch.Tensor:
    return _trust(state, group, parameter) * _adam(state, group, parameter)


def _muon(state: State, group: State, blocks: Sequence[Block], start: int) -> list[Turned]:
    """The polynomial of M M^T, or of M^T M if M is tall, that Newton and Schulz's steps apply."""
    a, b, c = COEFFICIENTS
    flat, found = state["momentum"].reshape(-1), []
    for block in blocks:
        M = block.view(flat)
        wide = M.shape[1] <= M.shape[2]
        U, s, _ = torch.linalg.svd(M if wide else M.mT, full_matrices=False)
        norm = M.flatten(1).norm(dim=1)[:, None]
        s = s / norm.clamp(min=torch.finfo(s.dtype).tiny)
        gain = torch.ones_like(s)
        for _ in range(group["iterations"]):
            factor = a + b * s**2 + c * s**4
            gain, s = gain * factor, s * factor
        scale = RMS_OF_ADAM * max(M.shape[1:]) ** 0.5
        # A matrix without momentum stays.
        values = torch.where(norm > 0.0, scale * gain / norm, 0.0)
        place = Block(start + block.start, block.shape)
        found.append(
            Turned(place, U, None, values[:, :, None])
            if wide
            else Turned(place, None, U, values[:, None, :])
        )
    return found


def _soap(state: State, group: State, blocks: Sequence[Block], start: int) -> list[Turned]:
    """Adam's diagonal in the bases of Shampoo."""
    second = state["exp_avg_sq"] / (1.0 - group["betas"][1] ** max(state["step"], 1))
    return [
        Turned(
            Block(start + block.start, block.shape),
            state["left_basis"][i],
            state["right_basis"][i],
            1.0 / (block.view(second).sqrt() + group["eps"]),
        )
        for i, block in enumerate(blocks)
    ]


def _blocks(optimizer: torch.optim.Optimizer) -> dict[torch.Tensor, list[Block]]:
    if not isinstance(optimizer, MatrixOptimizer):
        return {}
    return {
        parameter: blocks
        for group in optimizer.param_groups
        for parameter, blocks in zip(group["params"], optimizer._blocks(group), strict=True)
    }


_RULES: dict[str, Callable[[State, State, torch.Tensor], torch.Tensor]] = {
    "adam": _adam,
    "adamw": _adam,
    "radam": _radam,
    "sgd": _identity,
    "lamb": _lamb,
    "ranger": _radam,
    "schedulefree": _adam,
    "muon": _adam,
    "soap": _adam,
}
_TURNED = {"muon": _muon, "soap": _soap}


def from_lbfgs(optimizer: torch.optim.LBFGS) -> LowRank:
    """Return the matrix of L-BFGS's two loops, from the pairs in its state.

    Raises
    ------
    ConfigError
        If there are no pairs yet.
    """
    state: State = next(iter(optimizer.state.values()), {})
    # In torch's state old_dirs is y, the changes of the gradient, and old_stps is s, the steps.
    if not state.get("old_dirs"):
        raise ConfigError("L-BFGS has no curvature pairs yet; let it take two iterations at least.")
    return LowRank.from_pairs(
        torch.stack(list(state["old_stps"])),
        torch.stack(list(state["old_dirs"])),
        float(state["H_diag"]),
    )
