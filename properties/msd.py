"""Mean square displacement and self-diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.frames import Selection, Trajectory, iterate, select, slab, time_of
from properties.quantity import Curve, Quantity

A2_PER_PS_IN_CM2_PER_S = 1e-4
SLOPE_TOLERANCE = 0.1
WIDTH = np.sqrt(2.0)  # local slopes are taken between t / WIDTH and t * WIDTH
LEAST_SPAN = 2.0
LONGEST = 0.75  # of a block
LEAST_LAGS = 8
CHUNK = 64


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Self-diffusion from the mean square displacement.

    Attributes
    ----------
    lag_ps : ndarray, shape (n,)
        Time differences, from one interval between frames to three quarters of a block.
    msd : ndarray, shape (n,)
        A^2, over all atoms and time origins, in `n_dimensions`.
    slope : ndarray, shape (n,)
        Of log msd over log lag, between lag / sqrt(2) and lag * sqrt(2).
    D, D_error : float or None
        cm^2/s, ``msd / (2 n_dimensions t)`` by a straight line over `window_ps`, and the standard
        error over the blocks; None if there is no such window. No correction for the size of the
        cell is applied.
    window_ps : (float, float) or None
        Longest range of lags where `slope` is 1 within 0.1; a factor of two at least.
    intercept : float or None
        A^2, of that line.
    n_dimensions : int
        2 in the plane of a slab, else 3.
    n_atoms, n_frames, n_blocks : int
        Atoms followed, frames, and blocks of time.
    cell : ndarray, shape (3, 3)
        A, vectors of the cell: D depends on its size.
    """

    lag_ps: NDArray[np.float64]
    msd: NDArray[np.float64]
    slope: NDArray[np.float64]
    D: float | None
    D_error: float | None
    window_ps: tuple[float, float] | None
    intercept: float | None
    n_dimensions: int
    n_atoms: int
    n_frames: int
    n_blocks: int
    cell: NDArray[np.float64]

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return D (``D_parallel`` for slabs) in cm^2/s with its error, and the msd in A^2.

        A run too short to become diffusive has no D, so the names are left out.

        Parameters
        ----------
        source : str
            Origin to note in each.
        """
        tail = "_parallel" if self.n_dimensions == 2 else ""
        found: dict[str, Quantity | Curve] = {
            f"msd{tail}": Curve(self.lag_ps, self.msd, "ps", "A^2", source)
        }
        if self.D is not None and self.D_error is not None:
            found[f"D{tail}"] = Quantity(self.D, "cm^2/s", source)
            found[f"D{tail}_error"] = Quantity(self.D_error, "cm^2/s", source)
        return found


def diffusion(
    trajectory: Trajectory,
    atoms: Selection,
    *,
    normal: int | None = None,
    liquid: Selection | None = None,
    remove_drift: bool = True,
    n_blocks: int = 4,
    interval_ps: float | None = None,
) -> Diffusion:
    """Return mean square displacement and self-diffusion of some atoms.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        At constant cell, frames equally spaced in time; positions may be wrapped into the cell if
        no atom moves half of it between frames.
    atoms : str or sequence of int
        A chemical symbol, or indices, of the atoms to follow.
    normal : int, optional
        Number of the cell vector normal to a slab; displacements are then those in its plane, and
        D is D_parallel.
    liquid : str or sequence of int, optional
        Atoms whose center of mass is the frame of reference; by default `atoms`. It takes away
        1/N of the D of N independent particles, which is not corrected for.
    remove_drift : bool
        Whether displacements are relative to that center.
    n_blocks : int
        Blocks of time for the errors, four or more.
    interval_ps : float, optional
        Between frames; by default what `nvt_trajectory` noted in them.

    Returns
    -------
    Diffusion

    Raises
    ------
    StructureError
        For cells and selections that cannot be used, or too few frames.
    """
    paths = Paths(atoms, normal, liquid, remove_drift, interval_ps)
    for frame in iterate(trajectory):
        paths.add(frame)
    return paths.result(n_blocks)


class Paths:
    """Collects unwrapped positions; 24 bytes per followed atom and frame.

    Parameters
    ----------
    atoms, normal, liquid, remove_drift, interval_ps
        See `diffusion`.
    """

    def __init__(
        self,
        atoms: Selection,
        normal: int | None,
        liquid: Selection | None,
        remove_drift: bool,
        interval_ps: float | None,
    ) -> None:
        self.atoms, self.normal, self.liquid = atoms, normal, liquid
        self.remove_drift, self.interval_ps = remove_drift, interval_ps
        self.previous: NDArray[np.float64] | None = None
        self.times: list[float] = []
        self.found: list[NDArray[np.float64]] = []

    def _first(self, frame: Atoms) -> None:
        self.indices = select(frame, self.atoms)
        self.reference = self.indices if self.liquid is None else select(frame, self.liquid)
        self.weights = frame.get_masses()[self.reference]
        self.cell = frame.cell.array.copy()
        self.pbc = frame.pbc.copy()
        self.axes = np.eye(3)
        if self.normal is not None:
            unit = slab(frame, self.normal).unit
            self.axes = np.linalg.svd(np.outer(unit, unit))[0][:, 1:].T
        self.inverse = np.linalg.inv(frame.cell.complete().array)
        self.unwrapped = frame.positions.copy()

    def add(self, frame: Atoms) -> None:
        """Add a frame."""
        if self.previous is None:
            self._first(frame)
        else:
            moved = frame.positions - self.previous
            whole = np.round(moved @ self.inverse) * self.pbc
            self.unwrapped = self.unwrapped + moved - whole @ self.cell
        self.previous = frame.positions.copy()
        followed = self.unwrapped[self.indices]
        if self.remove_drift:
            followed = followed - np.average(
                self.unwrapped[self.reference], axis=0, weights=self.weights
            )
        self.found.append(followed @ self.axes.T)
        self.times.append(time_of(frame, len(self.times), self.interval_ps))

    def result(self, n_blocks: int) -> Diffusion:
        """Return the diffusion of what was added."""
        if n_blocks < 4:
            raise StructureError("The error of D needs four blocks or more.")
        n_frames = len(self.found)
        longest = int(LONGEST * (n_frames // n_blocks))
        if longest < LEAST_LAGS:
            needed = n_blocks * math.ceil(LEAST_LAGS / LONGEST)
            raise StructureError(
                f"{n_frames} frames are too few for {n_blocks} blocks; {needed} are needed."
            )
        steps = np.diff(self.times)
        if steps.min() <= 0.0 or np.ptp(steps) > 1e-6 * steps.mean():
            raise StructureError("The frames are not equally spaced in time.")
        positions = np.array(self.found)
        lags = steps.mean() * np.arange(1, longest + 1)
        msd = mean_square_displacement(positions)[1 : longest + 1]
        slope = _local_slopes(lags, msd)
        window = _diffusive(lags, slope)
        D = D_error = intercept = None
        dimensions = positions.shape[2]
        if window is not None:
            scale = A2_PER_PS_IN_CM2_PER_S / (2 * dimensions)
            chosen = (lags >= window[0] - 1e-12) & (lags <= window[1] + 1e-12)
            rate, intercept = map(float, np.polyfit(lags[chosen], msd[chosen], 1))
            blocks = [
                mean_square_displacement(b)[1 : longest + 1][chosen]
                for b in np.array_split(positions, n_blocks)
            ]
            rates = np.array([np.polyfit(lags[chosen], b, 1)[0] for b in blocks])
            D, D_error = scale * rate, scale * float(rates.std(ddof=1)) / np.sqrt(n_blocks)
        return Diffusion(
            lag_ps=lags,
            msd=msd,
            slope=slope,
            D=D,
            D_error=D_error,
            window_ps=window,
            intercept=intercept,
            n_dimensions=dimensions,
            n_atoms=len(self.indices),
            n_frames=n_frames,
            n_blocks=n_blocks,
            cell=self.cell,
        )


def mean_square_displacement(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean square displacement over all time origins, in n log n operations.

    V. Calandrini et al., Collection SFN 12, 201 (2011): the square is expanded, and
    the product of positions is an autocorrelation.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_atoms, d)
        A, unwrapped.

    Returns
    -------
    ndarray, shape (n_frames,)
        A^2 by number of frames apart; mean over atoms.
    """
    n = len(positions)
    origins = n - np.arange(n)
    total = np.zeros(n)
    for first in range(0, positions.shape[1], CHUNK):
        part = positions[:, first : first + CHUNK]
        part = part - part[0]  # Keeps the difference of large squares exact.
        spectrum = np.fft.rfft(part, 2 * n, axis=0)
        product = np.fft.irfft(np.abs(spectrum) ** 2, 2 * n, axis=0)[:n].sum(axis=(1, 2))
        squares = (part**2).sum(axis=(1, 2))
        cumulated = np.append(0.0, squares.cumsum())
        # Of lag m: squares of frames 0 ... n-1-m and of frames m ... n-1.
        both = cumulated[n - np.arange(n)] + cumulated[n] - cumulated[np.arange(n)]
        total += both - 2.0 * product
    msd: NDArray[np.float64] = np.maximum(total, 0.0) / origins / positions.shape[1]
    msd[0] = 0.0
    return msd


def _local_slopes(lags: NDArray[np.float64], msd: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = np.log(lags), np.log(np.maximum(msd, 1e-300))
    slopes = np.empty(len(lags))
    for k, middle in enumerate(x):
        near = np.abs(x - middle) <= np.log(WIDTH) + 1e-9
        if near.sum() < 3:
            near = np.zeros(len(x), bool)
            near[max(0, k - 1) : k + 2] = True
        slopes[k] = np.polyfit(x[near], y[near], 1)[0]
    return slopes


def _diffusive(
    lags: NDArray[np.float64], slopes: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Return the range of lags with slope 1 that spans most, if it spans enough.

    On its way from ballistic motion (2) into a cage (below 1) the slope passes 1 too, but quickly.
    """
    good = np.abs(slopes - 1.0) <= SLOPE_TOLERANCE
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(int)))
    runs = [(lags[a], lags[b - 1]) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    runs = [(float(a), float(b)) for a, b in runs if b >= LEAST_SPAN * a]
    return max(runs, key=lambda run: run[1] - run[0], default=None)
