"""Frames of a trajectory, one at a time, and what the analyses of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from properties.errors import PropertyError, StructureError

Trajectory = str | Path | Iterable[Atoms]
Selection = str | Sequence[int]


def iterate(trajectory: Trajectory) -> Iterator[Atoms]:
    """Yield the frames of a file or of an iterable; one is in memory at a time.

    Raises
    ------
    StructureError
        If atoms or cell change on the way.
    PropertyError
        If the file cannot be read.
    """
    first: Atoms | None = None
    for atoms in _read(trajectory) if isinstance(trajectory, str | Path) else trajectory:
        if first is None:
            first = atoms
        elif not np.array_equal(atoms.numbers, first.numbers):
            raise StructureError("The atoms change along the trajectory.")
        elif not np.array_equal(atoms.cell.array, first.cell.array):
            raise StructureError("The cell changes along the trajectory; it must be constant.")
        yield atoms
    if first is None:
        raise StructureError("The trajectory holds no frames.")


def _read(path: str | Path) -> Iterator[Atoms]:
    from ase.io import iread
    from ase.io.trajectory import Trajectory as Reader

    if not Path(path).is_file():
        raise PropertyError(f"There is no trajectory {path}.")
    if Path(path).suffix == ".traj":
        with Reader(path) as reader:
            yield from reader
    else:
        yield from iread(path)


def select(atoms: Atoms, selection: Selection) -> NDArray[np.intp]:
    """Return the indices of atoms given by a chemical symbol or by themselves.

    Raises
    ------
    StructureError
        If there are none.
    """
    if isinstance(selection, str):
        indices = np.flatnonzero(np.array(atoms.symbols) == selection)
    else:
        indices = np.array(selection, dtype=np.intp)
    if len(indices) == 0:
        raise StructureError(f"The structure holds no atoms {selection!r}.")
    return indices


def time_of(atoms: Atoms, index: int, interval_ps: float | None) -> float:
    """Return the time of a frame in ps.

    Raises
    ------
    StructureError
        If it is neither given nor noted in the frame.
    """
    if interval_ps is not None:
        return index * interval_ps
    if "time_ps" not in atoms.info:
        raise StructureError(
            "The frames do not say when they are; give interval_ps, the time between them."
        )
    return float(atoms.info["time_ps"])


def block_error(values: ArrayLike, n_blocks: int) -> NDArray[np.float64]:
    """Return the standard error of the mean from the means of blocks along the first axis."""
    means = np.array([b.mean(axis=0) for b in np.array_split(np.asarray(values), n_blocks)])
    error: NDArray[np.float64] = means.std(axis=0, ddof=1) / np.sqrt(n_blocks)
    return error


@dataclass(frozen=True, eq=False)
class Slab:
    """The direction along which density varies.

    Attributes
    ----------
    unit : ndarray, shape (3,)
        Unit vector along it.
    height, area : float
        A and A^2, of the cell.
    periodic : bool
        Whether the cell is periodic along it.
    """

    unit: NDArray[np.float64]
    height: float
    area: float
    periodic: bool


def slab(atoms: Atoms, normal: int) -> Slab:
    """Return the geometry of a cell with one vector perpendicular to the two others.

    Raises
    ------
    StructureError
        For other cells.
    """
    if normal not in (0, 1, 2):
        raise StructureError(f"The normal is cell vector 0, 1 or 2, not {normal}.")
    if atoms.cell.rank < 3:
        raise StructureError("The structure needs three cell vectors.")
    vector = atoms.cell.array[normal]
    height = float(np.linalg.norm(vector))
    unit = vector / height
    others = np.delete(atoms.cell.array, normal, axis=0)
    if np.abs(others @ unit).max() > 1e-6 * height:
        raise StructureError(
            "The cell vector along the normal must be perpendicular to the two others."
        )
    return Slab(unit, height, float(atoms.get_volume()) / height, bool(atoms.pbc[normal]))
