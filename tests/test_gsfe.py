"""Generalized stacking-fault energies: symmetries, geometry, and an independent relaxation."""

from __future__ import annotations

import functools
from functools import partial

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.constraints import FixCartesian
from ase.filters import FrechetCellFilter
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from finnis_sinclair import A0, FinnisSinclair

from properties import (
    Curve,
    StructureError,
    compare,
    elastic_tensor,
    gsfe_cell,
    gsfe_curve,
    lattice_constant,
    plane_scan,
    slip_geometry,
)

SLIP_110 = ((1, 1, 0), (1, -1, 1))
SLIP_121 = ((1, -2, 1), (1, 1, 1))
EV_PER_A2 = 16.021766


@functools.cache
def curve(slip, mode, calc=None, a0=A0, **more):
    calc = FinnisSinclair() if calc is None else calc
    return gsfe_curve("Mo", "bcc", a0, *slip, calc, mode=mode, **{"n_planes": 12} | more)


def test_potential_is_the_published_one():
    """The paper fits 464.7, 161.5 and 108.9 GPa at 3.1472 A, -6.82 eV; derivatives are right."""
    found = elastic_tensor(bulk("Mo", "bcc", a=3.15), FinnisSinclair())
    assert (found.C[0, 0], found.C[0, 1], found.C[3, 3]) == pytest.approx(
        (464.7, 161.5, 108.9), abs=0.2
    )
    lattice = lattice_constant(bulk("Mo", "bcc", a=3.15), FinnisSinclair())
    assert lattice.a0 == pytest.approx(A0, abs=1e-5)
    assert lattice.energy_per_atom == pytest.approx(-6.82, abs=1e-4)
    atoms = bulk("Mo", "bcc", a=A0, cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    atoms.calc = FinnisSinclair()
    assert atoms.get_forces() == pytest.approx(calculate_numerical_forces(atoms, 1e-5), abs=1e-6)
    assert atoms.get_stress() == pytest.approx(calculate_numerical_stress(atoms, 1e-5), abs=1e-7)


@pytest.mark.parametrize(
    ("structure", "slip", "burgers", "spacing"),
    [
        ("bcc", SLIP_110, np.sqrt(3) / 2, 1 / np.sqrt(2)),
        ("bcc", SLIP_121, np.sqrt(3) / 2, 1 / np.sqrt(6)),
        ("bcc", ((1, 2, 3), (1, 1, -1)), np.sqrt(3) / 2, 1 / np.sqrt(14)),
        ("bcc", ((0, 0, 1), (1, 0, 0)), 1.0, 1 / 2),
        ("fcc", ((1, 1, 1), (1, -1, 0)), 1 / np.sqrt(2), 1 / np.sqrt(3)),
        ("fcc", ((1, 1, 1), (1, 1, -2)), np.sqrt(6) / 2, 1 / np.sqrt(3)),
        ("fcc", ((0, 0, 2), (2, 2, 0)), 1 / np.sqrt(2), 1 / 2),
    ],
)
def test_geometry_of_slip_systems(structure, slip, burgers, spacing):
    a0 = 3.2
    found = slip_geometry(structure, a0, *slip)
    atoms_per_cube = {"bcc": 2, "fcc": 4}[structure]
    assert found.burgers == pytest.approx(burgers * a0)
    assert found.spacing == pytest.approx(spacing * a0)
    assert found.area * found.spacing == pytest.approx(a0**3 / atoms_per_cube)
    assert found.in_plane[0] == pytest.approx([found.burgers, 0, 0], abs=1e-12)
    assert np.abs(found.in_plane[:, 2]).max() < 1e-12


@pytest.mark.parametrize("slip", [SLIP_110, SLIP_121])
@pytest.mark.parametrize("displacement", [0.0, 1.0, -2.0])
def test_whole_periods_give_the_perfect_crystal(slip, displacement):
    cell = gsfe_cell("Mo", "bcc", A0, *slip, n_planes=12, displacement=displacement)
    assert cell.get_volume() == pytest.approx(12 * A0**3 / 2)
    crystal = np.sort(neighbor_list("d", bulk("Mo", "bcc", a=A0), 6.0))
    expected = np.sort(np.tile(crystal, 12))
    assert np.sort(neighbor_list("d", cell, 6.0)) == pytest.approx(expected, abs=1e-10)
    cell.calc = FinnisSinclair()
    assert cell.get_potential_energy() == pytest.approx(-6.82 * 12, abs=1e-3)


def test_upper_half_moves_and_the_frame_is_right_handed():
    x = 0.2
    cell = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=x)
    perfect = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=0.0)
    assert np.array_equal(cell.positions, perfect.positions)
    moved = cell.cell.array - perfect.cell.array
    assert moved == pytest.approx(np.array([[0, 0, 0], [0, 0, 0], [x * np.sqrt(3) / 2 * A0, 0, 0]]))
    assert (np.diff(cell.positions[:, 2]) > 0).all()
    # Rows: [111], [1 -2 1] cross [111] = [-3 0 3], [1 -2 1]; the crystal maps onto itself.
    axes = np.array([[1, 1, 1], [-1, 0, 1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    assert np.linalg.det(axes) == pytest.approx(1.0)
    lattice_points = perfect.positions @ axes / (A0 / 2)
    assert lattice_points == pytest.approx(np.round(lattice_points), abs=1e-9)
    parity = np.round(lattice_points).astype(int) % 2
    assert (parity == parity[:, :1]).all()


@pytest.mark.parametrize("mode", ["rigid", "relaxed"])
def test_110_is_symmetric(mode):
    found = curve(SLIP_110, mode)
    assert found.gamma == pytest.approx(found.gamma[::-1], abs=1e-4)
    assert found.x_usf == pytest.approx(0.5, abs=1e-3)
    assert found.gamma[[0, -1]] == pytest.approx([0, 0], abs=1e-4)
    assert found.gamma[1:-1].min() > 0.1


@pytest.mark.parametrize("mode", ["rigid", "relaxed"])
def test_reversed_shift_or_normal_mirrors_121(mode):
    plane, direction = SLIP_121
    back, down = tuple(-i for i in direction), tuple(-i for i in plane)
    found = curve(SLIP_121, mode, n_points=8)
    backward = curve((plane, back), mode, n_points=8)
    upside_down = curve((down, direction), mode, n_points=8)
    assert backward.gamma == pytest.approx(found.gamma[::-1], abs=1e-4)
    assert upside_down.gamma == pytest.approx(found.gamma[::-1], abs=1e-4)
    assert found.gamma[[0, -1]] == pytest.approx([0, 0], abs=1e-4)
    both = curve((down, back), "rigid", n_points=8)
    assert both.gamma == pytest.approx(curve(SLIP_121, "rigid", n_points=8).gamma, abs=1e-8)


def test_positive_shift_on_121_is_the_antitwinning_sense():
    """Relaxed, the anti-twinning side is the higher one; rigid, the curve is nearly symmetric."""
    relaxed = curve(SLIP_121, "relaxed").gamma
    assert relaxed[4] - relaxed[-5] > 0.02
    assert relaxed[3] - relaxed[-4] > 0.02
    rigid = curve(SLIP_121, "rigid").gamma
    assert np.abs(rigid - rigid[::-1]).max() < 2e-3


def test_twinning_sense_by_geometry():
    """A shift by -b/3 puts the planes beside the fault into the positions of a {112} twin.

    In a twin whose mirror plane lies on an atomic plane, the two planes beside it face each other
    without offset along the slip direction; in the crystal they are offset by two steps.
    """
    geometry = slip_geometry("bcc", A0, *SLIP_121)
    step = geometry.stacking[0] / geometry.burgers

    def from_whole(offset):
        return abs(offset - round(offset))

    assert from_whole(2 * step - 1 / 3) == pytest.approx(0.0, abs=1e-9)
    assert from_whole(2 * step + 1 / 3) == pytest.approx(1 / 3, abs=1e-9)


def test_pair_potential_gives_a_symmetric_rigid_121_curve():
    calc = LennardJones(sigma=2.5, epsilon=0.5, rc=7.0, ro=5.0, smooth=True)
    found = curve(SLIP_121, "rigid", calc=calc, a0=3.1)
    assert np.ptp(found.gamma) > 0.5
    assert found.gamma == pytest.approx(found.gamma[::-1], abs=1e-8)


@pytest.mark.parametrize("slip", [SLIP_110, SLIP_121])
@pytest.mark.parametrize("mode", ["rigid", "relaxed"])
def test_curve_does_not_depend_on_the_number_of_planes(slip, mode):
    few, many = curve(slip, mode), curve(slip, mode, n_planes=23)
    assert many.gamma == pytest.approx(few.gamma, abs=1e-4)
    assert many.opening == pytest.approx(few.opening, abs=1e-3)
    assert many.gamma_usf == pytest.approx(few.gamma_usf, abs=1e-4)


def test_relaxation_agrees_with_the_general_optimizer():
    """The same degrees of freedom through FixCartesian and a cell filter, one by one."""
    found = curve(SLIP_121, "relaxed", fmax=1e-4)
    reference = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=0.0)
    reference.calc = FinnisSinclair()
    for index in (2, 4):
        atoms = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=index / 11)
        atoms.set_constraint(FixCartesian(range(12), mask=(True, True, False)))
        atoms.calc = FinnisSinclair()
        height = atoms.cell[2, 2]
        opt = BFGS(FrechetCellFilter(atoms, mask=[0, 0, 1, 0, 0, 0]), logfile=None)
        assert opt.run(fmax=1e-4, steps=300)
        energy = atoms.get_potential_energy() - reference.get_potential_energy()
        assert found.gamma[index] == pytest.approx(energy / found.area * EV_PER_A2, abs=1e-5)
        assert found.opening[index] == pytest.approx(atoms.cell[2, 2] - height, abs=1e-3)


def test_fixed_height_converges_to_the_free_one_from_above():
    free = curve(SLIP_110, "relaxed").gamma_usf
    rigid = curve(SLIP_110, "rigid").gamma_usf
    few = curve(SLIP_110, "relaxed", free_opening=False)
    many = curve(SLIP_110, "relaxed", free_opening=False, n_planes=24).gamma_usf
    assert np.abs(few.opening).max() < 1e-9
    assert free < many < few.gamma_usf < rigid
    assert (many - free) == pytest.approx((few.gamma_usf - free) / 2, rel=0.3)


def test_fixed_height_agrees_with_fixed_coordinates():
    found = curve(SLIP_121, "relaxed", free_opening=False, fmax=1e-4)
    atoms = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=4 / 11)
    atoms.set_constraint(FixCartesian(range(12), mask=(True, True, False)))
    atoms.calc = FinnisSinclair()
    perfect = bulk("Mo", "bcc", a=A0)
    perfect.calc = FinnisSinclair()
    assert BFGS(atoms, logfile=None).run(fmax=1e-5, steps=300)
    energy = atoms.get_potential_energy() - 12 * perfect.get_potential_energy()
    assert found.gamma[4] == pytest.approx(energy / found.area * EV_PER_A2, abs=1e-5)


