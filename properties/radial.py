"""Radial distribution functions of bulk liquids and of slabs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.density import Heights
from properties.errors import StructureError
from properties.frames import Selection, Trajectory, iterate, select
from properties.neighbors import pairs
from properties.quantity import Curve, Quantity

PROFILE_WIDTH = 0.05  # A
FINE = 8
SMOOTHING = 0.05  # A
PEAK_HALF_WIDTH = 0.125  # A
MINIMUM_HALF_WIDTH = 0.25  # A
MINIMUM_BEFORE = 1.5  # times the position of the peak


@dataclass(frozen=True, eq=False)
class RadialDistribution:
    """A radial distribution function with its first shell.

    Attributes
    ----------
    label : str
        Of the pair, for example ``"OO"``.
    r : ndarray, shape (n_bins,)
        A, centers of bins.
    g : ndarray, shape (n_bins,)
        Pairs over those of an ideal gas of the same density, or of the same density profile if
        `slab`; tends to (N - 1) / N for N atoms without order.
    coordination : ndarray, shape (n_bins,)
        Mean number of neighbors within the outer edge of each bin.
    slab : bool
        Whether the density profile was divided out.
    peak_position, peak_position_error : float
        A, of the highest maximum: parabola through the points within 0.125 A of it; standard
        error over the blocks.
    peak_height, peak_height_error : float
        Of the same parabola.
    minimum_position, minimum_height : float
        Lowest point after the peak and before 1.5 times its position, by a parabola over 0.5 A.
    coordination_number : float
        Neighbors within `minimum_position`.
    n_atoms, n_frames, n_blocks : int
        Centers, frames, and blocks of time.
    """

    label: str
    r: NDArray[np.float64]
    g: NDArray[np.float64]
    coordination: NDArray[np.float64]
    slab: bool
    peak_position: float
    peak_position_error: float
    peak_height: float
    peak_height_error: float
    minimum_position: float
    minimum_height: float
    coordination_number: float
    n_atoms: int
    n_frames: int
    n_blocks: int

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return ``g_{label}`` and its first peak, first minimum and coordination number.

        Parameters
        ----------
        source : str
            Origin to note in each.
        """
        name = f"g_{self.label}"
        return {
            f"{name}_peak_position": Quantity(self.peak_position, "A", source),
            f"{name}_peak_height": Quantity(self.peak_height, "1", source),
            f"{name}_minimum_position": Quantity(self.minimum_position, "A", source),
            f"{name}_minimum_height": Quantity(self.minimum_height, "1", source),
            f"{name}_coordination_number": Quantity(self.coordination_number, "1", source),
            name: Curve(self.r, self.g, "A", "1", source),
        }


def radial_distribution(
    trajectory: Trajectory,
    atoms: Selection,
    *,
    normal: int | None = None,
    rmax: float = 6.0,
    width: float = 0.05,
    n_blocks: int = 4,
    label: str | None = None,
) -> RadialDistribution:
    """Return the radial distribution function among some atoms.

    All periodic images are counted (an atom's own images are not), so `rmax` may exceed half the
    cell.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        At constant cell.
    atoms : str or sequence of int
        A chemical symbol, or indices.
    normal : int, optional
        For slabs and other inhomogeneous liquids, the number of the cell vector along which the
        density varies; pairs are then compared with those of an ideal gas of the density profile
        measured on the same frames. By default the density is that of the cell.
    rmax, width : float
        A, range and width of a bin.
    n_blocks : int
        Blocks of time for the errors.
    label : str, optional
        In names of quantities; by default the symbol twice, or empty.

    Returns
    -------
    RadialDistribution

    Raises
    ------
    StructureError
        For cells and selections that cannot be used, or too few frames.
    """
    counter = Pairs(atoms, normal, rmax, width)
    for frame in iterate(trajectory):
        counter.add(frame)
    return counter.result(n_blocks, label)


