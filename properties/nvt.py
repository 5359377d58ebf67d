"""Molecular dynamics at constant temperature that can be killed and continued without a seam."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from properties.batch import Progress
from properties.blow_up import BlowUp
from properties.errors import BlowUpError, StructureError
from properties.nvt_files import State
from properties.nvt_run import Plan, Run
from properties.nvt_setup import check_timestep, prepare
from properties.quantity import Curve, Quantity
from properties.temperature import TemperatureStatistics, temperature_statistics_of

Preset = Literal["smoke", "short", "full"]
PRESETS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"smoke": (0.5, 2.0), "short": (2.0, 20.0), "full": (10.0, 100.0)}
)
"""Length of equilibration and production in ps."""


@dataclass(frozen=True, eq=False)
class NVTResult:
    """A finished run at constant temperature.

    Attributes
    ----------
    file : Path
        ASE trajectory of the production: positions (not wrapped into the cell), momenta, energy,
        and ``step`` and ``time_ps`` in `Atoms.info`.
    target_K, timestep_fs : float
        As asked for.
    n_dof : int
        Degrees of freedom that carry kinetic energy.
    n_atoms, n_frames : int
        Of the trajectory.
    time_ps : ndarray, shape (n,)
        Times of the samples below, from the start of the production; the equilibration is negative.
    temperature : ndarray, shape (n,)
        K, kinetic.
    potential_energy, conserved_energy : ndarray, shape (n,)
        eV; the latter is the total energy less what the thermostat put in (G. Bussi, D. Donadio
        and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. 15).
    minimized_force : float or None
        eV/A, largest force where the minimization before the dynamics ended; None without one.
    blow_up : BlowUp or None
        Set if the run was stopped early.
    n_continuations : int
        How often it was continued.
    seamless : bool
        Whether each continuation met bit for bit the forces that it had left.
    ms_per_step : float
        Wall time.
    """

    file: Path
    target_K: float
    timestep_fs: float
    n_dof: int
    n_atoms: int
    n_frames: int
    time_ps: NDArray[np.float64]
    temperature: NDArray[np.float64]
    potential_energy: NDArray[np.float64]
    conserved_energy: NDArray[np.float64]
    minimized_force: float | None
    blow_up: BlowUp | None
    n_continuations: int
    seamless: bool
    ms_per_step: float

    def require_intact(self) -> NVTResult:
        """Return this result.

        Raises
        ------
        BlowUpError
            If the run was stopped early.
        """
        if self.blow_up is not None:
            raise BlowUpError(f"The simulation blew up: {self.blow_up}.")
        return self

    def temperature_statistics(self) -> TemperatureStatistics:
        """Return mean and fluctuation of the temperature over the production."""
        produced = self.time_ps >= -1e-9
        return temperature_statistics_of(
            self.temperature[produced], self.time_ps[produced], self.n_dof, self.target_K
        )

    @property
    def conserved_drift(self) -> float:
        """Slope of the conserved energy over the production, meV/atom/ps."""
        produced = self.time_ps >= -1e-9
        slope = np.polyfit(self.time_ps[produced], self.conserved_energy[produced], 1)[0]
        return 1e3 * float(slope) / self.n_atoms

    def quantities(self, source: str) -> dict[str, Quantity | Curve]:
        """Return mean and standard deviation of the temperature, and the drift.

        Parameters
        ----------
        source : str
            Origin to note in each, for example the name of the calculator.

        Raises
        ------
        BlowUpError
            If the run was stopped early.
        """
        self.require_intact()
        return {
            **self.temperature_statistics().quantities(source),
            "conserved_energy_drift": Quantity(self.conserved_drift, "meV/atom/ps", source),
        }


def nvt_trajectory(
    atoms: Atoms,
    calc: Any,
    *,
    file: str | Path,
    temperature_K: float = 300.0,
    preset: Preset = "short",
    equilibration_ps: float | None = None,
    production_ps: float | None = None,
    timestep_fs: float = 0.5,
    interval_fs: float = 10.0,
    taut_fs: float = 100.0,
    checkpoint_ps: float = 0.5,
    minimize: bool = True,
    fix_com: bool | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: Progress | None = None,
) -> NVTResult:
    """Run molecular dynamics under the thermostat of Bussi, Donadio and Parrinello.

    The structure is minimized shortly, given velocities, equilibrated, and run on while frames are
    written. At every checkpoint the state goes to ``NAME.state.npz`` beside the trajectory and the
    calculator is reset, so that what follows depends on positions, momenta and random numbers only
    and not on neighbor lists built earlier. A run that is killed at any moment and called again
    with the same arguments therefore gives the same bits as one that ran through, provided that
    `calc` returns the same bits for the same positions after ``calc.reset()``; `seamless` of the
    result says whether it did.

    Parameters
    ----------
    atoms : Atoms
        Start; left unchanged, its momenta are not used. Constraints that are understood are
        FixAtoms, FixBondLengths and FixCom.
    calc : ASE calculator
        Energies and forces.
    file : str or Path
        Trajectory to write, ``NAME.traj``.
    temperature_K : float
        Target.
    preset : {"smoke", "short", "full"}
        Equilibration and production of 0.5 + 2, 2 + 20 or 10 + 100 ps.
    equilibration_ps, production_ps : float, optional
        Instead of those of the preset; rounded to whole intervals.
    timestep_fs : float
        0.5 with hydrogen; at most 1 with flexible hydrogen, 2 with rigid, 5 without.
    interval_fs : float
        Between frames.
    taut_fs : float
        Time constant of the thermostat.
    checkpoint_ps : float
        Between checkpoints, which is what a kill can cost; rounded to whole intervals.
    minimize : bool
        Whether to remove close contacts first: FIRE to 0.1 eV/A, at most 200 steps.
    fix_com : bool, optional
        Whether to hold the center of mass; by default unless atoms are fixed.
    seed : int
        Of velocities and thermostat.
    resume : bool
        Continue what `file` holds; if that run is complete, return it. With False it is
        overwritten.
    progress : callable, optional
        Called with (done, total) steps at every frame.

    Returns
    -------
    NVTResult
        Also if the run blew up, which stops it: see its `blow_up`.

    Raises
    ------
    StructureError
        For structures, constraints or numbers that cannot be used.
    CalculatorError
        If forces are missing or not finite at the start, or if `file` was made with another
        calculator.
    PropertyError
        If `file` holds another run.
    """
    path = Path(file)
    if path.suffix != ".traj":
        raise StructureError(f"The trajectory {path.name!r} must be named NAME.traj.")
    if preset not in PRESETS:
        raise StructureError(f"There is no preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    default = PRESETS[preset]
    prepared, n_dof = prepare(atoms, fix_com)
    check_timestep(prepared, timestep_fs)
    lengths = {
        "temperature_K": temperature_K,
        "interval_fs": interval_fs,
        "taut_fs": taut_fs,
        "checkpoint_ps": checkpoint_ps,
        "production_ps": default[1] if production_ps is None else production_ps,
    }
    for name, value in lengths.items():
        if not (math.isfinite(value) and value > 0.0):
            raise StructureError(f"{name} is {value}; give a positive number.")
    equilibration = default[0] if equilibration_ps is None else equilibration_ps
    if not (math.isfinite(equilibration) and equilibration >= 0.0):
        raise StructureError(f"equilibration_ps is {equilibration}; give zero or more.")
    if taut_fs < timestep_fs:
        raise StructureError("The time constant of the thermostat is below the time step.")
    every = max(1, round(interval_fs / timestep_fs))

    def intervals(ps: float) -> int:
        return every * round(1e3 * ps / (every * timestep_fs))

    plan = Plan(
        temperature_K=float(temperature_K),
        timestep_fs=float(timestep_fs),
        n_equilibration=intervals(equilibration),
        n_production=max(every, intervals(lengths["production_ps"])),
        every=every,
        checkpoint=max(every, intervals(checkpoint_ps)),
        taut_fs=float(taut_fs),
        minimize=bool(minimize),
        seed=int(seed),
        n_dof=n_dof,
    )
    begun = time.perf_counter()
    state = Run(prepared, calc, plan, path, begun).finish(resume, progress)
    return _result(state, plan, path, len(prepared))


def _result(state: State, plan: Plan, file: Path, n_atoms: int) -> NVTResult:
    samples = np.array(state.samples, np.float64)
    return NVTResult(
        file=file,
        target_K=plan.temperature_K,
        timestep_fs=plan.timestep_fs,
        n_dof=plan.n_dof,
        n_atoms=n_atoms,
        n_frames=state.n_frames,
        time_ps=1e-3 * plan.timestep_fs * (samples[:, 0] - plan.n_equilibration),
        temperature=samples[:, 1],
        potential_energy=samples[:, 2],
        conserved_energy=samples[:, 3],
        minimized_force=state.minimized_force,
        blow_up=None if state.blow_up is None else BlowUp(*state.blow_up),
        n_continuations=state.n_continuations,
        seamless=state.seamless,
        ms_per_step=1e3 * state.seconds / max(1, state.step),
    )
