"""Preconditioners P as linear maps with a factor F, such that P = F F^T.

The spectrum of the preconditioned curvature is that of F^T H F, which is symmetric. Vectors have
shape (k, size), over the parameters in the order of the module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ase_finetune.optimizers.blocks import Block


class Preconditioner(Protocol):
    """A symmetric map P = F F^T."""

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Return F x."""

    def transposed(self, x: torch.Tensor) -> torch.Tensor:
        """Return F^T x."""


def apply(P: Preconditioner, x: torch.Tensor) -> torch.Tensor:
    """Return P x."""
    return P.factor(P.transposed(x))


@dataclass(frozen=True)
class Turned:
    """The matrices of one block of a parameter, scaled in bases of their own.

    Attributes
    ----------
    block
        Where they are, its start counted from the first parameter.
    left, right
        Orthogonal, shapes (matrices, rows, rows) and (matrices, columns, columns); None for the
        identity.
    values
        Eigenvalues of P, not negative, of a shape that spreads to (matrices, rows, columns).
    """

    block: Block
    left: torch.Tensor | None
    right: torch.Tensor | None
    values: torch.Tensor


@dataclass(frozen=True)
class Blockwise:
    """A diagonal with turned blocks in some places; symmetric, and so is its factor.

    Attributes
    ----------
    diagonal
        Eigenvalues of P, not negative, shape (size,); of no effect where blocks are.
    turned
        The blocks.
    """

    diagonal: torch.Tensor
    turned: tuple[Turned, ...] = field(default=())

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Return P^(1/2) x."""
        found = x * self.diagonal.sqrt()
        for part in self.turned:
            start, shape = part.block
            stop = start + math.prod(shape)
            given = _matrices(x[:, start:stop], shape)
            if part.left is not None:
                given = part.left.mT @ given
            if part.right is not None:
                given = given @ part.right
            given = given * part.values.sqrt()
            if part.left is not None:
                given = part.left @ given
            if part.right is not None:
                given = given @ part.right.mT
            if len(shape) == 3:
                given = given.movedim(1, 2)
            found[:, start:stop] = given.reshape(len(x), -1)
        return found

    transposed = factor


def _matrices(x: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """As `Block.view`, for each of k vectors: shape (k, matrices, rows, columns)."""
    part = x.reshape(len(x), *shape)
    return part.movedim(2, 1) if len(shape) == 3 else part[:, None]


class LowRank:
    """gamma I + Q (K - gamma I) Q^T, with the compact form of an L-BFGS matrix as its source.

    Parameters
    ----------
    gamma
        Scale of the identity.
    basis
        Q, orthonormal columns, shape (size, n).
    inner
        K, symmetric and positive definite, shape (n, n).
    """

    def __init__(self, gamma: float, basis: torch.Tensor, inner: torch.Tensor) -> None:
        values, vectors = torch.linalg.eigh(inner)
        if not (gamma > 0.0 and float(values.min()) > 0.0):
            raise ValueError("the pairs do not make a positive definite matrix")
        self.gamma, self.basis = gamma, basis
        self._change = (vectors * (values.sqrt() - math.sqrt(gamma))) @ vectors.T

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Return P^(1/2) x."""
        inside: torch.Tensor = (x @ self.basis) @ self._change @ self.basis.T
        return math.sqrt(self.gamma) * x + inside

    transposed = factor

    @classmethod
    def from_pairs(cls, steps: torch.Tensor, changes: torch.Tensor, gamma: float) -> LowRank:
        """Make the matrix that L-BFGS's two loops apply.

        Parameters
        ----------
        steps, changes
            s of steps and y of gradients, oldest first, shape (n, size).
        gamma
            Scale of the first matrix.

        Notes
        -----
        R. H. Byrd, J. Nocedal and R. B. Schnabel, Math. Program. 63, 129 (1994), eq. 3.1.
        """
        n = len(steps)
        products = steps @ changes.T
        R = torch.triu(products)
        inverse = torch.linalg.solve_triangular(
            R, torch.eye(n, dtype=R.dtype, device=R.device), upper=True
        )
        corner = products.diagonal().diag() + gamma * changes @ changes.T
        middle = torch.cat(
            [
                torch.cat([inverse.T @ corner @ inverse, -inverse.T], dim=1),
                torch.cat([-inverse, torch.zeros_like(R)], dim=1),
            ]
        )
        wide = torch.cat([steps, gamma * changes]).T
        Q, T = torch.linalg.qr(wide)
        inner = T @ middle @ T.T
        inner = 0.5 * (inner + inner.T)
        inner.diagonal().add_(gamma)
        return cls(gamma, Q, inner)


class Damped:
    """S (S J^T J S + mu I)^-1 S, the map of a Levenberg-Marquardt step.

    Parameters
    ----------
    J
        Shape (rows, size); kept, not copied.
    mu
        Damping, above 0.
    scale
        Diagonal of S, shape (size,), or None for the identity.
    """

    def __init__(self, J: torch.Tensor, mu: float, scale: torch.Tensor | None = None) -> None:
        if not mu > 0.0:
            raise ValueError("the damping must be positive")
        self.J, self.mu, self.scale = J, mu, scale
        scaled = J if scale is None else J * scale
        values, U = torch.linalg.eigh(scaled @ scaled.T)
        values = values.clamp(min=0.0)
        # With B = J S: (B^T B + mu)^(-1/2) = mu^(-1/2) (1 + B^T M B), M = U diag(m) U^T and
        # m = ((mu / (s + mu))^(1/2) - 1) / s, here in a form that has no 0 / 0.
        root = (mu / (values + mu)).sqrt()
        m = -(root.square() / mu) / (1.0 + root)
        self._middle = (U * m) @ U.T

    def factor(self, x: torch.Tensor) -> torch.Tensor:
        """Return F x, with F = S (S J^T J S + mu)^(-1/2)."""
        found = self._inverse_root(x)
        return found if self.scale is None else found * self.scale

    def transposed(self, x: torch.Tensor) -> torch.Tensor:
        """Return F^T x."""
        return self._inverse_root(x if self.scale is None else x * self.scale)

    def _inverse_root(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x if self.scale is None else x * self.scale) @ self.J.T
        inside: torch.Tensor = rows @ self._middle @ self.J
        if self.scale is not None:
            inside = inside * self.scale
        return (x + inside) / math.sqrt(self.mu)