def test_fixed_lattice_constant_does_not_add_bulk_energy():
    """Away from equilibrium the strained crystal relaxes too, which is not the fault's energy."""
    few = curve(SLIP_110, "relaxed", a0=1.004 * A0)
    many = curve(SLIP_110, "relaxed", a0=1.004 * A0, n_planes=18)
    assert few.gamma == pytest.approx(many.gamma, abs=1e-3)
    assert few.gamma[-1] == pytest.approx(0.0, abs=1e-4)


def test_units_against_a_cell_by_hand():
    """The energy of a fault in a cell made by moving half the atoms, two faults per cell."""
    found = curve(SLIP_110, "rigid")
    atoms = gsfe_cell("Mo", "bcc", A0, *SLIP_110, n_planes=24, displacement=0.0)
    atoms.calc = FinnisSinclair()
    before = atoms.get_potential_energy()
    atoms.positions[12:, 0] += 3 / 11 * np.sqrt(3) / 2 * A0
    energy = (atoms.get_potential_energy() - before) / 2
    area = A0**2 / np.sqrt(2)
    assert found.area == pytest.approx(area)
    assert found.gamma[3] == pytest.approx(energy / area * EV_PER_A2, abs=1e-6)


def test_unstable_point_is_the_maximum_between_the_samples():
    coarse = curve(SLIP_121, "rigid", n_points=12)
    fine = curve(SLIP_121, "rigid", n_points=45)
    assert coarse.gamma_usf >= coarse.gamma.max()
    assert coarse.gamma_usf == pytest.approx(fine.gamma_usf, rel=5e-3)
    assert fine.gamma_usf == pytest.approx(fine.gamma.max(), rel=1e-3)


