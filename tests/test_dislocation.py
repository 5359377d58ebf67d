"""The screw dislocation of bcc crystals: its core, its picture, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from finnis_sinclair import A0, FinnisSinclair

from properties import NotConvergedError, StructureError, screw_dislocation
from properties.bcc_neighbors import bcc_mask
from properties.dislocation import _core_triangle
from properties.plot_dislocation import screw_core

CONSTANTS = (464.7, 161.5, 108.9)  # GPa, of the potential
LINE = np.sqrt(3) / 2 * A0


@pytest.fixture(scope="module")
def found():
    return screw_dislocation("Mo", A0, CONSTANTS, FinnisSinclair())


def test_perfect_crystal_is_bcc_and_a_vacancy_disturbs_its_neighbors():
    crystal = bulk("Mo", "bcc", a=A0, cubic=True).repeat(4)
    assert bcc_mask(crystal).all()
    crystal.rattle(0.1, seed=1)
    assert bcc_mask(crystal).mean() > 0.9
    perfect = bulk("Mo", "bcc", a=A0, cubic=True).repeat(4)
    del perfect[0]
    # First and second neighbours lack an atom of their fourteen.
    assert (~bcc_mask(perfect)).sum() == 14
    assert not bcc_mask(bulk("Cu", cubic=True).repeat(3)).any()


@pytest.mark.parametrize(
    ("atoms", "word"),
    [
        (Atoms("MoW", [[0, 0, 0], [0, 0, 2]]), "one element"),
        (Atoms("Mo2", [[0, 0, 0], [0, 0, 9]]), "no crystal"),
    ],
)
def test_bcc_mask_refuses_what_is_no_crystal(atoms, word):
    with pytest.raises(StructureError, match=word):
        bcc_mask(atoms)


def test_core_of_the_published_potential(found):
    """Easy core, degenerate: it spreads on three {110} planes.

    M. S. Duesbery and V. Vitek, Acta Mater. 46, 1481 (1998), find so for Finnis-Sinclair
    potentials of Mo.
    """
    assert found.kind == "easy"
    assert found.glide == pytest.approx(0.0, abs=1e-6)
    assert 0.05 < abs(found.polarity) < 1 / 6
    assert set(found.core_columns) <= set(found.core_atoms)
    assert len(found.core_atoms) < 10
    names = found.quantities("FS")
    assert names["screw_polarity"].value == abs(found.polarity)
    assert names["screw_glide"].unit == "A"


def test_differential_displacements_enclose_one_burgers_vector(found):
    by_pair = {}
    for (i, j), step in zip(found.pairs, found.differential, strict=True):
        by_pair[i, j], by_pair[j, i] = step, -step
    i, j, k = found.core_columns
    assert abs(by_pair[i, j] + by_pair[j, k] + by_pair[k, i]) == pytest.approx(1.0)
    # Every column has six neighbours in the projection, but for those at the rim.
    counts = np.bincount(found.pairs.ravel())
    assert counts.max() == 6
    assert (counts[found.mobile] == 6).all()
    # Far from the core each ring of columns shares one b among its steps.
    assert np.abs(found.differential).max() < 0.5


def test_cylinder_is_one_period_long_and_its_shell_is_held(found):
    assert found.atoms.cell[2, 2] == pytest.approx(LINE)
    assert found.atoms.pbc.tolist() == [False, False, True]
    held = np.setdiff1d(np.arange(len(found.atoms)), found.mobile)
    radius = np.linalg.norm(found.bulk.positions[:, :2] - found.core_center, axis=1)
    assert radius[found.mobile].max() < 13.0 < radius[held].max()
    found.atoms.calc = FinnisSinclair()
    assert np.linalg.norm(found.atoms.get_forces(), axis=1).max() < 5e-3
    # What elasticity gave is not the answer: the mobile atoms did move.
    assert np.abs(found.atoms.get_forces(apply_constraint=False)[held]).max() > 5e-3


def test_larger_cylinder_gives_the_same_core(found):
    larger = screw_dislocation("Mo", A0, CONSTANTS, FinnisSinclair(), radius=28.0)
    assert len(larger.mobile) > 1.5 * len(found.mobile)
    assert larger.polarity == pytest.approx(found.polarity, abs=2e-3)
    assert larger.kind == found.kind


@pytest.mark.parametrize("steps", [0, 1, -1])
def test_a_core_that_glided_is_measured_where_it_is(found, monkeypatch, steps):
    """A symmetric core one valley further has polarity 0 there and tells how far it went."""
    from matscipy.dislocation import BCCScrew111Dislocation

    from properties import dislocation
    from properties.relaxation import Relaxation

    c11, c12, c44 = CONSTANTS
    builder = BCCScrew111Dislocation(A0, C11=c11, C12=c12, C44=c44, symbol="Mo")
    center = np.append(found.core_center, 0.0)
    center[0] += steps * builder.glide_distance

    def glided(start, calc, **settings):
        moved = start.copy()
        moved.set_constraint()
        moved.positions = found.bulk.positions + builder.displacements(
            found.bulk.positions, center, method="adsl", verbose=False
        )
        return Relaxation(moved, 0, 0.0)

    monkeypatch.setattr(dislocation, "relax", glided)
    result = screw_dislocation("Mo", A0, CONSTANTS, FinnisSinclair())
    assert result.glide == pytest.approx(abs(steps) * builder.glide_distance, abs=1e-6)
    assert result.kind == "easy"
    assert result.polarity == pytest.approx(0.0, abs=1e-4)


def test_no_core_is_an_error(found):
    still = np.zeros(len(found.bulk))
    with pytest.raises(NotConvergedError, match="0 places"):
        _core_triangle(found.bulk, found.pairs, still, found.mobile)


def test_figure_shows_arrows_and_the_core(found):
    figure = screw_core(found)
    axes = figure.axes[0]
    assert "easy core" in axes.get_title()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["no bcc surroundings", "core"]
    assert "[11" in axes.get_xlabel()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"a0": -1.0}, "positive a0"),
        ({"elastic_constants": (464.7, 161.5)}, "C11, C12, C44"),
        ({"elastic_constants": (100.0, 161.5, 108.9)}, "no stable crystal"),
        ({"radius": 15.0}, "less than 8 A"),
    ],
)
def test_senseless_input_is_refused(change, word):
    given = {"symbol": "Mo", "a0": A0, "elastic_constants": CONSTANTS, "calc": FinnisSinclair()}
    with pytest.raises(StructureError, match=word):
        screw_dislocation(**given | change)
