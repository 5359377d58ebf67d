"""Values with units and sources, and their comparison with a reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from properties.errors import MissingQuantityError, PropertyError, UnitMismatchError

PERIODIC_TOLERANCE = 0.01


@dataclass(frozen=True)
class Quantity:
    """A number with its unit and its origin; serves predictions and references alike.

    Attributes
    ----------
    value : float
        The number, finite.
    unit : str
        Unit as reported, for example ``"GPa"``, ``"A"``, ``"J/m^2"``, ``"1"``.
    source : str
        Where the number comes from: a calculator, a stage of training or a publication.
    """

    value: float
    unit: str
    source: str

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise PropertyError(f"A quantity from {self.source!r} is {self.value}, not a number.")


@dataclass(frozen=True, eq=False)
class Curve:
    """A sampled function with units and origin.

    Attributes
    ----------
    x : ndarray, shape (n,)
        Abscissae in `x_unit`, ascending.
    y : ndarray, shape (n,) or (n, m)
        Ordinates in `y_unit`.
    x_unit, y_unit, source : str
        As for :class:`Quantity`.
    periodic : bool
        True if `x` runs over exactly one period with both ends included.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    x_unit: str
    y_unit: str
    source: str
    periodic: bool = False

    def __post_init__(self) -> None:
        x = np.array(self.x, dtype=np.float64)
        y = np.array(self.y, dtype=np.float64)
        if x.ndim != 1 or len(x) < 2 or y.ndim not in (1, 2) or len(y) != len(x):
            raise PropertyError(
                f"A curve from {self.source!r} needs at least two points and as many ordinates "
                f"as abscissae, but has shapes {x.shape} and {y.shape}."
            )
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise PropertyError(f"A curve from {self.source!r} holds values that are not numbers.")
        if (np.diff(x) < 0).any():
            raise PropertyError(f"The abscissae of a curve from {self.source!r} must ascend.")
        x.setflags(write=False)
        y.setflags(write=False)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def at(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Interpolate with a cubic spline, periodic if the curve is.

        Parameters
        ----------
        x : ndarray, shape (k,)
            Abscissae in `x_unit`; outside the sampled range only if the curve is periodic.

        Returns
        -------
        ndarray, shape (k,) or (k, m)
            Ordinates in `y_unit`.

        Raises
        ------
        PropertyError
            If `x` leaves the range of a curve that is not periodic, or if the two ends of a
            periodic curve differ by more than 1 % of its range.
        """
        from scipy.interpolate import CubicSpline

        x = np.asarray(x, dtype=np.float64)
        if x.shape == self.x.shape and np.allclose(x, self.x, rtol=0, atol=1e-10):
            return self.y.copy()
        if not self.periodic:
            slack = 1e-9 * (self.x[-1] - self.x[0])
            if x.min() < self.x[0] - slack or x.max() > self.x[-1] + slack:
                raise PropertyError(
                    f"The curve from {self.source!r} covers {self.x[0]:g} to {self.x[-1]:g} "
                    f"{self.x_unit} and cannot be read at {x.min():g} to {x.max():g}."
                )
            return np.asarray(CubicSpline(self.x, self.y)(x), dtype=np.float64)
        if np.abs(self.y[-1] - self.y[0]).max() > PERIODIC_TOLERANCE * np.ptp(self.y):
            raise PropertyError(
                f"The curve from {self.source!r} is marked periodic but its ends differ; "
                "sample exactly one period."
            )
        y = self.y.copy()
        y[0] = y[-1] = 0.5 * (y[0] + y[-1])
        spline = CubicSpline(self.x, y, bc_type="periodic")
        return np.asarray(spline(x), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Comparison:
    """One name of a result beside its reference.

    Attributes
    ----------
    name, unit, reference_source : str
        Name, common unit, and origin of the reference.
    value, reference : float or ndarray
        Numbers in `unit`. For curves both are given at the reference's abscissae `x`.
    relative_error : float or None
        Signed ``(value - reference) / |reference|``; None if the reference is zero. For curves
        `rmse` over the range (maximum minus minimum) of the reference.
    rmse : float or None
        Root mean square difference over the reference's points in `unit`; None for scalars.
    x, x_unit
        The reference's abscissae and their unit; None for scalars.
    """

    name: str
    value: float | NDArray[np.float64]
    unit: str
    reference: float | NDArray[np.float64]
    reference_source: str
    relative_error: float | None
    rmse: float | None = None
    x: NDArray[np.float64] | None = None
    x_unit: str | None = None


def compare(
    result: Mapping[str, Quantity | Curve], reference: Mapping[str, Quantity | Curve]
) -> dict[str, Comparison]:
    """Compare a result with every name that the reference holds.

    Parameters
    ----------
    result, reference : mapping of str to Quantity or Curve
        Names of `result` that `reference` lacks are left out.

    Returns
    -------
    dict of str to Comparison
        In the order of `reference`.

    Raises
    ------
    MissingQuantityError
        If `result` lacks a name of `reference`.
    UnitMismatchError
        If the units of a name differ.
    PropertyError
        If a name is a number on one side and a curve on the other.
    """
    missing = [name for name in reference if name not in result]
    if missing:
        present = ", ".join(sorted(result)) or "nothing"
        raise MissingQuantityError(f"The result lacks {', '.join(missing)}; it has {present}.")
    return {name: _compare_one(name, result[name], ref) for name, ref in reference.items()}


def _compare_one(name: str, result: Quantity | Curve, reference: Quantity | Curve) -> Comparison:
    if isinstance(result, Quantity) and isinstance(reference, Quantity):
        _same_unit(name, result.unit, reference.unit)
        error = None
        if reference.value != 0.0:
            error = (result.value - reference.value) / abs(reference.value)
        return Comparison(
            name, result.value, reference.unit, reference.value, reference.source, error
        )
    if isinstance(result, Curve) and isinstance(reference, Curve):
        _same_unit(name, result.x_unit, reference.x_unit)
        _same_unit(name, result.y_unit, reference.y_unit)
        value = result.at(reference.x)
        if value.shape != reference.y.shape:
            raise PropertyError(
                f"The curve {name} has {value.shape[1:]} branches, its reference "
                f"{reference.y.shape[1:]}."
            )
        rmse = float(np.sqrt(np.mean((value - reference.y) ** 2)))
        span = float(np.ptp(reference.y))
        return Comparison(
            name,
            value,
            reference.y_unit,
            reference.y,
            reference.source,
            rmse / span if span > 0.0 else None,
            rmse,
            reference.x,
            reference.x_unit,
        )
    raise PropertyError(f"{name} is a number on one side and a curve on the other.")


def _same_unit(name: str, unit: str, reference_unit: str) -> None:
    if unit != reference_unit:
        raise UnitMismatchError(
            f"{name} is in {unit} but its reference in {reference_unit}; convert one of them."
        )
