"""The loop of a molecular dynamics run: start or continue, step, record, check, save."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.io.trajectory import Trajectory
from ase.md.bussi import Bussi
from ase.optimize import FIRE

from properties.batch import Progress, missing_property
from properties.blow_up import Watch
from properties.errors import CalculatorError
from properties.nvt_files import (
    State,
    drop_frames,
    load_state,
    save_state,
    state_path,
    structure_settings,
    write_frame,
)
from properties.nvt_setup import kinetic_temperature, thermalize

MINIMIZE_FMAX = 0.1  # eV/A
MINIMIZE_STEPS = 200
SAME_FORCES = 1e-3  # eV/A; more means another model, less another machine or precision


@dataclass(frozen=True)
class Plan:
    """Settings of a run in whole steps; see `nvt_trajectory`."""

    temperature_K: float
    timestep_fs: float
    n_equilibration: int
    n_production: int
    every: int
    checkpoint: int
    taut_fs: float
    minimize: bool
    seed: int
    n_dof: int

    @property
    def total(self) -> int:
        """Steps of equilibration and production together."""
        return self.n_equilibration + self.n_production


class _Stop(Exception):
    """Leaves ASE's loop of steps."""


class Run:
    """One run, from wherever its files stand to the end.

    Parameters
    ----------
    atoms : Atoms
        Prepared start, changed in place.
    calc : ASE calculator
        Energies and forces.
    plan : Plan
        Settings.
    file : Path
        Trajectory.
    begun : float
        `time.perf_counter` at the start of the call.
    """

    def __init__(self, atoms: Atoms, calc: Any, plan: Plan, file: Path, begun: float) -> None:
        self.atoms, self.calc, self.plan, self.file, self.begun = atoms, calc, plan, file, begun
        self.settings = {**asdict(plan), **structure_settings(atoms)}
        self.watch = Watch(atoms, plan.temperature_K, plan.n_dof)
        self.rng = np.random.default_rng(plan.seed)
        consistent = "free_energy" in getattr(calc, "implemented_properties", ())
        self.force_consistent = consistent

    def finish(self, resume: bool, progress: Progress | None) -> State:
        """Run to the end or to a blow-up, and return the last state."""
        self.atoms.calc = self.calc
        state = load_state(self.file, self.settings) if resume else None
        with missing_property(self.calc):
            if state is None:
                state_path(self.file).unlink(missing_ok=True)
                self.file.unlink(missing_ok=True)
                self.file.parent.mkdir(parents=True, exist_ok=True)
                state = self._start()
            else:
                self._continue(state)
            if state.step < self.plan.total and state.blow_up is None:
                drop_frames(self.file, state.n_frames)
                with Trajectory(self.file, "a") as writer:
                    state = self._integrate(state, writer, progress)
        return state

    def _start(self) -> State:
        atoms, plan = self.atoms, self.plan
        residual = None
        if plan.minimize:
            self._fresh_forces()
            optimizer = FIRE(atoms, logfile=None, maxstep=0.1)
            optimizer.run(fmax=MINIMIZE_FMAX, steps=MINIMIZE_STEPS)
            residual = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        thermalize(atoms, plan.temperature_K, plan.n_dof, self.rng)
        forces = self._fresh_forces()
        state = State(
            positions=atoms.get_positions(),
            momenta=atoms.get_momenta(),
            forces=forces,
            step=0,
            n_frames=0,
            transferred=0.0,
            rng=dict(self.rng.bit_generator.state),
            samples=[],
            minimized_force=residual,
        )
        save_state(self.file, state, self.settings)
        return state

    def _continue(self, state: State) -> None:
        atoms = self.atoms
        atoms.set_positions(state.positions, apply_constraint=False)
        atoms.set_momenta(state.momenta, apply_constraint=False)
        self.rng.bit_generator.state = state.rng
        forces = self._fresh_forces()
        change = float(np.abs(forces - state.forces).max())
        if change > SAME_FORCES:
            raise CalculatorError(
                f"{self.file} was made with another calculator (forces differ by {change:.2g} "
                "eV/A); choose another file or pass resume=False."
            )
        state.seamless = state.seamless and bool(np.array_equal(forces, state.forces))
        if state.step < self.plan.total and state.blow_up is None:
            state.n_continuations += 1

    def _fresh_forces(self) -> np.ndarray:
        """Return forces that do not depend on what was computed before, and check them."""
        reset = getattr(self.calc, "reset", None)
        if callable(reset):
            reset()
        forces = np.array(self.atoms.get_forces(md=True), dtype=np.float64)
        if not np.isfinite(forces).all():
            raise CalculatorError(
                f"The calculator {type(self.calc).__name__} returned forces that are not finite; "
                "check the structure and the model."
            )
        return forces

    def _integrate(self, state: State, writer: Any, progress: Progress | None) -> State:
        atoms, plan = self.atoms, self.plan
        dynamics = Bussi(
            atoms,
            plan.timestep_fs * units.fs,
            plan.temperature_K,
            plan.taut_fs * units.fs,
            rng=self.rng,
        )
        # ASE counts all rotations of a cluster.
        dynamics.ndof = plan.n_dof
        dynamics.target_kinetic_energy = 0.5 * dynamics.temp * plan.n_dof
        dynamics.nsteps = state.step
        dynamics.transferred_energy = state.transferred

        def stop(step: int, problem: str) -> None:
            state.blow_up = (step, 1e-3 * plan.timestep_fs * step, problem)
            raise _Stop

        def look() -> None:
            """After every step: check it, and record it where it is due."""
            step = int(dynamics.nsteps)
            temperature = kinetic_temperature(atoms, plan.n_dof)
            problem = self.watch.motion(atoms, temperature)
            due = step % plan.every == 0
            if problem is None and due:
                problem = self.watch.structure(atoms)
            if problem is not None:
                stop(step, problem)
            if not due:
                return
            energy = float(atoms.get_potential_energy(force_consistent=self.force_consistent))
            if not np.isfinite(energy):
                stop(step, "the energy is not finite")
            conserved = energy + float(atoms.get_kinetic_energy()) - dynamics.transferred_energy
            state.samples.append((step, temperature, energy, conserved))
            if step >= plan.n_equilibration:
                ps = 1e-3 * plan.timestep_fs * (step - plan.n_equilibration)
                write_frame(writer, atoms, energy, {"step": step, "time_ps": ps})
                state.n_frames += 1
            if progress is not None:
                progress(step, plan.total)

        dynamics.attach(look)
        while state.step < plan.total:
            goal = min(plan.total, (state.step // plan.checkpoint + 1) * plan.checkpoint)
            try:
                dynamics.run(goal - state.step)
            except Exception as error:
                if not isinstance(error, _Stop):
                    problem = self._explain(error)
                    if problem is None:
                        raise
                    step = int(dynamics.nsteps) + 1
                    state.blow_up = (step, 1e-3 * plan.timestep_fs * step, problem)
                self._save(state)
                return state
            state.step = goal
            state.positions, state.momenta = atoms.get_positions(), atoms.get_momenta()
            state.transferred = float(dynamics.transferred_energy)
            state.rng = dict(self.rng.bit_generator.state)
            state.forces = self._fresh_forces()
            self._save(state)
        return state

    def _explain(self, error: Exception) -> str | None:
        """Say what is wrong if a step failed because the structure has become absurd."""
        # ASE's words where bonds of fixed length cannot be restored.
        if isinstance(error, RuntimeError) and str(error) == "Did not converge":
            return "bonds of fixed length cannot be kept"
        temperature = kinetic_temperature(self.atoms, self.plan.n_dof)
        problem = self.watch.motion(self.atoms, temperature)
        return problem or self.watch.structure(self.atoms)

    def _save(self, state: State) -> None:
        now = time.perf_counter()
        state.seconds, self.begun = state.seconds + now - self.begun, now
        save_state(self.file, state, self.settings)
