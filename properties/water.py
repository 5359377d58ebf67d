"""Water molecules of a trajectory: which hydrogen belongs to which oxygen, and at what angle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.frames import Selection, Trajectory, block_error, iterate, select
from properties.neighbors import pairs
from properties.quantity import Curve, Quantity

LONGEST_BOND = 1.5  # A; a hydrogen farther from all oxygen is bound to none
MOST = 4


@dataclass(frozen=True, eq=False)
class WaterMolecules:
    """Angles of intact water molecules, and molecules that are not water.

    Attributes
    ----------
    angle : ndarray, shape (180,)
        Degrees, centers of bins.
    density : ndarray, shape (180,)
        Share of angles per degree; sums to 1.
    mean, mean_error : float
        Degrees, of the H-O-H angle; standard error over the blocks.
    sigma : float
        Degrees, standard deviation of angles.
    n_oxygen, n_frames : int
        Oxygen atoms and frames.
    counts : ndarray, shape (n_frames, 5)
        Oxygen atoms that have 0 (O), 1 (OH), 2 (H2O), 3 (H3O) and 4 or more hydrogen atoms.
    unbound : ndarray, shape (n_frames,)
        Hydrogen atoms with no oxygen within 1.5 A.
    """

    angle: NDArray[np.float64]
    density: NDArray[np.float64]
    mean: float
    mean_error: float
    sigma: float
    n_oxygen: int
    n_frames: int
    counts: NDArray[np.int64]
    unbound: NDArray[np.int64]

    @property
    def reacted(self) -> NDArray[np.int64]:
        """Molecules that are not H2O, per frame, shape (n_frames,)."""
        found: NDArray[np.int64] = self.n_oxygen - self.counts[:, 2]
        return found

    @property
    def n_events(self) -> int:
        """How often a frame with other molecules than H2O follows one with H2O only."""
        some = np.concatenate([[False], self.reacted > 0])
        return int((some[1:] & ~some[:-1]).sum())

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the H-O-H angle in degrees, its distribution, and counts of reactions.

        Parameters
        ----------
        source : str
            Origin to note in each.
        """
        return {
            "HOH_angle_mean": Quantity(self.mean, "deg", source),
            "HOH_angle_sigma": Quantity(self.sigma, "deg", source),
            "reactive_events": Quantity(float(self.n_events), "1", source),
            "reacted_molecules_max": Quantity(float(self.reacted.max()), "1", source),
            "HOH_angle": Curve(self.angle, self.density, "deg", "1/deg", source),
        }


def water_molecules(
    trajectory: Trajectory, *, oxygen: Selection = "O", hydrogen: Selection = "H", n_blocks: int = 4
) -> WaterMolecules:
    """Assign each hydrogen to its nearest oxygen in every frame; count and measure molecules.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        At constant cell.
    oxygen, hydrogen : str or sequence of int
        Atoms that make up the water.
    n_blocks : int
        Blocks of time for the error.

    Returns
    -------
    WaterMolecules

    Raises
    ------
    StructureError
        If a selection is empty, no molecule is water in some block, or there are too few frames.
    """
    molecules = Molecules(oxygen, hydrogen)
    for frame in iterate(trajectory):
        molecules.add(frame)
    return molecules.result(n_blocks)


class Molecules:
    """Collects numbers of molecules and sums of angles; about 100 bytes per frame.

    Parameters
    ----------
    oxygen, hydrogen
        See `water_molecules`.
    """

    def __init__(self, oxygen: Selection, hydrogen: Selection) -> None:
        self.oxygen, self.hydrogen = oxygen, hydrogen
        self.indices: NDArray[np.intp] | None = None
        self.n_oxygen = 0
        self.histogram = np.zeros(180)
        self.sums: list[tuple[float, float]] = []
        self.counts: list[NDArray[np.int64]] = []
        self.unbound: list[int] = []

    def add(self, frame: Atoms) -> None:
        """Add a frame."""
        if self.indices is None:
            oxygen, hydrogen = select(frame, self.oxygen), select(frame, self.hydrogen)
            self.indices, self.n_oxygen = np.concatenate([oxygen, hydrogen]), len(oxygen)
        n = self.n_oxygen
        part = Atoms(
            frame.numbers[self.indices],
            frame.positions[self.indices],
            cell=frame.cell,
            pbc=frame.pbc,
        )
        o, h, d, vectors = pairs("ijdD", part, LONGEST_BOND)
        bonds = (o < n) & (h >= n)
        o, h, d, vectors = o[bonds], h[bonds], d[bonds], vectors[bonds]
        # By hydrogen, the nearest oxygen first.
        order = np.lexsort((d, h))
        _, nearest = np.unique(h[order], return_index=True)
        chosen = order[nearest]
        o, vectors = o[chosen], vectors[chosen]
        number = np.bincount(o, minlength=n)
        self.counts.append(np.bincount(np.minimum(number, MOST), minlength=MOST + 1))
        self.unbound.append(len(self.indices) - n - len(chosen))
        whole = number[o] == 2
        vectors = vectors[whole][np.argsort(o[whole], kind="stable")].reshape(-1, 2, 3)
        unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
        cosine = np.clip((unit[:, 0] * unit[:, 1]).sum(axis=1), -1.0, 1.0)
        angles = np.degrees(np.arccos(cosine))
        self.histogram += np.histogram(angles, 180, (0.0, 180.0))[0]
        self.sums.append((float(angles.sum()), float((angles**2).sum())))

    def result(self, n_blocks: int) -> WaterMolecules:
        """Return the molecules of what was added."""
        counts = np.array(self.counts)
        if len(counts) < max(2, n_blocks) or n_blocks < 2:
            raise StructureError("Angles need two blocks, and a frame in each.")
        sums, whole = np.array(self.sums), counts[:, 2]
        if any(b.sum() == 0 for b in np.array_split(whole, n_blocks)):
            raise StructureError("There is no water molecule for part of the trajectory.")
        mean, square = sums.sum(axis=0) / whole.sum()
        # Blocks of frames that hold equally many molecules, but for those that reacted.
        error = block_error(sums[whole > 0, 0] / whole[whole > 0], n_blocks)
        return WaterMolecules(
            angle=np.arange(0.5, 180.0),
            density=self.histogram / self.histogram.sum(),
            mean=float(mean),
            mean_error=float(error),
            sigma=float(np.sqrt(max(0.0, square - mean**2))),
            n_oxygen=self.n_oxygen,
            n_frames=len(counts),
            counts=counts,
            unbound=np.array(self.unbound),
        )
