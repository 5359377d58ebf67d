"""Curvature of the training loss under the preconditioner of every optimizer, at one theta.

Two spectra are taken. That of the Gauss-Newton matrix under P is exact and complete for the chosen
rows: its nonzero eigenvalues are those of J P J^T. The true Hessian under P, with what is negative
in it, is seen through Lanczos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ase_finetune.curvature.filters import Filter, optimizer_filter
from ase_finetune.curvature.hessian import beyond_gauss_newton, hessian_views
from ase_finetune.curvature.metrics import RowSpectrum, SpectrumMetrics, visible_rank
from ase_finetune.curvature.outcome import CurvatureResult, OptimizerCurvature
from ase_finetune.curvature.preconditioners import Preconditioner
from ase_finetune.curvature.products import KINDS, LossProducts, energy_gradient, row_kinds
from ase_finetune.curvature.states import Decay
from ase_finetune.graphs import Graph
from ase_finetune.residuals import Residuals

Progress = Callable[[str, int, int], None]
BASELINE = "sgd"  # its P is the identity
METRICS = ("log10_kappa", "log10_median_ratio", "std_log10")
HALVES = 20
NORMAL = 1.96  # standard deviations in half of a 95 % interval


@dataclass(frozen=True)
class Candidate:
    """A preconditioner to look at.

    Attributes
    ----------
    name
        As in `filters.optimizer_filter`.
    P, decay
        As from `states.from_optimizer`.
    lr
        Its learning rate.
    options
        Over the registry's defaults, for the filter.
    steps
        That its state has seen.
    """

    name: str
    P: Preconditioner
    lr: float
    decay: Decay | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1


@dataclass(frozen=True)
class Property:
    """An energy difference: coefficients and structures.

    Attributes
    ----------
    terms
        Coefficients and graphs, whose sum of coefficient times energy is the property.
    unit
        Of the sum.
    """

    terms: Sequence[tuple[float, Graph]]
    unit: str


@dataclass(frozen=True)
class View:
    """Settings of `look`.

    Attributes
    ----------
    name
        ``same theta`` or ``trajectory``.
    steps
        T of the filters.
    lanczos, probes
        Products with the Hessian per process, and random processes per optimizer (0: no
        Hessian).
    seed
        Of probes and half samples.
    """

    name: str = "same theta"
    steps: int = 200
    lanczos: int = 16
    probes: int = 2
    seed: int = 1


def look(
    residuals: Residuals,
    J: torch.Tensor,
    rho: torch.Tensor,
    candidates: Sequence[Candidate],
    view: View,
    properties: Mapping[str, Property] | None = None,
    progress: Progress = lambda title, done, total: None,
) -> CurvatureResult:
    """Take the spectra of all candidates at the present parameters.

    Parameters
    ----------
    residuals
        Of the chosen frames.
    J, rho
        Their Jacobian and values there.
    candidates
        Preconditioners; one of them named `BASELINE` is the identity.
    view
        Settings.
    properties
        Energy differences by name.
    progress
        Called with a title and (done, total).
    """
    gradient = rho @ J
    graphs = [g for part in residuals.parts for g in part]
    values = {name: energy_gradient(residuals, p.terms) for name, p in (properties or {}).items()}
    active = (J.abs().amax(0) > 0.0).to(J.dtype)
    hessians = (
        hessian_views(LossProducts(residuals), candidates, gradient, active, view, progress)
        if view.probes
        else {}
    )
    beyond = (
        beyond_gauss_newton(LossProducts(residuals), J, active, view)
        if view.probes
        else (None, None)
    )
    rows = _Rows(
        graphs, residuals, J, rho, view, {name: found[1] for name, found in values.items()}
    )
    order = sorted(candidates, key=lambda c: c.name != BASELINE)
    results = {}
    for k, candidate in enumerate(order):
        results[candidate.name] = rows.describe(candidate, hessians.get(candidate.name))
        progress(f"spectra, {view.name}", k + 1, len(order))
    return CurvatureResult(
        view=view.name,
        loss=0.5 * float(rho.square().sum()),
        gradient_norm=float(gradient.norm()),
        frames=len(graphs),
        rows=len(rho),
        size=residuals.size,
        active=int(active.sum()),
        invisible=len(rho) - rows.rank,
        steps=view.steps,
        hessian_minus_gauss_newton=beyond[0],
        trace_beyond_gauss_newton=beyond[1],
        property_values={
            name: (value, (properties or {})[name].unit, rows.within[name])
            for name, (value, _) in values.items()
        },
        optimizers={c.name: results[c.name] for c in candidates},
        details={},
    )


class _Rows:
    """Spectra in row space; the baseline comes first and sets the rank."""

    def __init__(
        self,
        graphs: Sequence[Graph],
        residuals: Residuals,
        J: torch.Tensor,
        rho: torch.Tensor,
        view: View,
        properties: Mapping[str, torch.Tensor],
    ) -> None:
        self.J, self.rho, self.view, self.properties = J, rho, view, properties
        kinds = [row_kinds(part, residuals.loss) for part in residuals.parts]
        self.kinds = torch.cat(kinds)
        self.rank, self.within = 0, dict.fromkeys(properties, math.nan)
        self.kind_ranks: dict[str, int] = {}
        generator = torch.Generator().manual_seed(view.seed)
        half = max(1, len(graphs) // 2)
        places = residuals.places
        self.halves = [
            torch.cat(
                [places[int(i)] for i in torch.randperm(len(graphs), generator=generator)[:half]]
            )
            for _ in range(HALVES if len(graphs) > 1 else 0)
        ]
        self.half_ranks: list[int] = []
        self.base: SpectrumMetrics | None = None
        self.base_halves: list[SpectrumMetrics] = []

    def describe(self, candidate: Candidate, hessian: Any) -> OptimizerCurvature:
        B = candidate.P.transposed(self.J)
        spectrum = RowSpectrum.of(B)
        if self.rank == 0:
            self.rank = visible_rank(spectrum.eigenvalues)
        rank = self.rank
        metrics = SpectrumMetrics.of(spectrum.eigenvalues, rank)
        halves = self._halves(spectrum)
        if self.base is None:
            self.base, self.base_halves = metrics, halves
        gains = {name: getattr(self.base, name) - getattr(metrics, name) for name in METRICS}
        errors = {}
        for name in METRICS:
            own = [getattr(h, name) for h in halves]
            gain = [
                getattr(b, name) - value for b, value in zip(self.base_halves, own, strict=True)
            ]
            errors[name], errors[f"gain_{name}"] = _half_width(own), _half_width(gain)
        rule = optimizer_filter(candidate.name, candidate.options)
        threshold = rule.threshold()
        shares = spectrum.shares(self.rho).numpy()
        eigenvalues = spectrum.eigenvalues.numpy()
        effective = eigenvalues / rule.gain(candidate.steps)
        curve = np.abs(rule.curve(candidate.lr * effective, self.view.steps))
        best, left = _best_rate(rule, effective, shares, threshold, self.view.steps)
        return OptimizerCurvature(
            name=candidate.name,
            lr=candidate.lr,
            threshold=threshold,
            spectrum=metrics,
            errors=errors,
            gains=gains,
            terms=self._terms(spectrum),
            loss_left=_left(shares, curve),
            best_lr=best,
            loss_left_best=left,
            hessian=hessian,
            eigenvalues=eigenvalues,
            residual_shares=shares,
            filter=curve,
            properties=self._property_shares(candidate, spectrum, B),
        )

    def _halves(self, spectrum: RowSpectrum) -> list[SpectrumMetrics]:
        values = [spectrum.of_rows(rows) for rows in self.halves]
        if not self.half_ranks:
            self.half_ranks = [visible_rank(v) for v in values]
        return [SpectrumMetrics.of(v, r) for v, r in zip(values, self.half_ranks, strict=True)]

    def _terms(self, spectrum: RowSpectrum) -> dict[str, SpectrumMetrics]:
        found = {}
        for k, kind in enumerate(KINDS):
            rows = torch.nonzero(self.kinds == k).squeeze(1)
            if len(rows) == 0:
                continue
            values = spectrum.of_rows(rows)
            rank = self.kind_ranks.setdefault(kind, visible_rank(values))
            if rank:
                found[kind] = SpectrumMetrics.of(values, rank)
        return found

    def _property_shares(
        self, candidate: Candidate, spectrum: RowSpectrum, B: torch.Tensor
    ) -> dict[str, Any]:
        found = {}
        for name, gradient in self.properties.items():
            turned = candidate.P.transposed(gradient[None])[0]
            along = (spectrum.vectors.T @ (B @ turned))[: self.rank]
            shares = along.square() / spectrum.eigenvalues[: self.rank]
            found[name] = (shares / turned.square().sum()).numpy()
            if candidate.name == BASELINE:
                self.within[name] = float(found[name].sum())
        return found


def _half_width(samples: Sequence[float]) -> float:
    """Of a 95 % interval: over random half samples a statistic varies about as much as over
    samples of the full size (P. J. McCarthy, Rev. Int. Stat. Inst. 37, 239 (1969))."""
    return NORMAL * float(np.std(samples, ddof=1)) if len(samples) > 1 else math.nan


def _left(shares: np.ndarray, curve: np.ndarray) -> float:
    # What is in the null space stays: there h = 0 and the filter is 1.
    with np.errstate(over="ignore"):
        return float(np.sum(shares * curve**2))


def _best_rate(
    rule: Filter, eigenvalues: np.ndarray, shares: np.ndarray, threshold: float, steps: int
) -> tuple[float, float]:
    """The learning rate, up to the threshold, that leaves least of the linearized loss."""
    highest = (threshold if math.isfinite(threshold) else 1e3) / float(eigenvalues[0])
    rates = highest * np.geomspace(1e-4, 0.98, 80)
    left = [_left(shares, np.abs(rule.curve(lr * eigenvalues, steps))) for lr in rates]
    best = int(np.argmin(left))
    return float(rates[best]), float(left[best])
