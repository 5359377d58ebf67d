"""Lanczos with full reorthogonalization, spectral densities and traces from it.

Several processes advance together, so that their products share what is common. The loss of
orthogonality that makes plain Lanczos find an eigenvalue several times (Parlett, The Symmetric
Eigenvalue Problem, chapter 13) does not occur.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import stats

# Relative to the largest coefficient: the space is invariant, what follows would be rounding.
INVARIANT = 1e-12
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % interval.

    Attributes
    ----------
    value, half_width
        Student's t for the number of samples; NaN half width for a single one.
    """

    value: float
    half_width: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Interval:
        """Take the mean of independent samples."""
        n = len(samples)
        mean = math.fsum(samples) / n
        if n < 2:
            return cls(mean, math.nan)
        variance = math.fsum((s - mean) ** 2 for s in samples) / (n - 1)
        t = float(stats.t.ppf(0.5 + CONFIDENCE / 2.0, n - 1))
        return cls(mean, t * math.sqrt(variance / n))


class Lanczos:
    """The Krylov space of a symmetric matrix, vector by vector.

    Parameters
    ----------
    start
        Shape (size,), not zero.

    Attributes
    ----------
    alphas, betas
        Diagonal and beside it of the tridiagonal matrix.
    next
        The unit vector whose image is wanted, or None once the space is invariant.
    """

    def __init__(self, start: torch.Tensor) -> None:
        self.norm = float(start.norm())
        if not self.norm > 0.0:
            raise ValueError("Lanczos needs a start that is not zero")
        self.next: torch.Tensor | None = start / self.norm
        self.alphas: list[float] = []
        self.betas: list[float] = []
        self._basis: list[torch.Tensor] = []

    def take(self, image: torch.Tensor) -> None:
        """Take in the image of `next`."""
        assert self.next is not None
        self.alphas.append(float(torch.dot(self.next, image)))
        self._basis.append(self.next)
        rest = image.clone()
        for _ in range(2):  # twice is enough (Parlett, section 6.9)
            for vector in self._basis:
                rest.add_(vector, alpha=-float(torch.dot(vector, rest)))
        beta = float(rest.norm())
        scale = max(map(abs, (*self.alphas, *self.betas)))
        if beta > INVARIANT * scale and len(self._basis) < len(image):
            self.betas.append(beta)
            self.next = rest / beta
        else:
            self.next = None

    def ritz(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return Ritz values in ascending order, Gauss weights that sum to 1, and residual norms.

        A weight is the squared first entry of an eigenvector of the tridiagonal matrix; an
        eigenvalue lies within the residual norm of each Ritz value.
        """
        n = len(self.alphas)
        matrix = torch.diag(torch.tensor(self.alphas, dtype=torch.float64))
        beside = torch.tensor(self.betas[: n - 1], dtype=torch.float64)
        matrix += torch.diag(beside, 1) + torch.diag(beside, -1)
        values, vectors = torch.linalg.eigh(matrix)
        last = self.betas[n - 1] if len(self.betas) == n else 0.0
        return values, vectors[0].square(), last * vectors[-1].abs()

    def release(self) -> None:
        """Forget the vectors, keep the coefficients."""
        self._basis, self.next = [], None


def advance(
    processes: Sequence[Lanczos],
    products: Callable[[list[int], torch.Tensor], torch.Tensor],
    steps: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Advance several processes by so many products each.

    Parameters
    ----------
    processes
        Begun or not.
    products
        Maps which processes are meant and their vectors, shape (k, size), to the images.
    steps
        Of each; one whose space is invariant stops before.
    progress
        Called with (done, total) steps.
    """
    for step in range(steps):
        alive = [i for i, process in enumerate(processes) if process.next is not None]
        if not alive:
            break
        vectors = [v for i in alive if (v := processes[i].next) is not None]
        for i, image in zip(alive, products(alive, torch.stack(vectors)), strict=True):
            processes[i].take(image)
        if progress is not None:
            progress(step + 1, steps)


@dataclass(frozen=True)
class Density:
    """Spectral density by stochastic Lanczos quadrature (Ubaru, Chen and Saad,
    SIAM J. Matrix Anal. Appl. 38, 1075 (2017)).

    Attributes
    ----------
    nodes, weights
        Per probe, shape (steps,); the weights of a probe sum to 1.
    size
        Dimension of the space that the probes are drawn from.
    """

    nodes: tuple[torch.Tensor, ...]
    weights: tuple[torch.Tensor, ...]
    size: int

    @classmethod
    def of(cls, probes: Sequence[Lanczos], size: int) -> Density:
        """Read the quadrature off processes that began at random probes."""
        pairs = [probe.ritz()[:2] for probe in probes]
        return cls(tuple(n for n, _ in pairs), tuple(w for _, w in pairs), size)

    def integral(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Interval:
        """Return the trace of a function of the matrix."""
        return Interval.of(
            [
                self.size * float((w * function(n)).sum())
                for n, w in zip(self.nodes, self.weights, strict=True)
            ]
        )

    def share(
        self,
        part: Callable[[torch.Tensor], torch.Tensor],
        whole: Callable[[torch.Tensor], torch.Tensor],
    ) -> Interval:
        """Return the ratio of two traces, as the mean over probes of each probe's ratio."""
        return Interval.of(
            [
                float((w * part(n)).sum() / (w * whole(n)).sum())
                for n, w in zip(self.nodes, self.weights, strict=True)
            ]
        )

    def cumulative(self, at: torch.Tensor) -> torch.Tensor:
        """Return the share of eigenvalues below each value, a mean over probes."""
        counts = [
            (w[None, :] * (n[None, :] < at[:, None])).sum(1)
            for n, w in zip(self.nodes, self.weights, strict=True)
        ]
        return torch.stack(counts).mean(0)


def probes(count: int, size: int, seed: int, active: torch.Tensor | None = None) -> torch.Tensor:
    """Return random signs, shape (count, size), zero where a coordinate is not active."""
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (count, size), generator=generator).double() - 1.0
    return signs if active is None else signs * active


def trace(signs: torch.Tensor, images: torch.Tensor) -> Interval:
    """Estimate a trace by the mean of z^T A z (M. F. Hutchinson, Commun. Stat. 18, 1059 (1989)).

    Parameters
    ----------
    signs, images
        As from `probes`, and A times each; shape (count, size).
    """
    return Interval.of([float(value) for value in (signs * images).sum(1)])
