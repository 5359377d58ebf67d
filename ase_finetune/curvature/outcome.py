"""Results of a curvature analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_finetune.curvature.lanczos import Density, Interval
from ase_finetune.curvature.metrics import SpectrumMetrics

Array = NDArray[np.float64]
BEFORE = "before"  # name of the view at a checkpoint before refinement


@dataclass(frozen=True)
class HessianView:
    """Of F^T H F with the true Hessian H, by Lanczos.

    Attributes
    ----------
    largest, smallest
        Extreme Ritz values, each with the bound of its distance to an eigenvalue.
    trace
        Hutchinson's.
    negative_share
        Sum of |eigenvalue| over the negative ones, as a share of that over all.
    sharpness
        d^T H d / |d|^2 along the step d = -P g.
    alignment
        Cosine between the step d and -g.
    density
        Quadrature nodes and weights.
    """

    largest: Interval
    smallest: Interval
    trace: Interval
    negative_share: Interval
    sharpness: float
    alignment: float
    density: Density


@dataclass(frozen=True)
class OptimizerCurvature:
    """What one optimizer makes of the curvature at one theta.

    Attributes
    ----------
    name
        In the registry, or ``lbfgs`` or ``lm``.
    lr
        Its learning rate.
    threshold
        Largest lr times eigenvalue that is stable.
    spectrum
        Of the Gauss-Newton matrix under P, exact for the chosen rows.
    errors
        Half widths of 95 % intervals by which frames were chosen: of log10_kappa,
        log10_median_ratio and std_log10, and of their differences to the unpreconditioned ones
        under ``gain_`` and the name.
    gains
        log10_kappa, log10_median_ratio and std_log10 without P minus with P; positive is better
        conditioned.
    terms
        Spectra of the energy, force and stress rows alone.
    loss_left
        Share of the linearized loss left after T steps at ``lr`` with P frozen; infinite if the
        recursion grows past the largest number.
    best_lr, loss_left_best
        The learning rate that leaves least, and what it leaves.
    hessian
        The same with the true Hessian, if asked for.
    eigenvalues, residual_shares, filter
        Per eigenvector: eigenvalue, share of |rho|^2, and |f_T| at ``lr``; shape (rows,).
    properties
        Name -> share of |F^T grad p|^2 along each eigenvector, shape (rank,).
    """

    name: str
    lr: float
    threshold: float
    spectrum: SpectrumMetrics
    errors: Mapping[str, float]
    gains: Mapping[str, float]
    terms: Mapping[str, SpectrumMetrics]
    loss_left: float
    best_lr: float
    loss_left_best: float
    hessian: HessianView | None
    eigenvalues: Array
    residual_shares: Array
    filter: Array
    properties: Mapping[str, Array]


@dataclass(frozen=True)
class ResidualMetrics:
    """How unevenly a residual lies along eigenvectors in descending order of eigenvalue.

    Attributes
    ----------
    effective_directions
        exp of the entropy of the shares; their number if all carry the same.
    soft_half
        Share along the half of the eigenvectors with the smaller eigenvalues; without preference
        it is one half.
    """

    effective_directions: float
    soft_half: float

    @classmethod
    def of(cls, shares: Array) -> ResidualMetrics:
        """Describe shares along visible eigenvectors, in descending order of eigenvalue."""
        p = shares / shares.sum()
        kept = p[p > 0.0]
        return cls(
            effective_directions=float(np.exp(-np.sum(kept * np.log(kept)))),
            soft_half=float(p[(len(p) + 1) // 2 :].sum()),
        )


@dataclass(frozen=True)
class CurvatureResult:
    """An analysis at one theta.

    Attributes
    ----------
    view
        ``same theta``, ``trajectory`` or ``before``: whose theta it is.
    loss, gradient_norm
        Of the chosen frames.
    frames, rows, size, active
        Frames, residuals, parameters, and those that act on a residual.
    invisible
        Rows without visible curvature: exact null space and directions below rounding.
    steps
        T of the filters.
    hessian_minus_gauss_newton
        Frobenius norm of H - J^T J over that of H.
    trace_beyond_gauss_newton
        Trace of H - J^T J; that of J^T J is the trace of ``sgd``'s spectrum.
    property_values
        Name -> (value, unit, share of |grad p|^2 in the span of the data's rows).
    optimizers
        By name; ``sgd`` is the one without preconditioner.
    details
        Settings, indices of frames, times.
    """

    view: str
    loss: float
    gradient_norm: float
    frames: int
    rows: int
    size: int
    active: int
    invisible: int
    steps: int
    hessian_minus_gauss_newton: Interval | None
    trace_beyond_gauss_newton: Interval | None
    property_values: Mapping[str, tuple[float, str, float]]
    optimizers: Mapping[str, OptimizerCurvature]
    details: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """Rows with visible curvature."""
        return self.rows - self.invisible

    def residual(self, optimizer: str) -> ResidualMetrics:
        """Where the residual lies among the visible eigenvectors under an optimizer's P."""
        return ResidualMetrics.of(self.optimizers[optimizer].residual_shares[: self.rank])