def test_comparison_at_other_abscissae():
    found = curve(SLIP_110, "rigid", n_points=45)
    few = curve(SLIP_110, "rigid", n_points=12)
    offset = Curve(few.x, few.gamma + 0.05, "b", "J/m^2", "DFT")
    comparison = compare(found.quantities("FS"), {"gsfe_110_rigid": offset})["gsfe_110_rigid"]
    assert comparison.rmse == pytest.approx(0.05, abs=1e-3)
    assert comparison.unit == "J/m^2"
    assert set(found.quantities("FS")) == {"gsfe_110_rigid", "gamma_usf_110_rigid"}


def test_fcc_partial_slip_gives_the_intrinsic_fault():
    """On {111} of an fcc crystal, 1/6<112> keeps twelve neighbors; backward, planes collide."""
    a0, plane, direction = 3.5, (1, 1, 1), (1, 1, -2)
    neighbors = {}
    for x in (1 / 3, -1 / 3):
        cell = gsfe_cell("Ni", "fcc", a0, plane, direction, n_planes=9, displacement=x)
        first = neighbor_list("i", cell, 1.05 * a0 / np.sqrt(2))
        neighbors[x] = np.bincount(first, minlength=9)
    assert sorted(counts.tolist() == [12] * 9 for counts in neighbors.values()) == [False, True]
    found = gsfe_curve("Ni", "fcc", a0, plane, direction, EMT(), mode="rigid", n_points=13)
    stable, collision = sorted((found.gamma[4], found.gamma[8]))
    assert abs(stable) < 0.05
    assert collision > 1.0
    side = found.gamma[:5] if found.gamma[4] == stable else found.gamma[8:]
    assert side.max() > 0.2


