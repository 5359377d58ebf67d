"""Paths through the Brillouin zone: the right points in any choice of cell vectors."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.cell import Cell

from properties import StructureError
from properties.phonon_path import band_path


def hexagonal(angle, a=3.2):
    return Cell.fromcellpar([a, a, 15.0, 90, 90, angle])


@pytest.mark.parametrize(("angle", "k"), [(120, (1 / 3, 1 / 3)), (60, (1 / 3, 2 / 3))])
def test_corners_of_the_hexagonal_zone(angle, k):
    a = 3.2
    found = band_path(hexagonal(angle), dimension=2)
    assert [label for _, label in found.ticks] == ["G", "M", "K", "G"]
    corner = found.q[found.index("K")]
    apart = corner[:2] - np.array(k)
    assert apart == pytest.approx(np.round(apart), abs=1e-12)
    reciprocal = hexagonal(angle).reciprocal().array
    assert np.linalg.norm(corner @ reciprocal) == pytest.approx(2 / (3 * a))
    assert np.linalg.norm(found.q[found.index("M")] @ reciprocal) == pytest.approx(
        1 / np.sqrt(3) / a
    )
    lengths = np.array([1 / np.sqrt(3), 1 / 3, 2 / 3]) / a
    assert np.diff([0, *(found.distance[end] for _, end in found.lines)]) == pytest.approx(lengths)


def test_meeting_points_are_there_once_and_jumps_twice():
    found = band_path(bulk("Cu").cell, dimension=3, path="GX,KGL", points=11)
    assert found.q.shape == (11 + 11 + 10, 3)
    assert found.lines == ((0, 10), (11, 21), (21, 31))
    assert found.connected == [False, True, False]
    assert found.distance[10] == found.distance[11]
    assert found.q[10] != pytest.approx(found.q[11])
    assert [label for _, label in found.ticks] == ["G", "X|K", "G", "L"]
    assert found.phonopy_labels == ["$\\Gamma$", "X", "K", "$\\Gamma$", "L"]
    assert [len(line) for line in found.arrays] == [11, 11, 11]
    assert len(band_path(hexagonal(120), dimension=2).q) == 151


def test_path_coordinate_does_not_depend_on_the_lattice_constant():
    small, large = (band_path(hexagonal(120, a), dimension=2) for a in (3.1, 3.3))
    assert large.distance[-1] < 0.95 * small.distance[-1]
    assert large.x == pytest.approx(small.x, abs=1e-12)
    assert (small.x[0], small.x[-1]) == (0.0, 1.0)
    assert np.array_equal(small.q, large.q)


@pytest.mark.parametrize(
    ("structure", "labels"),
    [
        ("fcc", ["G", "X", "W", "K", "G", "L", "U", "W", "L", "K|U", "X"]),
        ("bcc", ["G", "H", "N", "G", "P", "H|P", "N"]),
        ("hcp", ["G", "M", "K", "G", "A", "L", "H", "A|L", "M|K", "H"]),
    ],
)
def test_standard_paths_of_crystals(structure, labels):
    found = band_path(bulk("Cu", structure, a=2.7).cell, dimension=3)
    assert [label for _, label in found.ticks] == labels
    x = [place for place, _ in found.ticks]
    assert x == sorted(x)


def test_own_points_join_those_of_the_lattice():
    cell = bulk("Cu").cell
    own = band_path(cell, dimension=3, path="GZ", special_points={"Z": (0.1, 0.2, 0.3)})
    assert own.q[-1] == pytest.approx([0.1, 0.2, 0.3])
    assert own.q[0] == pytest.approx([0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "GQ"}, "out of G, K, M; it has Q"),
        ({"path": "G"}, "two labels or more"),
        ({"path": "GG"}, "has no length"),
        ({"points": 1}, "two points or more"),
        ({"path": "GZ", "special_points": {"Z": (0, 0, 0.5)}}, "leaves the plane"),
    ],
)
def test_senseless_paths_are_refused(settings, message):
    with pytest.raises(StructureError, match=message):
        band_path(hexagonal(120), dimension=2, **settings)
