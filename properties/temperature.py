"""Temperature of a trajectory and its fluctuation against the canonical one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.errors import StructureError
from properties.frames import Trajectory, block_error, iterate, time_of
from properties.nvt_setup import kinetic_temperature
from properties.quantity import Curve, Quantity

BLOCKS = 5
RESTING = 1e-6  # of the sum of momenta


@dataclass(frozen=True, eq=False)
class TemperatureStatistics:
    """Mean and fluctuation of the kinetic temperature.

    Attributes
    ----------
    time_ps, temperature : ndarray, shape (n,)
        ps from the first frame, and K.
    n_dof : int
        Degrees of freedom that the kinetic energy is shared by.
    mean, mean_error : float
        K; the error is the standard error over 5 blocks of time.
    sigma : float
        K, standard deviation of the samples.
    sigma_canonical : float
        K, ``mean * sqrt(2 / n_dof)``: what it is at constant temperature.
    target : float or None
        K.
    """

    time_ps: NDArray[np.float64]
    temperature: NDArray[np.float64]
    n_dof: int
    mean: float
    mean_error: float
    sigma: float
    sigma_canonical: float
    target: float | None

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return the mean, the standard deviation and the canonical one, and the target, in K.

        Parameters
        ----------
        source : str
            Origin to note in each.
        """
        target = {} if self.target is None else {"temperature_target": self.target}
        return {
            **{name: Quantity(value, "K", source) for name, value in target.items()},
            "temperature_mean": Quantity(self.mean, "K", source),
            "temperature_sigma": Quantity(self.sigma, "K", source),
            "temperature_sigma_canonical": Quantity(self.sigma_canonical, "K", source),
            "temperature": Curve(self.time_ps, self.temperature, "ps", "K", source),
        }


def temperature_statistics(
    trajectory: Trajectory,
    *,
    target_K: float | None = None,
    n_dof: int | None = None,
    interval_ps: float | None = None,
) -> TemperatureStatistics:
    """Return the temperature of the frames of a trajectory.

    Parameters
    ----------
    trajectory : path, or iterable of Atoms
        With momenta.
    target_K : float, optional
        To note in the result.
    n_dof : int, optional
        Degrees of freedom; by default three per atom, less those of the constraints, less three
        if the center of mass rests in all frames although nothing is constrained, less the
        rotations (three, two for two atoms) of a cluster whose angular momentum is zero in all.
    interval_ps : float, optional
        Between frames; by default what `nvt_trajectory` noted in them.

    Returns
    -------
    TemperatureStatistics

    Raises
    ------
    StructureError
        If there are no momenta or too few frames.
    """
    temperatures = Temperatures(target_K, n_dof, interval_ps)
    for atoms in iterate(trajectory):
        temperatures.add(atoms)
    return temperatures.result()


class Temperatures:
    """Collects the temperature of each frame.

    Parameters
    ----------
    target_K, n_dof, interval_ps
        See `temperature_statistics`.
    """

    def __init__(
        self, target_K: float | None, n_dof: int | None, interval_ps: float | None
    ) -> None:
        self.target_K, self.n_dof, self.interval_ps = target_K, n_dof, interval_ps
        self.times: list[float] = []
        self.temperatures: list[float] = []
        self.resting = self.free = True
        self.turning, self.rotations = False, 3
        self.count = 0

    def add(self, atoms: Atoms) -> None:
        """Add a frame."""
        if "momenta" not in atoms.arrays:
            raise StructureError("The frames carry no momenta, hence no temperature.")
        if not self.times:
            self.count = int(atoms.get_number_of_degrees_of_freedom())
            self.free = not atoms.constraints
        self.times.append(time_of(atoms, len(self.times), self.interval_ps))
        self.temperatures.append(kinetic_temperature(atoms, max(1, self.count)))
        momenta = atoms.arrays["momenta"]
        total = float(np.abs(momenta.sum(axis=0)).max())
        self.resting &= total <= RESTING * float(np.abs(momenta).sum())
        self.turning |= atoms.pbc.any() or len(atoms) < 2 or _turns(atoms)
        self.rotations = 2 if len(atoms) == 2 else 3

    def result(self) -> TemperatureStatistics:
        """Return the statistics of what was added."""
        n_dof = self.n_dof
        if n_dof is None:
            n_dof = self.count - (3 if self.resting and self.free else 0)
            n_dof -= 0 if self.turning else self.rotations
        if n_dof < 1:
            raise StructureError("There are no degrees of freedom to share the kinetic energy.")
        values = np.array(self.temperatures) * (max(1, self.count) / n_dof)
        return temperature_statistics_of(values, np.array(self.times), n_dof, self.target_K)


def _turns(atoms: Atoms) -> bool:
    """Whether the angular momentum about the center of mass is more than rounding."""
    momenta = atoms.arrays["momenta"]
    arms = atoms.positions - atoms.get_center_of_mass()
    size = float((np.linalg.norm(arms, axis=1) * np.linalg.norm(momenta, axis=1)).sum())
    return float(np.linalg.norm(np.cross(arms, momenta).sum(axis=0))) > RESTING * size


def temperature_statistics_of(
    temperature: NDArray[np.float64],
    time_ps: NDArray[np.float64],
    n_dof: int,
    target_K: float | None,
) -> TemperatureStatistics:
    """Return the statistics of temperatures already known; see `temperature_statistics`."""
    if len(temperature) < 2 * BLOCKS:
        raise StructureError(f"Statistics of the temperature need {2 * BLOCKS} frames or more.")
    mean = float(temperature.mean())
    return TemperatureStatistics(
        time_ps=time_ps - time_ps[0],
        temperature=temperature,
        n_dof=n_dof,
        mean=mean,
        mean_error=float(block_error(temperature, BLOCKS)),
        sigma=float(temperature.std(ddof=1)),
        sigma_canonical=mean * math.sqrt(2.0 / n_dof),
        target=target_K,
    )
