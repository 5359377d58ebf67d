"""Stacking faults of hcp crystals: geometry in Miller-Bravais indices, cuts, known faults."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.neighborlist import neighbor_list

from properties import StructureError, gsfe_cell, gsfe_curve, slip_geometry

A0, C0 = 3.2, 5.2
BASAL = ((0, 0, 0, 1), (1, 1, -2, 0))
PRISMATIC = ((1, 0, -1, 0), (1, -2, 1, 0))
SYSTEMS = [
    # plane, direction, burgers, spacing of lattice planes
    (*BASAL, A0, C0),
    ((0, 0, 0, 1), (1, 0, -1, 0), np.sqrt(3) * A0, C0),
    (*PRISMATIC, A0, np.sqrt(3) / 2 * A0),
    ((1, 1, -2, 0), (0, 0, 0, 1), C0, A0 / 2),
    ((1, 0, -1, 1), (1, -2, 1, 0), A0, 1 / np.sqrt(4 / (3 * A0**2) + 1 / C0**2)),
    ((1, 1, -2, 2), (1, 1, -2, -3), np.hypot(A0, C0), 1 / np.sqrt(4 / A0**2 + 4 / C0**2)),
]


@pytest.mark.parametrize(("plane", "direction", "burgers", "spacing"), SYSTEMS)
def test_geometry_of_slip_systems(plane, direction, burgers, spacing):
    found = slip_geometry("hcp", A0, plane, direction, c0=C0)
    assert found.burgers == pytest.approx(burgers)
    assert found.spacing == pytest.approx(spacing)
    assert found.area * found.spacing == pytest.approx(np.sqrt(3) / 2 * A0**2 * C0)
    assert found.plane == plane
    assert found.direction == direction
    assert len(found.basis) == 2


@pytest.mark.parametrize(("plane", "direction", "burgers", "spacing"), SYSTEMS)
@pytest.mark.parametrize("displacement", [0.0, 1.0])
def test_whole_periods_give_the_perfect_crystal(plane, direction, burgers, spacing, displacement):
    cell = gsfe_cell(
        "Mg", "hcp", A0, plane, direction, c0=C0, n_planes=6, displacement=displacement
    )
    assert len(cell) == 12
    crystal = np.sort(neighbor_list("d", bulk("Mg", "hcp", a=A0, c=C0), 6.0))
    expected = np.sort(np.tile(crystal, 6))
    assert np.sort(neighbor_list("d", cell, 6.0)) == pytest.approx(expected, abs=1e-9)
    assert (np.diff(cell.positions[:, 2]) > -1e-9).all()


def test_prismatic_planes_have_a_wide_and_a_narrow_gap():
    gaps = []
    for cut in (0, 1):
        cell = gsfe_cell("Mg", "hcp", A0, *PRISMATIC, c0=C0, n_planes=6, displacement=0.0, cut=cut)
        gaps.append(cell.cell[2, 2] - cell.positions[-1, 2] + cell.positions[0, 2])
    spacing = np.sqrt(3) / 2 * A0
    assert gaps == pytest.approx([2 / 3 * spacing, spacing / 3])
    with pytest.raises(StructureError, match="no gap number 2"):
        slip_geometry("hcp", A0, *PRISMATIC, c0=C0, cut=2)
    # Both atoms of a second-order prismatic plane are at the same height.
    with pytest.raises(StructureError, match="no gap number 1"):
        slip_geometry("hcp", A0, (1, 1, -2, 0), (0, 0, 0, 1), c0=C0, cut=1)


def test_basal_partial_slip_gives_the_intrinsic_fault():
    """A third of <10-10> keeps twelve neighbors (fault I2); the other way, planes collide."""
    ideal = A0 * np.sqrt(8 / 3)
    kept = {}
    for cut in (0, 1):
        for x in (1 / 3, -1 / 3):
            cell = gsfe_cell(
                "Mg",
                "hcp",
                A0,
                (0, 0, 0, 1),
                (1, 0, -1, 0),
                c0=ideal,
                n_planes=6,
                displacement=x,
                cut=cut,
            )
            first = neighbor_list("i", cell, 1.05 * A0)
            kept[cut, x] = np.bincount(first, minlength=12).tolist() == [12] * 12
    assert sorted(kept.values()) == [False, False, True, True]
    # The two gaps are mirror images of each other.
    assert kept[0, 1 / 3] == kept[1, -1 / 3] != kept[0, -1 / 3]


@pytest.mark.parametrize("mode", ["rigid", "relaxed"])
def test_basal_curve_is_periodic_and_the_other_cut_mirrors_it(mode):
    """Copper as an hcp crystal: its I2 fault is a layer of its ground state, so it is small."""
    a0 = 3.59 / np.sqrt(2)
    arguments = ("Cu", "hcp", a0, (0, 0, 0, 1), (1, 0, -1, 0), EMT())
    settings = {"c0": a0 * np.sqrt(8 / 3), "n_planes": 6, "n_points": 13, "mode": mode}
    found = gsfe_curve(*arguments, **settings)
    other = gsfe_curve(*arguments, **settings, cut=1)
    assert other.gamma == pytest.approx(found.gamma[::-1], abs=1e-4)
    assert found.gamma[[0, -1]] == pytest.approx([0, 0], abs=1e-4)
    assert min(abs(found.gamma[4]), abs(found.gamma[8])) < 0.05
    assert max(found.gamma[4], found.gamma[8]) > 0.3
    assert found.label == f"0001_1010_cut0_{mode}"
    assert other.label != found.label


def test_prismatic_slip_is_symmetric():
    """The plane holds a mirror across the slip direction, so x and 1 - x are the same."""
    a0 = 3.59 / np.sqrt(2)
    found = gsfe_curve(
        "Cu",
        "hcp",
        a0,
        *PRISMATIC,
        EMT(),
        c0=a0 * np.sqrt(8 / 3),
        n_planes=10,
        n_points=9,
        mode="relaxed",
    )
    assert found.gamma == pytest.approx(found.gamma[::-1], abs=1e-4)
    assert found.gamma_usf > 0.1


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"plane": (0, 1, 0, 1)}, "add up to 0"),
        ({"direction": (1, 1, -1, 0)}, "add up to 0"),
        ({"direction": (1, 0, -1, 1)}, "not in the plane"),
        ({"plane": (0, 1)}, "3 or 4 integer"),
        ({"c0": None}, "positive c0"),
        ({"c0": -1.0}, "positive c0"),
    ],
)
def test_senseless_indices_are_refused(change, word):
    given = {"plane": BASAL[0], "direction": BASAL[1], "c0": C0} | change
    with pytest.raises(StructureError, match=word):
        slip_geometry("hcp", A0, given["plane"], given["direction"], c0=given["c0"])
