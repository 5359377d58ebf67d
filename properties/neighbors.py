"""Pairs of atoms within a cutoff, for any cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray


def pairs(
    quantities: str, atoms: Atoms, cutoff: float | NDArray[np.float64]
) -> tuple[NDArray[Any], ...]:
    """Return pairs with all their periodic images, both (i, j) and (j, i).

    Parameters
    ----------
    quantities : str
        Letters of `matscipy.neighbours.neighbour_list`: ``i``, ``j`` (indices), ``d`` (distance,
        A), ``D`` (vector from i to j, A).
    atoms : Atoms
        Positions may lie outside the cell.
    cutoff : float or ndarray, shape (n_atoms,)
        A; a radius per atom means pairs closer than the sum of both.

    Returns
    -------
    tuple of ndarray
        One per letter.
    """
    from matscipy.neighbours import neighbour_list

    # Directions without a cell vector get one; it does not matter where nothing is periodic.
    cell = atoms.cell.complete().array
    found = neighbour_list(
        quantities, cutoff=cutoff, positions=atoms.positions, cell=cell, pbc=atoms.pbc
    )
    return found if len(quantities) > 1 else (found,)
