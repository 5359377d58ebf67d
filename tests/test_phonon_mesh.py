"""Density of states and thermal properties against exact sums and limits."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms, units
from harmonic_crystals import THZ, Springs, spring_frequencies

from properties import phonon_bands

A, MASS = 2.5, 63.546
H = units._hplanck * 1e12 / units._e  # eV per THz
GRID = Atoms("Cu", cell=[A] * 3, pbc=True)


@functools.cache
def grid(along=2.0, across=0.7, mesh=12, temperatures=(0.0, 299.0, 300.0, 301.0, 5000.0)):
    return phonon_bands(
        GRID,
        Springs(along, across, A),
        supercell=(3, 3, 3),
        relax_cell=False,
        points=2,
        mesh=(mesh, mesh, mesh),
        temperatures=temperatures,
    )


def exact(mesh=12):
    ticks = np.arange(mesh) / mesh
    q = np.array(np.meshgrid(ticks, ticks, ticks)).reshape(3, -1).T
    return spring_frequencies(q, 2.0, 0.7, MASS)


def test_states_are_normalized_and_lie_where_the_modes_are():
    found = grid().states
    step = np.diff(found.frequencies)[0]
    assert found.states.sum() * step == pytest.approx(3.0, abs=1e-4)
    mean = (found.frequencies * found.states).sum() * step / 3.0
    assert mean == pytest.approx(exact().mean(), abs=1e-4)
    counts, edges = np.histogram(exact(), bins=6, range=(0.5, 9.5))
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        inside = (found.frequencies >= low) & (found.frequencies < high)
        assert found.states[inside].sum() * step == pytest.approx(count / 12**3, abs=0.06)


def test_sums_are_exact():
    found = grid().thermal
    modes = exact()
    modes = modes[modes > 1e-6]
    energy = H * modes
    kT = units.kB * 300.0
    n = 12**3
    assert found.zero_point_energy == pytest.approx(0.5 * energy.sum() / n, rel=1e-6)
    assert found.free_energy[0] == pytest.approx(found.zero_point_energy, rel=1e-6)
    free = (0.5 * energy + kT * np.log1p(-np.exp(-energy / kT))).sum() / n
    # Constants of phonopy and ASE differ by 1e-6, and the terms of the free energy nearly cancel.
    assert found.free_energy[2] == pytest.approx(free, abs=1e-6)
    x = energy / kT
    heat = units.kB * (x**2 * np.exp(x) / np.expm1(x) ** 2).sum() / n
    assert found.heat_capacity[2] == pytest.approx(heat, rel=1e-5)
    assert found.n_modes == 3 * n
    assert found.n_left_out == 0


def test_thermodynamic_identities():
    """S = -dF/dT and C = T dS/dT, by central differences of 1 K."""
    found = grid().thermal
    slope = (found.free_energy[3] - found.free_energy[1]) / 2.0
    assert found.entropy[2] == pytest.approx(-slope, rel=1e-5)
    slope = (found.entropy[3] - found.entropy[1]) / 2.0
    assert found.heat_capacity[2] == pytest.approx(300.0 * slope, rel=1e-4)
    assert found.entropy[0] == pytest.approx(0.0, abs=1e-12)
    assert found.heat_capacity[0] == pytest.approx(0.0, abs=1e-12)


def test_dulong_and_petit():
    found = grid().thermal
    modes = 3 * 12**3 - 3  # the translation of the crystal has no heat capacity here
    assert found.heat_capacity[-1] / units.kB == pytest.approx(modes / 12**3, rel=1e-3)


def test_debye_law_at_low_temperature():
    """Equal springs make an isotropic crystal with v = a sqrt(k/m): C = 12 pi^4/5 (T/theta)^3."""
    debye = THZ * np.sqrt(2.0 / MASS) * (6 * np.pi**2) ** (1 / 3) * H / units.kB
    temperatures = (debye / 60, debye / 45)
    found = grid(2.0, 2.0, mesh=60, temperatures=temperatures).thermal
    law = 12 * np.pi**4 / 5 * (np.array(temperatures) / debye) ** 3
    assert found.heat_capacity / units.kB == pytest.approx(law, rel=0.03)


def test_mesh_by_default_is_finer_for_smaller_cells():
    small = phonon_bands(GRID, Springs(2.0, 0.7, A), supercell=(2, 2, 2), points=2)
    assert small.states.mesh == (40, 40, 40)
    layer = Atoms("Cu", cell=[5.0, A, 12.0], pbc=(True, True, False))
    layer += Atoms("Cu", [(A, 0, 0)])
    layer.symbols[1] = "Au"
    found = phonon_bands(
        layer, Springs(2.0, 0.7, A), supercell=(2, 2, 1), points=2, relax_cell=False
    )
    assert found.states.mesh == (20, 40, 1)