def test_plane_scan_tells_what_too_few_planes_cost():
    """With the height fixed the curve converges with the inverse of the number of planes."""
    compute = partial(
        gsfe_curve, "Mo", "bcc", A0, *SLIP_110, FinnisSinclair(), mode="relaxed", n_points=8
    )
    free = plane_scan(compute, (16, 12))
    fixed = plane_scan(partial(compute, free_opening=False), (12, 16))
    assert free.n_planes == fixed.n_planes == (12, 16)
    assert free.deviation[0] < 1e-4
    assert fixed.deviation[0] > 5e-4
    assert free.deviation[1] == fixed.deviation[1] == 0.0
    with pytest.raises(StructureError, match="two numbers"):
        plane_scan(compute, (12, 12))


@pytest.mark.parametrize("mode", ["rigid", "relaxed"])
def test_progress_counts_points(mode):
    seen = []
    curve(SLIP_110, mode, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_relaxation_takes_few_evaluations():
    for slip in (SLIP_110, SLIP_121):
        assert curve(slip, "relaxed", n_planes=18).n_evaluations <= 150


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"structure": "sc"}, "bcc, fcc"),
        ({"structure": "hcp"}, "positive c0"),
        ({"c0": 5.0}, "no c0"),
        ({"cut": 1}, "no gap number 1"),
        ({"a0": -3.0}, "positive"),
        ({"a0": np.nan}, "positive"),
        ({"plane": (1, 1, 1)}, "not in the plane"),
        ({"plane": (0, 0, 0)}, "Miller"),
        ({"direction": (1, 1.5, 1)}, "Miller"),
        ({"plane": (17, 1, -18)}, "too large"),
        ({"n_planes": 3}, "at least 6"),
        ({"mode": "loose"}, "rigid"),
        ({"n_points": 5}, "8 points"),
    ],
)
def test_senseless_input_is_refused(change, word):
    given = {
        "symbol": "Mo",
        "structure": "bcc",
        "a0": A0,
        "plane": SLIP_121[0],
        "direction": SLIP_121[1],
        "calc": FinnisSinclair(),
        "mode": "rigid",
    }
    with pytest.raises(StructureError, match=word):
        gsfe_curve(**given | change)


def test_distances_across_the_fault_are_those_of_the_shifted_crystal():
    """The tilt acts between the last plane and the first one of the next cell, nowhere else."""
    x = 0.3
    cell = gsfe_cell("Mo", "bcc", A0, *SLIP_121, n_planes=12, displacement=x)
    geometry = slip_geometry("bcc", A0, *SLIP_121)
    upper = cell.positions[0] + cell.cell[2]
    expected = cell.positions[11] + geometry.stacking + [x * geometry.burgers, 0, 0]
    plane_only = cell.cell.array.copy()
    distance = get_distances([upper], [expected], cell=plane_only, pbc=[True, True, False])[1]
    assert distance[0, 0] == pytest.approx(0.0, abs=1e-9)
