"""Lattice constants against exact answers."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from scipy.optimize import minimize_scalar

from properties import MASK_2D, NotConvergedError, StructureError, lattice_constant

# Computed with ASE's EMT; stress zero at these to 1e-5 A.
EMT_A0 = {"Cu": 3.58983, "Al": 3.99427, "Ni": 3.48714}
# A long cutoff, because every shell that crosses it puts a kink into the energy.
SIGMA, EPSILON, CUTOFF = 2.5, 0.1, 25.0


class Pressed(Calculator):
    """A calculator whose stress is wrong by a pressure, so that energy and stress disagree."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")
    pressure = 0.5 * units.GPa
    inner = EMT

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        inner = self.atoms.copy()
        inner.calc = self.inner()
        energy = inner.get_potential_energy()
        offset = self.pressure * np.array([1, 1, 1, 0, 0, 0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "forces": inner.get_forces(),
            "stress": inner.get_stress() + offset,
        }


@pytest.mark.parametrize("symbol", sorted(EMT_A0))
def test_emt_metals(symbol):
    found = lattice_constant(bulk(symbol), EMT())
    assert found.a0 == pytest.approx(EMT_A0[symbol], abs=3e-5)
    assert found.a0_eos == pytest.approx(found.a0, rel=5e-5)
    assert np.abs(found.residual_stress).max() < 1e-3
    assert not found.two_dimensional


def test_primitive_and_conventional_cells_agree():
    primitive = lattice_constant(bulk("Cu"), EMT())
    cube = lattice_constant(bulk("Cu", a=3.7, cubic=True), EMT())
    assert cube.a0 == pytest.approx(primitive.a0, abs=1e-5)
    assert cube.bulk_modulus_eos == pytest.approx(primitive.bulk_modulus_eos, rel=1e-3)
    assert cube.energy_per_atom == pytest.approx(primitive.energy_per_atom, abs=1e-8)
    assert cube.volume_per_atom == pytest.approx(primitive.a0**3 / 4, rel=1e-5)


def test_disagreement_of_stress_and_energy_shows():
    """A false pressure P moves a0 by -P/(3B) but leaves the minimum of the energy alone."""
    honest = lattice_constant(bulk("Cu"), EMT())
    found = lattice_constant(bulk("Cu"), Pressed())
    expected = Pressed.pressure / units.GPa / (3 * honest.bulk_modulus_eos)
    assert found.a0_agreement == pytest.approx(expected, rel=0.05)
    assert found.a0_eos == pytest.approx(honest.a0_eos, abs=1e-4)


def layer(pbc):
    a = 2.7
    cell = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 30.0]]
    return Atoms("Ar", positions=[[0, 0, 4.0]], cell=cell, pbc=pbc)


def layer_potential():
    return LennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)


def triangular_energy(a):
    """Energy per atom of a triangular Lennard-Jones lattice by direct summation, eV."""
    m, n = np.meshgrid(np.arange(-13, 14), np.arange(-13, 14))
    r = a * np.sqrt(m**2 + n**2 + m * n)[(m != 0) | (n != 0)]
    r = r[r < CUTOFF]
    # ASE shifts each pair to zero at the cutoff.
    shift = (SIGMA / CUTOFF) ** 12 - (SIGMA / CUTOFF) ** 6
    return 2 * EPSILON * ((SIGMA / r) ** 12 - (SIGMA / r) ** 6 - shift).sum()


@pytest.mark.parametrize("vacuum_periodic", [True, False])
def test_layer_against_direct_lattice_sum(vacuum_periodic):
    exact = minimize_scalar(
        triangular_energy, bounds=(2.6, 2.9), method="bounded", options={"xatol": 1e-10}
    ).x
    h = 1e-3
    curvature = (
        triangular_energy(exact + h) - 2 * triangular_energy(exact) + triangular_energy(exact - h)
    ) / h**2
    # Area = sqrt(3)/2 a^2, so A d2E/dA2 = (d2E/da2) / (2 sqrt(3)) per atom at the minimum.
    modulus = curvature / (2 * np.sqrt(3)) * units.m**2 / units.J
    atoms = layer([True, True, vacuum_periodic])
    mask = MASK_2D if vacuum_periodic else None
    found = lattice_constant(atoms, layer_potential(), mask=mask)
    assert found.two_dimensional
    assert found.a0 == pytest.approx(exact, abs=2e-4)
    assert found.a0_eos == pytest.approx(exact, abs=2e-4)
    assert found.bulk_modulus_eos == pytest.approx(modulus, rel=0.01)
    assert found.atoms.cell[2] == pytest.approx([0, 0, 30.0])
    assert found.quantities("LJ")["bulk_modulus_eos"].unit == "N/m"


def test_layer_with_false_stress_keeps_the_minimum_of_its_energy():
    calc = Pressed()
    calc.inner = layer_potential
    calc.pressure = 0.05 * units.GPa
    honest = lattice_constant(layer([True, True, False]), layer_potential())
    found = lattice_constant(layer([True, True, False]), calc)
    assert found.a0_agreement > 0.002
    assert found.a0_eos == pytest.approx(honest.a0_eos, abs=2e-4)


def test_quantities_carry_units_and_source():
    found = lattice_constant(bulk("Cu"), EMT())
    named = found.quantities("EMT")
    assert {name: q.unit for name, q in named.items() if name != "eos"} == {
        "a0": "A",
        "a0_eos": "A",
        "bulk_modulus_eos": "GPa",
        "energy_per_atom": "eV/atom",
    }
    assert all(q.source == "EMT" for q in named.values())
    curve = named["eos"]
    assert curve.x_unit == "A^3/atom"
    assert curve.y.min() >= found.energy_per_atom - 1e-9


def test_progress_ends_at_its_total():
    seen = []
    lattice_constant(bulk("Cu"), EMT(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_minimum_outside_the_points_raises():
    """With a stress that is off by 30 GPa the relaxed cell is far from the energy minimum."""
    calc = Pressed()
    calc.pressure = 30 * units.GPa
    with pytest.raises(NotConvergedError, match="no minimum"):
        lattice_constant(bulk("Cu"), calc, eos_strain=0.005)


@pytest.mark.parametrize("bad", [{"eos_points": 4}, {"eos_strain": 0.0}])
def test_senseless_settings_are_refused(bad):
    with pytest.raises(StructureError, match="equation of state"):
        lattice_constant(bulk("Cu"), EMT(), **bad)
