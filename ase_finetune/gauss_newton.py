"""Linear models of residuals, from which damped Gauss-Newton steps are computed.

They solve (J^T J + (p + mu) I) delta = -(J^T rho + p offset): `SecantModel` with a stored Jacobian
and the smaller of J J^T and J^T J, which can be its Jacobian on a `KrylovSpace`, found with
products J^T J v only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

# Damping below this share of the largest eigenvalue drowns in the rounding of the Gram matrix.
SMALLEST_SHIFT = 1e-11
_BLOCK = 256


class LeastSquares(Protocol):
    """What is minimized, as :class:`ase_finetune.residuals.Residuals` has it."""

    rows: int
    size: int
    n_frames: int

    @property
    def point(self) -> torch.Tensor:
        """The parameters, shape (size,)."""

    def move(self, point: torch.Tensor) -> None:
        """Set the parameters."""

    def values(self) -> torch.Tensor:
        """Return rho, shape (rows,)."""

    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rho and J^T rho."""

    def jacobian(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rho and J, shape (rows, size)."""

    def normal(self, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return J v and J^T J v."""


@dataclass(frozen=True)
class Step:
    """A step of the parameters.

    Attributes
    ----------
    delta
        Shape (size,).
    change
        J delta, what the model expects of the residuals, shape (rows,).
    predicted
        Decrease of the loss, proximal term included, that the model expects.
    """

    delta: torch.Tensor
    change: torch.Tensor
    predicted: float


class SecantModel:
    """A stored Jacobian with Broyden's updates.

    Parameters
    ----------
    J
        Shape (rows, size); kept, not copied and not changed.
    """

    def __init__(self, J: torch.Tensor) -> None:
        self.J = J
        self.wide = J.shape[0] < J.shape[1]
        self.gram = _gram(J if self.wide else J.T)
        self.largest = _largest(self.gram)
        # Updates as J + left right: one in place would read and write all of J.
        self.left, self.right = J.new_zeros(J.shape[0], 0), J.new_zeros(0, J.shape[1])

    def push(self, vector: torch.Tensor) -> torch.Tensor:
        """Return J v, shape (rows,)."""
        return self.J @ vector + self.left @ (self.right @ vector)

    def pull(self, vector: torch.Tensor) -> torch.Tensor:
        """Return J^T u, shape (size,)."""
        return self.J.T @ vector + self.right.T @ (self.left.T @ vector)

    def step(self, rho: torch.Tensor, offset: torch.Tensor, proximal: float, mu: float) -> Step:
        """Return the damped step.

        Parameters
        ----------
        rho
            Residuals, shape (rows,).
        offset
            theta - theta_0, shape (size,).
        proximal, mu
            Weights p and mu of the squared distances from theta_0 and from theta.
        """
        shift = max(proximal + mu, SMALLEST_SHIFT * self.largest)
        if self.wide:
            # delta = -J^T y - share offset, with y of shape (rows,), since J^T J and J J^T share
            # all that matters.
            share = proximal / shift
            along = self.push(offset) if share > 0.0 else torch.zeros_like(rho)
            y = self._solve(rho - share * along, shift)
            delta = -self.pull(y) - share * offset
            change = -(self.gram @ y) - share * along
        else:
            delta = -self._solve(self.pull(rho) + proximal * offset, shift)
            change = self.push(delta)
        data = -torch.dot(change, rho) - 0.5 * change.square().sum()
        near = -proximal * (torch.dot(delta, offset) + 0.5 * delta.square().sum())
        return Step(delta, change, float(data + near))

    def _solve(self, right: torch.Tensor, shift: float) -> torch.Tensor:
        shifted = self.gram.clone()
        shifted.diagonal().add_(shift)
        factor, failed = torch.linalg.cholesky_ex(shifted)
        if int(failed):  # rounding of many updates can make it indefinite
            solved: torch.Tensor = torch.linalg.solve(shifted, right)
        else:
            solved = torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
        return solved

    def update(self, step: Step, change: torch.Tensor) -> None:
        """Take in the change of the residuals, shape (rows,), that a step really made.

        J + (change - J delta) delta^T / |delta|^2 is the nearest matrix that maps delta to it
        (C. G. Broyden, Math. Comp. 19 (1965) 577).
        """
        delta = step.delta
        squared = delta.square().sum()
        u = (change - step.change) / squared
        if self.wide:
            cross = torch.outer(u, step.change)
            self.gram += cross + cross.T + squared * torch.outer(u, u)
        else:
            cross = torch.outer(delta, self.pull(u))
            self.gram += cross + cross.T + u.square().sum() * torch.outer(delta, delta)
        self.left = torch.cat([self.left, u.unsqueeze(1)], dim=1)
        self.right = torch.cat([self.right, delta.unsqueeze(0)])


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """A A^T in blocks, each once: half the work of the product."""
    n = len(rows)
    gram = rows.new_empty(n, n)
    for first in range(0, n, _BLOCK):
        last = min(first + _BLOCK, n)
        gram[first:last, :last] = rows[first:last] @ rows[:last].T
        gram[:first, first:last] = gram[first:last, :first].T
    return gram


def _largest(gram: torch.Tensor) -> float:
    """Largest eigenvalue by the power method, to some percent, which is enough for a scale."""
    vector = gram.diagonal().clone()
    value = 0.0
    for _ in range(50):
        norm = float(vector.norm())
        if norm == 0.0:
            return 0.0
        vector = gram @ (vector / norm)
        value = float(vector.norm())
    return value


class KrylovSpace:
    """The space of the iterates of conjugate gradients, and the Jacobian on it.

    Lanczos with full reorthogonalization takes the place of the CG recursion. The damped step in
    the space is the CG iterate, for every damping, and since ``images`` is the Jacobian on it,
    ``SecantModel(space.images)`` can go on from there without further products.

    Parameters
    ----------
    problem
        At the point of the gradient.
    gradient
        J^T rho + p offset, shape (size,).

    Attributes
    ----------
    basis
        Orthonormal vectors v, shape (dimension, size).
    images
        J v, shape (rows, dimension).
    """

    def __init__(self, problem: LeastSquares, gradient: torch.Tensor) -> None:
        self.problem = problem
        self.norm = float(gradient.norm())
        self.basis = gradient.new_zeros(0, len(gradient))
        self.images = gradient.new_zeros(problem.rows, 0)
        self._next = gradient / self.norm if self.norm > 0.0 else None
        self._beside = 0.0

    @property
    def dimension(self) -> int:
        """Number of products so far."""
        return len(self.basis)

    @property
    def exhausted(self) -> bool:
        """Whether the space holds the exact step, so that more products are of no use."""
        return self._next is None

    def extend(self) -> None:
        """Add a vector, by one product; the space must not be exhausted."""
        assert self._next is not None
        image, new = self.problem.normal(self._next)
        self.basis = torch.cat([self.basis, self._next.unsqueeze(0)])
        self.images = torch.cat([self.images, image.unsqueeze(1)], dim=1)
        for _ in range(2):  # twice is enough (B. N. Parlett, The Symmetric Eigenvalue Problem, 6.9)
            new = new - self.basis.T @ (self.basis @ new)
        self._beside = float(new.norm())
        found = self._beside > 1e-12 * float(self.images.square().sum())
        self._next = new / self._beside if found and self.dimension < len(new) else None

    def residual(self, shift: float) -> float:
        """Residual of the normal equations with J^T J + shift, relative to the gradient."""
        normal = self.images.T @ self.images
        first = torch.zeros_like(normal[0])
        first[0] = 1.0
        normal.diagonal().add_(max(shift, SMALLEST_SHIFT * float(normal.trace())))
        return self._beside * abs(float(torch.linalg.solve(normal, first)[-1]))
