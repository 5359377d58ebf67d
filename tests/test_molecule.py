"""Molecular properties with potentials whose answers are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes

from properties import (
    NotConvergedError,
    StructureError,
    molecular_minimum,
    torsion_profile,
    transfer_barrier,
    vibrational_frequencies,
)

SPRING = 20.0  # eV/A^2


class FromEnergy(Calculator):
    """Forces by central differences of ``energy_of(positions)``."""

    implemented_properties = ("energy", "forces")

    def __init__(self, energy_of):
        super().__init__()
        self.energy_of = energy_of

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, h = self.atoms.positions, 1e-4
        forces = np.zeros_like(x)
        for index in np.ndindex(x.shape):
            ends = []
            for sign in (h, -h):
                moved = x.copy()
                moved[index] += sign
                ends.append(self.energy_of(moved))
            forces[index] = (ends[1] - ends[0]) / (2 * h)
        self.results = {"energy": self.energy_of(x), "forces": forces}


def springs(lengths):
    def energy(x):
        stretches = [np.linalg.norm(x[i] - x[j]) - r for (i, j), r in lengths.items()]
        return 0.5 * SPRING * np.sum(np.square(stretches))

    return energy


TRIANGLE = springs({(0, 1): 1.5, (1, 2): 1.5, (0, 2): 1.5})


def test_frequencies_of_three_equal_masses_on_springs():
    """Breathing omega^2 = 3 k / m, a degenerate pair at 3 k / 2 m."""
    start = Atoms("C3", positions=[(0, 0, 0), (1.6, 0, 0), (0.7, 1.4, 0.1)])
    found = molecular_minimum(
        start, FromEnergy(TRIANGLE), distances={"d": (0, 1)}, angles={"w": (0, 1, 2)}
    )
    omega = np.sqrt(SPRING * np.array([1.5, 1.5, 3.0]) / start.get_masses()[0])
    # ASE's unit of time is A sqrt(u / eV), so that hbar in it turns omega into an energy.
    hbar = units._hbar / units._e * units.s
    assert found.frequencies == pytest.approx(hbar * omega / units.invcm, rel=1e-4)
    assert found.zero_point_energy == pytest.approx(0.5 * hbar * omega.sum(), rel=1e-4)
    assert found.distances["d"] == pytest.approx(1.5, abs=1e-4)
    assert found.angles["w"] == pytest.approx(60.0, abs=0.01)
    quantities = found.quantities("springs")
    assert quantities["d"].unit == "A" and quantities["w"].unit == "deg"
    assert quantities["frequencies"].y_unit == "cm^-1"
    assert quantities["zero_point_energy"].value == pytest.approx(1e3 * found.zero_point_energy)
    assert start.positions[1, 0] == 1.6


def test_imaginary_frequencies_are_negative_and_add_nothing_to_the_zero_point_energy():
    atoms = Atoms("C3", positions=[(0, 0, 0), (1.5, 0, 0), (0.75, 1.5 * np.sqrt(0.75), 0)])
    hessian = molecular_minimum(atoms, FromEnergy(TRIANGLE)).hessian
    real, energy = vibrational_frequencies(atoms, hessian)
    imaginary, nothing = vibrational_frequencies(atoms, -hessian)
    assert imaginary == pytest.approx(-real[::-1])
    assert energy > 0.0 and nothing == 0.0


def test_frequencies_do_not_depend_on_the_orientation():
    atoms = Atoms("OH2", positions=[(0, 0, 0), (0.95, 0, 0), (-0.24, 0.92, 0)])
    calculator = FromEnergy(springs({(0, 1): 0.96, (0, 2): 0.96, (1, 2): 1.51}))
    first = molecular_minimum(atoms, calculator, fmax=1e-5)
    atoms.rotate(77, (1, 2, 3))
    atoms.translate((5, -4, 3))
    second = molecular_minimum(atoms, calculator, fmax=1e-5)
    assert first.frequencies == pytest.approx(second.frequencies, abs=0.1)


def double_well(x, depth=0.1, half=0.2):
    """A C-H-C row: the H in a double well of that depth (eV) between two C held apart."""
    row = x[1] - x[0]
    length = np.linalg.norm(row)
    arm = x[2] - 0.5 * (x[0] + x[1])
    along = arm @ row / length
    across = arm - along * row / length
    well = depth * ((along / half) ** 2 - 1.0) ** 2
    return 0.5 * SPRING * ((length - 2.4) ** 2 + across @ across) + well


def test_transfer_barrier_of_a_double_well():
    symmetric = Atoms("C2H", positions=[(-1.25, 0, 0), (1.25, 0, 0), (0, 0.1, 0)])
    minimum = symmetric.copy()
    minimum.positions[2, 0] = 0.1
    found = transfer_barrier(minimum, symmetric, (1, 0, 2), (0, 1), FromEnergy(double_well))
    assert found.barrier == pytest.approx(0.1, abs=1e-6)
    assert found.distance == pytest.approx(2.4, abs=1e-4)
    x = found.minimum.positions[:, 0]
    assert x[2] - 0.5 * (x[0] + x[1]) == pytest.approx(0.2, abs=1e-3)
    assert found.transition.positions[2, 0] == 0.0
    assert not found.transition.constraints
    assert found.quantities("well")["transfer_barrier"].value == pytest.approx(100.0, abs=1e-3)


def test_transfer_needs_a_symmetric_start():
    start = Atoms("C2H", positions=[(-1.25, 0, 0), (1.25, 0, 0), (0.2, 0, 0)])
    with pytest.raises(StructureError, match="not its own image"):
        transfer_barrier(start, start, (1, 0, 2), (0, 1), FromEnergy(double_well))


def cosine(x):
    """Three-fold rotation about the bond 1-2 with a barrier of 0.2 eV, minimum at 180 degrees."""
    atoms = Atoms("H4", positions=x)
    angle = np.radians(atoms.get_dihedral(0, 1, 2, 3))
    bonds = springs({(0, 1): 1.0, (1, 2): 1.5, (2, 3): 1.0, (0, 2): 1.9, (1, 3): 1.9})(x)
    return bonds + 0.1 * (1.0 + np.cos(3.0 * angle))


def test_torsion_profile_of_a_cosine():
    start = Atoms("H4", positions=[(-0.4, 0.9, 0), (0, 0, 0), (1.5, 0, 0), (1.9, -0.9, 0.05)])
    angles = (0, 30, 60, 90, 120)
    found = torsion_profile(start, (1, 2), (3,), angles, FromEnergy(cosine), name="x", fmax=1e-5)
    expected = 0.1 * (1.0 - np.cos(np.radians(3.0 * np.array(angles))))
    assert found.energies == pytest.approx(expected, abs=1e-5)
    curve = found.quantities("cosine")["torsion_x"]
    assert (curve.x_unit, curve.y_unit) == ("deg", "meV")
    assert curve.y == pytest.approx(1e3 * expected, abs=0.01)


def test_what_is_no_molecule_is_refused():
    calculator = FromEnergy(TRIANGLE)
    with pytest.raises(StructureError, match="without periodicity"):
        molecular_minimum(Atoms("C3", cell=[5] * 3, pbc=True), calculator)
    line = Atoms("C3", positions=[(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    with pytest.raises(StructureError, match="linear"):
        vibrational_frequencies(line, np.eye(9))
    with pytest.raises(NotConvergedError):
        molecular_minimum(
            Atoms("C3", positions=[(0, 0, 0), (2, 0, 0), (0, 2, 0)]), calculator, max_steps=1
        )
