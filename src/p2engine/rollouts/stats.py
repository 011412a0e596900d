"""What the numbers of one arm say, and those of many arms side by side.

Intervals of a mean and of a pass rate, p-values corrected for many comparisons, ceilings and floors, the Pareto front.
Pure: knows numbers and where each formula is from; never trials, files, clocks, or how a finding is worded.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from p2engine.errors import UsageError
from p2engine.rollouts.samples import (
    LEVEL,
    at_least,
    between,
    finite,
    generator,
    grouped,
    mean,
    sample_sd,
    t_quantile,
)

if TYPE_CHECKING:
    import numpy as np

BOOTSTRAP_RESAMPLES: Final = 10_000
BOOTSTRAP_CLUSTERS_MIN: Final = 8  # fewer have too few distinct resamples for the tails an interval is read from
BOOTSTRAP_CLUSTERS_MAX: Final = 1_000  # with more the t interval is the same, at a hundredth of the time
BOOTSTRAP_CELLS_MAX: Final = 2**20  # numbers drawn at once, so that memory stays flat
SATURATED_SHARE: Final = 0.9  # of the values at the end of the scale; 15 % (Terwee 2007) would flag every pass rate
SATURATED_VALUES_MIN: Final = 5  # fewer values at one end say nothing about the scale

Method = Literal["t", "cluster t", "cluster bootstrap", "wilson", "newcombe"]


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate, and a range that covers the true value in `level` of all experiments.

    n: values it rests on. units: how many of them are independent (clusters, where values were clustered).
    low equals high when the values have no spread: that says how little was seen, not how sure one may be.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    units: int
    method: Method


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What an arm is weighed by: quality, the more the better; money and seconds per trial, the less the better."""

    name: str
    quality: float
    cost_usd: float
    latency_s: float


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """The mean of independent values with Student's t interval: mean ± t · s / √n (Gosset, as Student, 1908).

    For scores, costs and latencies alike. None for fewer than two values: one says nothing about the spread.
    Raises UsageError for a value that is no finite number, SetupError without scipy.
    """
    numbers, level = finite(values, "values"), between(level, 0, 1, "level")
    n = len(numbers)
    if n < 2:
        return None
    middle = mean(numbers)
    half = t_quantile((1 + level) / 2, n - 1) * sample_sd(numbers) / math.sqrt(n)
    return Interval(estimate=middle, low=middle - half, high=middle + half, level=level, n=n, units=n, method="t")


def cluster_t_interval(values: Sequence[float], clusters: Sequence[Hashable], level: float = LEVEL) -> Interval | None:
    """The mean of values that share tasks: the cluster-robust standard error, with t on G - 1 degrees of freedom.

    Var = G/(G-1) · Σ_g (Σ_i (x_gi - mean))² / N² (Liang & Zeger 1986; with the factor and the t of Cameron & Miller
    2015; for evaluations of models, Miller 2024). With equally many values in each cluster it is the t interval of
    the cluster means; with one in each, that of the values. None for fewer than two clusters.
    Raises UsageError for a value that is no finite number, SetupError without scipy.
    """
    numbers, level = finite(values, "values"), between(level, 0, 1, "level")
    groups = grouped(numbers, clusters)
    count, n = len(groups), len(numbers)
    if count < 2:
        return None
    middle = mean(numbers)
    spread = math.fsum(math.fsum(value - middle for value in group) ** 2 for group in groups)
    half = t_quantile((1 + level) / 2, count - 1) * math.sqrt(count / (count - 1) * spread) / n
    return Interval(
        estimate=middle, low=middle - half, high=middle + half, level=level, n=n, units=count, method="cluster t"
    )


def cluster_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    level: float = LEVEL,
    *,
    seed: int | np.random.Generator,
    resamples: int = BOOTSTRAP_RESAMPLES,
) -> Interval | None:
    """The mean of values that share tasks, with an interval from resampling whole tasks.

    Clusters are drawn with replacement, with all their values (Davison & Hinkley 1997, section 3.8). The interval is
    the expanded percentile interval: percentiles at Φ(-√(G/(G-1)) · t_{G-1}) and its mirror instead of (1 - level)/2,
    since plain percentiles are too narrow for few clusters (Hesterberg 2015). With fewer than eight clusters, or more
    than a thousand, it is `cluster_t_interval`; for one it is `mean_interval`, which speaks of that one task only;
    `method` and `units` say which. None for fewer than two values.
    Raises UsageError for a value that is no finite number or fewer than 100 resamples, SetupError without scipy.
    """
    numbers, level = finite(values, "values"), between(level, 0, 1, "level")
    at_least(resamples, 100, "resamples")
    groups = grouped(numbers, clusters)
    count = len(groups)
    if count < 2:
        return mean_interval(numbers, level)
    if not BOOTSTRAP_CLUSTERS_MIN <= count <= BOOTSTRAP_CLUSTERS_MAX:
        return cluster_t_interval(numbers, clusters, level)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * t_quantile((1 + level) / 2, count - 1))
    middle = mean(numbers)
    low, high = _resampled(groups, middle, (tail, 1 - tail), generator(seed), resamples)
    return Interval(
        estimate=middle,
        low=low,
        high=high,
        level=level,
        n=len(numbers),
        units=count,
        method="cluster bootstrap",
    )


