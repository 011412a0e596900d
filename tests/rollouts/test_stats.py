"""Intervals, corrected p-values, saturation and the Pareto front, against published and independent values."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from p2engine.errors import SetupError, UsageError
from p2engine.rollouts.agreement import cohen_kappa, krippendorff_alpha, quadratic_kappa
from p2engine.rollouts.comparison import direction, false_positive_rate, mcnemar, paired_difference
from p2engine.rollouts.power import (
    comparison_unit,
    difference_sd,
    intraclass_correlation,
    minimum_detectable_difference,
    repeats_needed,
)
from p2engine.rollouts.sign_flips import attainable_level
from p2engine.rollouts.stats import (
    BOOTSTRAP_CLUSTERS_MAX,
    Arm,
    Interval,
    cluster_interval,
    cluster_t_interval,
    holm,
    is_single,
    mean_interval,
    pareto_front,
    saturated,
    wilson_interval,
)

SCORES = [0.9, 0.8, 0.7, 0.2, 0.3, 0.25, 0.5, 0.6, 0.1, 0.95, 0.4]
TASKS = ["a", "a", "a", "b", "b", "b", "b", "c", "d", "e", "e"]


def bounds(interval: Interval | None) -> tuple[float, float]:
    """The ends of an interval that is there."""
    assert interval is not None
    return interval.low, interval.high


def test_the_mean_has_the_t_interval_that_scipy_gives() -> None:
    """The interval of a mean is Student's, at any level."""
    for level in (0.5, 0.95, 0.99):
        expected = scipy_stats.ttest_1samp(SCORES, 0).confidence_interval(level)
        assert bounds(mean_interval(SCORES, level)) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_one_value_has_no_interval() -> None:
    """Nothing and one value have no spread to build an interval from; a single value is known as such."""
    assert mean_interval([]) is None
    assert mean_interval([0.7]) is None
    assert cluster_t_interval([0.7, 0.8], ["a", "a"]) is None
    assert cluster_interval([0.7], ["a"], seed=1) is None
    assert [is_single([]), is_single([0.7]), is_single([0.7, 0.7])] == [False, True, False]


def test_equal_values_have_an_interval_without_width() -> None:
    """Rounding opens no interval where there is no spread: not even for tenths, whose sum is not exact."""
    for count in (2, 3, 7, 100):
        values = [0.1] * count
        assert bounds(mean_interval(values)) == (0.1, 0.1)
        assert bounds(cluster_interval(values, range(count), seed=1)) == (0.1, 0.1)


def test_the_cluster_robust_interval_is_that_of_a_regression() -> None:
    """Unequal clusters: the same as statsmodels 0.15, OLS on a constant with cov_type='cluster' and use_t."""
    interval = cluster_t_interval(SCORES, TASKS)
    assert bounds(interval) == pytest.approx((0.15332783, 0.88303581), abs=1e-8)
    assert interval is not None
    assert (interval.n, interval.units, interval.method) == (11, 5, "cluster t")
    assert interval.estimate == pytest.approx(sum(SCORES) / 11)


def test_the_cluster_robust_interval_is_the_t_interval_of_cluster_means() -> None:
    """With equally many values in each cluster only their means count; with one in each, it is the plain interval."""
    values = [0.1, 0.3, 0.9, 0.7, 0.4, 0.5]
    assert bounds(cluster_t_interval(values, [1, 1, 2, 2, 3, 3])) == pytest.approx(
        bounds(mean_interval([0.2, 0.8, 0.45])), rel=1e-12
    )
    assert bounds(cluster_t_interval(values, range(6))) == pytest.approx(bounds(mean_interval(values)), rel=1e-12)


def test_the_bootstrap_draws_whole_clusters() -> None:
    """Repeating each value of a task makes no interval narrower, as it would if values were drawn alone."""
    values = [0.1, 0.5, 0.45, 0.9, 0.7, 0.65, 0.3, 0.8, 0.2, 0.6]
    once = bounds(cluster_interval(values, range(10), seed=7))
    often = cluster_interval(values * 20, list(range(10)) * 20, seed=7)
    assert bounds(often) == pytest.approx(once, abs=0.01)
    assert often is not None
    assert (often.n, often.units, often.method) == (200, 10, "cluster bootstrap")


