"""Paired comparisons, against published and independent values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats as scipy_stats

from p2engine.rollouts.comparison import (
    PairedDifference,
    direction,
    false_positive_rate,
    hedges_correction,
    matched,
    mcnemar,
    paired_difference,
)
from p2engine.rollouts.sign_flips import EXACT_UNITS_MAX, FLIPS, attainable_level, sign_flip_p, smallest_p
from p2engine.rollouts.stats import cluster_t_interval, wilson_interval

# Hours of sleep gained with two drugs by ten patients (Student 1908, table of section IX)
SLEEP_1 = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_2 = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# How much taller crossed plants of maize were than selfed ones, in eighths of an inch (Darwin 1876, in Fisher 1935)
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def compared(variant: list[float], baseline: list[float], clusters: list[object] | None = None) -> PairedDifference:
    """The comparison of pairs that are there."""
    found = paired_difference(variant, baseline, clusters, seed=1)
    assert found is not None
    return found


def test_student_s_sleep_data() -> None:
    """The mean difference and its interval as R's t.test(paired=TRUE) prints them, and d_z with Hedges' correction."""
    sleep = compared(SLEEP_2, SLEEP_1)
    assert sleep.difference == pytest.approx(1.58)
    assert sleep.interval is not None
    assert (sleep.interval.low, sleep.interval.high) == pytest.approx((0.7001142, 2.4598858), abs=5e-8)
    assert sleep.sd == pytest.approx(1.229995, abs=5e-7)
    assert sleep.effect == pytest.approx(1.58 / 1.229995 * 0.9139, abs=2e-4)
    # nine gains and one zero: only all signs alike, up to the zero's, reach the total
    assert (sleep.p, sleep.exact, sleep.pairs, sleep.units) == (4 / 2**10, True, 10, 10)


def test_darwin_s_maize() -> None:
    """Fisher (1935) counted 863 of 32,768 sign flips on one side that reach the total of 314."""
    maize = compared([float(gap) for gap in MAIZE], [0.0] * 15)
    assert maize.p == 2 * 863 / 2**15
    assert maize.difference == pytest.approx(314 / 15)


def test_hedges_correction_is_near_its_approximation() -> None:
    """The exact factor is published as 0.9139 for nine degrees of freedom, and is close to 1 - 3/(4 df - 1)."""
    assert hedges_correction(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert hedges_correction(9) == pytest.approx(0.9139, abs=5e-5)
    for df in (10, 100, 10_000):
        assert hedges_correction(df) == pytest.approx(1 - 3 / (4 * df - 1), abs=1e-3)


@pytest.mark.parametrize("units", [2, 5, 12])
def test_counted_flips_are_those_of_scipy(units: int) -> None:
    """The exact p is that of scipy's permutation_test."""
    sums = np.random.default_rng(units).normal(0.4, 1, units)
    expected = scipy_stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True, n_resamples=2**units
    )
    assert sign_flip_p(sums.tolist(), seed=1) == pytest.approx(expected.pvalue)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9))
def test_tenths_tie_like_whole_numbers(tenths: list[int]) -> None:
    """Rounding breaks no tie: differences of 0.1 and 0.2 give the p that they give as whole numbers."""
    ways = [
        sum(-size if way >> place & 1 else size for place, size in enumerate(tenths)) for way in range(2 ** len(tenths))
    ]
    expected = sum(abs(way) >= abs(sum(tenths)) for way in ways) / len(ways)
    assert sign_flip_p([size / 10 for size in tenths], seed=1) == expected


def test_drawn_flips_estimate_the_counted_ones() -> None:
    """Beyond 18 units signs are drawn: p is near the t test's, never zero, and the same for the same seed."""
    gaps = np.random.default_rng(4).normal(0.2, 1, 61).tolist()
    p = sign_flip_p(gaps, seed=5)
    assert p == pytest.approx(scipy_stats.ttest_1samp(gaps, 0).pvalue, abs=0.02)
    assert sign_flip_p(gaps, seed=5) == p
    assert sign_flip_p([1.0] * (EXACT_UNITS_MAX + 1), seed=5) == 1 / (FLIPS + 1)
    assert sign_flip_p([0.0] * 40, seed=5) == 1.0


