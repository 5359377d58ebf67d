"""Atoms' surroundings as a MACE module sees them: the invariant features of its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from ase_finetune.architecture import DTYPES
from ase_finetune.checkpoint import Checkpoint
from ase_finetune.evaluate import chunks, resolve_device
from ase_finetune.graphs import build_graph, collate

_BATCH_ATOMS = 256
_AT_ONCE = 10_000  # rows, which bounds memory
_ROUNDING = 1e-5  # of the size of features; in single precision copies differ by a tenth of that

Rows = NDArray[np.float32]


def environments(
    checkpoint: Checkpoint,
    frames: Sequence[Atoms],
    *,
    dtype: str = "float64",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[Rows]:
    """Return the invariant node features of all layers, of which energies are made.

    Parameters
    ----------
    checkpoint
        Of the potential that looks.
    frames
        Structures of elements that it knows.
    dtype, device
        As of the calculator.
    progress
        Called with (done, total) frames.

    Returns
    -------
    list of ndarray, shape (N, K)
        For each frame, a row for each atom.
    """
    device = resolve_device(device)
    # Of mace-torch: the accelerated module returns no features.
    module: Any = checkpoint.module(dtype, device)
    scalars = _scalars(module)
    found: list[Rows] = []
    for part in chunks(frames, _BATCH_ATOMS):
        graphs = [
            build_graph(a, checkpoint.numbers, checkpoint.r_max, dtype=DTYPES[dtype]) for a in part
        ]
        batch = collate(graphs, len(checkpoint.numbers), device)
        with torch.no_grad():
            out = module(dict(batch.inputs), compute_force=False)
        rows = out["node_feats"][:, scalars].cpu().numpy().astype(np.float32)
        ends = np.cumsum([len(a) for a in part])[:-1]
        found += np.split(rows, ends)
        if progress is not None:
            progress(len(found), len(frames))
    return found


@dataclass(frozen=True)
class Scale:
    """What is far and what is near among the environments of an element, in squared distances.

    Attributes
    ----------
    pairs
        Mean over all pairs.
    rounding
        Environments that are nearer are equal.
    """

    pairs: float
    rounding: float


def scale_of(rows: Rows) -> Scale:
    """Return the scale of the environments (N, K) of one element."""
    exact = rows.astype(np.float64)
    size = float(np.square(exact).sum(axis=1).mean())
    pairs = 2.0 * float(exact.var(axis=0).sum())
    rounding = _ROUNDING**2 * size
    return Scale(max(pairs, rounding, np.finfo(float).tiny), rounding)


def nearest(rows: Rows, others: Rows) -> NDArray[np.float64]:
    """Return the squared distance of each row to the nearest of others, shape (len(rows),)."""
    b = others.astype(np.float64)
    found = np.empty(len(rows))
    for first in range(0, len(rows), _AT_ONCE):
        a = rows[first : first + _AT_ONCE].astype(np.float64)
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
        found[first : first + _AT_ONCE] = squares.min(axis=1).clip(min=0.0)
    return found


def _scalars(module: Any) -> NDArray[np.int64]:
    """Columns of ``node_feats`` that do not turn with the atoms: the layers one after another."""
    columns: list[int] = []
    first = 0
    for product in module.products:
        irreps = product.linear.irreps_out
        for (_, irrep), part in zip(irreps, irreps.slices(), strict=True):
            if irrep.l == 0 and irrep.p == 1:
                columns += range(first + part.start, first + part.stop)
        first += irreps.dim
    return np.array(columns)
