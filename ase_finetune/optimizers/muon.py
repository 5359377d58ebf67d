"""Muon: momentum made orthogonal, for the matrices within e3nn weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ase_finetune.optimizers.blocks import Block
from ase_finetune.optimizers.common import check_adam_settings
from ase_finetune.optimizers.matrix import MatrixOptimizer

# Odd quintic whose iterates bring singular values near 1 (K. Jordan's Muon, 2024).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RMS_OF_ADAM = 0.2


class Muon(MatrixOptimizer):
    """Momentum orthogonalised by Newton-Schulz iterations (K. Jordan et al., 2024).

    The step of a matrix is scaled to the root mean square that steps of Adam have, as in J. Liu
    et al., arXiv 2502.16982, so that matrices and the rest of the weights share a learning rate.
    Everything is in the precision of the weights. A matrix whose gradient is zero stays.

    Parameters
    ----------
    params
        Parameters or groups, with ``blocks`` for weights of e3nn (see `MatrixOptimizer`).
    lr, weight_decay
        For matrices and the rest.
    momentum, nesterov
        Of the matrices.
    iterations
        Of Newton and Schulz.
    betas, eps
        Of AdamW, which the rest follows.

    Raises
    ------
    ValueError
        For settings out of range.
    """

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter] | list[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        iterations: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        check_adam_settings(lr, betas, eps, weight_decay)
        if not 0.0 <= momentum < 1.0 or iterations < 1:
            raise ValueError("momentum must be below 1 and iterations 1 or more")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "nesterov": nesterov,
                "iterations": iterations,
                "betas": betas,
                "eps": eps,
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
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        buffer = state["momentum"].lerp_(gradient, 1.0 - group["momentum"])
        mixed = gradient.lerp(buffer, group["momentum"]) if group["nesterov"] else buffer
        direction = torch.empty_like(gradient)
        source, target = mixed.reshape(-1), direction.view(-1)
        for block in blocks:
            matrices = orthogonalized(block.view(source), group["iterations"])
            scale = RMS_OF_ADAM * max(matrices.shape[1:]) ** 0.5
            # Without a scale of its own the step would not fade: a matrix without a gradient, as
            # of an element that the batch lacks, stays.
            moving = block.view(gradient.reshape(-1)).flatten(1).any(dim=1)[:, None, None]
            block.view(target).copy_(scale * matrices * moving)
        return direction


def orthogonalized(matrices: torch.Tensor, iterations: int) -> torch.Tensor:
    """Bring the singular values of matrices near 1, of shape (n, rows, columns)."""
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x: torch.Tensor = matrices if wide else matrices.mT
    x = x / x.flatten(1).norm(dim=1).clamp(min=torch.finfo(x.dtype).tiny)[:, None, None]
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT
