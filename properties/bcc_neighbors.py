"""Which atoms have the surroundings of a bcc crystal: adaptive common-neighbour analysis."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.neighbors import pairs

SHELLS = (8, 6)  # first and second neighbours of a bcc atom
# Common neighbours and bonds among them, of every first and of every second neighbour.
SIGNATURES = {(6, 6): SHELLS[0], (4, 4): SHELLS[1]}


def bcc_mask(atoms: Atoms) -> NDArray[np.bool_]:
    """Tell atoms with bcc surroundings from those without.

    Parameters
    ----------
    atoms : Atoms
        Crystal with defects, of one element; periodic or not.

    Returns
    -------
    ndarray, shape (n_atoms,)
        True where the fourteen nearest atoms and the bonds among them are those of a bcc crystal;
        false at surfaces.

    Raises
    ------
    StructureError
        If the atoms are of several elements or far apart.

    Notes
    -----
    A. Stukowski, Model. Simul. Mater. Sci. Eng. 20, 045021 (2012): the cutoff that decides what
    is bonded adapts to every atom, halfway between the second and third shells of a bcc crystal
    with its own distances. Here a ring of six (four) bonds among six (four) common neighbours is
    recognised by its count, without its longest chain.
    """
    first, vectors = _nearest(atoms, sum(SHELLS))
    mask = np.zeros(len(atoms), dtype=bool)
    for atom in np.unique(first):
        near = vectors[first == atom]
        distances = np.linalg.norm(near, axis=1)
        a0 = (2 / np.sqrt(3) * distances[: SHELLS[0]].mean() + distances[SHELLS[0] :].mean()) / 2
        cutoff = (1 + np.sqrt(2)) / 2 * a0
        if (distances > cutoff).any():
            continue
        between = np.linalg.norm(near[:, None] - near[None], axis=2)
        bonded = (between < cutoff) & (between > 0)
        counts: dict[tuple[int, int], int] = {}
        for row in bonded:
            common = np.flatnonzero(row)
            signature = (len(common), int(bonded[np.ix_(common, common)].sum()) // 2)
            counts[signature] = counts.get(signature, 0) + 1
        mask[atom] = counts == SIGNATURES
    return mask


def _nearest(atoms: Atoms, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the centers and vectors to the `count` nearest atoms of every atom that has them.

    Atoms at a surface that have fewer within reach are left out.
    """
    if len(set(atoms.numbers)) != 1:
        raise StructureError("Common neighbours of a bcc crystal need atoms of one element.")
    nearest = pairs("d", atoms, 4.0)[0]
    if not len(nearest):
        raise StructureError("No two atoms are within 4 A of each other: this is no crystal.")
    reach = 2.0 * float(np.median(nearest[nearest < 1.3 * nearest.min()]))
    i, d, v = pairs("idD", atoms, reach)
    order = np.lexsort((d, i))
    i, v = i[order], v[order]
    start = np.searchsorted(i, np.arange(len(atoms)))
    rank = np.arange(len(i)) - start[i]
    enough = np.bincount(i, minlength=len(atoms))[i] >= count
    kept = enough & (rank < count)
    return np.asarray(i[kept], np.int64), np.asarray(v[kept], np.float64)
