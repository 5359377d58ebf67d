"""Molecular dynamics: degrees of freedom, canonical averages, refusals, blow-up."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom
from ase.io.trajectory import Trajectory
from stiffening_springs import CRYSTAL, Springs

from properties import (
    BlowUpError,
    CalculatorError,
    StructureError,
    nvt_trajectory,
    temperature_statistics,
)
from properties.nvt_setup import prepare

BONDS = [(0, 1), (0, 2), (1, 2)]


class Faulty(Springs):
    """Springs whose forces change at one evaluation."""

    def __init__(self, atoms, call, fault):
        super().__init__(atoms)
        self.call, self.fault = call, fault

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.calls >= self.call:
            self.fault(self.results)


def water(constraint=None, **more):
    atoms = molecule("H2O", **more)
    atoms.set_constraint(constraint)
    return atoms


@pytest.mark.parametrize(
    ("atoms", "n_dof"),
    [
        (CRYSTAL, 21),
        (water(cell=[9, 9, 9], pbc=True), 6),
        (water(cell=[9, 9, 9], pbc=(True, True, False)), 6),
        (water(FixCom(), cell=[9, 9, 9], pbc=True), 6),
        (water(FixAtoms([0]), cell=[9, 9, 9], pbc=True), 6),
        (water(FixBondLengths(BONDS), cell=[9, 9, 9], pbc=True), 3),
        (water(FixBondLengths(BONDS[:2])), 1),
        (water(), 3),
        (molecule("H2"), 1),
    ],
)
def test_degrees_of_freedom(atoms, n_dof):
    prepared, found = prepare(atoms, None)
    assert found == n_dof
    assert atoms.constraints == [] or len(prepared.constraints) >= len(atoms.constraints)


@pytest.mark.parametrize(
    ("constraint", "fix_com", "message"),
    [
        (FixCartesian([0]), None, "FixCartesian"),
        (FixAtoms([0]), True, "already hold"),
        ([FixAtoms([0]), FixCom()], None, "already hold"),
        (FixCom(), False, "remove one"),
        ([FixAtoms([0]), FixAtoms([0, 1])], None, "twice"),
        ([FixAtoms([0]), FixBondLengths([(0, 1)])], None, "ends at a fixed atom"),
        (FixBondLengths([(0, 1), (1, 0)]), None, "twice"),
        (FixAtoms([0, 1, 2]), None, "cannot move"),
    ],
)
def test_constraints_that_would_give_a_wrong_temperature_are_refused(
    constraint, fix_com, message, tmp_path
):
    atoms = water(constraint, cell=[9, 9, 9], pbc=True)
    with pytest.raises(StructureError, match=message):
        nvt_trajectory(atoms, EMT(), file=tmp_path / "a.traj", fix_com=fix_com)


@pytest.mark.parametrize(
    ("atoms", "arguments", "message"),
    [
        (water(), {"timestep_fs": 1.5}, "vibrations of hydrogen; use 1 fs"),
        (
            water(FixBondLengths(BONDS), cell=[9, 9, 9], pbc=True),
            {"timestep_fs": 2.5},
            "librations of hydrogen; use 2 fs",
        ),
        (CRYSTAL, {"timestep_fs": 6.0}, "use 5 fs"),
        (CRYSTAL, {"timestep_fs": float("nan")}, "time step"),
        (CRYSTAL, {"temperature_K": 0.0}, "temperature_K is 0.0"),
        (CRYSTAL, {"production_ps": -1.0}, "production_ps"),
        (CRYSTAL, {"equilibration_ps": -1.0}, "equilibration_ps"),
        (CRYSTAL, {"taut_fs": 0.1}, "thermostat is below"),
        (CRYSTAL, {"preset": "long"}, "smoke, short, full"),
        (Atoms("H2", [[0, 0, 0], [0, 0, 0.8]], pbc=True), {}, "without a cell vector"),
        (Atoms("H2", [[0, 0, 0], [0, 0, np.inf]]), {}, "not finite"),
        (Atoms(), {}, "no atoms"),
    ],
)
def test_bad_inputs_are_refused(atoms, arguments, message, tmp_path):
    with pytest.raises(StructureError, match=message):
        nvt_trajectory(atoms, EMT(), file=tmp_path / "a.traj", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_eight_atoms_run_at_their_target_and_share_it_evenly(tmp_path):
    """Counting all 24 degrees of freedom where 21 move would give 343 K.

    With the center of mass at rest, atom i has 3 (1 - m_i / M) kT / 2.
    """
    alloy = CRYSTAL.copy()
    alloy.symbols = "Cu2Au2Cu2Au2"
    found = nvt_trajectory(
        alloy,
        Springs(alloy),
        file=tmp_path / "a.traj",
        timestep_fs=2.0,
        interval_fs=20.0,
        equilibration_ps=1.0,
        production_ps=20.0,
        checkpoint_ps=10.0,
        taut_fs=40.0,
    )
    statistics = found.temperature_statistics()
    assert found.n_dof == 21
    assert abs(statistics.mean - 300.0) < 3 * statistics.mean_error < 20.0
    assert statistics.sigma == pytest.approx(300.0 * np.sqrt(2 / 21), rel=0.1)
    assert statistics.sigma_canonical == pytest.approx(statistics.mean * np.sqrt(2 / 21))
    assert found.quantities("test")["temperature_mean"].unit == "K"
    masses = alloy.get_masses()
    with Trajectory(found.file) as frames:
        kinetic = np.array([(f.get_momenta() ** 2).sum(axis=1) / 2 / masses for f in frames])
    shares = 3 * (1 - masses / masses.sum())
    for symbol in ("Cu", "Au"):
        chosen = alloy.symbols == symbol
        series = 2 * kinetic[:, chosen].sum(axis=1) / shares[chosen].sum() / units.kB
        blocks = np.array([b.mean() for b in np.array_split(series, 8)])
        error = blocks.std(ddof=1) / np.sqrt(8)
        assert abs(series.mean() - 300.0) < 3 * error < 60.0


def test_a_cluster_does_not_turn_and_runs_at_its_target(tmp_path):
    """Of 12 degrees of freedom 6 move; counting the rotations would give 450 K."""
    cluster = Atoms("Cu4", [[0, 0, 0], [2.2, 0, 0], [1.1, 1.9, 0], [1.1, 0.6, 1.8]])
    found = nvt_trajectory(
        cluster,
        EMT(),
        file=tmp_path / "a.traj",
        timestep_fs=5.0,
        interval_fs=20.0,
        equilibration_ps=1.0,
        production_ps=20.0,
        taut_fs=50.0,
    )
    statistics = found.temperature_statistics()
    assert found.n_dof == 6
    assert abs(statistics.mean - 300.0) < 3 * statistics.mean_error < 60.0
    # With the noise of nine it would fluctuate by a fifth less.
    assert statistics.sigma == pytest.approx(statistics.sigma_canonical, rel=0.09)
    with Trajectory(found.file) as frames:
        last = frames[-1]
    assert np.abs(last.get_angular_momentum()).max() < 1e-8
    # What the file tells by itself agrees with the run that wrote it.
    read = temperature_statistics(found.file)
    assert read.n_dof == 6
    assert read.mean == pytest.approx(statistics.mean, abs=3 * statistics.mean_error)


def test_conserved_energy_fluctuates_with_the_square_of_the_time_step(tmp_path):
    spread = []
    for dt in (1.0, 2.0):
        found = nvt_trajectory(
            CRYSTAL,
            Springs(CRYSTAL),
            file=tmp_path / f"{dt}.traj",
            timestep_fs=dt,
            interval_fs=10.0,
            equilibration_ps=0.0,
            production_ps=4.0,
        )
        spread.append(found.conserved_energy.std())
        total = found.conserved_energy - found.conserved_energy[0]
        assert np.abs(total).max() < 0.02 * np.ptp(found.potential_energy)
        assert abs(found.conserved_drift) < 0.1
    assert spread[1] / spread[0] == pytest.approx(4.0, rel=0.3)


def test_velocities_start_at_rest_and_at_temperature(tmp_path):
    found = nvt_trajectory(
        water(),
        Springs(molecule("H2O")),
        file=tmp_path / "a.traj",
        equilibration_ps=0.0,
        production_ps=0.05,
    )
    with Trajectory(found.file) as frames:
        first, last = frames[0], frames[-1]
    assert found.n_frames == 6
    assert found.temperature[0] == pytest.approx(300.0, rel=1e-12)
    assert last.info == {"step": 100, "time_ps": pytest.approx(0.05)}
    for frame in (first, last):
        assert np.abs(frame.get_momenta().sum(axis=0)).max() < 1e-10
    assert np.abs(first.get_angular_momentum()).max() < 1e-10


def nan(results):
    results["forces"][0, 1] = np.nan


def hot(results):
    results["forces"][0] += [500.0, 0.0, 0.0]


def run_faulty(file, atoms, calc, **more):
    settings = {"timestep_fs": 1.0, "interval_fs": 5.0, "checkpoint_ps": 10.0, "minimize": False}
    lengths = {"equilibration_ps": 0.02, "production_ps": 1.0}
    return nvt_trajectory(atoms, calc, file=file, **settings | lengths | more)


@pytest.mark.parametrize(
    ("fault", "reason"), [(nan, "not finite"), (hot, "the temperature reached")]
)
def test_blow_up_is_noticed_at_its_step(tmp_path, fault, reason):
    """The forces of step 33 are the 34th evaluation."""
    file = tmp_path / "a.traj"
    found = run_faulty(file, CRYSTAL, Faulty(CRYSTAL, 34, fault))
    assert found.blow_up.step == 33 and reason in found.blow_up.reason
    assert found.blow_up.time_ps == pytest.approx(0.033)
    with Trajectory(file) as frames:
        assert [f.info["step"] for f in frames] == [20, 25, 30]
    with pytest.raises(BlowUpError, match="at step 33"):
        found.quantities("test")
    again = Faulty(CRYSTAL, 1000, fault)
    assert run_faulty(file, CRYSTAL, again).blow_up == found.blow_up and again.calls == 1


class Drive(Calculator):
    """A constant force on some atoms, which move together without heating the rest."""

    implemented_properties = ("energy", "forces")

    def __init__(self, force):
        super().__init__()
        self.force = force

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.array(self.force, dtype=float)}


@pytest.mark.parametrize(
    ("positions", "pull", "reason"),
    [
        ([[0, 0, 0], [1.4, 0, 0]], 0.5, "lost all its bonds"),
        ([[0, 0, 0], [1.4, 0, 0]], -0.5, "A apart"),
        ([[0, 0, 0], [8.0, 0, 0]], 0.1, "escaped"),
    ],
)
def test_impossible_distances_stop_the_run(tmp_path, positions, pull, reason):
    atoms = Atoms("C2", positions)
    found = run_faulty(
        tmp_path / "a.traj",
        atoms,
        Drive([[-pull, 0, 0], [pull, 0, 0]]),
        temperature_K=1e4,
        production_ps=2.0,
    )
    assert reason in found.blow_up.reason
    assert found.blow_up.step % 5 == 0


def test_calculator_without_finite_forces_is_refused(tmp_path):
    with pytest.raises(CalculatorError, match="not finite"):
        run_faulty(tmp_path / "a.traj", CRYSTAL, Faulty(CRYSTAL, 1, nan))


class Brittle(Drive):
    """Refuses to evaluate atoms that are close, as some models do."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        if atoms.get_distance(0, 1) < 0.7:
            raise ValueError("atoms too close")
        super().calculate(atoms, properties, system_changes)


def test_a_calculator_that_fails_on_an_absurd_structure_is_a_blow_up(tmp_path):
    """Its error is passed on where the structure is not to blame."""
    atoms = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]])
    pull = [[0.5, 0, 0], [-0.5, 0, 0]]
    found = run_faulty(
        tmp_path / "a.traj", atoms, Brittle(pull), temperature_K=1e4, interval_fs=1000.0
    )
    assert "A apart" in found.blow_up.reason
    atoms = Atoms("H2", [[0, 0, 0], [0.74, 0, 0]])
    with pytest.raises(ValueError, match="too close"):
        run_faulty(tmp_path / "b.traj", atoms, Brittle(pull), temperature_K=1e4)
