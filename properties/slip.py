"""Slip cells of cubic lattices: periodic, one fault per cell, no surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError

# Rows are primitive vectors in units of half the conventional edge, so that all are integers.
PRIMITIVE = {
    "bcc": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]),
    "fcc": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
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
        Miller indices, without common factors.
    in_plane : ndarray, shape (2, 3)
        The shortest lattice vector along the direction, and another that completes a primitive
        cell of the plane.
    stacking : ndarray, shape (3,)
        A lattice vector from one plane to the next.
    burgers, spacing, area : float
        Length of the first in-plane vector and distance between planes in A; area of the
        in-plane cell in A^2.
    """

    plane: tuple[int, int, int]
    direction: tuple[int, int, int]
    in_plane: NDArray[np.float64]
    stacking: NDArray[np.float64]
    burgers: float
    spacing: float
    area: float


def slip_geometry(
    structure: str, a0: float, plane: Sequence[int], direction: Sequence[int]
) -> SlipGeometry:
    """Find the primitive vectors of a slip system.

    Parameters
    ----------
    structure : {"bcc", "fcc"}
        Cubic lattice with one atom per primitive cell.
    a0 : float
        Edge of the conventional cube in A.
    plane, direction : sequence of 3 int
        Miller indices in the conventional cube; the direction lies in the plane.

    Returns
    -------
    SlipGeometry

    Raises
    ------
    StructureError
        If an argument makes no slip system.
    """
    if structure not in PRIMITIVE:
        raise StructureError(
            f"No slip cells for structure {structure!r}; use one of {', '.join(sorted(PRIMITIVE))}."
        )
    if not (np.isfinite(a0) and a0 > 0.0):
        raise StructureError(f"The lattice constant must be positive, not {a0}.")
    normal = _reduced(plane, "plane")
    slip = _reduced(direction, "direction")
    if int(normal @ slip) != 0:
        raise StructureError(f"The direction {_text(slip)} is not in the plane {_text(normal)}.")
    lattice = PRIMITIVE[structure]
    span = range(-SEARCH, SEARCH + 1)
    vectors = np.array([m @ lattice for m in product(span, repeat=3) if any(m)])
    heights = vectors @ normal
    along = [v for v in vectors if not np.cross(v, slip).any() and v @ slip > 0]
    flat = vectors[heights == 0]
    too_large = StructureError(
        f"The indices {_text(normal)} and {_text(slip)} are too large for this search."
    )
    if not along or not (heights > 0).any():
        raise too_large
    burgers = min(along, key=lambda v: int(v @ v))
    second = _second(burgers, flat, normal, too_large)
    step = int(heights[heights > 0].min())
    third = _lowest(vectors, heights, step)
    # Anything but the volume of the primitive cell means that the search range was too small.
    if abs(np.linalg.det([burgers, second, third])) > abs(np.linalg.det(lattice)) + 0.5:
        raise too_large
    frame = _frame(slip, normal)
    to_angstrom = frame.T * (a0 / 2.0)
    in_plane = np.array([burgers, second]) @ to_angstrom
    stacking = third @ to_angstrom
    return SlipGeometry(
        plane=(int(normal[0]), int(normal[1]), int(normal[2])),
        direction=(int(slip[0]), int(slip[1]), int(slip[2])),
        in_plane=in_plane,
        stacking=stacking,
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
    structure, a0, plane, direction
        See :func:`slip_geometry`.
    n_planes : int
        Atomic planes, one atom each; at least 6, and 12 or more for converged energies.
    displacement : float
        Slip in units of the period (the shortest lattice vector along `direction`).

    Returns
    -------
    Atoms
        Periodic in three directions; x along the slip, z along the plane normal, planes ordered
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
    geometry = slip_geometry(structure, a0, plane, direction)
    first, second = geometry.in_plane
    third = _folded(n_planes * geometry.stacking, geometry.in_plane)
    cell = np.array([first, second, third + displacement * first])
    positions = [_folded(i * geometry.stacking, geometry.in_plane) for i in range(n_planes)]
    return Atoms([symbol] * n_planes, positions=positions, cell=cell, pbc=True)


def _reduced(indices: Sequence[int], what: str) -> NDArray[np.int64]:
    if len(indices) != 3 or any(int(i) != i for i in indices) or not any(indices):
        raise StructureError(f"The {what} needs three integer Miller indices, not {indices}.")
    h, k, m = (int(i) for i in indices)
    return np.array([h, k, m]) // gcd(h, k, m)


def _text(indices: NDArray[np.int64]) -> str:
    return str(tuple(int(i) for i in indices))


def _second(
    burgers: NDArray[np.int64],
    flat: NDArray[np.int64],
    normal: NDArray[np.int64],
    too_large: StructureError,
) -> NDArray[np.int64]:
    areas = np.cross(burgers, flat) @ normal
    if not (areas > 0).any():
        raise too_large
    smallest = areas[areas > 0].min()
    candidates = [v for v, area in zip(flat, areas, strict=True) if area == smallest]
    return min(candidates, key=lambda v: (int(v @ v), abs(int(v @ burgers)), tuple(v)))


def _lowest(vectors: NDArray[np.int64], heights: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    return min(vectors[heights == step], key=lambda v: (int(v @ v), tuple(v)))


def _frame(slip: NDArray[np.int64], normal: NDArray[np.int64]) -> NDArray[np.float64]:
    x = slip / np.linalg.norm(slip)
    z = normal / np.linalg.norm(normal)
    return np.array([x, np.cross(z, x), z])


def _folded(vector: NDArray[np.float64], in_plane: NDArray[np.float64]) -> NDArray[np.float64]:
    fractions = np.linalg.solve(in_plane[:, :2].T, vector[:2])
    # Round half down with slack, so that noise does not decide between equivalent images.
    return np.asarray(vector - np.ceil(fractions - 0.5 - 1e-9) @ in_plane, dtype=np.float64)
