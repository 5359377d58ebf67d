"""SOAP: Adam in the eigenbasis of Shampoo, for the matrices within e3nn weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ase_finetune.optimizers.blocks import Block
from ase_finetune.optimizers.common import check_adam_settings
from ase_finetune.optimizers.matrix import MatrixOptimizer


class Soap(MatrixOptimizer):
    """Shampoo with Adam in the preconditioner's eigenbasis (N. Vyas et al., arXiv 2409.11321).

    For each matrix G of gradients, L and R average ``G G^T`` and ``G^T G``; their eigenbases are
    followed by one power iteration with QR every ``refresh`` steps. Adam's second moment lives in
    that basis, its first one in the original. QR sorts a basis by falling eigenvalue, step by
    step; bases begin in that order, and before each iteration they and the second moments are put
    in it (as in the authors' code), so that no direction meets the second moment of another.

    A gradient steps in the basis of those before it, so the first one only makes a basis: in its
    own it is diagonal but for rounding, which Adam's ratio would blow up to the size of a step.
    Directions that the first gradient hardly has are turned by rounding all the same, so runs
    agree to the bit on one machine, but other processors or numbers of processes lead to other,
    equally good trajectories.

    Parameters
    ----------
    params
        Parameters or groups, with ``blocks`` for weights of e3nn (see `MatrixOptimizer`).
    lr, betas, eps, weight_decay
        As in AdamW, which weights that are no matrices follow.
    shampoo_beta
        Of the averages L and R.
    refresh
        Steps between updates of the eigenbases.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = 0.95,
        eps: float = 1e-8,
        refresh: int = 10,
        weight_decay: float = 0.0,
    ) -> None:
        check_adam_settings(lr, betas, eps, weight_decay)
        if not 0.0 <= shampoo_beta < 1.0 or refresh < 1:
            raise ValueError("shampoo_beta must be below 1 and refresh 1 or more")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "shampoo_beta": shampoo_beta,
                "eps": eps,
                "refresh": refresh,
                "weight_decay": weight_decay,
            },
        )

    def _matrix_direction(
        self,
        state: dict[str, Any],
        gradient: torch.Tensor,
        blocks: list[Block],
        group: dict[str, Any],
    ) -> torch.Tensor:
        flat = gradient.reshape(-1)
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(flat)
            state["exp_avg_sq"] = torch.zeros_like(flat)
            for side in ("left", "right"):
                state[side], state[f"{side}_basis"] = [], []
        direction = torch.zeros_like(flat)
        if state["left"]:
            state["step"] += 1
            step, (beta1, beta2) = state["step"], group["betas"]
            first = state["exp_avg"].lerp_(flat, 1.0 - beta1)
            for i, block in enumerate(blocks):
                left, right = state["left_basis"][i], state["right_basis"][i]
                turned = left.mT @ block.view(flat) @ right
                second = block.view(state["exp_avg_sq"])
                second.mul_(beta2).addcmul_(turned, turned, value=1.0 - beta2)
                scale = (second / (1.0 - beta2**step)).sqrt_().add_(group["eps"])
                moment = left.mT @ block.view(first) @ right / (1.0 - beta1**step)
                block.view(direction).copy_(left @ (moment / scale) @ right.mT)
        for i, block in enumerate(blocks):
            self._advance(state, i, block, flat, group)
        return direction.view_as(gradient)

    @staticmethod
    def _advance(
        state: dict[str, Any], i: int, block: Block, gradient: torch.Tensor, group: dict[str, Any]
    ) -> None:
        """Take a gradient into the averages of one block, and follow their eigenbases."""
        matrices = block.view(gradient)
        products = {"left": matrices @ matrices.mT, "right": matrices.mT @ matrices}
        for side, product in products.items():
            averages, bases = state[side], state[f"{side}_basis"]
            if len(averages) == i:
                averages.append(product * (1.0 - group["shampoo_beta"]))
                bases.append(torch.linalg.eigh(averages[i])[1].flip(-1))
                continue
            averages[i].lerp_(product, 1.0 - group["shampoo_beta"])
            if state["step"] % group["refresh"] == 0:
                order = _falling(averages[i], bases[i])
                second = block.view(state["exp_avg_sq"])
                along = order[:, :, None] if side == "left" else order[:, None, :]
                second.copy_(second.take_along_dim(along, 1 if side == "left" else 2))
                sorted_basis = bases[i].take_along_dim(order[:, None, :], 2)
                bases[i] = torch.linalg.qr(averages[i] @ sorted_basis)[0]


def _falling(average: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return the order of the columns of a basis by falling ``q^T A q``, shape (matrices, n)."""
    along = (basis * (average @ basis)).sum(1)
    found: torch.Tensor = torch.sort(along, dim=1, descending=True, stable=True).indices
    return found
