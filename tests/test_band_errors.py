"""Errors of bands: sorted and matched by eigenvector, weighted by the length of the path."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from ase import Atoms
from harmonic_crystals import Springs

from properties import Curve, PropertyError, band_errors, phonon_bands
from properties.band_errors import match_branches

A = 2.5
FREQUENCIES = np.array([1.0, 2.0, 3.5])


@functools.cache
def grid(along=2.0, across=0.7, spacing=A, symbol="Cu", points=11, path="GXMG"):
    return phonon_bands(
        Atoms(symbol, cell=[spacing] * 3, pbc=True),
        Springs(along, across, spacing),
        supercell=(3, 3, 3),
        relax_cell=False,
        path=path,
        points=points,
        mesh=(2, 2, 2),
    )


def test_bands_agree_with_themselves():
    found = band_errors(grid(), grid())
    assert found.mae == found.mae_matched == found.maximum == 0.0
    assert found.overlap == pytest.approx(1.0)
    assert found.weights.sum() == pytest.approx(1.0)


def test_soft_model_of_another_lattice_constant():
    """Stiffnesses times 0.81 make every frequency 10 % lower at the same q."""
    reference, soft = grid(), grid(0.81 * 2.0, 0.81 * 0.7, 1.02 * A)
    found = band_errors(soft, reference)
    assert found.errors == pytest.approx(-0.1 * reference.frequencies, abs=1e-5)
    assert found.errors_matched == pytest.approx(found.errors, abs=1e-5)
    assert found.mean_error == pytest.approx(-found.mae)
    assert found.maximum == pytest.approx(0.1 * reference.frequencies.max(), abs=1e-5)
    assert found.maximum_at == pytest.approx(dict((b, a) for a, b in reference.path.ticks)["M"])
    curves = band_errors(soft.curve("soft"), reference.curve("reference"))
    assert curves.mae == pytest.approx(found.mae)
    assert curves.mae_matched is None
    assert curves.pointwise_matched is None


def test_average_is_along_the_path_and_not_over_points():
    """Lines of different length have the same number of points."""
    reference, soft = grid(), grid(0.81 * 2.0, 0.81 * 0.7)
    found = band_errors(soft, reference)
    x = reference.path.x
    integral = np.trapezoid(0.1 * reference.frequencies.mean(1), x)
    assert found.mae == pytest.approx(integral, rel=1e-5)
    assert abs(found.mae - found.pointwise.mean()) > 0.01 * found.mae


def test_exchanged_branches_show_in_the_matched_error_only():
    """Along G-X the longitudinal branch has `along`, the transverse ones `across`.

    With the two stiffnesses exchanged one pair of branches has the frequencies of the other.
    """
    reference, found = grid(2.0, 0.7, path="GX"), grid(0.7, 2.0, path="GX")
    errors = band_errors(found, reference)
    low, _, high = reference.frequencies.T
    assert errors.pointwise == pytest.approx((high - low) / 3, abs=1e-5)
    assert errors.pointwise_matched[1:] == pytest.approx((high - low)[1:], abs=1e-5)
    assert errors.overlap[1:] == pytest.approx(1.0, abs=1e-6)
    assert errors.mae_matched == pytest.approx(3 * errors.mae, abs=1e-5)


def test_matched_error_is_never_below_the_sorted_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = np.sort(rng.uniform(0, 10, (2, 9)), axis=1)
        vectors = [np.linalg.qr(rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9)))[0]] * 2
        order, overlap = match_branches(ours, vectors[0], theirs, vectors[1][:, rng.permutation(9)])
        assert sorted(order) == list(range(9))
        assert overlap == pytest.approx(1.0)
        assert np.abs(ours[order] - theirs).sum() >= np.abs(ours - theirs).sum() - 1e-12


def test_assignment_follows_the_vectors():
    swapped = np.eye(3)[:, [1, 0, 2]].astype(complex)
    order, overlap = match_branches(FREQUENCIES, swapped, FREQUENCIES, np.eye(3, dtype=complex))
    assert order.tolist() == [1, 0, 2]
    assert overlap == pytest.approx(1.0)


@pytest.mark.parametrize("split", [0.0, 5e-4, 0.3])
def test_degenerate_vectors_are_arbitrary(split):
    """A rotation within a degenerate pair of the reference changes nothing.

    The pair of the model may be split: each of its members lies in the subspace entirely.
    """
    turn = np.eye(3, dtype=complex)
    c, s = np.cos(0.7), np.sin(0.7)
    turn[:2, :2] = [[c, -s * 1j], [-s * 1j, c]]
    theirs, ours = np.array([1.0, 1.0, 3.5]), np.array([1.0, 1.0 + split, 3.5])
    order, overlap = match_branches(ours, np.eye(3, dtype=complex), theirs, turn)
    assert order.tolist() == [0, 1, 2]
    assert overlap == pytest.approx(1.0)


def test_numbers_for_a_table():
    found = band_errors(grid(0.81 * 2.0, 0.81 * 0.7), grid())
    numbers = found.quantities("soft against stiff")
    assert list(numbers) == [
        "phonon_mae",
        "phonon_mae_matched",
        "phonon_mean_error",
        "phonon_maximum",
    ]
    assert numbers["phonon_mae"].value == found.mae
    assert {one.unit for one in numbers.values()} == {"THz"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: grid(points=12), "same path, points"),
        (lambda: grid(path="GMXG"), "same path, points"),
        (lambda: grid(symbol="Ag"), "other atoms"),
        (lambda: Curve([0, 1], [[1.0], [2.0]], "path", "THz", "one"), "same path, points"),
        (lambda: Curve([0, 1], [[1.0], [2.0]], "1/A", "THz", "distance"), "over 1/A"),
        (lambda: Curve([0, 1], [[1.0], [2.0]], "path", "meV", "energy"), "has meV"),
        (lambda: Curve([0, 1], [1.0, 2.0], "path", "THz", "flat"), "one column"),
    ],
)
def test_what_cannot_be_compared_is_refused(other, message):
    with pytest.raises(PropertyError, match=message):
        band_errors(other(), grid())
