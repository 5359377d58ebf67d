"""Figures of the report that are not about properties: learning curves and parity plots.

Same style as `properties.plot`: one panel per figure, so that a narrow page can stack them, no
pyplot, colors of M. Okabe and K. Ito (2008) with different markers and line styles.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

from ase_finetune.report.tables import STAGES, stage_label, unit_text
from properties.plot import BLACK, COLORS, LINES, MARKERS
from properties.quantity import Curve

WIDTH, HEIGHT = 4.2, 3.3
PICTURE_DPI = 200  # of the pictures that a run stores
DENSE = 60  # points of a reference, from where it is drawn as a line
AXES = {"deg": "Angle", "meV": "Energy", "cm^-1": "Wavenumber"}  # by unit


def learning_curve(
    log: Sequence[Mapping[str, Any]], column: str, label: str, *, before: float | None = None
) -> Figure:
    """Draw one column of the log against the gradient equivalents spent, on a log scale.

    Parameters
    ----------
    log : sequence of mapping
        Rows with ``stage``, ``gradient_equivalents`` (counted from the start of the stage) and
        `column`, in order.
    column, label : str
        What to draw, and its axis label with unit.
    before : float, optional
        The value before training, drawn at zero.

    Returns
    -------
    Figure
        The lowest point of each stage is circled.
    """
    figure, axes = _panel()
    if before is not None:
        axes.plot(0.0, before, marker=MARKERS[0], ms=5, ls="none", label="zero-shot",
                  color=COLORS[0], clip_on=False)  # fmt: skip
    offset = 0.0
    for stage in dict.fromkeys(str(row["stage"]) for row in log):
        rows = [row for row in log if row["stage"] == stage]
        x = offset + np.array([float(row["gradient_equivalents"]) for row in rows])
        y = np.array([float(row[column]) for row in rows])
        k = _style_index(stage)
        axes.plot(x, y, color=COLORS[k], ls=LINES[0], lw=1.4, label=stage_label(stage))
        if np.isfinite(y).any():
            lowest = int(np.nanargmin(y))
            axes.plot(x[lowest], y[lowest], "o", ms=6, mfc="none", mec=BLACK, mew=0.9, zorder=5)
        if offset > 0.0:
            axes.axvline(offset, color="0.6", lw=0.8, ls=(0, (3, 3)), zorder=0)
        offset = float(x[-1])
    _plain_log(axes)
    axes.set_xlabel("Gradient equivalents")
    axes.set_ylabel(label)
    _legend(figure, axes)
    return figure


def learning_curves(
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    column: str,
    label: str,
    *,
    before: Mapping[str, float | None],
) -> Figure:
    """Draw one column of several logs against the gradient equivalents spent, on a log scale.

    Parameters
    ----------
    logs : mapping of str to sequence of mapping
        By run, as for :func:`learning_curve`.
    column, label : str
        What to draw, and its axis label with unit.
    before : mapping of str to float or None
        The value before training by run, drawn at zero if known.

    Returns
    -------
    Figure
        A short upright line marks where a run's refinement begins, a circle its lowest point.
    """
    figure, axes = _panel()
    for k, (run, log) in enumerate(logs.items()):
        start = before.get(run)
        x, y = ([], []) if start is None else ([0.0], [start])
        offset, joints = 0.0, []
        for stage in dict.fromkeys(str(row["stage"]) for row in log):
            rows = [row for row in log if row["stage"] == stage]
            if offset > 0.0:
                joints.append(len(x) - 1)
            x += [offset + float(row["gradient_equivalents"]) for row in rows]
            y += [float(row[column]) for row in rows]
            offset = x[-1]
        color = COLORS[k % len(COLORS)]
        axes.plot(x, y, color=color, ls=LINES[k // len(COLORS) % len(LINES)], lw=1.4, label=run)
        axes.plot([x[i] for i in joints], [y[i] for i in joints], "|", ms=9, color=color)
        if np.isfinite(y).any():
            lowest = int(np.nanargmin(y))
            axes.plot(x[lowest], y[lowest], "o", ms=6, mfc="none", mec=color, mew=0.9, zorder=5)
    _plain_log(axes)
    axes.set_xlabel("Gradient equivalents")
    axes.set_ylabel(label)
    columns = max(1, min(4, 60 // (max(map(len, logs)) + 6)))
    figure.set_figheight(HEIGHT + 0.16 * (len(logs) // columns))
    _legend(figure, axes, columns)
    return figure


def parity(
    pairs: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], label: str, unit: str
) -> Figure:
    """Draw predictions against labels.

    Parameters
    ----------
    pairs : mapping of str to (ndarray, ndarray)
        Labels and predictions of the same shape, by stage; pairs with a NaN are left out.
    label, unit : str
        Of the quantity.

    Returns
    -------
    Figure
        Points are drawn as pixels, so that many of them do not make the file large.
    """
    figure, axes = _panel()
    low, high = np.inf, -np.inf
    for rank, (stage, (reference, prediction)) in enumerate(pairs.items()):
        x, y = np.ravel(reference), np.ravel(prediction)
        known = np.isfinite(x) & np.isfinite(y)
        x, y = x[known], y[known]
        if x.size == 0:
            continue
        low, high = min(low, x.min(), y.min()), max(high, x.max(), y.max())
        k = _style_index(stage)
        size = 20.0 if x.size < 100 else 7.0
        axes.scatter(x, y, size, color=COLORS[k], marker=MARKERS[k], alpha=0.65, lw=0.0,
                     label=stage_label(stage), rasterized=True,
                     zorder=2 + rank)  # fmt: skip
    if not np.isfinite(high - low):
        low, high = -1.0, 1.0
    margin = 0.05 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.35", lw=0.8, zorder=1)
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"DFT {label} ({unit})")
    axes.set_ylabel(f"Predicted {label} ({unit})")
    _legend(figure, axes)
    return figure


def curves(found: Mapping[str, Curve], reference: Curve | None) -> Figure:
    """Draw one property's curve at every stage, and the points of its reference.

    Parameters
    ----------
    found : mapping of str to Curve
        By stage or run, in one pair of units.
    reference : Curve, optional
        Drawn in black, labelled DFT: points, or lines if there are many.
    """
    figure, axes = _panel()
    if reference is not None:
        dense = len(reference.x) > DENSE
        style = {"lw": 1.0} if dense else {"ls": "none", "marker": "o", "ms": 4, "zorder": 3}
        axes.plot(reference.x, reference.y, color=BLACK, **style, label=_once("DFT", reference))
    for position, (stage, curve) in enumerate(found.items()):
        # Runs that are compared have no place of their own among the stages.
        k = _style_index(stage) if stage in STAGES else position % len(COLORS)
        axes.plot(curve.x, curve.y, color=COLORS[k], ls=LINES[k % len(LINES)], lw=1.2,
                  label=_once(stage_label(stage), curve))  # fmt: skip
    shown = next(iter(found.values()))
    for put, unit in ((axes.set_xlabel, shown.x_unit), (axes.set_ylabel, shown.y_unit)):
        text = unit_text(unit)
        put(f"{AXES[unit]} ({text})" if unit in AXES else text)
    _legend(figure, axes)
    return figure


def _once(label: str, curve: Curve) -> str | list[str]:
    """Return a label for the first of several branches; matplotlib leaves out those with "_"."""
    return label if curve.y.ndim == 1 else [label, *["_"] * (curve.y.shape[1] - 1)]


def _plain_log(axes: Axes) -> None:
    axes.set_yscale("log")
    # A plain "60" where the range is short; powers of ten alone would leave one tick or none.
    axes.yaxis.set_major_formatter(_PlainLogFormatter(labelOnlyBase=False))
    axes.yaxis.set_minor_formatter(
        _PlainLogFormatter(labelOnlyBase=False, minor_thresholds=(2.0, 0.6))
    )
    axes.tick_params(axis="y", which="minor", labelsize=7)


class _PlainLogFormatter(LogFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def fit_page(figure: Figure) -> Figure:
    """Give a figure of one panel the size of those drawn here; the page has its title."""
    figure.set_size_inches(WIDTH, HEIGHT)
    figure.axes[0].set_title("")
    return figure


def add_unreferenced(figure: Figure, curves: Mapping[str, Curve], order: Sequence[str]) -> None:
    """Add thin dotted curves by stage to a figure of one panel, in the color of their stage.

    Parameters
    ----------
    figure : Figure
        From `properties.plot.gsfe_curves` with one panel.
    curves : mapping of str to Curve
        By stage or run; those that the panel does not show are left out.
    order : sequence of str
        The stages or runs in the order in which the panel shows them.
    """
    axes = figure.axes[0]
    for k, curve in ((order.index(name), curves[name]) for name in order if name in curves):
        fine = np.linspace(curve.x[0], curve.x[-1], 201)
        axes.plot(fine, curve.at(fine), color=COLORS[k % len(COLORS)], lw=0.8, ls=(0, (1, 1.5)))


def image(figure: Figure) -> dict[str, Any]:
    """Return the figure as an SVG data URI, and its width in CSS pixels."""
    buffer = io.BytesIO()
    # Fixed, so that the same run gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "ase-finetune"}):
        figure.savefig(buffer, format="svg", dpi=180, metadata={"Date": None, "Creator": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"src": f"data:image/svg+xml;base64,{data}", "width": round(96 * figure.get_figwidth())}


def entry(figure: Figure, title: str, alt: str) -> dict[str, Any]:
    """Return what the template shows of a figure: image, width, title and text instead."""
    return {**image(figure), "title": title, "alt": alt}


def picture(path: Path) -> dict[str, Any]:
    """Return a stored PNG as a data URI, and its width in CSS pixels."""
    from matplotlib.image import imread

    data = base64.b64encode(path.read_bytes()).decode("ascii")
    width = round(96 * imread(path).shape[1] / PICTURE_DPI)
    return {"src": f"data:image/png;base64,{data}", "width": width}


def _style_index(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    return figure, axes


def _legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8,
                      markerscale=1.4, frameon=False, handlelength=1.6,
                      columnspacing=1.2)  # fmt: skip


__all__ = [
    "add_unreferenced",
    "curves",
    "entry",
    "fit_page",
    "image",
    "learning_curve",
    "learning_curves",
    "parity",
    "picture",
]
