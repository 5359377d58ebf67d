"""Neighbor lists of the calculator: in one order whatever came before, and seldom searched anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

SKIN = 0.5  # A
ROUNDING = 1e-6  # A, more than that of any distance
LONGEST = 100.0  # cutoffs along a direction that is not periodic


@dataclass(frozen=True)
class Neighbors:
    """Pairs of atoms.

    Attributes
    ----------
    edge_index
        Shape (2, E), sender and receiver.
    unit_shifts
        Shape (E, 3), integers: cell vectors crossed from sender to receiver.
    """

    edge_index: NDArray[np.int64]
    unit_shifts: NDArray[np.int64]

    def ordered(self) -> Neighbors:
        """Return the pairs by sender, then receiver, then shift."""
        order = np.lexsort((*self.unit_shifts.T[::-1], *self.edge_index[::-1]))
        return self._take(order)

    def within(self, r_max: float, atoms: Atoms) -> Neighbors:
        """Return the pairs that are closer than `r_max` (A) in atoms, in the same order."""
        sender, receiver = self.edge_index
        vectors = self.unit_shifts @ atoms.cell.array
        vectors += atoms.positions[receiver]
        vectors -= atoms.positions[sender]
        return self._take(np.flatnonzero(np.einsum("ij,ij->i", vectors, vectors) < r_max**2))

    def _take(self, places: NDArray[np.intp]) -> Neighbors:
        return Neighbors(self.edge_index[:, places], self.unit_shifts[places])


@dataclass(frozen=True)
class _Search:
    """What was found in which configuration up to which distance (A)."""

    atoms: Atoms
    reach: float
    found: Neighbors

    def least_distance(self, atoms: Atoms) -> float:
        """Return how close (A) pairs that were not found may be in another configuration.

        With the map F of the old cell to the new one and displacements u from it, a pair that was
        r apart is now at least s r - 2 max|u| apart, where s is the least singular value of F.
        """
        old = self.atoms
        if len(old) != len(atoms) or (old.pbc != atoms.pbc).any():
            return -np.inf
        strain = np.eye(3)
        if (old.cell.array != atoms.cell.array)[atoms.pbc].any():
            if not atoms.pbc.all():
                return -np.inf
            strain = np.linalg.solve(old.cell.array, atoms.cell.array)
        moved = atoms.positions - old.positions @ strain
        moved -= moved.mean(axis=0)  # of all atoms together changes no distance
        furthest = float(np.sqrt(np.square(moved).sum(axis=1).max()))
        least = float(np.linalg.svd(strain, compute_uv=False).min())
        return least * self.reach - 2.0 * furthest


class VerletList:
    """Neighbors of one configuration after another, from one search while atoms move little.

    A search reaches `skin` beyond the cutoff if the configuration looks like the next one of a
    trajectory, and holds until atoms might have come within the cutoff that were not within that
    reach. Every answer keeps the pairs within the cutoff alone, so that it does not depend on what
    was asked before.

    Parameters
    ----------
    r_max
        Cutoff, A.
    skin
        A.
    """

    def __init__(self, r_max: float, skin: float = SKIN) -> None:
        self.r_max, self.skin = r_max, skin
        self._last: _Search | None = None
        self.searches = 0

    def __call__(self, atoms: Atoms) -> Neighbors:
        """Return the neighbors of atoms.

        Parameters
        ----------
        atoms
            Its cell has a vector along every periodic direction.
        """
        last = self._last
        gap = -np.inf if last is None else last.least_distance(atoms) - self.r_max
        if last is None or gap < ROUNDING:
            reach = self.r_max + (self.skin if gap > -self.skin else 2.0 * ROUNDING)
            bare = Atoms(positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            last = self._last = _Search(bare, reach, pairs(atoms, reach).ordered())
            self.searches += 1
        return last.found.within(self.r_max, atoms)


def near_origin(
    atoms: Atoms, cell: NDArray[np.float64], neighbors: Neighbors
) -> tuple[NDArray[np.float64], Neighbors]:
    """Wrap atoms into the cell and move them all so that the origin is in their middle.

    Parameters
    ----------
    atoms
        Left as they are.
    cell
        Shape (3, 3), of full rank; that of atoms along periodic directions.
    neighbors
        Of atoms.

    Returns
    -------
    positions, neighbors
        The same pairs with the same vectors. Atoms that are far apart along a direction that is
        not periodic remain so.
    """
    crossed = np.floor(np.linalg.solve(cell.T, atoms.positions.T).T)
    crossed[:, ~atoms.pbc] = 0.0
    positions = atoms.positions - crossed @ cell
    positions -= 0.5 * (positions.min(axis=0) + positions.max(axis=0))
    sender, receiver = neighbors.edge_index
    shifts = neighbors.unit_shifts + (crossed[receiver] - crossed[sender]).astype(np.int64)
    return positions, Neighbors(neighbors.edge_index, shifts)


def pairs(atoms: Atoms, r_max: float) -> Neighbors:
    """Find all pairs of atoms within a cutoff (A), images of an atom with itself included."""
    cell = bounding_cell(atoms, r_max)
    sender, receiver, shifts = neighbour_list(
        "ijS", positions=atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=r_max
    )
    return Neighbors(np.stack((sender, receiver)).astype(np.int64), shifts.astype(np.int64))


def bounding_cell(atoms: Atoms, r_max: float) -> NDArray[np.float64]:
    """Fill the directions that are not periodic with vectors too long to matter.

    Atoms may lie outside along these.
    """
    cell = np.array(atoms.cell.array, dtype=float)
    pbc = np.asarray(atoms.pbc)
    if pbc.all():
        return cell
    extent = float(np.ptp(atoms.positions, axis=0).max()) if len(atoms) else 0.0
    # A search allocates bins of about a cutoff all over the box. Where it is open, atoms outside
    # are counted to the bins at its faces, so that a shorter box finds the same pairs.
    length = min(2.0 * (extent + r_max) + 10.0, LONGEST * r_max)
    periodic = [cell[i] for i in range(3) if pbc[i]]
    if not periodic:
        return np.eye(3) * length
    # Any complement of the periodic directions will do; an orthogonal one keeps the volume finite.
    _, _, basis = np.linalg.svd(np.array(periodic))
    normals = list(basis[len(periodic) :])
    for i in range(3):
        if not pbc[i]:
            cell[i] = normals.pop() * length
    return cell
