"""Paths through the Brillouin zone, and the coordinate along them that models share.

Bands of two models can be compared point by point only at the same fractional q, but the length
of a path in 1/A depends on the lattice constant of each. A :class:`BandPath` therefore carries
both: `distance` in 1/A as phonopy has it (without 2 pi), and `x`, the same divided by the length
of the whole path. `x` does not change when a cell is scaled, so it is the abscissa of band curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from numpy.typing import NDArray

from properties.errors import StructureError

Dimension = Literal[2, 3]
PATH_UNIT = "path"


@dataclass(frozen=True, eq=False)
class BandPath:
    """q-points along straight lines between labelled points.

    Attributes
    ----------
    q : ndarray, shape (n, 3)
        In units of the reciprocal vectors. A point at which two lines meet is there once; where
        the path jumps, both ends are there.
    distance : ndarray, shape (n,)
        1/A without 2 pi, phonopy's convention, from the first point; a jump has no length.
    lines : tuple of (int, int)
        Indices of the first and the last point of each line.
    ends : tuple of (str, str)
        Labels of these points, ``"G"`` for Gamma.
    """

    q: NDArray[np.float64]
    distance: NDArray[np.float64]
    lines: tuple[tuple[int, int], ...]
    ends: tuple[tuple[str, str], ...]

    @property
    def x(self) -> NDArray[np.float64]:
        """Distance over the length of the path, shape (n,): 0 at its start, 1 at its end."""
        fraction: NDArray[np.float64] = self.distance / self.distance[-1]
        return fraction

    @property
    def connected(self) -> list[bool]:
        """Per line, whether the next one starts where it ends."""
        following = [start for start, _ in self.lines[1:]]
        return [end == start for (_, end), start in zip(self.lines, [*following, -1], strict=True)]

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place along `x` and label of each labelled point, ``"U|X"`` at a jump."""
        x = self.x
        found = [(float(x[0]), self.ends[0][0])]
        for i, connected in enumerate(self.connected):
            label = self.ends[i][1]
            if not connected and i + 1 < len(self.lines):
                label += f"|{self.ends[i + 1][0]}"
            found.append((float(x[self.lines[i][1]]), label))
        return found

    @property
    def arrays(self) -> list[NDArray[np.float64]]:
        """q-points of each line with both its ends, shapes (points, 3), as phonopy takes them."""
        return [self.q[start : end + 1] for start, end in self.lines]

    @property
    def phonopy_labels(self) -> list[str]:
        """Labels as phonopy takes them: both ends of each line, a shared end once."""
        names: list[str] = []
        joined = False
        for pair, connected in zip(self.ends, self.connected, strict=True):
            names.extend(pair[1:] if joined else pair)
            joined = connected
        return ["$\\Gamma$" if name == "G" else name for name in names]

    def index(self, label: str) -> int:
        """Return the index of a labelled point.

        Raises
        ------
        StructureError
            If the path does not touch it.
        """
        for (start, end), (first, last) in zip(self.lines, self.ends, strict=True):
            if label in (first, last):
                return start if label == first else end
        known = ", ".join(dict.fromkeys(name for pair in self.ends for name in pair))
        raise StructureError(f"The path has no point {label!r}; it has {known}.")


def band_path(
    cell: Cell,
    *,
    dimension: Dimension,
    path: str | None = None,
    special_points: Mapping[str, Sequence[float]] | None = None,
    points: int = 51,
) -> BandPath:
    """Lay a path through the Brillouin zone of a primitive cell.

    Labels and standard paths are those of `ase.lattice`, which recognizes all Bravais lattices
    of both dimensions and finds the special points in the vectors of the cell handed in: K of a
    hexagonal layer is (1/3, 1/3, 0) if its vectors make 120 degrees, (1/3, -1/3, 0) if 60.

    Parameters
    ----------
    cell : Cell
        Primitive.
    dimension : {2, 3}
        With 2 the third vector carries the vacuum and the path stays in the plane.
    path : str, optional
        Labels in order, a comma where the path jumps: ``"GMKG"``, ``"GXU,KGL"``. By default the
        standard path of the lattice.
    special_points : mapping of str to sequence of 3 float, optional
        Points beside those of the lattice, or in their place, in units of the reciprocal vectors.
    points : int
        Points of each line, both ends included, two or more.

    Returns
    -------
    BandPath

    Raises
    ------
    StructureError
        For an unknown label, a line without length, too few points, or a point out of the plane.
    """
    if points < 2:
        raise StructureError("A line of a band path needs two points or more.")
    known: dict[str, Sequence[float]] = {}
    text = path or ""
    try:
        standard = cell.bandpath(npoints=0, pbc=(True, True, dimension == 3))
        known.update(standard.special_points)
        text = text or standard.path
    except (RuntimeError, AssertionError, ValueError) as error:
        if path is None or special_points is None:
            raise StructureError(
                "The Bravais lattice of the cell is not recognized; give path and special_points."
            ) from error
    known.update(special_points or {})
    lines = _lines(text)
    unknown = sorted({name for first, last, _ in lines for name in (first, last)} - set(known))
    if unknown or not lines:
        raise StructureError(
            f"The path {text!r} needs two labels or more out of {', '.join(sorted(known))}"
            + (f"; it has {', '.join(unknown)}." if unknown else ".")
        )
    reciprocal = np.asarray(cell.reciprocal(), dtype=np.float64)
    q: list[NDArray[np.float64]] = []
    distance: list[float] = []
    spans: list[tuple[int, int]] = []
    for first, last, joined in lines:
        start, end = (np.asarray(known[name], dtype=np.float64) for name in (first, last))
        if dimension == 2 and abs(start[2]) + abs(end[2]) > 1e-9:
            raise StructureError(f"The line {first}-{last} leaves the plane of the layer.")
        length = float(np.linalg.norm((end - start) @ reciprocal))
        if length < 1e-9:
            raise StructureError(f"The line {first}-{last} has no length.")
        offset = distance[-1] if distance else 0.0
        beginning = len(q) - 1 if joined else len(q)
        fractions = np.linspace(0.0, 1.0, points)[1 if joined else 0 :]
        q.extend(start + t * (end - start) for t in fractions)
        distance.extend(offset + t * length for t in fractions)
        spans.append((beginning, len(q) - 1))
    ends = tuple((first, last) for first, last, _ in lines)
    return BandPath(np.array(q), np.array(distance), tuple(spans), ends)


def _lines(text: str) -> list[tuple[str, str, bool]]:
    """Return the two labels of each line, and whether it starts where the one before ends."""
    return [
        (first, last, i > 0)
        for part in parse_path_string(text)
        for i, (first, last) in enumerate(pairwise(part))
    ]
