"""Levenberg-Marquardt steps for a loss that is half a sum of squares.

At theta with residuals rho and Jacobian J, the step delta minimizes

    |rho + J delta|^2 / 2 + p |theta - theta_0 + delta|^2 / 2 + mu |delta|^2 / 2

with proximal weight p and damping mu. Without proximal term the damping can be scaled, to
mu |D^(s/2) delta|^2 / 2 with D the diagonal of J^T J at the start over its largest entry: s = 0 is
Levenberg's damping, s = 1 Marquardt's. It follows the gain ratio, actual over predicted decrease,
by Nielsen's rule; a step that does not lower the loss is taken back. A stored Jacobian serves many
steps: Broyden's update makes it agree with each change of the residuals that was seen, for the
cost of an evaluation (secant version of the method: K. Madsen, H. B. Nielsen, O. Tingleff, Methods
for Non-Linear Least Squares Problems, 2nd ed., Technical University of Denmark, 2004, sections 3.2
and 3.5). When a new one pays is decided by :class:`LevenbergMarquardt`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ase_finetune.gauss_newton import KrylovSpace, LeastSquares, SecantModel

# Gradient equivalents (one is loss and gradient of the whole training set), measured on one core
# with the bundled seed, on 32 cells of molybdenum and on 71 molecules of 15 atoms: see
# examples/benchmarks/refinement.py. A row holds its share of the Gram matrix; a step holds the
# evaluation and the products with the stored Jacobian.
ROW_COST = 1.8  # of one frame's share of a gradient
STEP_COST = 1.0
EVALUATION_COST = 0.5
PRODUCT_COST = 2.5
# A fresh Jacobian is exact: then a rejected step is only too long, and mu must grow until one is
# taken. After updates it may be the Jacobian that is wrong.
MOST_REJECTIONS = 4
# Parameters that hardly act would be scaled by any factor: D / max(D) is kept above this.
SMALLEST_DIAGONAL = 1e-6
ROUNDING = 1e-15  # of the loss: no decrease below it can be seen
BUDGET, STATIONARY = "budget spent", "no further decrease predicted"


@dataclass(frozen=True)
class LMSettings:
    """Settings of :class:`LevenbergMarquardt`.

    Attributes
    ----------
    budget
        Gradient equivalents.
    damping
        First mu, relative to the largest eigenvalue of J^T J.
    proximal
        p, weight of the squared distance to the start.
    scaling
        s, the power of diag(J^T J) in the damping; for stored Jacobians and p = 0 only.
    jacobian_bytes
        Largest Jacobian that is stored; beyond it steps come from products with J^T J.
    products
        Most products with J^T J for a step without stored Jacobian.
    tolerance
        Residual of the normal equations, relative to the gradient, at which these products end.
    """

    budget: float
    damping: float = 1e-3
    proximal: float = 0.0
    scaling: float = 0.5
    jacobian_bytes: float = 4e9
    products: int = 30
    tolerance: float = 0.05


@dataclass(frozen=True)
class _Model:
    """A model of the residuals around the point where it was made.

    Attributes
    ----------
    secant
        In the coordinates that follow.
    basis
        Orthonormal, shape (dimension, size), or None for all parameters.
    scale
        Factors from coordinates to parameters, shape (size,), or None.
    rho, loss
        At that point.
    begun
        Gradient equivalents spent before it.
    """

    secant: SecantModel
    basis: torch.Tensor | None
    scale: torch.Tensor | None
    rho: torch.Tensor
    loss: float
    begun: float


class LevenbergMarquardt:
    """Minimize a least-squares loss step by step, within a budget.

    A new model, that is a Jacobian or a Krylov space, is made when the last step lowered the
    logarithm of the loss by less per gradient equivalent than all steps with the present one did,
    its own cost included: from then on keeping it would only lower that mean rate. Where the
    budget allows no other, it is kept.

    Attributes
    ----------
    dense
        Whether a Jacobian is stored; not if one costs more than the budget.
    note
        The same in a sentence, with rows, parameters and memory.
    spent
        Gradient equivalents so far.
    ended
        Why the last step was the last.
    """

    def __init__(self, problem: LeastSquares, settings: LMSettings) -> None:
        self.problem, self.settings = problem, settings
        jacobian = ROW_COST * problem.rows / max(problem.n_frames, 1)
        size = 8.0 * problem.rows * problem.size
        fits = size <= settings.jacobian_bytes
        self.dense = fits and jacobian + STEP_COST <= settings.budget
        what = f"{problem.rows} residuals x {problem.size} parameters, {size / 1e9:.2f} GB"
        if self.dense:
            self.note = f"Gram matrix of a stored Jacobian: {what}."
            self.model_cost, self.step_cost = jacobian, STEP_COST
        else:
            why = "is too large" if not fits else "costs more than the budget"
            self.note = f"Conjugate gradients: a Jacobian ({what}) {why}."
            self.model_cost, self.step_cost = 1.0 + PRODUCT_COST, EVALUATION_COST
        self.start = problem.point
        self.scale: torch.Tensor | None = None
        self.mu, self.growth = math.nan, 2.0
        self.spent = 0.0
        self.ended = BUDGET

    def steps(self) -> Iterator[float]:
        """Yield the loss after each accepted step, at which the problem's point then is."""
        while self._affords_model:
            model = self._jacobian() if self.dense else self._krylov()
            if model is None:
                return
            yield from self._until_stale(model)
            del model  # before the next, so that two Jacobians are never stored at once
            if self.ended != BUDGET:
                return

    def _afford(self, cost: float, then: float = 0.0) -> bool:
        """Spend a cost, unless it or what must follow is beyond the budget."""
        if self.spent + cost + then > self.settings.budget + 1e-9:
            return False
        self.spent += cost
        return True

    @property
    def _affords_model(self) -> bool:
        return self.spent + self.model_cost + self.step_cost <= self.settings.budget

    @property
    def _offset(self) -> torch.Tensor:
        return self.problem.point - self.start

    def _loss(self, rho: torch.Tensor) -> float:
        near = self.settings.proximal * self._offset.square().sum()
        return 0.5 * float(rho.square().sum() + near)

    def _starts(self, loss: float) -> bool:
        if not math.isfinite(loss):
            self.ended = "loss not finite"
        return math.isfinite(loss)

    def _jacobian(self) -> _Model | None:
        begun = self.spent
        self.spent += self.model_cost
        rho, J = self.problem.jacobian()
        loss = self._loss(rho)
        if not self._starts(loss):
            return None
        if self.settings.scaling > 0.0 and self.settings.proximal == 0.0:
            if self.scale is None:
                D = torch.linalg.vector_norm(J, dim=0).square()
                D = (D / D.max().clamp(min=1e-300)).clamp(min=SMALLEST_DIAGONAL)
                self.scale = D ** (-0.5 * self.settings.scaling)
            J *= self.scale
        return _Model(SecantModel(J), None, self.scale, rho, loss, begun)

    def _krylov(self) -> _Model | None:
        settings, begun = self.settings, self.spent
        self.spent += 1.0
        rho, gradient = self.problem.gradient()
        loss = self._loss(rho)
        if not self._starts(loss):
            return None
        space = KrylovSpace(self.problem, gradient + settings.proximal * self._offset)
        while (
            not space.exhausted
            and space.dimension < settings.products
            and self._afford(PRODUCT_COST, then=self.step_cost)
        ):
            space.extend()
            mu = self._damping(float(space.images.square().sum()))
            if space.residual(settings.proximal + mu) < settings.tolerance:
                break
        if space.dimension == 0:
            self.ended = STATIONARY
            return None
        return _Model(SecantModel(space.images), space.basis, None, rho, loss, begun)

    def _try(self, delta: torch.Tensor, before: float) -> tuple[bool, torch.Tensor, float]:
        """Whether a step lowers the loss, its residuals and loss; if not, it is taken back."""
        point = self.problem.point
        self.problem.move(point + delta)
        rho = self.problem.values()
        loss = self._loss(rho)
        taken = loss < before  # false for NaN
        if not taken:
            self.problem.move(point)
        return taken, rho, loss

    def _damping(self, largest: float) -> float:
        return self.settings.damping * largest if math.isnan(self.mu) else self.mu

    def _accept(self, gain: float) -> None:
        self.mu *= max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3)
        self.growth = 2.0

    def _reject(self) -> None:
        self.mu *= self.growth
        self.growth *= 2.0

    def _until_stale(self, model: _Model) -> Iterator[float]:
        """Steps with one model, until another pays."""
        secant, basis, rho, loss = model.secant, model.basis, model.rho, model.loss
        self.mu = self._damping(secant.largest)
        good, fresh, rejections, last = self.mu, True, 0, self.spent
        while True:
            offset = self._offset if basis is None else basis @ self._offset
            step = secant.step(rho, offset, self.settings.proximal, self.mu)
            if not step.predicted > ROUNDING * loss:
                if fresh:
                    self.ended = STATIONARY
                return
            if not self._afford(self.step_cost):
                return
            delta = step.delta if basis is None else basis.T @ step.delta
            delta = delta if model.scale is None else model.scale * delta
            taken, found, after = self._try(delta, loss)
            if taken or (not fresh and after < 2.0 * loss):
                secant.update(step, found - rho)
            if not taken:
                self._reject()
                rejections += 1
                if not fresh and rejections >= MOST_REJECTIONS and self._affords_model:
                    self.mu, self.growth = good, 2.0
                    return
                continue
            self._accept((loss - after) / step.predicted)
            fall = math.log(loss / after) if after > 0.0 else math.inf
            rho, loss, good, fresh, rejections = found, after, self.mu, False, 0
            yield loss
            if loss == 0.0:
                self.ended = "loss is zero"
                return
            mean = math.log(model.loss / loss) / (self.spent - model.begun)
            if fall / (self.spent - last) < mean and self._affords_model:
                return
            last = self.spent