def test_the_bootstrap_weighs_clusters_by_their_size() -> None:
    """A task with most of the values, drawn several times, moves the mean towards its own and never beyond."""
    interval = cluster_interval([1.0] * 30 + [0.0] * 9, [*[0] * 30, *range(1, 10)], seed=1)
    assert interval is not None
    assert (interval.estimate, interval.low) == (30 / 39, 0.0)
    assert 0.9 < interval.high < 1


def test_the_bootstrap_is_the_expanded_percentile_interval() -> None:
    """Its bounds are those quantiles of all resampled means whose ranks widen for few clusters (Hesterberg 2015)."""
    # given two values, a share p of ones among ten clusters: every resampled mean is a binomial count over ten
    values = [0.0] * 4 + [1.0] * 6
    rank = scipy_stats.norm.cdf(-math.sqrt(10 / 9) * scipy_stats.t.ppf(0.975, 9))
    expected = [scipy_stats.binom.ppf(share, 10, 0.6) / 10 for share in (rank, 1 - rank)]
    plain = [scipy_stats.binom.ppf(share, 10, 0.6) / 10 for share in (0.025, 0.975)]
    # then
    assert bounds(cluster_interval(values, range(10), seed=3)) == pytest.approx(expected)
    assert expected != pytest.approx(plain)


def test_the_bootstrap_gives_way_where_it_would_mislead_or_only_cost() -> None:
    """Fewer than eight clusters, or very many, have the t interval of clusters; one has that of its values."""
    assert cluster_interval(SCORES, TASKS, seed=1) == cluster_t_interval(SCORES, TASKS)
    assert cluster_interval(SCORES, ["a"] * 11, seed=1) == mean_interval(SCORES)
    many = [0.0, 1.0] * BOOTSTRAP_CLUSTERS_MAX
    assert cluster_interval(many, range(len(many)), seed=1) == cluster_t_interval(many, range(len(many)))


def test_the_same_seed_gives_the_same_interval() -> None:
    """Chance is handed in: equal seeds agree to the last bit, others need not."""
    values = SCORES * 3
    assert cluster_interval(values, range(33), seed=1) == cluster_interval(values, range(33), seed=1)
    assert cluster_interval(values, range(33), seed=1) != cluster_interval(values, range(33), seed=2)


