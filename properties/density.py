"""Number density along a direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.frames import Selection, Slab, Trajectory, iterate, select, slab
from properties.quantity import Curve, Quantity

SMOOTHING = 0.2  # A
LAYER = 0.5  # of the highest density, what counts as a layer


@dataclass(frozen=True, eq=False)
class DensityProfile:
    """Average number density along the normal of a slab.

    Attributes
    ----------
    height : ndarray, shape (n_bins,)
        A, centers of bins of equal width; above the mean plane of the reference atoms if there
        are any, else along the cell vector from the origin.
    density : ndarray, shape (n_bins,)
        A^-3; ``density.sum() * width * area`` is `n_atoms`.
    width : float
        A, of a bin.
    area : float
        A^2, of the cell.
    n_atoms, n_frames : int
        Atoms counted, and frames.
    first_layer : float
        A, height of the first maximum that reaches half the highest density, smoothed over 0.2 A.
    """

    height: NDArray[np.float64]
    density: NDArray[np.float64]
    width: float
    area: float
    n_atoms: int
    n_frames: int
    first_layer: float

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the profile in A^-3 and the height of the first layer in A.

        Parameters
        ----------
        source : str
            Origin to note in each.
        """
        return {
            "density_profile": Curve(self.height, self.density, "A", "1/A^3", source),
            "first_layer_height": Quantity(self.first_layer, "A", source),
        }


def density_profile(
    trajectory: Trajectory,
    atoms: Selection,
    *,
    normal: int = 2,
    surface: Selection | None = None,
    width: float = 0.1,
) -> DensityProfile:
    """Return the density of some atoms along a cell vector.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        At constant cell.
    atoms : str or sequence of int
        A chemical symbol, or indices.
    normal : int
        Number of the cell vector along which density is resolved; perpendicular to the others.
    surface : str or sequence of int, optional
        Atoms whose mean height is zero in every frame.
    width : float
        A, of a bin; adjusted so that bins fill a periodic cell.

    Returns
    -------
    DensityProfile

    Raises
    ------
    StructureError
        For cells and selections that cannot be used.
    """
    heights = Heights(atoms, normal, surface)
    for frame in iterate(trajectory):
        heights.add(frame)
    return heights.profile(width)


class Heights:
    """Collects the heights of some atoms; 8 bytes per atom and frame.

    Parameters
    ----------
    atoms, normal, surface
        See `density_profile`.
    """

    def __init__(self, atoms: Selection, normal: int, surface: Selection | None) -> None:
        self.atoms, self.normal, self.surface = atoms, normal, surface
        self.indices: NDArray[np.intp] | None = None
        self.reference: NDArray[np.intp] | None = None
        self.slab: Slab | None = None
        self.found: list[NDArray[np.float64]] = []

    def add(self, frame: Atoms) -> None:
        """Add a frame."""
        if self.indices is None or self.slab is None:
            self.indices = select(frame, self.atoms)
            self.slab = slab(frame, self.normal)
            if self.surface is not None:
                self.reference = select(frame, self.surface)
        along = frame.positions @ self.slab.unit
        above = along[self.indices]
        if self.reference is not None:
            above = above - self._level(along[self.reference])
        self.found.append(above % self.slab.height if self.slab.periodic else above)

    def _level(self, heights: NDArray[np.float64]) -> float:
        """Mean height of the reference, which may lie across the boundary of the cell."""
        assert self.slab is not None
        first = float(heights[0])
        apart = heights - first
        if self.slab.periodic:
            apart = apart - self.slab.height * np.round(apart / self.slab.height)
        return first + float(apart.mean())

    def histogram(self, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return bin centers (A), mean number of atoms per bin and frame, and the width (A)."""
        if self.slab is None:
            raise StructureError("The trajectory holds no frames.")
        heights = np.concatenate(self.found)
        low, high = 0.0, self.slab.height
        if not self.slab.periodic:
            low, high = float(heights.min()) - width, float(heights.max()) + width
        n_bins = max(2, round((high - low) / width))
        counts, edges = np.histogram(heights, n_bins, (low, high))
        centers = 0.5 * (edges[1:] + edges[:-1])
        return centers, counts / len(self.found), (high - low) / n_bins

    def profile(self, width: float) -> DensityProfile:
        """Return the density profile of what was added."""
        height, counts, width = self.histogram(width)
        assert self.slab is not None and self.indices is not None
        density = counts / (self.slab.area * width)
        return DensityProfile(
            height=height,
            density=density,
            width=width,
            area=self.slab.area,
            n_atoms=len(self.indices),
            n_frames=len(self.found),
            first_layer=_first_layer(height, density, width, self.slab.periodic),
        )


def _first_layer(
    height: NDArray[np.float64], density: NDArray[np.float64], width: float, periodic: bool
) -> float:
    from scipy.ndimage import gaussian_filter1d

    mode = "wrap" if periodic else "constant"
    smooth = gaussian_filter1d(density, SMOOTHING / width, mode=mode)
    rising = np.append(True, np.diff(smooth) >= 0.0)
    falling = np.append(np.diff(smooth) <= 0.0, True)
    tops = np.flatnonzero(rising & falling & (smooth >= LAYER * smooth.max()))
    return float(height[tops[0]])