@pytest.mark.parametrize("units", [19, 24, 25])
def test_every_sign_is_drawn(units: int) -> None:
    """One difference as large as all others together decides alone, wherever it stands: half the flips reach it."""
    for place in (0, 7, 8, 17, units - 1):
        gaps = [0.0] * units
        gaps[place], gaps[place - 1] = 3.0, -1.0
        # |±3 ± 1| reaches 2 always, and |±3 ± 1| reaches 4 in half of the ways
        assert sign_flip_p(gaps, seed=2) == 1.0
        gaps[place - 1] = 1.0
        assert sign_flip_p(gaps, seed=2) == pytest.approx(0.5, abs=0.02)


def test_the_smallest_p_and_the_level_that_is_attained() -> None:
    """Five units reach 1/16 and cannot reject at 0.05; six reach 1/32; drawn flips reach one in all of them and one."""
    assert [smallest_p(units) for units in (1, 5, 6)] == [1.0, 1 / 16, 1 / 32]
    assert smallest_p(EXACT_UNITS_MAX + 1, 999) == 1 / 1000
    assert [attainable_level(units, 0.05) for units in (5, 6, 8)] == [0.0, 1 / 32, 6 / 128]
    assert attainable_level(100, 0.05, 999) == pytest.approx(0.05)
    assert compared([1.0] * 5, [0.0] * 5).p_floor == 1 / 16


def test_repeats_of_a_task_are_flipped_together() -> None:
    """Five tasks are five units, however often each is repeated; without clusters all pairs are units."""
    gaps = [0.2, 0.3, 0.1, 0.4, 0.2] * 4
    tasks: list[object] = [0, 1, 2, 3, 4] * 4
    by_task = compared(gaps, [0.0] * 20, tasks)
    assert (by_task.p, by_task.p_floor, by_task.units, by_task.pairs) == (1 / 16, 1 / 16, 5, 20)
    assert by_task.interval == cluster_t_interval(gaps, tasks)
    by_pair = compared(gaps, [0.0] * 20)
    assert (by_pair.p, by_pair.units) == (1 / (FLIPS + 1), 20)
    assert by_pair.effect == by_task.effect


def test_one_pair_says_nothing() -> None:
    """No interval, no effect, and a p of one; no pair is no comparison."""
    one = compared([0.9], [0.1])
    assert (one.interval, one.p, one.p_floor, one.sd, one.effect) == (None, 1.0, 1.0, None, None)
    assert paired_difference([], [], seed=1) is None
    assert mcnemar([], []) is None


def test_differences_that_do_not_vary_have_no_effect_size() -> None:
    """A tenth more each time is no infinite effect, though rounding makes the differences differ in the last bit."""
    same = compared([0.3, 0.8, 0.9, 0.4], [0.2, 0.7, 0.8, 0.3])
    assert same.difference == pytest.approx(0.1)
    assert same.effect is None
    two = compared([0.3, 0.9], [0.1, 0.2])
    assert two.sd == pytest.approx(0.5 / math.sqrt(2))
    assert two.effect is None, "two pairs leave nothing to correct the effect by"


def test_trials_are_matched_by_key() -> None:
    """Only trials that both arms finished are pairs; how many were not is told."""
    found = matched({("a", 1): 0.5, ("a", 2): 0.6, ("b", 1): 0.7}, {("b", 1): 0.1, ("a", 1): 0.2, ("c", 1): 0.3})
    assert (found.keys, found.variant, found.baseline) == ((("a", 1), ("b", 1)), (0.5, 0.7), (0.2, 0.1))
    assert found.unmatched == 2


def pairs(both: int, wins: int, losses: int, neither: int) -> tuple[list[bool], list[bool]]:
    """A table of pairs, written out."""
    return (
        [True] * (both + wins) + [False] * (losses + neither),
        [True] * both + [False] * wins + [True] * losses + [False] * neither,
    )


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [((1, 1, 7, 12), -0.507, -0.026), ((20, 12, 2, 16), 0.0562, 0.3292)],
)
def test_paired_pass_rates_have_newcombe_s_interval(table: tuple[int, int, int, int], low: float, high: float) -> None:
    """Airway hyper-responsiveness of 21 children (Bentur 2009, in Fagerland et al. 2014), and Newcombe's example."""
    found = mcnemar(*pairs(*table))
    assert found is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=5e-4)


