"""Figures of a study, in the style of `properties.plot`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ase_finetune.study.plan import tuned_arms
from ase_finetune.study.statistics import BETTER, WORSE
from ase_finetune.study.tables import Condition, Study, figure_condition
from properties.plot import BLACK, COLORS, HATCHES, LINES

BASE = "adam"
# Blue, vermilion, gray: apart for people with color-blindness, and by hatch in print.
_LOOKS = {BETTER: (COLORS[0], HATCHES[0]), WORSE: (COLORS[1], HATCHES[1])}
_OTHER = ("0.75", "")


def figures(study: Study) -> dict[str, Figure]:
    """Return the figures by name: ratios to Adam in the test conditions, learning curves."""
    found = {}
    shown = [c for s in study.plan.base if (c := figure_condition(s)) in study.conditions(s)]
    inside = [c for s in study.plan.base if (c := Condition(s, "test_id")) in study.conditions(s)]
    for name, conditions in (("relative_to_adam", shown), ("relative_to_adam_id", inside)):
        figure = ratios(study, conditions)
        if figure is not None:
            found[name] = figure
    figure = learning_curves(study)
    if figure is not None:
        found["learning_curves"] = figure
    return found


def _panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(2, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[count:]:
        unused.remove()
    for one in axes[:count]:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes[:count]


def ratios(study: Study, conditions: Sequence[Condition]) -> Figure | None:
    """Draw force errors relative to Adam's as bars with paired-t intervals, one panel each.

    Returns
    -------
    Figure or None
        None where nothing was compared with Adam.
    """
    lines = {
        c: [
            one
            for one in study.comparisons
            if one.condition == c and one.family == f"against {BASE}" and one.paired.ratio
        ]
        for c in conditions
    }
    lines = {c: found for c, found in lines.items() if found}
    if not lines:
        return None
    longest = max(len(found) for found in lines.values())
    figure, panels = _panels(len(lines), 1.2 + 0.42 * longest, 2.9)
    for axes, (condition, found) in zip(panels, lines.items(), strict=True):
        for x, one in enumerate(found):
            paired = one.paired
            assert paired.ratio is not None
            color, hatch = _LOOKS.get(paired.verdict, _OTHER)
            axes.bar(x, paired.ratio - 1.0, 0.75, bottom=1.0, color=color, hatch=hatch,
                     edgecolor="white", lw=0.0)  # fmt: skip
            if paired.low is not None and paired.high is not None:
                axes.plot([x, x], [paired.low, paired.high], color=BLACK, lw=1.0)
        axes.axhline(1.0, color=BLACK, lw=0.8)
        axes.set_xticks(range(len(found)), [one.arm for one in found], rotation=60, ha="right",
                        rotation_mode="anchor")  # fmt: skip
        axes.set_title(condition.label, fontsize=9)
        axes.set_ylabel("Force RMSE / Adam's", fontsize=8)
    figure.supxlabel(
        "Blue: better, hatched orange: worse,\n"
        "gray: not distinguished, or failed or too few seeds; lines: 95 % paired t",
        fontsize=7,
    )
    return figure


def learning_curves(study: Study) -> Figure | None:
    """Draw the median validation force error over seeds against gradient equivalents.

    Returns
    -------
    Figure or None
        None where no evaluation is finished.
    """
    systems = [s for s in study.plan.base if any(_curve(study, s, a) for a in study.arms(s))]
    if not systems:
        return None
    figure, panels = _panels(len(systems), 3.8, 3.0)
    names = [arm.name for arm in tuned_arms(study.plan)]
    for axes, system in zip(panels, systems, strict=True):
        for k, name in enumerate(names):
            curve = _curve(study, system, name)
            if curve is not None:
                axes.plot(*curve, color=COLORS[k % len(COLORS)], lw=1.2, label=name,
                          ls=LINES[k // len(COLORS) % len(LINES)])  # fmt: skip
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(system, fontsize=9)
        axes.set_xlabel("Gradient equivalents", fontsize=8)
        axes.set_ylabel("Validation force RMSE (meV/Å)", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def _curve(study: Study, system: str, arm: str) -> tuple[np.ndarray, np.ndarray] | None:
    curves = [
        np.array(row["curve"], dtype=float)
        for row in study.of(system, arm).values()
        if row["outcome"] == "ok" and row.get("curve") and row["run"].get("refine") is None
    ]
    if not curves:
        return None
    length = min(len(curve) for curve in curves)
    stacked = np.array([curve[:length] for curve in curves])
    return stacked[0, :, 0], np.median(stacked[:, :, 1], axis=0)
