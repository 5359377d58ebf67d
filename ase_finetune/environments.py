"""Atoms' surroundings as a MACE module sees them: the invariant features of its layers."""

from __future__ import annotations

from collections.abc import Sequence
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
_SAMPLED = 400  # environments of an element that a length is taken from
_AT_ONCE = 10_000  # rows, which bounds memory
_COPIES = 1e-4  # of their size; environments nearer than that are the same up to rounding


def environments(
    checkpoint: Checkpoint, frames: Sequence[Atoms], *, dtype: str = "float64", device: str = "cpu"
) -> list[NDArray[np.float32]]:
    """Return the invariant node features of all layers, of which energies are made.

    Parameters
    ----------
    checkpoint
        Of the potential that looks.
    frames
        Structures of elements that it knows.
    dtype, device
        As of the calculator.

    Returns
    -------
    list of ndarray, shape (N, K)
        For each frame, a row for each atom.
    """
    device = resolve_device(device)
    # Of mace-torch: the accelerated module returns no features.
    module: Any = checkpoint.module(dtype, device)
    scalars = _scalars(module)
    found: list[NDArray[np.float32]] = []
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
    return found


def lengths(numbers: NDArray[np.integer[Any]], rows: NDArray[np.float32]) -> dict[int, float]:
    """Return the median distance between environments of each element, if they differ at all.

    Parameters
    ----------
    numbers, shape (N,)
        Atomic numbers.
    rows, shape (N, K)
        Features of the same atoms.
    """
    found = {}
    for z in np.unique(numbers):
        of_z = rows[numbers == z]
        some = of_z[np.linspace(0, len(of_z) - 1, min(len(of_z), _SAMPLED)).astype(int)]
        apart = np.sqrt(_squared_distances(some, some))[np.triu_indices(len(some), 1)]
        size = _COPIES * float(np.sqrt(np.square(some, dtype=np.float64).sum(axis=1).mean()))
        found[int(z)] = max(size, 1e-12, float(np.median(apart)) if len(apart) else 0.0)
    return found


def nearest(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the squared distance of each row to the nearest of others, shape (len(rows),)."""
    found = np.empty(len(rows))
    for first in range(0, len(rows), _AT_ONCE):
        part = rows[first : first + _AT_ONCE]
        found[first : first + _AT_ONCE] = _squared_distances(part, others).min(axis=1)
    return found


def _squared_distances(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float64]:
    a, b = first.astype(np.float64), second.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2.0 * a @ b.T
    clipped: NDArray[np.float64] = squares.clip(min=0.0)
    return clipped


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