def test_mcnemar_is_the_binomial_test_of_wins_and_losses() -> None:
    """The exact p, published as 0.070 for one win and seven losses, and scipy's binomtest for any."""
    found = mcnemar(*pairs(1, 1, 7, 12))
    assert found is not None
    assert found.p == pytest.approx(0.0703125)
    assert (found.wins, found.losses, found.pairs, found.difference) == (1, 7, 21, -6 / 21)
    for wins, losses in ((0, 6), (5, 5), (150, 86), (4, 5)):
        other = mcnemar(*pairs(3, wins, losses, 4))
        assert other is not None
        assert other.p == pytest.approx(scipy_stats.binomtest(wins, wins + losses).pvalue)


def test_arms_that_always_agree_do_not_surely_agree() -> None:
    """Ten of ten in both arms: no difference, p one, and an interval that has a width."""
    found = mcnemar([True] * 10, [True] * 10)
    assert found is not None
    assert (found.difference, found.p) == (0.0, 1.0)
    assert -0.3 < found.interval.low < -0.2
    assert 0.2 < found.interval.high < 0.3


def test_an_arm_that_always_passes_is_correlated_with_nothing() -> None:
    """With a rate of exactly 1 there is no correlation to correct for: Wilson's distances add up as squares."""
    found, low, high = mcnemar(*pairs(5, 5, 0, 0)), wilson_interval(10, 10), wilson_interval(5, 10)
    assert found is not None
    assert low is not None
    assert high is not None
    assert found.interval.low == pytest.approx(0.5 - math.hypot(1 - low.low, high.high - 0.5))
    assert found.interval.high == pytest.approx(0.5 + 0.5 - high.low)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_interval_of_pass_rates_stays_on_the_scale(both: list[tuple[bool, bool]]) -> None:
    """It holds the estimate, and turns around with the arms."""
    ours, theirs = [one for one, _ in both], [other for _, other in both]
    found, turned = mcnemar(ours, theirs), mcnemar(theirs, ours)
    assert found is not None
    assert turned is not None
    assert -1 <= found.interval.low <= found.difference <= found.interval.high <= 1
    assert (turned.interval.low, turned.interval.high) == pytest.approx((-found.interval.high, -found.interval.low))


def test_better_is_only_said_with_a_test() -> None:
    """A difference alone names no winner."""
    assert direction(0.5, 0.2) == "undecided"
    assert direction(0.5, 0.05) == "better"
    assert direction(-0.5, 0.01) == "worse"
    assert direction(0.0, 0.01) == "undecided"


def test_halves_of_one_arm_are_seldom_told_apart() -> None:
    """Coarse and skewed scores of one task: the rate of rejections is compatible with alpha."""
    scores = np.random.default_rng(8).binomial(5, 0.8, 40) / 5
    found = false_positive_rate({"joke": scores.tolist()}, seed=2, splits=300)
    assert found is not None
    assert (found.unit, found.splits) == ("trial", 300)
    assert found.attainable == pytest.approx(0.05)
    assert found.rate.estimate == found.rejections / 300
    assert found.holds
    assert 0 < found.rejections < 30


def test_a_rate_above_alpha_does_not_hold() -> None:
    """The check fails where the interval of the rate is above alpha."""
    found = false_positive_rate({"t": [0.1, 0.9] * 20}, seed=2, alpha=0.5)
    assert found is not None
    assert found.holds
    assert found.rejections > 0
    assert not replace(found, alpha=1e-9).holds


def test_a_check_that_cannot_reject_says_so() -> None:
    """Eight values of one task are four pairs, whose smallest p is 1/8; a task with one value is left out."""
    few = false_positive_rate({"a": [0.1 * step for step in range(8)], "b": [0.5]}, seed=1)
    assert few is not None
    assert (few.attainable, few.rejections) == (0.0, 0)
    assert false_positive_rate({"a": [0.5], "b": []}, seed=1) is None


def test_many_tasks_are_flipped_whole() -> None:
    """With six tasks or more the unit of an A/A check is the task."""
    chance = np.random.default_rng(9)
    values = {task: chance.normal(task, 1, 4).tolist() for task in range(8)}
    found = false_positive_rate(values, seed=3)
    assert found is not None
    assert (found.unit, found.attainable) == ("task", 6 / 128)
    assert found.holds
