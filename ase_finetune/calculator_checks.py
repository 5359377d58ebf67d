"""Configurations that no potential has an answer for, said in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from ase import Atoms

from ase_finetune.errors import DataError
from ase_finetune.graphs import Graph

CLOSEST = 0.01  # A; nuclei never are, and the model's features have no direction at 0


def check_configuration(atoms: Atoms) -> None:
    """Refuse what has no neighbor list.

    Raises
    ------
    DataError
        Without atoms, with positions or a cell that are not finite, or where the periodic
        directions span no space.
    """
    if len(atoms) == 0:
        raise DataError("There are no atoms to calculate.")
    for name, values in (("position", atoms.positions), ("cell vector", atoms.cell.array)):
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(rows):
            raise DataError(f"The {name} {rows[0]} holds a number that is not finite.")
    vectors = atoms.cell.array
    lengths = np.linalg.norm(vectors, axis=1)
    for i in np.flatnonzero(np.asarray(atoms.pbc) & (lengths == 0)):
        raise DataError(
            f"The structure is periodic along {'abc'[i]}, but that cell vector is zero; set the "
            "cell, or pbc to False."
        )
    # All three where the cell has a volume to state, since stress is energy by volume.
    spanning = np.asarray(atoms.pbc) if (lengths == 0).any() else np.ones(3, dtype=bool)
    if spanning.any():
        units = vectors[spanning] / lengths[spanning, None]
        if np.linalg.svd(units, compute_uv=False).min() < 1e-5:
            raise DataError("The cell vectors lie in one plane or line, so they span no space.")


def check_distances(graph: Graph) -> None:
    """Refuse two atoms, or an atom and an image, at the same place.

    Raises
    ------
    DataError
        If two are closer than `CLOSEST`.
    """
    if graph.edge_index.shape[1] == 0:
        return
    sender, receiver = graph.edge_index
    vectors = graph.positions[receiver] - graph.positions[sender] + graph.unit_shifts @ graph.cell
    closest = torch.argmin(vectors.square().sum(dim=1))
    distance = float(vectors[closest].norm())
    if distance < CLOSEST:
        i, j = int(sender[closest]), int(receiver[closest])
        raise DataError(
            f"Atoms {min(i, j)} and {max(i, j)} are at the same place ({distance:.1e} A apart, "
            "periodic images counted); remove one."
        )


def check_finite(result: dict[str, Any]) -> None:
    """Refuse results that would spread through whatever is computed from them.

    Raises
    ------
    DataError
        If energy or forces are not finite.
    """
    if not (np.isfinite(result["energy"]) and np.isfinite(result["forces"]).all()):
        raise DataError(
            "The potential gives no finite energy and forces for these atoms; they are far from "
            "anything that it was trained on."
        )
