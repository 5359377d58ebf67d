"""Matrices within the weights of a MACE module, for optimizers that act on matrices.

e3nn keeps the weights of all paths of a layer in one flat vector. Taken for one matrix or one
vector it has no meaning; here each path's matrix of input channels by output channels is found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

# Maps between channels. Embeddings and readouts have elements or outputs on one side, and the
# weights of the symmetric contraction act on channels one by one.
HIDDEN = ("interactions.", "products.")


class Block(NamedTuple):
    """Matrices at one place of a flattened parameter.

    Attributes
    ----------
    start
        First entry.
    shape
        Two or three lengths; of three, the middle one counts matrices (elements).
    """

    start: int
    shape: tuple[int, ...]

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """Return a view of shape (matrices, rows, columns) on the flattened tensor."""
        part = flat[self.start : self.start + math.prod(self.shape)].view(self.shape)
        return part.movedim(1, 0) if part.ndim == 3 else part[None]


def matrix_blocks(module: torch.nn.Module) -> dict[str, list[Block]]:
    """Find the matrices among the parameters of a MACE module.

    Parameters
    ----------
    module
        A module of mace-torch, not an accelerated one.

    Returns
    -------
    dict
        Name of parameter -> blocks that cover all of it. A parameter that is no set of matrices
        with two rows and columns at least is left out.
    """
    found = {}
    for name, owner, parameter in _owned(module):
        if not name.startswith(HIDDEN):
            continue
        blocks = _blocks(owner, parameter)
        covered = sum(math.prod(block.shape) for block in blocks)
        if blocks and covered == parameter.numel():
            found[name] = blocks
    return found


def _blocks(owner: Any, parameter: torch.nn.Parameter) -> list[Block]:
    if parameter.ndim == 2:
        shapes = [tuple(parameter.shape)]
    elif parameter.ndim == 1 and hasattr(owner, "instructions"):
        shapes = [
            tuple(path.path_shape)
            for path in owner.instructions
            if getattr(path, "has_weight", True)
        ]
    else:
        return []
    blocks, start = [], 0
    for shape in shapes:
        if len(shape) not in (2, 3) or min(shape[0], shape[-1]) < 2:
            return []
        blocks.append(Block(start, shape))
        start += math.prod(shape)
    return blocks


def _owned(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module, torch.nn.Parameter]]:
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, owner, parameter
