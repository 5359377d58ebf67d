"""Figures of a curvature analysis; no pyplot, so that nothing needs a display.

Colors of M. Okabe and K. Ito (2008) with line styles that differ too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ase_finetune.curvature.outcome import BEFORE, CurvatureResult

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
PLAIN: dict[str, Any] = {"color": "black", "ls": "-", "lw": 1.8, "zorder": 5}
WIDTH, HEIGHT = 5.4, 3.6
FLOOR = 1e-6  # errors below it are as good as gone
CEILING = 10.0


def write_figures(folder: Path, results: Iterable[CurvatureResult]) -> list[Path]:
    """Draw every figure of every view into a folder; return the files."""
    written = []
    views = list(results)
    before = [r for r in views if r.view == BEFORE]
    for result in views:
        if result.view == BEFORE:
            continue
        stem = result.view.replace(" ", "_")
        if result.details.get("run"):
            stem = f"{stem}_{result.details['run']}"
        for name, draw in FIGURES.items():
            figure = draw(result)
            if figure is not None:
                path = folder / f"{name}_{stem}.png"
                figure.savefig(path, dpi=200)
                written.append(path)
    for result in before:
        written.append(folder / "refinement.png")
        refinement(result, views[0]).savefig(written[-1], dpi=200)
    return written


def conditioning(result: CurvatureResult) -> Figure:
    """Draw the condition number, the median ratio and the anisotropy under every optimizer."""
    names = list(result.optimizers)
    figure = Figure(figsize=(1.6 * WIDTH, 0.27 * len(names) + 1.3), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    titles = {
        "log10_kappa": r"log$_{10}$ $\lambda_1/\lambda_r$",
        "log10_median_ratio": r"log$_{10}$ $\lambda_1/\lambda_{r/2}$",
        "std_log10": r"std of log$_{10}$ $\lambda$",
    }
    y = np.arange(len(names))[::-1]
    for axes, (metric, title) in zip(panels, titles.items(), strict=True):
        values = [getattr(result.optimizers[n].spectrum, metric) for n in names]
        # The error that matters is that of the difference to sgd, on the same frames.
        errors = [result.optimizers[n].errors[f"gain_{metric}"] for n in names]
        axes.errorbar(values, y, xerr=errors, fmt="o", ms=4, color=COLORS[0], capsize=2, lw=1.0)
        if "sgd" in names:
            axes.axvline(values[names.index("sgd")], color="0.5", lw=0.8, ls=(0, (3, 3)), zorder=0)
        axes.set_xlabel(title)
        axes.set_yticks(y, names)
    return figure


def spectra(result: CurvatureResult) -> Figure:
    """Draw the eigenvalues of J P J^T, relative to the largest, in descending order."""
    figure, axes = _panel()
    rank = result.rank
    lines = {n: o.eigenvalues[:rank] / o.eigenvalues[0] for n, o in result.optimizers.items()}
    for label, values, style in _merged(lines):
        axes.plot(np.arange(1, rank + 1), values, label=label, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("Rank of eigenvalue")
    axes.set_ylabel(r"$\lambda_i/\lambda_1$ of $J P J^T$")
    _legend(figure, axes)
    return figure


def filters(result: CurvatureResult) -> Figure:
    """Draw which share of an error is left along every eigenvector."""
    figure, axes = _panel()
    rank = result.rank
    lines = {n: np.clip(o.filter[:rank], FLOOR, CEILING) for n, o in result.optimizers.items()}
    for label, left, style in _merged(lines):
        axes.plot(np.arange(1, rank + 1), left, label=label, **style)
    axes.axhline(1.0, color="0.6", lw=0.8, ls=(0, (3, 3)), zorder=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 1.5, CEILING * 1.5)
    axes.set_xlabel("Rank of eigenvalue")
    axes.set_ylabel(f"|Error left| after {result.steps} steps")
    _legend(figure, axes)
    return figure


def residuals(result: CurvatureResult) -> Figure:
    """Draw how much of the loss lies along the leading eigenvectors."""
    figure, axes = _panel()
    rank = result.rank
    lines = {n: np.cumsum(o.residual_shares[:rank]) for n, o in result.optimizers.items()}
    for label, values, style in _merged(lines):
        axes.plot(np.arange(1, rank + 1), values, label=label, **style)
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("Leading eigenvectors of $J P J^T$")
    axes.set_ylabel("Share of the loss along them")
    _legend(figure, axes)
    return figure


def properties(result: CurvatureResult) -> Figure | None:
    """Draw which share of each property's squared gradient, and of the loss, lies along the leading
    eigenvectors."""
    plain = result.optimizers.get("sgd")
    if plain is None or not plain.properties:
        return None
    figure, axes = _panel()
    for k, (name, shares) in enumerate(plain.properties.items()):
        axes.plot(
            np.arange(1, len(shares) + 1),
            np.cumsum(shares),
            color=COLORS[k % len(COLORS)],
            ls=DASHES[k // len(COLORS) % len(DASHES)],
            lw=1.4,
            label=name,
        )
    loss = np.cumsum(plain.residual_shares[: result.rank])
    axes.plot(np.arange(1, len(loss) + 1), loss, label="loss (residuals)", **PLAIN)
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("Leading eigenvectors of $J^T J$")
    axes.set_ylabel("Share along leading eigenvectors")
    _legend(figure, axes)
    return figure


def refinement(before: CurvatureResult, after: CurvatureResult) -> Figure:
    """Draw what of the loss lies along eigenvectors of J J^T of every size, before and after."""
    figure, axes = _panel()
    highest = 0.0
    for k, (label, result) in enumerate((("before", before), ("after", after))):
        plain = result.optimizers["sgd"]
        logs = np.log10(plain.eigenvalues[: result.rank] / plain.eigenvalues[0])
        lost = result.loss * plain.residual_shares[: result.rank]
        edges = np.arange(min(np.floor(logs.min()), -1.0), 1.0)
        heights = np.histogram(logs, edges, weights=lost)[0]
        highest = max(highest, float(heights.max()))
        metrics = result.residual("sgd")
        axes.stairs(
            heights,
            10.0**edges,
            color=COLORS[k],
            lw=1.6,
            label=f"{label}: loss {result.loss:.3g},\n"
            f"{metrics.effective_directions:.0f} directions,\n"
            f"{metrics.soft_half:.0%} in the softer half",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(1e-4 * highest, 2.0 * highest)
    axes.set_xlabel(r"$\lambda_i/\lambda_1$ of $J J^T$, by decade")
    axes.set_ylabel("Loss along these eigenvectors")
    _legend(figure, axes)
    return figure


def hessian(result: CurvatureResult) -> Figure | None:
    """Draw the smoothed share of true Hessian eigenvalues beyond a size, either sign."""
    shown = {n: o.hessian for n, o in result.optimizers.items() if o.hessian is not None}
    if not shown:
        return None
    figure = Figure(figsize=(1.5 * WIDTH, HEIGHT), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    x = np.logspace(-8, 0, 400)
    lines = {}
    for name, view in shown.items():
        at = torch.from_numpy(x * view.largest.value)
        below = view.density.cumulative(-at).numpy()
        lines[name] = np.concatenate([below, 1.0 - view.density.cumulative(at).numpy()])
    for label, values, style in _merged(lines):
        left.plot(x, values[: len(x)], label=label, **style)
        right.plot(x, values[len(x) :], label=label, **style)
    for axes, title in ((left, "negative"), (right, "positive")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(1e-7, 1.2)
        axes.set_xlabel(r"$|\lambda|/\lambda_1$, " + title)
    left.invert_xaxis()
    left.set_ylabel("Share of eigenvalues beyond")
    _legend(figure, right)
    return figure


FIGURES: dict[str, Callable[[CurvatureResult], Figure | None]] = {
    "conditioning": conditioning,
    "spectra": spectra,
    "filters": filters,
    "residuals": residuals,
    "properties": properties,
    "hessian": hessian,
}


def _merged(
    lines: dict[str, np.ndarray],
) -> list[tuple[str, np.ndarray, dict[str, Any]]]:
    """Labels, values and styles; optimizers whose lines coincide share one."""
    groups: list[list[str]] = []
    for name, values in lines.items():
        same = (g for g in groups if np.allclose(lines[g[0]], values, rtol=1e-3, atol=1e-12))
        group = next(same, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    found, k = [], 0
    for group in groups:
        if "sgd" in group:
            style = PLAIN
        else:
            style = {"color": COLORS[k % len(COLORS)], "ls": DASHES[k // len(COLORS)], "lw": 1.3}
            k += 1
        label = ",\n".join(", ".join(group[i : i + 2]) for i in range(0, len(group), 2))
        found.append((label, lines[group[0]], style))
    return found


def _panel() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
