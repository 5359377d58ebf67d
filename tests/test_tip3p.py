"""Water without a learned model: rigid TIP3P from ASE through the whole pipeline."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.tip3p import TIP3P, angleHOH, rOH
from ase.constraints import FixBondLengths
from ase.io.trajectory import Trajectory

from properties import BlowUpError, nvt_trajectory, water_dynamics

BONDS = ((0, 1), (1, 2), (2, 0))
EDGE = 12.42  # A, 64 molecules at 0.998 g/cm^3
CUTOFF = 6.2  # A, of ASE's truncated Coulomb sum; at most half the cell


class RigidWater(FixBondLengths):
    """FixBondLengths for molecules that share no atom, all of them at once.

    ASE's loop over bonds in Python takes longer than the forces.
    """

    def __init__(self, n_molecules):
        pairs = [(3 * m + a, 3 * m + b) for m in range(n_molecules) for a, b in BONDS]
        super().__init__(pairs, tolerance=1e-11)
        self.n_molecules = n_molecules

    def initialize_bond_lengths(self, atoms):
        x = atoms.positions.reshape(-1, 3, 3)
        return np.column_stack([np.linalg.norm(x[:, a] - x[:, b], axis=1) for a, b in BONDS])

    def _iterate(self, correct):
        for _ in range(self.maxiter):
            if max(correct(k, a, b) for k, (a, b) in enumerate(BONDS)) < self.tolerance:
                return
        raise RuntimeError("Did not converge")  # As ASE does.

    def adjust_positions(self, atoms, new):
        old, found = atoms.positions.reshape(-1, 3, 3), new.reshape(-1, 3, 3)
        m = atoms.get_masses().reshape(-1, 3)

        def correct(k, a, b):
            d0, d1 = old[:, a] - old[:, b], found[:, a] - found[:, b]
            reduced = 1 / (1 / m[:, a] + 1 / m[:, b])
            miss = self.bondlengths[:, k] ** 2 - (d1**2).sum(axis=1)
            x = 0.5 * miss / (d0 * d1).sum(axis=1)
            found[:, a] += (x * reduced / m[:, a])[:, None] * d0
            found[:, b] -= (x * reduced / m[:, b])[:, None] * d0
            return np.abs(x).max()

        self._iterate(correct)

    def adjust_momenta(self, atoms, momenta):
        x, p = atoms.positions.reshape(-1, 3, 3), momenta.reshape(-1, 3, 3)
        m = atoms.get_masses().reshape(-1, 3)

        def correct(k, a, b):
            d = x[:, a] - x[:, b]
            apart = p[:, a] / m[:, a, None] - p[:, b] / m[:, b, None]
            reduced = 1 / (1 / m[:, a] + 1 / m[:, b])
            y = -(apart * d).sum(axis=1) / self.bondlengths[:, k] ** 2
            p[:, a] += (y * reduced)[:, None] * d
            p[:, b] -= (y * reduced)[:, None] * d
            return np.abs(y).max()

        self._iterate(correct)


def box(side=4):
    """Molecules on a cubic grid, turned at random."""
    half = np.radians(angleHOH / 2)
    one = rOH * np.array(
        [[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]]
    )
    rng = np.random.default_rng(0)
    spacing = EDGE / 4
    positions = []
    for place in np.ndindex(side, side, side):
        turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        positions.append(one @ turn + spacing * np.array(place))
    atoms = Atoms("OHH" * side**3, np.concatenate(positions), cell=3 * [side * spacing], pbc=True)
    atoms.set_constraint(RigidWater(side**3))
    return atoms


def test_rigid_molecules_have_six_degrees_of_freedom(tmp_path):
    """Of 8 molecules 48, less the center of mass; the vectorized constraint equals ASE's."""
    atoms = box(side=2)
    plain = atoms.copy()
    plain.set_constraint(FixBondLengths(atoms.constraints[0].pairs, tolerance=1e-11))
    found = []
    for name, start in {"vectorized": atoms, "ase": plain}.items():
        run = nvt_trajectory(
            start,
            TIP3P(rc=3.1),
            file=tmp_path / f"{name}.traj",
            timestep_fs=1.0,
            minimize=False,
            equilibration_ps=0.0,
            production_ps=0.03,
        )
        assert run.n_dof == 45 and run.blow_up is None
        with Trajectory(run.file) as frames:
            found.append(frames[-1].positions)
            parts = frames[-1].get_momenta().reshape(8, 3, 3).sum(axis=1)
        assert np.abs(parts.sum(axis=0)).max() < 1e-9
    assert found[0] == pytest.approx(found[1], abs=1e-6)


SHORT = {
    "timestep_fs": 2.0,
    "interval_fs": 4.0,
    "minimize": False,
    "equilibration_ps": 0.0,
    "production_ps": 0.2,
    "taut_fs": 50.0,
}


class Failing(TIP3P):
    """Enormous forces from one evaluation on."""

    left = 60

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.left -= 1
        if self.left < 0:
            self.results["forces"][0] = 1e200