class Pairs:
    """Collects a histogram of distances per frame; 4 bytes per bin and frame.

    Parameters
    ----------
    atoms, normal, rmax, width
        See `radial_distribution`.
    """

    def __init__(self, atoms: Selection, normal: int | None, rmax: float, width: float) -> None:
        if not 0.0 < width < rmax:
            raise StructureError("The range and width of bins must be positive.")
        self.atoms = atoms
        self.edges = np.linspace(0.0, rmax, round(rmax / width) + 1)
        self.heights = None if normal is None else Heights(atoms, normal, None)
        self.indices: NDArray[np.intp] | None = None
        self.volume = 0.0
        self.counts: list[NDArray[np.int32]] = []

    def add(self, frame: Atoms) -> None:
        """Add a frame."""
        if self.indices is None:
            self.indices = select(frame, self.atoms)
            if len(self.indices) < 2:
                raise StructureError("A radial distribution needs two atoms or more.")
            if self.heights is None and not frame.pbc.all():
                raise StructureError(
                    "A structure that is not periodic has no density; name the normal of the slab."
                )
            self.volume = float(frame.get_volume())
        if self.heights is not None:
            self.heights.add(frame)
        part = Atoms(
            frame.numbers[self.indices],
            frame.positions[self.indices],
            cell=frame.cell,
            pbc=frame.pbc,
        )
        i, j, d = pairs("ijd", part, float(self.edges[-1]))
        found, _ = np.histogram(d[i != j], self.edges)
        self.counts.append(found.astype(np.int32))

    def result(self, n_blocks: int, label: str | None = None) -> RadialDistribution:
        """Return the distribution of what was added."""
        if self.indices is None or len(self.counts) < max(2, n_blocks) or n_blocks < 2:
            raise StructureError("A radial distribution needs two blocks, and a frame in each.")
        counts = np.array(self.counts)
        ideal = self._ideal()
        # Where the profile allows no pair there is none.
        safe = np.where(ideal > 0.0, ideal, np.inf)
        r = 0.5 * (self.edges[1:] + self.edges[:-1])
        g = counts.mean(axis=0) / safe
        tops = np.array([_peak(r, b.mean(axis=0) / safe) for b in np.array_split(counts, n_blocks)])
        errors = tops.std(axis=0, ddof=1) / np.sqrt(n_blocks)
        position, height = _peak(r, g)
        low, low_height = _minimum(r, g, position)
        coordination = counts.mean(axis=0).cumsum() / len(self.indices)
        symbols = self.atoms if isinstance(self.atoms, str) else ""
        return RadialDistribution(
            label=2 * symbols if label is None else label,
            r=r,
            g=g,
            coordination=coordination,
            slab=self.heights is not None,
            peak_position=position,
            peak_position_error=float(errors[0]),
            peak_height=height,
            peak_height_error=float(errors[1]),
            minimum_position=low,
            minimum_height=low_height,
            coordination_number=float(np.interp(low, self.edges[1:], coordination)),
            n_atoms=len(self.indices),
            n_frames=len(counts),
            n_blocks=n_blocks,
        )

    def _ideal(self) -> NDArray[np.float64]:
        """Return the ordered pairs per bin of N^2 independent pairs of the measured density."""
        assert self.indices is not None
        if self.heights is None:
            shells = 4.0 / 3.0 * np.pi * np.diff(self.edges**3)
            bulk: NDArray[np.float64] = len(self.indices) ** 2 / self.volume * shells
            return bulk
        return ideal_slab_pairs(self.heights, self.edges)


def ideal_slab_pairs(heights: Heights, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ordered pairs per bin of an ideal gas with a given density profile.

    With n(z) atoms per length over the area A, pairs at vertical distance s number
    ``C(s) = integral n(z) n(z + s) dz``, spread evenly over A. A sphere of radius r cuts the plane
    at each ``|s| < r`` in a circle that a shell dr widens by ``2 pi r dr``, whatever s, so there
    are ``2 pi r dr / A * integral_{-r}^{r} C(s) ds`` pairs in the shell.

    Parameters
    ----------
    heights : Heights
        Of the atoms.
    edges : ndarray, shape (n + 1,)
        A, of the bins.

    Returns
    -------
    ndarray, shape (n,)
    """
    assert heights.slab is not None
    _, counts, dz = heights.histogram(PROFILE_WIDTH)
    n = len(counts)
    if heights.slab.periodic:
        spectrum = np.fft.rfft(counts)
        lagged = np.fft.irfft(np.abs(spectrum) ** 2, n)
        repeats = int(np.ceil(edges[-1] / (n * dz))) + 1
        lagged = np.tile(lagged, repeats)
    else:
        spectrum = np.fft.rfft(counts, 2 * n)
        lagged = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n)[:n]
        lagged = np.append(lagged, np.zeros(int(np.ceil(edges[-1] / dz)) + 1))
    # Pairs within |s| < (k + 1/2) dz: lag 0 once, the others on both sides.
    within = 2.0 * np.cumsum(lagged) - lagged[0]
    reach = (np.arange(len(within)) + 0.5) * dz
    reach, within = np.append(0.0, reach), np.append(0.0, within)
    fine = np.linspace(0.0, edges[-1], FINE * (len(edges) - 1) + 1)
    middle = 0.5 * (fine[1:] + fine[:-1])
    shells = np.pi * np.diff(fine**2) / heights.slab.area * np.interp(middle, reach, within)
    found: NDArray[np.float64] = shells.reshape(-1, FINE).sum(axis=1)
    return found


def _smooth(r: NDArray[np.float64], g: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(g, SMOOTHING / (r[1] - r[0])), dtype=np.float64)


def _peak(r: NDArray[np.float64], g: NDArray[np.float64]) -> tuple[float, float]:
    return _vertex(r, g, int(_smooth(r, g).argmax()), PEAK_HALF_WIDTH, -1.0)


def _minimum(r: NDArray[np.float64], g: NDArray[np.float64], peak: float) -> tuple[float, float]:
    between = np.flatnonzero((r > peak) & (r < MINIMUM_BEFORE * peak))
    if len(between) == 0:
        return float(r[-1]), float(g[-1])
    lowest = int(between[_smooth(r, g)[between].argmin()])
    return _vertex(r, g, lowest, MINIMUM_HALF_WIDTH, 1.0)


def _vertex(
    r: NDArray[np.float64], g: NDArray[np.float64], at: int, half_width: float, sign: float
) -> tuple[float, float]:
    """Return the extremum of the parabola through the points around one, or that point."""
    near = np.abs(r - r[at]) <= half_width
    if near.sum() >= 4:
        a, b, c = np.polyfit(r[near] - r[at], g[near], 2)
        if sign * a > 0.0 and abs(b / (2 * a)) <= half_width:
            return float(r[at] - b / (2 * a)), float(c - b**2 / (4 * a))
    return float(r[at]), float(g[at])
