"""What a few paired seeds can tell apart.

Two arms that share a seed share frames, data order and start, so their ratio is compared seed by
seed. Intervals are paired-t intervals of the mean log-ratio: a bootstrap of five values undercovers
and a sign-flip test of five cannot go below p = 0.06. Holm's step-down procedure [1]_ then guards
against asking many questions.

.. [1] S. Holm, Scand. J. Stat. 6, 65 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST_SEEDS = 3
BETTER, WORSE, SAME = "better", "worse", "not distinguished"


@dataclass(frozen=True)
class PairedRatio:
    """Error of one arm over that of another, seed by seed.

    Attributes
    ----------
    n, failed
        Seeds that both finished, and that either failed.
    ratio, low, high
        Geometric mean of the ratios and its 95 % paired-t interval; below 1 the first arm is
        better. None without enough seeds.
    p, p_holm
        Two-sided paired t, as it is and corrected for the other comparisons.
    verdict
        ``better`` or ``worse`` if p_holm < 0.05 (the interval then excludes 1 also); ``not
        distinguished`` otherwise; or why there is none.
    """

    n: int
    failed: int
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_holm: float | None = None
    verdict: str = SAME


def paired_ratio(
    ours: Mapping[int, float | None], theirs: Mapping[int, float | None]
) -> PairedRatio:
    """Compare two arms.

    Parameters
    ----------
    ours, theirs
        Seed -> error, None where the run failed.

    Returns
    -------
    PairedRatio
        Without p_holm, and with a verdict only where none can be given.
    """
    shared = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[s], theirs[s]) for s in shared]
    logs = np.array([math.log(a / b) for a, b in pairs if a is not None and b is not None])
    n, failed = len(logs), len(shared) - len(logs)
    if n == 0:
        return PairedRatio(n, failed, verdict=_few(n, failed))
    mean = float(logs.mean())
    if n < FEWEST_SEEDS:
        return PairedRatio(n, failed, ratio=math.exp(mean), verdict=_few(n, failed))
    error = float(logs.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * error
    if error > 0.0:
        p = 2.0 * float(stats.t.sf(abs(mean) / error, n - 1))
    else:
        p = 1.0 if mean == 0.0 else 0.0
    return PairedRatio(
        n,
        failed,
        math.exp(mean),
        math.exp(mean - half),
        math.exp(mean + half),
        p,
        verdict=_few(n, failed) if failed else SAME,
    )


def _few(n: int, failed: int) -> str:
    if failed:
        return f"failed on {failed} of {n + failed} seeds"
    return f"{n} seed{'s' if n != 1 else ''}: too few, needs {FEWEST_SEEDS}"


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given."""
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def judged(family: Mapping[str, PairedRatio]) -> dict[str, PairedRatio]:
    """Correct a family of comparisons and give each its verdict.

    An arm that failed on a seed keeps that as its verdict: its ratio is one of survivors.
    """
    tested = {name: one.p for name, one in family.items() if one.p is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    found = {}
    for name, one in family.items():
        p_holm, verdict = corrected.get(name), one.verdict
        if verdict == SAME and p_holm is not None and p_holm < 1.0 - CONFIDENCE:
            verdict = BETTER if (one.ratio or 1.0) < 1.0 else WORSE
        found[name] = replace(one, p_holm=p_holm, verdict=verdict)
    return found


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rho over arms, with a percentile bootstrap interval over arms."""

    n: int
    rho: float
    low: float
    high: float


def rank_correlation(
    x: Sequence[float], y: Sequence[float], *, samples: int = 4000, seed: int = 0
) -> RankCorrelation | None:
    """Correlate the ranks of two quantities, such as log kappa and the log of the final error.

    Returns
    -------
    RankCorrelation or None
        None for fewer than four pairs or where one quantity is constant.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    n = len(a)
    if n < 4 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    rows = np.random.default_rng(seed).integers(n, size=(samples, n))
    drawn = _spearman(a[rows], b[rows])
    # A sample that drew one arm n times has no ranks.
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return RankCorrelation(n, float(_spearman(a[None], b[None])[0]), float(low), float(high))


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's coefficient of the ranks, row by row; NaN where a row is constant."""
    x, y = (stats.rankdata(values, axis=1) for values in (a, b))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    found = np.full(len(x), np.nan)
    np.divide((x * y).sum(axis=1), norm, out=found, where=norm > 0.0)
    return found
