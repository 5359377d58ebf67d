"""What the study says of few paired seeds, against scipy, by hand and over simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ase_finetune.study.statistics import (
    BETTER,
    SAME,
    WORSE,
    holm,
    judged,
    paired_ratio,
    rank_correlation,
)


def seeds(values):
    return dict(enumerate(values, 1))


def test_the_interval_is_that_of_the_paired_t():
    ours, theirs = [50.0, 61.0, 47.0, 58.0, 55.0], [60.0, 66.0, 52.0, 71.0, 59.0]
    found = paired_ratio(seeds(ours), seeds(theirs))
    test = stats.ttest_rel(np.log(ours), np.log(theirs))
    low, high = test.confidence_interval(0.95)
    assert found.ratio == pytest.approx(math.exp(np.mean(np.log(ours) - np.log(theirs))))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))
    assert found.p == pytest.approx(test.pvalue)
    assert (found.n, found.failed) == (5, 0)


def test_by_hand():
    # Log-ratios 0, ln 2, 2 ln 2: mean ln 2, standard error ln 2 / sqrt 3, t(0.975, 2) = 4.302653.
    found = paired_ratio(seeds([1.0, 2.0, 4.0]), seeds([1.0, 1.0, 1.0]))
    half = 4.302652729911275 * math.log(2) / math.sqrt(3)
    assert found.ratio == pytest.approx(2.0)
    assert found.low == pytest.approx(2.0 * math.exp(-half))
    assert found.high == pytest.approx(2.0 * math.exp(half))


def test_the_order_of_the_arms_inverts_the_ratio():
    ours, theirs = seeds([3.0, 4.0, 6.0, 5.0]), seeds([4.0, 4.5, 6.1, 7.0])
    one, other = paired_ratio(ours, theirs), paired_ratio(theirs, ours)
    assert one.ratio * other.ratio == pytest.approx(1.0)
    assert one.low * other.high == pytest.approx(1.0)
    assert one.p == pytest.approx(other.p)


def test_only_shared_seeds_are_paired():
    found = paired_ratio({1: 2.0, 2: 2.0, 3: 2.0, 9: 99.0}, {1: 1.0, 2: 1.0, 3: 1.0, 4: 7.0})
    assert (found.n, found.ratio) == (3, pytest.approx(2.0))


def test_fewer_than_three_seeds_get_no_verdict():
    found = judged({"a": paired_ratio({1: 1.0, 2: 1.0}, {1: 2.0, 2: 2.0})})["a"]
    assert (found.low, found.p, found.p_holm) == (None, None, None)
    assert "too few" in found.verdict
    assert found.ratio == pytest.approx(0.5)


def test_an_arm_that_failed_on_a_seed_is_not_called_better():
    ours, theirs = seeds([1.0, 1.01, 0.99, 1.0, None]), seeds([2.0, 2.0, 2.0, 2.0, 2.0])
    found = judged({"a": paired_ratio(ours, theirs)})["a"]
    assert found.p_holm < 0.001
    assert found.verdict == "failed on 1 of 5 seeds"
    assert judged({"a": paired_ratio(seeds([None] * 4), seeds([1.0] * 4))})["a"].ratio is None


def test_identical_arms_are_not_distinguished():
    same = seeds([1.0, 2.0, 3.0])
    found = judged({"a": paired_ratio(same, same)})["a"]
    assert (found.ratio, found.low, found.high, found.p) == (1.0, 1.0, 1.0, 1.0)
    assert found.verdict == SAME


def test_holm_by_hand():
    # Sorted 0.01 0.02 0.03 0.04 times 4 3 2 1, then never falling: 0.04 0.06 0.06 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_correction_decides_the_verdict():
    rng = np.random.default_rng(3)
    reference = seeds(rng.lognormal(0.0, 0.3, 5))

    def arm(shift, noise):
        return {
            s: v * math.exp(shift + noise * e)
            for (s, v), e in zip(reference.items(), steps, strict=True)
        }

    steps = np.array([-1.2, -0.6, 0.0, 0.6, 1.2])
    # Alone its p is 0.029: enough; among nine it is not.
    close = paired_ratio(arm(-0.142, 0.1), reference)
    assert 0.02 < close.p < 0.05
    assert judged({"close": close})["close"].verdict == BETTER
    noise = {f"n{k}": paired_ratio(arm(0.01 * k, 0.5), reference) for k in range(8)}
    assert judged({"close": close, **noise})["close"].verdict == SAME
    assert judged({"far": paired_ratio(arm(0.5, 0.1), reference)})["far"].verdict == WORSE


@pytest.mark.parametrize("n", [3, 5])
def test_over_simulated_studies_the_interval_covers_in_95_of_100(n):
    rng = np.random.default_rng(n)
    studies, truth, covered = 4000, math.log(0.9), 0
    for _ in range(studies):
        common = rng.normal(0.0, 0.5, n)  # the luck of a seed, shared by the arms
        ours = np.exp(common + truth + rng.normal(0.0, 0.1, n))
        theirs = np.exp(common + rng.normal(0.0, 0.1, n))
        found = paired_ratio(seeds(ours), seeds(theirs))
        covered += found.low <= 0.9 <= found.high
    # Three standard errors of a share of 0.95 among 4000 are 0.0103.
    assert covered / studies == pytest.approx(0.95, abs=0.0104)


def test_where_nothing_differs_few_studies_say_that_something_does():
    rng = np.random.default_rng(0)
    studies, alarms = 1000, 0
    for _ in range(studies):
        common = rng.normal(0.0, 0.5, 5)
        arms = np.exp(common + rng.normal(0.0, 0.1, (9, 5)))
        family = {f"{k}": paired_ratio(seeds(arms[k]), seeds(arms[0])) for k in range(1, 9)}
        alarms += any(one.verdict != SAME for one in judged(family).values())
    # At most 5 %, plus three standard errors; without Holm it is above 15 %.
    assert alarms / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(1)
    x = rng.normal(size=9)
    y = x + rng.normal(size=9)
    found = rank_correlation(list(x), list(y))
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.rho < found.high
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    perfect = rank_correlation([1, 2, 3, 4, 5], [2, 4, 6, 8, 11])
    assert (perfect.rho, perfect.low, perfect.high) == pytest.approx((1.0, 1.0, 1.0))