@pytest.mark.parametrize(
    ("passes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_pass_rates_have_the_intervals_of_the_paper(passes: int, n: int, low: float, high: float) -> None:
    """Table I of Newcombe 1998, method 3, the score interval without continuity correction."""
    assert bounds(wilson_interval(passes, n)) == pytest.approx((low, high), abs=5e-5)


def test_a_pass_rate_is_never_surely_one() -> None:
    """All of ten is exactly 1 above and well below 1 below; none of none has no interval."""
    low, high = bounds(wilson_interval(10, 10))
    assert high == 1.0
    assert low == pytest.approx(0.7225, abs=5e-5)
    assert wilson_interval(0, 0) is None
    for n in range(1, 200):
        assert bounds(wilson_interval(0, n))[0] == 0.0
        assert bounds(wilson_interval(n, n))[1] == 1.0


def test_holm_is_that_of_other_packages() -> None:
    """As R's p.adjust and statsmodels' multipletests give it, in the order of the p-values and not of their size."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    # the fifteen p-values of Benjamini & Hochberg 1995, where Bonferroni's and Holm's procedures reject three
    published = (0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324)
    adjusted = holm((*published, 0.4262, 0.5719, 0.6528, 0.759, 1.0))
    assert adjusted[:9] == pytest.approx((0.0015, 0.0056, 0.0247, 0.114, 0.2211, 0.278, 0.278, 0.278, 0.3213))
    assert adjusted[9:] == (1.0,) * 6
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_holm_does_not_depend_on_the_order(p_values: list[float], shuffle: object) -> None:
    """Adjusted values are no smaller than the raw ones, no larger than Bonferroni's, and follow their p-values."""
    order = list(range(len(p_values)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    adjusted = holm(p_values)
    assert holm([p_values[index] for index in order]) == tuple(adjusted[index] for index in order)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw)


def test_scores_at_one_end_of_the_scale_are_noticed() -> None:
    """Nine of ten at the top are a ceiling, at the bottom a floor; eight are neither, nor are a handful of values."""
    assert saturated([1.0] * 9 + [0.2]) == "ceiling"
    assert saturated([0.0] * 9 + [1.0]) == "floor"
    assert saturated([1.0] * 8 + [0.2, 0.3]) is None
    assert saturated([1.0] * 4) is None
    assert saturated([]) is None
    assert saturated([5.0] * 9 + [1.0], 1.0, 5.0) == "ceiling"
    assert saturated([3.0] * 10, 1.0, 5.0) is None


def test_the_pareto_front_keeps_what_nothing_beats() -> None:
    """An arm that another one equals everywhere and betters somewhere is off the front; twins stay together."""

    def arm(name: str, quality: float, cost: float, latency: float) -> Arm:
        return Arm(name=name, quality=quality, cost_usd=cost, latency_s=latency)

    arms = [
        arm("slow and good", 0.9, 0.10, 9.0),
        arm("beaten", 0.8, 0.10, 9.0),
        arm("cheap", 0.5, 0.01, 5.0),
        arm("twin", 0.5, 0.01, 5.0),
        arm("fast", 0.4, 0.05, 1.0),
        arm("beaten twice", 0.4, 0.10, 9.5),
    ]
    assert pareto_front(arms) == ("slow and good", "cheap", "twin", "fast")
    assert pareto_front(arms[1:2]) == ("beaten",)
    assert pareto_front([]) == ()


def test_counts_are_numbers_and_numbers_without_measure_are_not() -> None:
    """Whole numbers count as they are; one whose square no float holds is refused by name."""
    assert mean_interval([1, 2, 3]) == mean_interval([1.0, 2.0, 3.0])
    with pytest.raises(UsageError, match=r"values\[1\] is 10"):
        mean_interval([1, 10**400])


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda bad: mean_interval([0.5, bad]), "values[1]"),
        (lambda bad: cluster_t_interval([0.5, bad], [1, 2]), "values[1]"),
        (lambda bad: cluster_interval([0.5, bad], [1, 2], seed=1), "values[1]"),
        (lambda bad: holm([0.5, bad]), "p_values[1]"),
        (lambda bad: saturated([0.5, bad]), "values[1]"),
        (lambda bad: pareto_front([Arm(name="x", quality=0.5, cost_usd=bad, latency_s=1)]), "arm 'x'[1]"),
        (lambda bad: paired_difference([0.5, bad], [1, 1], seed=1), "variant[1]"),
        (lambda bad: paired_difference([1, 1], [0.5, bad], seed=1), "baseline[1]"),
        (lambda bad: mcnemar([True, bad], [True, True]), "variant[1]"),
        (lambda bad: direction(0.1, bad), "p_adjusted"),
        (lambda bad: direction(bad, 0.1), "difference"),
        (lambda bad: false_positive_rate({"t": [0.5, bad]}, seed=1), "values of 't'[1]"),
        (lambda bad: difference_sd(bad), "sd"),
        (lambda bad: minimum_detectable_difference(9, bad), "sd"),
        (lambda bad: minimum_detectable_difference(9, 0.2, icc=bad), "icc"),
        (lambda bad: repeats_needed(bad, 0.2), "difference"),
        (lambda bad: intraclass_correlation([0.5, bad], [1, 1]), "values[1]"),
        (lambda bad: krippendorff_alpha([[1.0, bad], [1.0, 2.0]]), "ratings[0][1]"),
        (lambda bad: krippendorff_alpha([[1.0, 1.0], [bad, 2.0]], "interval"), "ratings[1][0]"),
        (lambda bad: cohen_kappa([1.0, bad], [1.0, 2.0]), "ratings[0][1]"),
        (lambda bad: quadratic_kappa([1.0, 2.0], [bad, 1.0]), "the second rater[0]"),
    ],
)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused_by_name(call: Callable[[float], object], named: str, bad: float) -> None:
    """A NaN or an infinity never becomes part of a mean: the error says which value it was."""
    with pytest.raises(UsageError) as refused:
        call(bad)
    assert refused.value.message.startswith(f"{named} is {bad!r}: expected")


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval(["0.5", "0.6"]),  # type: ignore[list-item]
        lambda: mean_interval([1e200, 1.0]),
        lambda: mean_interval([0.5, 0.6], level=1.0),
        lambda: mean_interval([0.5, 0.6], level=95),
        lambda: cluster_t_interval([0.5, 0.6], ["a"]),
        lambda: cluster_interval([0.5, 0.6], ["a", "b"], seed=1, resamples=0),
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(-1, 2),
        lambda: wilson_interval(0, -1),
        lambda: holm([1.5]),
        lambda: holm([-0.1]),
        lambda: saturated([1.0] * 9, share=1.5),
        lambda: paired_difference([0.5], [0.5, 0.6], seed=1),
        lambda: paired_difference([0.5], [0.5], ["a", "b"], seed=1),
        lambda: paired_difference([0.5], [0.5], seed=1, resamples=10),
        lambda: mcnemar([True], [True, False]),
        lambda: mcnemar([0.5], [True]),  # type: ignore[list-item]
        lambda: direction(0.1, 0.01, alpha=0),
        lambda: false_positive_rate({"t": [0.5, 0.6]}, seed=1, splits=0),
        lambda: false_positive_rate({"t": [0.5, 0.6]}, seed=1, alpha=1),
        lambda: difference_sd(-0.1),
        lambda: difference_sd(0.1, correlation=2),
        lambda: comparison_unit(0),
        lambda: attainable_level(0, 0.05),
        lambda: minimum_detectable_difference(0, 0.2),
        lambda: minimum_detectable_difference(9, -0.2),
        lambda: minimum_detectable_difference(9, 0.2, tasks=0),
        lambda: minimum_detectable_difference(9, 0.2, icc=1.5),
        lambda: minimum_detectable_difference(9, 0.2, comparisons=0),
        lambda: minimum_detectable_difference(9, 0.2, alpha=0),
        lambda: minimum_detectable_difference(9, 0.2, power=1),
        lambda: repeats_needed(0, 0.2),
        lambda: intraclass_correlation([0.5], ["a", "b"]),
        lambda: krippendorff_alpha([["a", "b"], ["a"]]),
        lambda: krippendorff_alpha([["a", "b"], ["a", "b"]], "interval"),
        lambda: krippendorff_alpha([[1, 2], [1, 2]], "ordinal"),  # type: ignore[arg-type]
        lambda: cohen_kappa(["a"], ["a", "b"]),
        lambda: quadratic_kappa([1.0], [1.0, 2.0]),
    ],
)
def test_what_cannot_be_counted_is_refused(call: Callable[[], object]) -> None:
    """Wrong lengths, counts, levels and kinds are the caller's mistake, and told as one."""
    with pytest.raises(UsageError):
        call()


def test_the_modules_load_neither_scipy_nor_numpy() -> None:
    """They import without the libraries that count, and what needs none of them works without."""
    code = (
        "import sys; sys.modules['scipy'] = sys.modules['numpy'] = None\n"
        "from p2engine.rollouts import agreement, comparison, power, sign_flips, stats\n"
        "assert stats.wilson_interval(3, 4) and stats.holm([0.1]) and stats.saturated([1.0] * 9)\n"
        "assert power.difference_sd() and agreement.krippendorff_alpha([['a', 'b'], ['a', 'a']]) is not None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("missing", ["scipy", "numpy"])
@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([0.5, 0.6]),
        lambda: cluster_interval(SCORES * 2, range(22), seed=1),
        lambda: paired_difference([0.5], [0.6], seed=1),
        lambda: mcnemar([True], [True]),
        lambda: minimum_detectable_difference(9, 0.2),
        lambda: false_positive_rate({"t": [0.5, 0.6]}, seed=1),
    ],
)
def test_without_scipy_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str, call: Callable[[], object]
) -> None:
    """Whoever installed the core alone is told which extra brings the statistics."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SetupError) as refused:
        call()
    assert refused.value.hint == "pip install 'p2engine[learn]'"
