"""Figures of the properties: one function each, one style, no global matplotlib state.

Every function returns a `matplotlib.figure.Figure` made without pyplot, so that nothing is left
open and no display is needed. Colors are those of M. Okabe and K. Ito (2008), which people with
color-blindness tell apart; markers, line styles and hatches differ too, for print in gray.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from properties.errors import PropertyError
from properties.quantity import Comparison, Curve

BLACK = "#000000"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)))
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "++")
COLUMN_WIDTH = 3.4
PANEL_HEIGHT = 2.7

NAMES = {
    "a0": r"$a_0$",
    "a0_eos": r"$a_0$ (EOS)",
    "bulk_modulus_eos": r"$B$ (EOS)",
    "bulk_modulus_vrh": r"$B$",
    "shear_modulus_vrh": r"$G$",
    "youngs_modulus_vrh": r"$E$",
    "poisson_ratio_vrh": r"$\nu$ (VRH)",
    "poisson_ratio_100": r"$\nu_{100}$",
}
UNITS = {
    "J/m^2": r"J/m$^2$",
    "A": "Å",
    "A^3/atom": "Å$^3$/atom",
    "A^2/atom": "Å$^2$/atom",
}


def elastic_errors(
    comparisons: Mapping[str, Mapping[str, Comparison]],
    *,
    names: Sequence[str] | None = None,
    target: float | None = None,
) -> Figure:
    """Draw relative errors of elastic constants and other numbers as grouped bars.

    Parameters
    ----------
    comparisons : mapping of str to mapping of str to Comparison
        Per stage or model (one color each) the output of `compare`. Curves are left out.
    names : sequence of str, optional
        Quantities in order; by default all numbers of the first stage.
    target : float, optional
        Relative error to aim for, drawn as a gray band on either side of zero.

    Returns
    -------
    Figure

    Raises
    ------
    PropertyError
        If there is nothing to draw, or a stage lacks one of the names.
    """
    if not comparisons:
        raise PropertyError("There is no stage to draw.")
    first = next(iter(comparisons.values()))
    chosen = [name for name, one in first.items() if one.rmse is None] if names is None else names
    if not chosen:
        raise PropertyError("There is no number to draw.")
    for stage, found in comparisons.items():
        lacking = [name for name in chosen if name not in found]
        if lacking:
            raise PropertyError(f"Stage {stage} lacks {', '.join(lacking)}.")
    count = len(comparisons)
    width = max(COLUMN_WIDTH, 0.8 + 0.28 * len(chosen) * (count + 1))
    figure, (axes,) = _figure(1, width)
    if target is not None:
        axes.axhspan(-100 * target, 100 * target, color="0.9", zorder=0, lw=0)
    bar = 0.8 / count
    for k, (stage, found) in enumerate(comparisons.items()):
        errors = [_percent(found[name]) for name in chosen]
        places = np.arange(len(chosen)) + (k - (count - 1) / 2) * bar
        drawn = axes.bar(
            places,
            errors,
            0.92 * bar,
            color=COLORS[k % len(COLORS)],
            hatch=HATCHES[k % len(HATCHES)],
            edgecolor="white",
            linewidth=0.0,
            label=stage_label(stage),
        )
        axes.bar_label(
            drawn, labels=[f"{e:+.1f}" for e in errors], fontsize=7, padding=1.5, rotation=90
        )
    axes.axhline(0.0, color=BLACK, lw=0.8)
    axes.set_xticks(np.arange(len(chosen)), [_name(name) for name in chosen])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("Error (%)")
    axes.margins(y=0.22)
    _legend(figure, axes)
    return figure


def gsfe_curves(
    panels: Mapping[str, Mapping[str, Curve]],
    references: Mapping[str, Mapping[str, Curve]],
) -> Figure:
    """Draw GSFE curves of several stages beside the reference points.

    Parameters
    ----------
    panels : mapping of str to mapping of str to Curve
        Per panel title, for example ``"{110} rigid"``, the curves by stage or model.
    references : mapping of str to mapping of str to Curve
        Per panel title, reference points by their name in the legend; may lack panels.

    Returns
    -------
    Figure

    Raises
    ------
    PropertyError
        If there is no panel, or curves are not in units of b and J/m^2.
    """
    if not panels:
        raise PropertyError("There is no GSFE curve to draw.")
    figure, all_axes = _figure(len(panels), COLUMN_WIDTH, share_y=True)
    # A panel may lack a reference, whose marker must not pass to the next one.
    labels = dict.fromkeys(label for found in references.values() for label in found)
    markers = dict(zip(labels, itertools.cycle(MARKERS), strict=False))
    for axes, (title, curves) in zip(all_axes, panels.items(), strict=True):
        for k, (stage, curve) in enumerate(curves.items()):
            _require_units(curve, "b", "J/m^2", title)
            fine = np.linspace(curve.x[0], curve.x[-1], 201)
            color = COLORS[k % len(COLORS)]
            axes.plot(
                fine,
                curve.at(fine),
                ls=LINES[k % len(LINES)],
                color=color,
                label=stage_label(stage),
            )
        for label, reference in references.get(title, {}).items():
            _require_units(reference, "b", "J/m^2", title)
            axes.plot(
                reference.x,
                reference.y,
                markers[label],
                ls="none",
                ms=4.5,
                mfc="white",
                mec=BLACK,
                mew=1.0,
                label=label,
                clip_on=False,
                zorder=5,
            )
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(r"Displacement ($b$)")
        axes.set_xlim(0.0, 1.0)
        axes.axhline(0.0, color="0.6", lw=0.6, zorder=0)
    for axes in all_axes[::2]:
        axes.set_ylabel(r"$\gamma$ (J/m$^2$)")
    _legend(figure, *all_axes)
    return figure


def equation_of_state(curves: Mapping[str, Curve]) -> Figure:
    """Draw energy against volume per atom, each curve from its own minimum.

    Parameters
    ----------
    curves : mapping of str to Curve
        By stage or model; from ``LatticeResult.quantities(source)["eos"]`` or a reference.
        A key ``"DFT"`` is drawn as points.

    Returns
    -------
    Figure

    Raises
    ------
    PropertyError
        If there is no curve or their units differ.
    """
    if not curves:
        raise PropertyError("There is no equation of state to draw.")
    figure, (axes,) = _figure(1, COLUMN_WIDTH)
    unit = next(iter(curves.values())).x_unit
    k = 0
    for stage, curve in curves.items():
        _require_units(curve, unit, "eV/atom", stage)
        fine = np.linspace(curve.x[0], curve.x[-1], 401)
        lowest = curve.at(fine).min()
        if stage == "DFT":
            style: dict[str, Any] = {"color": BLACK, "marker": "o", "mfc": "white", "zorder": 5}
        else:
            color, marker = COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)]
            style = {"color": color, "marker": marker}
            axes.plot(fine, 1e3 * (curve.at(fine) - lowest), color=color, ls=LINES[k % len(LINES)])
            k += 1
        # The line is drawn above; this entry shows the points and names them.
        axes.plot(
            curve.x, 1e3 * (curve.y - lowest), ls="none", ms=4, label=stage_label(stage), **style
        )
    size = "Area" if unit.startswith("A^2") else "Volume"
    axes.set_xlabel(f"{size} ({UNITS.get(unit, unit)})")
    axes.set_ylabel(r"$E - E_\mathrm{min}$ (meV/atom)")
    axes.set_ylim(bottom=0.0 - 0.04 * axes.get_ylim()[1])
    _legend(figure, axes)
    return figure


def _figure(n_panels: int, width: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    columns = min(n_panels, 2)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(width * columns, PANEL_HEIGHT * rows + 0.3), layout="constrained")
    figure.set_dpi(150)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    flat: list[Axes] = list(grid.flat)
    for spare in flat[n_panels:]:
        spare.remove()
    for axes in flat[:n_panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    return figure, flat[:n_panels]


def _legend(figure: Figure, *all_axes: Axes) -> None:
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper center",
        ncols=min(len(entries), 4),
        fontsize=8,
        frameon=False,
        handlelength=2.2,
        columnspacing=1.2,
    )


def _percent(comparison: Comparison) -> float:
    if comparison.relative_error is None or comparison.rmse is not None:
        raise PropertyError(
            f"{comparison.name} has no relative error to draw as a bar; leave it out of names."
        )
    return 100.0 * comparison.relative_error


def _name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    if len(name) == 3 and name[0] == "C" and name[1:].isdigit():
        return f"$C_{{{name[1:]}}}$"
    return name.replace("_", " ")


def stage_label(stage: str) -> str:
    """Return the name of a stage as figures show it."""
    return stage.replace("zero_shot", "zero-shot").replace("finetuned", "fine-tuned")


def _require_units(curve: Curve, x_unit: str, y_unit: str, what: str) -> None:
    if (curve.x_unit, curve.y_unit) != (x_unit, y_unit):
        raise PropertyError(
            f"The curve of {what} is in {curve.x_unit} and {curve.y_unit}; "
            f"{x_unit} and {y_unit} can be drawn here."
        )


__all__ = ["COLORS", "elastic_errors", "equation_of_state", "gsfe_curves"]
