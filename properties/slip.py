"""Slip cells of bcc, fcc and hcp crystals: periodic, one fault per cell, no surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError

# Rows are primitive vectors in halves of the vectors that Miller indices refer to, so that all are
# integers.
PRIMITIVE = {
    "bcc": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]),
    "fcc": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
    "hcp": np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2]]),
}
# Atoms of the primitive cell, in the same halves.
BASIS = {
    "bcc": np.zeros((1, 3)),
    "fcc": np.zeros((1, 3)),
    "hcp": np.array([[0.0, 0.0, 0.0], [2 / 3, 4 / 3, 1.0]]),
}
MIN_PLANES = 6
SEARCH = 4


@dataclass(frozen=True, eq=False)
class SlipGeometry:
    """Lattice vectors of a slip system, in A, in the frame of the slip cell.

    The frame has x along the slip direction, z along the plane normal, and y = z cross x.

    Attributes
    ----------
    plane, direction : tuple of int
        Miller indices as given (four for Miller-Bravais), without common factors.
    in_plane : ndarray, shape (2, 3)
        The shortest lattice vector along the direction, and another that completes a primitive
        cell of the plane.
    stacking : ndarray, shape (3,)
        A lattice vector from one lattice plane to the next.
    basis : ndarray, shape (n_basis, 3)
        Atoms of one lattice plane, ascending in height, the cut below the first.
    burgers, spacing, area : float
        Length of the first in-plane vector and distance between lattice planes in A; area of the
        in-plane cell in A^2.
    """

    plane: tuple[int, ...]
    direction: tuple[int, ...]
    in_plane: NDArray[np.float64]
    stacking: NDArray[np.float64]
    basis: NDArray[np.float64]
    burgers: float
    spacing: float
    area: float


def slip_geometry(
    structure: str,
    a0: float,
    plane: Sequence[int],
    direction: Sequence[int],
    *,
    c0: float | None = None,
    cut: int = 0,
) -> SlipGeometry:
    """Find the primitive vectors of a slip system.

    Parameters
    ----------
    structure : {"bcc", "fcc", "hcp"}
    a0 : float
        Lattice constant in A.
    plane, direction : sequence of int
        Miller indices in the conventional cube; of hcp crystals four Miller-Bravais indices, or
        three that refer to a1, a2 (at 120 degrees) and c. The direction lies in the plane.
    c0 : float, optional
        Height of the hcp cell in A; needed for hcp only.
    cut : int
        Which gap between atomic planes is cut, by width: 0 is the widest. Only hcp crystals have
        more than one (on prismatic planes a wide and a narrow one). Of equal gaps, as on the
        basal plane, the lower one comes first; cutting the other one mirrors the curve.

    Returns
    -------
    SlipGeometry

    Raises
    ------
    StructureError
        If an argument makes no slip system.
    """
    unit = _unit_vectors(structure, a0, c0)
    given_plane, normal = _indices(plane, "plane", structure)
    given_slip, slip = _indices(direction, "direction", structure)
    if int(normal @ slip) != 0:
        raise StructureError(f"The direction {given_slip} is not in the plane {given_plane}.")
    lattice = PRIMITIVE[structure]
    span = range(-SEARCH, SEARCH + 1)
    vectors = np.array([m @ lattice for m in product(span, repeat=3) if any(m)])
    heights = vectors @ normal
    along = [v for v in vectors if not np.cross(v, slip).any() and v @ slip > 0]
    flat = vectors[heights == 0]
    too_large = StructureError(
        f"The indices {given_plane} and {given_slip} are too large for this search."
    )
    if not along or not (heights > 0).any():
        raise too_large
    metric = unit @ unit.T / a0**2
    burgers = min(along, key=lambda v: int(v @ v))
    second = _second(burgers, flat, normal, metric, too_large)
    step = int(heights[heights > 0].min())
    third = min(vectors[heights == step], key=lambda v: _shortest(v, metric))
    # Anything but the volume of the primitive cell means that the search range was too small.
    if abs(np.linalg.det([burgers, second, third])) > abs(np.linalg.det(lattice)) + 0.5:
        raise too_large
    # Rows of `halves` times integers are A in the frame of the slip cell.
    halves = np.asarray(unit @ _frame(unit.T @ slip, np.linalg.inv(unit) @ normal).T / 2.0)
    in_plane = np.array([burgers, second]) @ halves
    stacking = third @ halves
    return SlipGeometry(
        plane=given_plane,
        direction=given_slip,
        in_plane=in_plane,
        stacking=stacking,
        basis=_cut_basis(BASIS[structure] @ halves, stacking, cut),
        burgers=float(np.linalg.norm(in_plane[0])),
        spacing=float(stacking[2]),
        area=float(np.linalg.norm(np.cross(in_plane[0], in_plane[1]))),
    )


def gsfe_cell(
    symbol: str,
    structure: str,
    a0: float,
    plane: Sequence[int],
    direction: Sequence[int],
    *,
    n_planes: int,
    displacement: float,
    c0: float | None = None,
    cut: int = 0,
) -> Atoms:
    """Build a periodic cell with one stacking fault, by tilting its third vector.

    Going up across the cell's boundary, the next image of the crystal is shifted by
    ``displacement`` times the shortest lattice vector along `direction`: the half above the fault
    moves by +x b, where above means along `plane`. Reversing either of the two reverses the
    sense of the slip. On {112} planes of bcc crystals the two senses differ (twinning and
    anti-twinning): ``plane=(1, -2, 1), direction=(1, 1, 1)`` is the anti-twinning sense.

    Parameters
    ----------
    symbol : str
        Chemical symbol.
    structure, a0, plane, direction, c0, cut
        See :func:`slip_geometry`.
    n_planes : int
        Lattice planes, one atom each in bcc and fcc and two in hcp crystals; at least 6, and 12
        or more for converged energies.
    displacement : float
        Slip in units of the period (the shortest lattice vector along `direction`).

    Returns
    -------
    Atoms
        Periodic in three directions; x along the slip, z along the plane normal, atoms ordered
        by height.

    Raises
    ------
    StructureError
        If an argument makes no slip cell.

    Examples
    --------
    >>> cell = gsfe_cell("Mo", "bcc", 3.16, (1, 1, 0), (1, -1, 1), n_planes=18, displacement=0.5)
    >>> len(cell)
    18
    """
    if n_planes < MIN_PLANES:
        raise StructureError(f"A slip cell needs at least {MIN_PLANES} planes, not {n_planes}.")
    if not np.isfinite(displacement):
        raise StructureError(f"The displacement must be a number, not {displacement}.")
    geometry = slip_geometry(structure, a0, plane, direction, c0=c0, cut=cut)
    first, second = geometry.in_plane
    third = _folded(n_planes * geometry.stacking, geometry.in_plane)
    cell = np.array([first, second, third + displacement * first])
    positions = [
        _folded(i * geometry.stacking + atom, geometry.in_plane)
        for i in range(n_planes)
        for atom in geometry.basis
    ]
    return Atoms([symbol] * len(positions), positions=positions, cell=cell, pbc=True)


def _unit_vectors(structure: str, a0: float, c0: float | None) -> NDArray[np.float64]:
    """Rows are the vectors that Miller indices refer to, A."""
    if structure not in PRIMITIVE:
        raise StructureError(
            f"No slip cells for structure {structure!r}; use one of {', '.join(sorted(PRIMITIVE))}."
        )
    if not (np.isfinite(a0) and a0 > 0.0):
        raise StructureError(f"The lattice constant must be positive, not {a0}.")
    if structure != "hcp":
        if c0 is not None:
            raise StructureError(f"A {structure} crystal has no c0; leave it out.")
        return a0 * np.eye(3)
    if c0 is None or not (np.isfinite(c0) and c0 > 0.0):
        raise StructureError(f"An hcp crystal needs a positive c0, not {c0}.")
    return np.array([[a0, 0.0, 0.0], [-a0 / 2, np.sqrt(3) * a0 / 2, 0.0], [0.0, 0.0, c0]])


def _indices(
    indices: Sequence[int], what: str, structure: str
) -> tuple[tuple[int, ...], NDArray[np.int64]]:
    """Return the indices as given and as three, both without common factors."""
    allowed = (3, 4) if structure == "hcp" else (3,)
    if len(indices) not in allowed or any(int(i) != i for i in indices) or not any(indices):
        raise StructureError(
            f"The {what} needs {' or '.join(map(str, allowed))} integer Miller indices, "
            f"not {indices}."
        )
    given = _reduced(np.array([int(i) for i in indices]))
    name = tuple(int(i) for i in given)
    if len(given) == 3:
        return name, given
    h, k, i, m = name
    if h + k + i != 0:
        raise StructureError(f"The first three Miller-Bravais indices of {name} must add up to 0.")
    if what == "plane":
        return name, _reduced(np.array([h, k, m]))
    return name, _reduced(np.array([2 * h + k, h + 2 * k, m]))


def _reduced(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return indices // gcd(*(int(i) for i in indices))


def _second(
    burgers: NDArray[np.int64],
    flat: NDArray[np.int64],
    normal: NDArray[np.int64],
    metric: NDArray[np.float64],
    too_large: StructureError,
) -> NDArray[np.int64]:
    areas = np.cross(burgers, flat) @ normal
    if not (areas > 0).any():
        raise too_large
    smallest = areas[areas > 0].min()
    candidates = [v for v, area in zip(flat, areas, strict=True) if area == smallest]

    def order(v: NDArray[np.int64]) -> tuple[float, float, tuple[int, ...]]:
        length, which = _shortest(v, metric)
        return length, abs(round(float(v @ metric @ burgers), 6)), which

    return min(candidates, key=order)


def _shortest(
    vector: NDArray[np.int64], metric: NDArray[np.float64]
) -> tuple[float, tuple[int, ...]]:
    """Sort key: squared length in halves of a0, then the indices to break ties."""
    return round(float(vector @ metric @ vector), 6), tuple(int(i) for i in vector)


def _frame(
    slip: NDArray[np.floating[Any]], normal: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    x = slip / np.linalg.norm(slip)
    z = normal / np.linalg.norm(normal)
    return np.array([x, np.cross(z, x), z])


def _cut_basis(
    basis: NDArray[np.float64], stacking: NDArray[np.float64], cut: int
) -> NDArray[np.float64]:
    """Order the atoms of a lattice plane by height, starting above the gap that is cut."""
    spacing = stacking[2]
    slack = 1e-6 * spacing
    # Every atom into the slice between two lattice planes.
    basis = basis - np.floor((basis[:, 2] + slack) / spacing)[:, None] * stacking
    basis = basis[np.argsort(basis[:, 2], kind="stable")]
    above = np.append(basis[1:, 2], basis[0, 2] + spacing)
    gaps = above - basis[:, 2]
    # Atoms of one plane have no gap between them. The stable sort keeps equal gaps in order.
    ranked = [int(i) for i in np.argsort(-np.round(gaps, 6), kind="stable") if gaps[i] > slack]
    if not 0 <= cut < len(ranked):
        raise StructureError(
            f"There is no gap number {cut} between the atomic planes; there are {len(ranked)}, "
            "counted from 0."
        )
    first = (ranked[cut] + 1) % len(basis)
    raised = np.concatenate([basis[first:], basis[:first] + stacking])
    return np.asarray(raised - raised[0], dtype=np.float64)


def _folded(vector: NDArray[np.float64], in_plane: NDArray[np.float64]) -> NDArray[np.float64]:
    fractions = np.linalg.solve(in_plane[:, :2].T, vector[:2])
    # Round half down with slack, so that noise does not decide between equivalent images.
    return np.asarray(vector - np.ceil(fractions - 0.5 - 1e-9) @ in_plane, dtype=np.float64)
