"""Figure of phonon bands: models beside a reference, their error along the path, their states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from properties.band_errors import band_errors
from properties.errors import PropertyError
from properties.phonon_path import PATH_UNIT
from properties.phonon_result import PhononResult
from properties.plot import BLACK, COLORS, COLUMN_WIDTH, stage_label
from properties.quantity import Curve

Bands = PhononResult | Curve
INVERSE_CM = 33.35640952  # per THz
# Dashes long enough to be told apart where nine branches crowd; the reference is solid.
DASHES: tuple[Any, ...] = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (2.5, 2.5)))


def phonon_bands(
    models: Mapping[str, Bands],
    reference: Bands | None = None,
    *,
    reference_label: str = "DFT",
    ticks: Sequence[tuple[float, str]] | None = None,
    states: bool = True,
    pointwise: bool = True,
) -> Figure:
    """Draw phonon bands over the path, in THz and 1/cm.

    Parameters
    ----------
    models : mapping of str to PhononResult or Curve
        By stage or model, at the path of the reference.
    reference : PhononResult or Curve, optional
        Drawn in black, solid.
    reference_label : str
        Its name in the legend.
    ticks : sequence of (float, str), optional
        Place along the path and label of the points of high symmetry; by default those of the
        first result. Curves do not know theirs.
    states : bool
        Add densities of states at the side, of those that are results.
    pointwise : bool
        Add the mean absolute error over the sorted branches at each q below, and its average
        along the path to the legend; needs a reference.

    Returns
    -------
    Figure

    Raises
    ------
    PropertyError
        If there is nothing to draw, or bands are not comparable.
    """
    drawn = dict(models) if reference is None else {reference_label: reference, **models}
    if not drawn or len(models) + (reference is not None) != len(drawn):
        raise PropertyError("There are no bands to draw, or two of the same name.")
    curves = {name: _curve(name, bands) for name, bands in drawn.items()}
    with_states = {
        name: bands for name, bands in drawn.items() if states and isinstance(bands, PhononResult)
    }
    errors = {}
    if pointwise and reference is not None:
        errors = {name: band_errors(bands, reference) for name, bands in models.items()}
    if ticks is None:
        known = [bands for bands in drawn.values() if isinstance(bands, PhononResult)]
        ticks = known[0].path.ticks if known else []

    figure, axes, below, side = _panels(bool(with_states), bool(errors))
    highest = max(float(curve.y.max()) for curve in curves.values())
    lowest = min(float(curve.y.min()) for curve in curves.values())
    handles, labels = [], []
    for k, (name, curve) in enumerate(curves.items()):
        style = _style(k - (reference is not None))
        x, y = _broken(curve.x, curve.y)
        handles.append(axes.plot(x, y, **style)[0])
        labels.append(stage_label(name))
        if name in with_states:
            found = with_states[name].states
            side.plot(found.states, found.frequencies, **style)
        if name in errors:
            labels[-1] += f" (MAE {errors[name].mae:.2g} THz)"
            below.plot(*_broken(errors[name].x, errors[name].pointwise), **style)
    axes.set_ylim(min(1.05 * lowest, -0.02 * highest), 1.04 * highest)
    axes.set_ylabel("Frequency (THz)")
    _mark(axes, ticks, zero=True)
    bottom = axes
    if errors:
        bottom = below
        _mark(below, ticks, zero=False)
        below.set_ylim(bottom=0.0)
        below.set_ylabel("MAE (THz)")
        axes.tick_params(labelbottom=False)
    bottom.set_xticks([place for place, _ in ticks], [_greek(label) for _, label in ticks])
    outer = axes
    if with_states:
        outer = side
        side.set_xlim(left=0.0)
        side.set_xticks([])
        side.set_xlabel("DOS")
        side.tick_params(labelleft=False)
    twin = outer.secondary_yaxis("right", functions=(_to_wavenumber, _to_frequency))
    twin.set_ylabel(r"Wavenumber (cm$^{-1}$)", fontsize=9)
    twin.tick_params(labelsize=8)
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        # Labels with errors are long, and three of them wider than the figure.
        ncols=min(len(labels), 3 if with_states and not errors else 2),
        fontsize=8,
        frameon=False,
        handlelength=2.8,
        columnspacing=1.2,
    )
    return figure


def _to_wavenumber(frequency: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(frequency, dtype=np.float64) * INVERSE_CM


def _to_frequency(wavenumber: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(wavenumber, dtype=np.float64) / INVERSE_CM


def _panels(with_states: bool, with_errors: bool) -> tuple[Figure, Axes, Axes, Axes]:
    width = 1.35 * COLUMN_WIDTH + (0.3 * COLUMN_WIDTH if with_states else 0.0)
    figure = Figure(figsize=(width, 3.3 + (1.0 if with_errors else 0.0)), layout="constrained")
    figure.set_dpi(150)
    grid = figure.add_gridspec(
        2 if with_errors else 1,
        2 if with_states else 1,
        height_ratios=[3.3, 1.0] if with_errors else None,
        width_ratios=[4.5, 1.0] if with_states else None,
    )
    axes = figure.add_subplot(grid[0, 0])
    below = figure.add_subplot(grid[1, 0], sharex=axes) if with_errors else axes
    side = figure.add_subplot(grid[0, 1], sharey=axes) if with_states else axes
    for panel in {id(a): a for a in (axes, below, side)}.values():
        panel.tick_params(labelsize=8)
        panel.xaxis.label.set_fontsize(9)
        panel.yaxis.label.set_fontsize(9)
    axes.set_xlim(0.0, 1.0)
    return figure, axes, below, side


def _style(k: int) -> dict[str, Any]:
    """Style of the k-th model; of the reference for -1."""
    if k < 0:
        return {"color": BLACK, "lw": 1.1, "ls": "-", "zorder": 2}
    return {
        "color": COLORS[k % len(COLORS)],
        "lw": 1.4,
        "ls": DASHES[k % len(DASHES)],
        "zorder": 3 + k,
    }


def _mark(axes: Axes, ticks: Sequence[tuple[float, str]], *, zero: bool) -> None:
    for place, _ in ticks:
        axes.axvline(place, color="0.6", lw=0.6, zorder=0)
    if zero:
        axes.axhline(0.0, color="0.6", lw=0.6, zorder=0)


def _broken(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Insert a gap where the path jumps, so that no line is drawn across."""
    jumps = np.flatnonzero(np.diff(x) == 0.0) + 1
    return np.insert(x, jumps, np.nan), np.insert(y, jumps, np.nan, axis=0)


def _curve(name: str, bands: Bands) -> Curve:
    curve = bands.curve(name) if isinstance(bands, PhononResult) else bands
    if (curve.x_unit, curve.y_unit) != (PATH_UNIT, "THz") or curve.y.ndim != 2:
        raise PropertyError(f"The bands of {name} are not in THz over the unit {PATH_UNIT!r}.")
    return curve


def _greek(label: str) -> str:
    return "|".join(r"$\Gamma$" if part == "G" else part for part in label.split("|"))


__all__ = ["phonon_bands"]
