"""Vacancies: what pair potentials give exactly, size, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from properties import StructureError, lattice_constant, vacancy_formation


@pytest.fixture(scope="module")
def copper():
    return lattice_constant(bulk("Cu", cubic=True), EMT()).atoms


def test_unrelaxed_pair_potential_gives_the_cohesive_energy():
    """Removing an atom breaks all its bonds, twice its share of the energy."""
    calc = LennardJones(sigma=2.3, epsilon=0.4, rc=5.0, ro=4.0, smooth=True)
    crystal = lattice_constant(bulk("Ar", "fcc", a=3.6, cubic=True), calc)
    found = vacancy_formation(crystal.atoms, calc, repeat=(3, 3, 3))
    assert found.formation_energy_unrelaxed == pytest.approx(-crystal.energy_per_atom, abs=1e-6)
    assert 0.0 < found.formation_energy < found.formation_energy_unrelaxed
    assert found.n_sites == 108
    assert len(found.atoms) == 107


def test_size_of_the_cell_matters_little(copper):
    small = vacancy_formation(copper, EMT(), repeat=(2, 2, 2))
    large = vacancy_formation(copper, EMT(), repeat=(4, 4, 4))
    assert small.formation_energy == pytest.approx(large.formation_energy, abs=0.03)
    # The atoms around the hole pull inwards: the cell is under tension.
    assert large.stress_change[:3].min() > 0.0
    assert large.stress_change[3:] == pytest.approx(np.zeros(3), abs=1e-6)
    # The dipole is a property of the vacancy, so the stress falls with the volume.
    assert small.stress_change[0] / large.stress_change[0] == pytest.approx(8.0, rel=0.15)


def test_primitive_cell_gives_the_same(copper):
    primitive = lattice_constant(bulk("Cu"), EMT()).atoms
    one = vacancy_formation(primitive, EMT(), repeat=(4, 4, 4))
    two = vacancy_formation(copper, EMT(), repeat=(3, 3, 3))
    assert one.image_distance == pytest.approx(4 * 3.59 / np.sqrt(2), abs=0.01)
    assert one.formation_energy == pytest.approx(two.formation_energy, abs=0.02)
    assert one.quantities("EMT")["vacancy_formation_energy"].unit == "eV"


@pytest.mark.parametrize(
    ("crystal", "repeat", "word"),
    [
        (bulk("Cu", cubic=True), (1, 1, 1), "3.6 A from its image"),
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True), (2, 2, 2), "one element"),
    ],
)
def test_senseless_input_is_refused(crystal, repeat, word):
    with pytest.raises(StructureError, match=word):
        vacancy_formation(crystal, EMT(), repeat=repeat)
