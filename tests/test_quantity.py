"""Quantities, curves and their comparison."""

from __future__ import annotations

import numpy as np
import pytest

from properties import (
    Curve,
    MissingQuantityError,
    PropertyError,
    Quantity,
    UnitMismatchError,
    compare,
)


def wave(n, phase=0.0, offset=0.0):
    x = np.linspace(0.0, 1.0, n)
    y = np.sin(2 * np.pi * (x - phase)) + offset
    return Curve(x, y, "b", "J/m^2", "wave", periodic=True)


def test_relative_error_is_signed():
    found = compare(
        {"C11": Quantity(440.0, "GPa", "model")}, {"C11": Quantity(400.0, "GPa", "DFT")}
    )
    assert found["C11"].relative_error == pytest.approx(0.1)
    assert found["C11"].reference_source == "DFT"
    assert found["C11"].rmse is None
    found = compare({"e": Quantity(-5.0, "eV", "model")}, {"e": Quantity(-4.0, "eV", "DFT")})
    assert found["e"].relative_error == pytest.approx(-0.25)


def test_zero_reference_has_no_relative_error():
    found = compare({"a": Quantity(1.0, "1", "model")}, {"a": Quantity(0.0, "1", "DFT")})
    assert found["a"].relative_error is None


def test_extra_results_are_left_out_and_missing_ones_raise():
    result = {"a": Quantity(1.0, "A", "model"), "b": Quantity(2.0, "A", "model")}
    assert list(compare(result, {"b": Quantity(2.0, "A", "DFT")})) == ["b"]
    with pytest.raises(MissingQuantityError, match="lacks c; it has a, b"):
        compare(result, {"c": Quantity(2.0, "A", "DFT")})


def test_units_must_match():
    with pytest.raises(UnitMismatchError, match="eV/A"):
        compare({"C11": Quantity(2.9, "eV/A^3", "model")}, {"C11": Quantity(460.0, "GPa", "DFT")})
    other = Curve(wave(9).x, wave(9).y, "A", "J/m^2", "wave", periodic=True)
    with pytest.raises(UnitMismatchError, match="A but its reference in b"):
        compare({"g": other}, {"g": wave(9)})


def test_number_against_curve_raises():
    with pytest.raises(PropertyError, match="a number on one side"):
        compare({"g": Quantity(1.0, "J/m^2", "model")}, {"g": wave(9)})


def test_curve_is_read_at_the_abscissae_of_the_reference():
    """A sine sampled at 41 points against itself at 12 others: the spline error alone remains."""
    found = compare({"g": wave(41)}, {"g": wave(12)})["g"]
    assert found.x.shape == (12,)
    assert found.rmse < 2e-5
    shifted = compare({"g": wave(41, offset=0.3)}, {"g": wave(12)})["g"]
    assert shifted.rmse == pytest.approx(0.3, abs=2e-5)
    assert shifted.relative_error == pytest.approx(0.3 / np.ptp(wave(12).y), rel=1e-3)


def test_same_abscissae_are_not_interpolated():
    curve = wave(12)
    noisy = Curve(curve.x, curve.y + np.cos(50 * curve.x), "b", "J/m^2", "wave", periodic=True)
    expected = np.sqrt(np.mean(np.cos(50 * curve.x) ** 2))
    assert compare({"g": noisy}, {"g": curve})["g"].rmse == pytest.approx(expected, rel=1e-12)


def test_periodic_interpolation_has_no_seam():
    curve = wave(21, phase=0.25)
    outside = curve.at(np.array([-0.01, 0.99, 1.99]))
    assert np.ptp(outside) < 1e-12
    h = 1e-4
    left, mid, right = curve.at(np.array([1 - h, 1.0, 1 + h]))
    assert (right - left) / (2 * h) == pytest.approx(0.0, abs=1e-3)
    assert (right - 2 * mid + left) / h**2 == pytest.approx(4 * np.pi**2, rel=0.02)


def test_periodic_curve_with_unequal_ends_is_refused():
    ramp = Curve(np.linspace(0, 1, 9), np.linspace(0, 1, 9), "b", "J/m^2", "ramp", periodic=True)
    with pytest.raises(PropertyError, match="exactly one period"):
        ramp.at(np.array([0.3]))


def test_curve_that_is_not_periodic_is_not_extrapolated():
    curve = Curve(np.linspace(0, 1, 9), np.linspace(0, 2, 9), "A", "eV", "line")
    assert curve.at(np.array([0.3])) == pytest.approx([0.6])
    with pytest.raises(PropertyError, match="cannot be read"):
        curve.at(np.array([1.1]))


def test_several_branches():
    x = np.linspace(0, 1, 30)
    bands = Curve(x, np.stack([x, 2 * x], axis=1), "1/A", "THz", "bands")
    shifted = Curve(x, np.stack([x, 2 * x + 0.2], axis=1), "1/A", "THz", "bands")
    found = compare({"b": shifted}, {"b": bands})["b"]
    assert found.rmse == pytest.approx(0.2 / np.sqrt(2))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_must_be_finite(bad):
    with pytest.raises(PropertyError, match="not a number"):
        Quantity(bad, "eV", "model")
    with pytest.raises(PropertyError, match="not numbers"):
        Curve(np.array([0.0, 1.0]), np.array([0.0, bad]), "A", "eV", "model")


@pytest.mark.parametrize(
    ("x", "y"), [([0, 1, 2], [0, 1]), ([0], [0]), ([1, 0], [0, 1]), ([[0, 1]], [[0, 1]])]
)
def test_malformed_curves_are_refused(x, y):
    with pytest.raises(PropertyError):
        Curve(np.array(x, float), np.array(y, float), "A", "eV", "model")


def test_curve_does_not_share_memory_and_is_read_only():
    y = np.array([0.0, 1.0])
    curve = Curve(np.array([0.0, 1.0]), y, "A", "eV", "model")
    y[0] = 5.0
    assert curve.y[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        curve.y[0] = 1.0
