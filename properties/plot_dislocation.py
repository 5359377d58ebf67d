"""Figure of a screw dislocation, seen along its line."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from properties.dislocation import ScrewResult
from properties.plot import BLACK, COLORS, COLUMN_WIDTH

VIEW = 10.0  # A, half the edge of the picture
FILLS = ("#ffffff", "#c8c8c8", "#7f7f7f")  # by height in the perfect crystal
SMALLEST = 0.02  # b, arrows below this are left out


def screw_core(result: ScrewResult, *, view: float = VIEW) -> Figure:
    """Draw the core of a screw dislocation as a differential-displacement (Vitek) map.

    Parameters
    ----------
    result : ScrewResult
    view : float
        A, half the edge of the square that is shown, around the core.

    Returns
    -------
    Figure
        Columns of atoms as circles, filled by their height in the perfect crystal; those without
        bcc surroundings with a thick rim; between neighbouring columns an arrow as long as the
        columns are apart for a differential displacement of b/3; a cross where the core is.
    """
    side = 1.2 * COLUMN_WIDTH
    figure = Figure(figsize=(side, 1.12 * side), layout="constrained")
    axes = figure.add_subplot()
    places = result.bulk.positions[:, :2] - result.core_center
    level = np.round(3 * result.bulk.positions[:, 2] / result.burgers - 0.5).astype(int) % 3
    disturbed = np.isin(np.arange(len(places)), result.core_atoms)
    shown = np.abs(places).max(axis=1) < 1.15 * view
    start, step = _arrows(result, places)
    axes.quiver(
        *start.T,
        *step.T,
        angles="xy",
        scale_units="xy",
        scale=1.0,
        width=0.006,
        headwidth=4.0,
        headlength=4.5,
        headaxislength=4.0,
        color=COLORS[0],
        zorder=2,
    )
    for which, rim, width in ((~disturbed, BLACK, 0.7), (disturbed, COLORS[1], 2.0)):
        chosen = shown & which
        axes.scatter(
            places[chosen, 0],
            places[chosen, 1],
            s=36,
            c=[FILLS[i] for i in level[chosen]],
            edgecolors=rim,
            linewidths=width,
            zorder=3,
            label="no bcc surroundings" if rim != BLACK and chosen.any() else None,
        )
    axes.plot(0.0, 0.0, "x", color=BLACK, markersize=7, markeredgewidth=1.5, zorder=4, label="core")
    axes.set(
        xlim=(-view, view),
        ylim=(-view, view),
        aspect="equal",
        xlabel="Å along [11$\\bar{2}$]",
        ylabel="Å along [$\\bar{1}$10]",
        title=f"{result.kind} core, polarity {abs(result.polarity):.3f}",
    )
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _arrows(
    result: ScrewResult, places: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where arrows start and what they span, shape (n, 2) each, A."""
    kept = np.abs(result.differential) > SMALLEST
    pairs, share = result.pairs[kept], 3.0 * result.differential[kept]
    # An arrow points to the column that moved up the line.
    turned = np.where(share[:, None] > 0, pairs, pairs[:, ::-1])
    share = np.abs(share)[:, None]
    middle = places[turned].mean(axis=1)
    span = share * (places[turned[:, 1]] - places[turned[:, 0]])
    return middle - span / 2, span