def test_one_call_runs_and_measures(tmp_path):
    """Kept in a folder, the run is not repeated; without one nothing stays behind."""
    seen = []
    found = water_dynamics(
        box(side=2),
        TIP3P(rc=3.1),
        normal=2,
        folder=tmp_path,
        progress=lambda done, total: seen.append((done, total)),
        **SHORT,
    )
    assert seen[-1] == (100, 100)
    assert found.temperature.target == 300.0 and found.temperature.n_dof == 45
    assert found.run.n_frames == found.radial.n_frames == 51
    values = found.quantities("TIP3P")
    assert values["HOH_angle_mean"].value == pytest.approx(angleHOH, abs=1e-3)
    assert values["reactive_events"].value == 0
    assert {"conserved_energy_drift", "msd_parallel", "density_profile", "g_OO"} < set(values)
    again = water_dynamics(box(side=2), TIP3P(rc=3.1), folder=tmp_path, **SHORT)
    assert again.run.n_continuations == 0 and again.profile is None
    assert np.array_equal(again.temperature.temperature, found.temperature.temperature)
    gone = water_dynamics(box(side=2), TIP3P(rc=3.1), **SHORT)
    assert not gone.run.file.exists()
    assert np.array_equal(gone.temperature.temperature, found.temperature.temperature)


def test_rigid_molecules_continue_without_a_seam(tmp_path):
    """The lengths of the bonds are those of the start, not of where the run was left."""
    settings = SHORT | {"minimize": True, "production_ps": 0.06, "checkpoint_ps": 0.02}

    def stop(done, total):
        if done == 24:
            raise KeyboardInterrupt

    runs = []
    for name in ("whole", "stopped"):
        arguments = {"file": tmp_path / f"{name}.traj", **settings}
        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                nvt_trajectory(box(side=2), TIP3P(rc=3.1), progress=stop, **arguments)
        runs.append(nvt_trajectory(box(side=2), TIP3P(rc=3.1), **arguments))
    whole, stopped = runs
    assert stopped.n_continuations == 1 and stopped.seamless
    assert np.array_equal(whole.conserved_energy, stopped.conserved_energy)
    with Trajectory(whole.file) as one, Trajectory(stopped.file) as other:
        assert np.array_equal(one[-1].positions, other[-1].positions)


def test_nothing_is_measured_on_a_run_that_blew_up(tmp_path):
    with pytest.raises(BlowUpError, match="bonds of fixed length cannot be kept at step 60"):
        water_dynamics(box(side=2), Failing(rc=3.1), folder=tmp_path, **SHORT)
    with Trajectory(tmp_path / "water.traj") as frames:
        assert 20 < len(frames) < 51


@pytest.mark.slow
def test_first_peak_of_liquid_water_is_where_the_literature_has_it(tmp_path):
    """2.77 A with the full Coulomb sum; the truncated one may move it by 0.06 A."""
    found = water_dynamics(
        box(),
        TIP3P(rc=CUTOFF),
        folder=tmp_path,
        equilibration_ps=3.0,
        production_ps=6.0,
        timestep_fs=2.0,
        interval_fs=20.0,
        checkpoint_ps=2.0,
        seed=3,
    )
    run, radial, water = found.run, found.radial, found.molecules
    with Trajectory(run.file) as frames:
        masses = frames[0].get_masses().reshape(-1, 3)
        centers = np.array([f.get_momenta().reshape(-1, 3, 3).sum(axis=1) for f in frames])
    # Equipartition between translation and rotation: 3 (n - 1) and 3 n degrees of freedom.
    twice = (centers**2 / masses.sum(axis=1)[:, None]).sum(axis=(1, 2))
    translation = twice.mean() / (3 * 63 * units.kB)
    print(
        f"rc {CUTOFF} A, {radial.n_atoms} molecules, {radial.n_frames} frames, n_dof {run.n_dof}: "
        f"T {found.temperature.mean:.1f} +- {found.temperature.mean_error:.1f} K (sigma "
        f"{found.temperature.sigma:.1f}, canonical {found.temperature.sigma_canonical:.1f}), "
        f"translation {translation:.1f} K; g_OO peak {radial.peak_position:.3f} +- "
        f"{radial.peak_position_error:.3f} A, height {radial.peak_height:.2f}; minimum "
        f"{radial.minimum_position:.2f} A; n {radial.coordination_number:.2f}; D "
        f"{found.diffusion.D} +- {found.diffusion.D_error} cm^2/s in {found.diffusion.window_ps} "
        f"ps; H-O-H {water.mean:.3f} +- {water.sigma:.3f}; {run.ms_per_step:.1f} ms/step; drift "
        f"{run.conserved_drift:.3f} meV/atom/ps"
    )
    assert run.n_dof == 6 * 64 - 3
    assert radial.peak_position == pytest.approx(2.77, abs=0.06)
    assert abs(found.temperature.mean - 300.0) < 4 * found.temperature.mean_error < 20.0
    assert translation == pytest.approx(found.temperature.mean, rel=0.05)
    assert water.mean == pytest.approx(angleHOH, abs=1e-3)
    assert water.reacted.max() == 0