def _resampled(
    groups: Sequence[Sequence[float]],
    middle: float,
    tails: tuple[float, float],
    chance: np.random.Generator,
    resamples: int,
) -> tuple[float, float]:
    """The two quantiles of the mean over resampled groups. middle: the mean of all values."""
    import numpy as np

    # Deviations from the mean, so that equal values give exactly their mean.
    sums = np.array([math.fsum(value - middle for value in group) for group in groups])
    sizes = np.array([len(group) for group in groups], dtype=float)
    n_each = float(sizes.sum()) if sizes.min() == sizes.max() else None  # of any resample, where groups are alike
    count, batch = len(groups), max(1, BOOTSTRAP_CELLS_MAX // len(groups))
    means = []
    for start in range(0, resamples, batch):
        drawn = chance.integers(count, size=(min(batch, resamples - start), count))
        means.append(sums[drawn].sum(axis=1) / (n_each or sizes[drawn].sum(axis=1)))
    low, high = np.quantile(np.concatenate(means), tails)
    return middle + float(low), middle + float(high)


def wilson_bounds(passes: int, n: int, level: float) -> tuple[float, float]:
    """The score bounds of a proportion (Wilson 1927): those p for which |passes/n - p| = z · √(p(1-p)/n). n > 0."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = passes / n
    middle = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (
        0.0 if passes == 0 else (middle - half) / scale,  # exactly the ends, where rounding would miss them
        1.0 if passes == n else (middle + half) / scale,
    )


def wilson_interval(passes: int, n: int, level: float = LEVEL) -> Interval | None:
    """A pass rate with its score interval (Wilson 1927; the choice among seven, Newcombe 1998). None when n is 0.

    Never degenerate: 10 of 10 is not a rate of surely 1. For independent trials; where several share a task use
    `cluster_interval` over zeros and ones. Raises UsageError for counts that cannot be.
    """
    level = between(level, 0, 1, "level")
    at_least(n, 0, "n")
    if not 0 <= passes <= n:
        raise UsageError(f"passes is {passes!r}: expected a number from 0 to n, which is {n}")
    if n == 0:
        return None
    low, high = wilson_bounds(passes, n, level)
    return Interval(estimate=passes / n, low=low, high=high, level=level, n=n, units=n, method="wilson")


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p-values adjusted for their number, in the order given: reject where the adjusted one is ≤ alpha.

    Of m sorted ones the j-th becomes max over i ≤ j of min(1, (m - i + 1) · p_i): the chance of any false rejection
    is at most alpha, whatever the dependence (Holm 1979). Raises UsageError for what is no probability.
    """
    numbers = finite(p_values, "p_values")
    for index, p in enumerate(numbers):
        if not 0 <= p <= 1:
            raise UsageError(f"p_values[{index}] is {p!r}: expected a number from 0 to 1")
    adjusted = [0.0] * len(numbers)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(numbers)), key=numbers.__getitem__)):
        largest = max(largest, min(1.0, (len(numbers) - rank) * numbers[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def saturated(
    values: Sequence[float], lowest: float = 0.0, highest: float = 1.0, *, share: float = SATURATED_SHARE
) -> Literal["ceiling", "floor"] | None:
    """Whether so many values stand at one end of the scale that it cannot tell good from better, or bad from worse.

    lowest, highest: the ends of the scale. share: of the values at or beyond an end. None where they do not, and for
    fewer than five values. Ceiling and floor effects: Terwee et al. 2007, with a share that suits pass rates too.
    Raises UsageError for a value that is no finite number.
    """
    numbers, share = finite(values, "values"), between(share, 0.5, math.nextafter(1, 2), "share")
    if len(numbers) < SATURATED_VALUES_MIN:
        return None
    if sum(value >= highest for value in numbers) >= share * len(numbers):
        return "ceiling"
    return "floor" if sum(value <= lowest for value in numbers) >= share * len(numbers) else None


def is_single(values: Sequence[float]) -> bool:
    """Whether there is exactly one value: it has no interval, and no winner may be named from it."""
    return len(values) == 1


def pareto_front(arms: Sequence[Arm]) -> tuple[str, ...]:
    """The names of the arms that no other one beats, in the order given (Pareto 1906).

    An arm is beaten by one that is no worse in quality, cost and latency, and better in at least one of them; equal
    arms stand together. By point estimates: whether two arms differ is for a test to say. Raises UsageError for what
    is no finite number.
    """
    points = []
    for arm in arms:
        quality, cost, latency = finite((arm.quality, arm.cost_usd, arm.latency_s), f"arm {arm.name!r}")
        points.append((-quality, cost, latency))

    def beaten(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(theirs <= ours for theirs, ours in zip(other, point, strict=True))
            for other in points
        )

    return tuple(arm.name for arm, point in zip(arms, points, strict=True) if not beaten(point))
