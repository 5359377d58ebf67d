"""Numbers that describe a spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Curvature below this share of the largest changes a loss in float64 by less than its rounding.
VISIBLE = float(torch.finfo(torch.float64).eps)


@dataclass(frozen=True)
class SpectrumMetrics:
    """Of the r largest eigenvalues of a positive semidefinite matrix.

    Attributes
    ----------
    rank
        r.
    largest
        In units of the loss (times those of P).
    log10_kappa, log10_median_ratio
        Decadic logarithms of largest over smallest, and of largest over median.
    std_log10
        Standard deviation of the logarithms of the eigenvalues: anisotropy in decades.
    effective_rank
        exp of the entropy of the eigenvalues over their sum (O. Roy and M. Vetterli, EUSIPCO 2007).
    trace
        Sum.
    """

    rank: int
    largest: float
    log10_kappa: float
    log10_median_ratio: float
    std_log10: float
    effective_rank: float
    trace: float

    @classmethod
    def of(cls, eigenvalues: torch.Tensor, rank: int) -> SpectrumMetrics:
        """Describe the `rank` largest of eigenvalues in descending order.

        Raises
        ------
        ValueError
            If one of them is not positive.
        """
        kept = eigenvalues[:rank]
        if len(kept) < rank or rank < 1 or not bool((kept > 0.0).all()):
            raise ValueError(f"there are no {rank} positive eigenvalues")
        logs = kept.log10()
        shares = kept / kept.sum()
        return cls(
            rank=rank,
            largest=float(kept[0]),
            log10_kappa=float(logs[0] - logs[-1]),
            log10_median_ratio=float(logs[0] - logs.quantile(0.5)),
            std_log10=float(logs.std(correction=0)),
            effective_rank=float(torch.exp(torch.special.entr(shares).sum())),
            trace=float(kept.sum()),
        )


def visible_rank(eigenvalues: torch.Tensor) -> int:
    """Return how many eigenvalues, in descending order, a loss in float64 can tell from zero."""
    return int((eigenvalues > VISIBLE * eigenvalues[0]).sum())


@dataclass(frozen=True)
class RowSpectrum:
    """Eigenvalues of J P J^T with its eigenvectors, from a factor of J F.

    Attributes
    ----------
    eigenvalues
        Descending, shape (rows,); the nonzero ones are those of F^T J^T J F.
    vectors
        In row space, columns, shape (rows, rows).
    triangle
        R^T of shape (rows, rows) with J F = R^T Q^T, so that rows of it stand for rows of J F.
    """

    eigenvalues: torch.Tensor
    vectors: torch.Tensor
    triangle: torch.Tensor

    @classmethod
    def of(cls, B: torch.Tensor) -> RowSpectrum:
        """Decompose B = J F, shape (rows, size).

        Singular values of B and not the Gram matrix, whose rounding hides all eigenvalues below
        1e-16 of the largest.
        """
        if B.shape[0] > B.shape[1]:
            B = torch.cat([B, B.new_zeros(len(B), len(B) - B.shape[1])], dim=1)
        R = torch.linalg.qr(B.T, mode="r")[1]
        U, s, _ = torch.linalg.svd(R.T)
        return cls(s.square(), U, R.T)

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the eigenvalues, descending, where only some rows of J are kept."""
        values: torch.Tensor = torch.linalg.svdvals(self.triangle[rows])
        return values.square()

    def shares(self, rho: torch.Tensor) -> torch.Tensor:
        """Return which share of |rho|^2 lies along each eigenvector, shape (rows,)."""
        return (self.vectors.T @ rho).square() / rho.square().sum()
