"""What optimizers that act on matrices share: matrices by theirs, all other weights by AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ase_finetune.optimizers.blocks import Block
from ase_finetune.optimizers.common import adam_direction, evaluated


class MatrixOptimizer(Optimizer):
    """Base of optimizers that treat the matrices of a group by their own rule.

    A group may hold ``blocks``: for each of its parameters the matrices in it
    (`blocks.matrix_blocks`), or an empty list. Without it, parameters of two dimensions are
    matrices. Every other parameter follows AdamW with the group's ``lr`` and ``betas``. Decay is
    decoupled for both.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a closure, if given, is evaluated first."""
        loss = evaluated(closure)
        for group in self.param_groups:
            for parameter, blocks in zip(group["params"], self._blocks(group), strict=True):
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                if blocks:
                    direction = self._matrix_direction(state, gradient, blocks, group)
                else:
                    direction = adam_direction(state, gradient, group)
                parameter.add_(direction, alpha=-group["lr"])
        return loss

    @staticmethod
    def _blocks(group: dict[str, Any]) -> list[list[Block]]:
        given = group.get("blocks")
        if given is not None:
            return [[Block(start, tuple(shape)) for start, shape in blocks] for blocks in given]
        return [
            [Block(0, tuple(p.shape))] if p.ndim == 2 and min(p.shape) > 1 else []
            for p in group["params"]
        ]

    def _matrix_direction(
        self,
        state: dict[str, Any],
        gradient: torch.Tensor,
        blocks: list[Block],
        group: dict[str, Any],
    ) -> torch.Tensor:
        """Return the direction, of the gradient's shape, and advance the state."""
        raise NotImplementedError
