"""What a plan can detect, against published sample sizes and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from p2engine.rollouts.power import (
    PASS_SD,
    REPEATS_MAX,
    comparison_unit,
    difference_sd,
    intraclass_correlation,
    minimum_detectable_difference,
    repeats_needed,
)
from p2engine.rollouts.sign_flips import sign_flip_p


@pytest.mark.parametrize(("effect", "units"), [(0.5, 34), (0.2, 199)])
def test_sample_sizes_are_those_of_the_tables(effect: float, units: int) -> None:
    """Cohen's (1988) medium and small effects at 0.05, two-sided, 80 %: 34 and 199 pairs, as G*Power prints them."""
    assert repeats_needed(effect, 1.0) == units


def test_the_detectable_difference_is_that_of_statsmodels() -> None:
    """TTestPower().solve_power of statsmodels 0.15; and scipy's non-central t says that the power is as promised."""
    assert minimum_detectable_difference(24, 1.0) == pytest.approx(0.597184, abs=2e-6)
    assert minimum_detectable_difference(34, 1.0) == pytest.approx(0.495029, abs=2e-6)
    # a third of 0.05 is attained by 10,000 flips as 0.0166
    assert minimum_detectable_difference(24, 1.0, comparisons=3) == pytest.approx(0.70498, abs=1e-3)
    for power in (0.06, 0.5, 0.8, 0.99):
        size = minimum_detectable_difference(40, 1.0, power=power)
        assert size is not None
        away, critical = size * math.sqrt(40), scipy_stats.t.ppf(0.975, 39)
        found = scipy_stats.nct.sf(critical, 39, away) + scipy_stats.nct.cdf(-critical, 39, away)
        assert found == pytest.approx(power, abs=1e-7)


def test_it_scales_with_the_spread() -> None:
    """24 repeats with a standard deviation of 0.25 detect 0.15."""
    assert minimum_detectable_difference(24, 0.25) == pytest.approx(0.149, abs=5e-4)
    assert minimum_detectable_difference(24, 0.0) == 0.0
    assert repeats_needed(0.15, 0.25) == 24


@pytest.mark.parametrize("comparisons", [1, 2, 3, 9, 20])
def test_fewer_units_than_the_test_needs_detect_nothing(comparisons: int) -> None:
    """Six units can reject one hypothesis at 0.05, five never: the plan says that before the run."""
    least = next(units for units in range(1, 50) if 2.0 ** (1 - units) <= 0.05 / comparisons)
    assert minimum_detectable_difference(least - 1, 0.25, comparisons=comparisons) is None
    assert minimum_detectable_difference(least, 0.25, comparisons=comparisons) is not None
    assert repeats_needed(100.0, 0.25, comparisons=comparisons) == least


def test_more_comparisons_than_drawn_flips_can_tell_apart_detect_nothing() -> None:
    """A thousand variants ask for a p below one in ten thousand, which drawn flips do not reach."""
    assert minimum_detectable_difference(50, 0.25, comparisons=1000) is None
    assert repeats_needed(0.5, 0.25, comparisons=1000) is None


def test_tasks_are_the_units_where_there_are_enough() -> None:
    """Six tasks carry a finding about tasks; with five only their trials can be compared."""
    assert [comparison_unit(tasks) for tasks in (1, 5, 6)] == ["trial", "trial", "task"]
    assert [comparison_unit(tasks, comparisons=9) for tasks in (8, 9)] == ["trial", "task"]
    assert minimum_detectable_difference(8, 0.3, tasks=3) == minimum_detectable_difference(24, 0.3)


def test_repeats_do_not_replace_tasks() -> None:
    """Where all variance is between tasks repeats help nothing; where none is, they help as much as they can."""
    once = minimum_detectable_difference(1, 0.3, tasks=10)
    assert once is not None
    assert minimum_detectable_difference(9, 0.3, tasks=10, icc=1.0) == once
    assert minimum_detectable_difference(9, 0.3, tasks=10, icc=0.0) == pytest.approx(once / 3)
    assert minimum_detectable_difference(9, 0.3, tasks=10, icc=-0.2) == pytest.approx(once / 3)
    assert repeats_needed(once / 3, 0.3, tasks=10, icc=0.5) is None
    needed = repeats_needed(once / 2, 0.3, tasks=10, icc=0.1)
    assert needed == math.ceil(0.9 / (0.25 - 0.1))


def test_the_fewest_repeats_are_the_fewest() -> None:
    """One repeat less detects only larger differences; too small a difference is beyond any plan."""
    for difference in (0.05, 0.11, 0.2):
        needed = repeats_needed(difference, 0.35, comparisons=2)
        assert needed is not None
        enough = minimum_detectable_difference(needed, 0.35, comparisons=2)
        short = minimum_detectable_difference(needed - 1, 0.35, comparisons=2)
        assert enough is not None
        assert short is not None
        assert enough <= difference < short
    assert minimum_detectable_difference(REPEATS_MAX, 0.25) == pytest.approx(0.007, abs=1e-4)
    assert repeats_needed(0.001, 0.25) is None


def test_what_is_assumed_without_data() -> None:
    """A quarter of the scale for scores, the most there can be for passes, and no correlation between arms."""
    assert difference_sd() == pytest.approx(0.25 * math.sqrt(2))
    assert difference_sd(PASS_SD) == pytest.approx(math.sqrt(0.5))
    assert difference_sd(0.25, correlation=0.5) == pytest.approx(0.25)
    assert difference_sd(0.25, correlation=1) == 0


def test_the_intraclass_correlation_of_shrout_and_fleiss() -> None:
    """Six targets rated by four judges: ICC(1,1) is published as 0.17."""
    targets = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    values = [float(rating) for target in targets for rating in target]
    found = intraclass_correlation(values, [number for number in range(6) for _ in range(4)])
    assert found == pytest.approx(0.17, abs=0.005)


def test_where_there_is_no_intraclass_correlation() -> None:
    """One cluster, clusters of one, and no spread at all leave nothing to compare; unequal clusters are fine."""
    assert intraclass_correlation([0.1, 0.2], ["a", "a"]) is None
    assert intraclass_correlation([0.1, 0.2], ["a", "b"]) is None
    assert intraclass_correlation([0.1] * 4, ["a", "a", "b", "b"]) is None
    assert intraclass_correlation([0.1, 0.1, 0.1, 0.9, 0.9], ["a", "a", "a", "b", "b"]) == pytest.approx(1.0)
    # by hand: MSB 6.75, MSW 4/3, k = (6 - 14/6)/2
    uneven = intraclass_correlation([1, 2, 3, 4, 6, 5], ["a", "a", "a", "b", "b", "c"])
    assert uneven == pytest.approx((6.75 - 4 / 3) / (6.75 + (11 / 6 - 1) * 4 / 3))
    assert intraclass_correlation([0.0, 1.0, 0.0, 1.0], ["a", "a", "b", "b"]) == pytest.approx(-1.0)


@pytest.mark.parametrize(("units", "comparisons"), [(6, 1), (9, 9), (12, 2), (30, 1)])
def test_the_promised_power_is_there(units: int, comparisons: int) -> None:
    """Normal differences of the detectable size are found in about 80 of 100 simulated plans, however small."""
    chance = np.random.default_rng(units)
    size = minimum_detectable_difference(units, 1.0, comparisons=comparisons)
    assert size is not None
    drawn = chance.normal(size, 1, (600, units)).tolist()
    found = sum(sign_flip_p(gaps, seed=chance, resamples=1999) <= 0.05 / comparisons for gaps in drawn)
    assert found / 600 == pytest.approx(0.8, abs=0.05)
