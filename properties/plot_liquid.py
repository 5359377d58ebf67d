"""Figure of water at constant temperature: models beside each other, one panel per observable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from properties.errors import PropertyError
from properties.liquid import WaterResult
from properties.msd import A2_PER_PS_IN_CM2_PER_S
from properties.plot import BLACK, COLORS, COLUMN_WIDTH, LINES, PANEL_HEIGHT, stage_label
from properties.quantity import Curve, Quantity

Values = Mapping[str, Quantity | Curve]
SMOOTHED_OVER = 0.05  # of the trace of the temperature
ANGLES = (80.0, 130.0)  # degrees
FEW_DECADES = 30.0  # times the shortest lag


def water_figure(
    models: Mapping[str, WaterResult | Values],
    *,
    references: Mapping[str, Curve] | None = None,
    panels: Sequence[str] | None = None,
) -> Figure:
    """Draw temperature, g_OO, displacement, H-O-H angles and density of water.

    The temperature is smoothed over a twentieth of the run, with samples behind it; the gray band
    is the canonical standard deviation about the target (or about the mean of the first model).
    Over the mean square displacement lies the line that D was taken from.

    Parameters
    ----------
    models : mapping of str to WaterResult, or to its quantities
        By stage or model, one color each. The line of the displacement is drawn for the former.
    references : mapping of str to Curve, optional
        By name, g_OO of other origin, in A and 1, drawn in black.
    panels : sequence of str, optional
        Some of `PANELS`, in order; by default all that the first model has.

    Returns
    -------
    Figure

    Raises
    ------
    PropertyError
        If there is nothing to draw, a panel is unknown, or a model lacks it.
    """
    if not models:
        raise PropertyError("There is no model to draw.")
    values = {
        stage: one.quantities(stage) if isinstance(one, WaterResult) else one
        for stage, one in models.items()
    }
    first = next(iter(values.values()))
    if panels is None:
        panels = [name for name in PANELS if _curve_name(first, name) is not None]
    unknown = [name for name in panels if name not in PANELS]
    if unknown or not panels:
        raise PropertyError(f"Choose panels from {', '.join(PANELS)}, not {list(panels)}.")
    for stage, found in values.items():
        lacking = [name for name in panels if _curve_name(found, name) is None]
        if lacking:
            raise PropertyError(f"{stage} lacks {', '.join(lacking)}.")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = (COLUMN_WIDTH * columns, 0.85 * PANEL_HEIGHT * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    figure.set_dpi(150)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in grid[len(panels) :]:
        spare.remove()
    for axes, name in zip(grid, panels, strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
        PANELS[name](axes, values, models)
    handles = [Line2D([], [], **_style(k)) for k in range(len(models))]
    labels = [stage_label(stage) for stage in models]
    if "radial" in panels:
        axes = grid[list(panels).index("radial")]
        for k, (label, curve) in enumerate((references or {}).items()):
            _require(curve, "A", "1", label)
            style: dict[str, Any] = {"color": BLACK, "ls": LINES[k % len(LINES)], "lw": 1.0}
            axes.plot(curve.x, curve.y, **style)
            handles.append(Line2D([], [], **style))
            labels.append(label)
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=min(len(labels), 4),
        fontsize=8,
        frameon=False,
    )
    return figure


def _temperature(axes: Axes, values: Mapping[str, Values], _: Mapping[str, Any]) -> None:
    for k, (stage, found) in enumerate(values.items()):
        curve = _curve(found, "temperature", stage)
        axes.plot(curve.x, curve.y, color=COLORS[k % len(COLORS)], lw=0.5, alpha=0.25, zorder=1)
        half = max(1, round(SMOOTHED_OVER * len(curve.x) / 2))
        window = np.ones(2 * half + 1) / (2 * half + 1)
        smooth = np.convolve(curve.y, window, mode="valid")
        axes.plot(curve.x[half:-half], smooth, **_style(k))
    first = next(iter(values.values()))
    center = _number(first, "temperature_target", _number(first, "temperature_mean", None))
    sigma = _number(first, "temperature_sigma_canonical", None)
    if center is not None and sigma is not None:
        axes.axhspan(center - sigma, center + sigma, color="0.9", lw=0, zorder=0)
        axes.axhline(center, color="0.5", lw=0.8, zorder=0)
    axes.set_xlabel("Time (ps)")
    axes.set_ylabel("Temperature (K)")
    axes.margins(x=0.0)


def _radial(axes: Axes, values: Mapping[str, Values], _: Mapping[str, Any]) -> None:
    for k, (stage, found) in enumerate(values.items()):
        curve = _curve(found, "radial", stage)
        axes.plot(curve.x, curve.y, **_style(k))
    axes.axhline(1.0, color="0.6", lw=0.6, zorder=0)
    axes.set_xlim(2.0, None)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("O-O distance (Å)")
    axes.set_ylabel(r"$g_\mathrm{OO}$")


def _displacement(axes: Axes, values: Mapping[str, Values], models: Mapping[str, Any]) -> None:
    for k, (stage, found) in enumerate(values.items()):
        curve = _curve(found, "displacement", stage)
        axes.plot(curve.x, curve.y, **_style(k))
        model = models[stage]
        if isinstance(model, WaterResult) and model.diffusion.window_ps is not None:
            fit = model.diffusion
            lags = np.array(fit.window_ps)
            rate = 2 * fit.n_dimensions * (fit.D or 0.0) / A2_PER_PS_IN_CM2_PER_S
            axes.plot(lags, (fit.intercept or 0.0) + rate * lags, color=BLACK, lw=2.6, zorder=1.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    # Of a short run the lags span a decade or less, where matplotlib's labels overlap.
    longest, shortest = (f(axes.dataLim.intervalx) for f in (np.max, np.min))
    steps = (1.0, 2.0, 5.0) if longest < FEW_DECADES * shortest else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    flat = _curve_name(next(iter(values.values())), "displacement") == "msd_parallel"
    axes.set_xlabel("Time (ps)")
    axes.set_ylabel(("In-plane MSD" if flat else "MSD") + " of O (Å$^2$)")


def _angle(axes: Axes, values: Mapping[str, Values], _: Mapping[str, Any]) -> None:
    for k, (stage, found) in enumerate(values.items()):
        curve = _curve(found, "angle", stage)
        axes.plot(curve.x, 100.0 * curve.y, **_style(k))
    axes.set_xlim(*ANGLES)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("H-O-H angle (°)")
    axes.set_ylabel("Share (% per °)")


def _density(axes: Axes, values: Mapping[str, Values], _: Mapping[str, Any]) -> None:
    for k, (stage, found) in enumerate(values.items()):
        curve = _curve(found, "density", stage)
        axes.plot(curve.x, 1e3 * curve.y, **_style(k))
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.0)
    axes.set_xlabel("Height (Å)")
    axes.set_ylabel("O atoms (nm$^{-3}$)")


Draw = Callable[[Axes, Mapping[str, Values], Mapping[str, Any]], None]
PANELS: Mapping[str, Draw] = MappingProxyType(
    {
        "temperature": _temperature,
        "radial": _radial,
        "displacement": _displacement,
        "angle": _angle,
        "density": _density,
    }
)
"""Names of the panels."""
CURVES = {
    "temperature": (("temperature",), "ps", "K"),
    "radial": (("g_OO",), "A", "1"),
    "displacement": (("msd_parallel", "msd"), "ps", "A^2"),
    "angle": (("HOH_angle",), "deg", "1/deg"),
    "density": (("density_profile",), "A", "1/A^3"),
}


def _style(k: int) -> dict[str, Any]:
    return {"color": COLORS[k % len(COLORS)], "ls": LINES[k % len(LINES)], "lw": 1.4}


def _curve_name(found: Values, panel: str) -> str | None:
    names, _, _ = CURVES[panel]
    return next((name for name in names if isinstance(found.get(name), Curve)), None)


def _curve(found: Values, panel: str, stage: str) -> Curve:
    name = _curve_name(found, panel)
    curve = None if name is None else found[name]
    assert isinstance(curve, Curve)
    _require(curve, *CURVES[panel][1:], stage)
    return curve


def _number(found: Values, name: str, default: float | None) -> float | None:
    value = found.get(name)
    return value.value if isinstance(value, Quantity) else default


def _require(curve: Curve, x_unit: str, y_unit: str, what: str) -> None:
    if (curve.x_unit, curve.y_unit) != (x_unit, y_unit):
        raise PropertyError(
            f"The curve of {what} is in {curve.x_unit} and {curve.y_unit}; "
            f"{x_unit} and {y_unit} can be drawn here."
        )


__all__ = ["PANELS", "water_figure"]
