"""Whether two arms differ: paired differences, their tests, and how often equal arms would be told apart.

Pure: knows pairs of numbers; never trials, files, clocks, or how a finding is worded.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from operator import sub
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import msgspec

from p2engine.errors import UsageError
from p2engine.rollouts.power import comparison_unit
from p2engine.rollouts.samples import (
    ALPHA,
    LEVEL,
    at_least,
    between,
    finite,
    generator,
    grouped,
    mean,
    need_scipy,
    number,
    same_length,
    sample_sd,
)
from p2engine.rollouts.sign_flips import (
    EXACT_UNITS_MAX,
    FLIPS,
    FLIPS_MIN,
    attainable_level,
    sign_flip_p,
    smallest_p,
)
from p2engine.rollouts.stats import Interval, cluster_t_interval, mean_interval, wilson_bounds, wilson_interval

if TYPE_CHECKING:
    import numpy as np

Key = TypeVar("Key", bound=Hashable)

ROUNDING: Final = 1e-12  # relative to the largest value: differences that vary by less do not vary
SPLIT_FLIPS: Final = 999  # sign flips drawn for each of the many splits of an A/A check


class Matched(msgspec.Struct, frozen=True, kw_only=True):
    """What two arms have in common: parallel keys and values. unmatched: how many keys only one of them has."""

    keys: tuple[Hashable, ...]
    variant: tuple[float, ...]
    baseline: tuple[float, ...]
    unmatched: int


class PairedDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How much a variant is above its baseline, pair by pair.

    difference: the mean of variant - baseline. interval: of it; None for fewer than two units. p: of the two-sided
    sign-flip test; p_floor: the smallest it can be with so many units, whatever the values. exact: whether all sign
    flips were counted. pairs: how many; units: how many of them are independent. sd: of the differences of pairs, None
    for a single one. effect: their mean in standard deviations; None for fewer than three, or where they do not vary.
    """

    difference: float
    interval: Interval | None
    p: float
    p_floor: float
    exact: bool
    pairs: int
    units: int
    sd: float | None
    effect: float | None


class PassDifference(msgspec.Struct, frozen=True, kw_only=True):
    """How much more often a variant passes than its baseline, pair by pair.

    difference: of the pass rates. wins: pairs that only the variant passes; losses: that only the baseline passes.
    """

    difference: float
    interval: Interval
    p: float
    wins: int
    losses: int
    pairs: int


class FalsePositives(msgspec.Struct, frozen=True, kw_only=True):
    """How often the test found a difference between halves of the same arm.

    rate: rejections of all splits, with its Wilson interval. attainable: the highest rate that the test can have at
    this alpha with so many units; zero means it can never reject. unit: what was flipped.
    """

    rejections: int
    splits: int
    alpha: float
    rate: Interval
    attainable: float
    unit: Literal["task", "trial"]

    @property
    def holds(self) -> bool:
        """Whether the rate is compatible with at most alpha."""
        return self.rate.low <= self.alpha


def matched(variant: Mapping[Key, float], baseline: Mapping[Key, float]) -> Matched:
    """The values of both arms under the keys both have, in the variant's order; a key names a trial: (task, repeat).

    A trial that failed in one arm has no partner: it is left out here and counted, so that a report can say so.
    """
    keys = tuple(filter(baseline.__contains__, variant))
    return Matched(
        keys=keys,
        variant=tuple(map(variant.__getitem__, keys)),
        baseline=tuple(map(baseline.__getitem__, keys)),
        unmatched=len(variant) + len(baseline) - 2 * len(keys),
    )


def paired_difference(
    variant: Sequence[float],
    baseline: Sequence[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    seed: int | np.random.Generator,
    level: float = LEVEL,
    resamples: int = FLIPS,
) -> PairedDifference | None:
    """Compares a variant to its baseline over pairs: item i of both is the same task with the same seed.

    clusters: the task of each pair. With them, tasks are the units, of the interval (`cluster_t_interval`) and of the
    test, and the finding is about tasks like these; without, pairs are, and it is about these tasks only. Few tasks
    can show nothing: `comparison_unit` says which to take. The test is `sign_flip_p`, of each unit's sum of
    differences. The effect is Cohen's (1988) d_z, the mean over the standard deviation of the differences of pairs,
    whatever the units, times Hedges' (1981) correction for few pairs.
    None without pairs. Raises UsageError for a value that is no finite number, SetupError without scipy.
    """
    same_length(variant, baseline, "variant and baseline")
    ours, theirs = finite(variant, "variant"), finite(baseline, "baseline")
    at_least(resamples, FLIPS_MIN, "resamples")
    gaps = list(map(sub, ours, theirs))
    if not gaps:
        return None
    groups = [[gap] for gap in gaps] if clusters is None else grouped(gaps, clusters)
    interval = mean_interval(gaps, level) if clusters is None else cluster_t_interval(gaps, clusters, level)
    sd = sample_sd(gaps) if len(gaps) > 1 else 0.0
    varies = sd > ROUNDING * max(map(abs, (*ours, *theirs)))
    middle, units = mean(gaps), len(groups)
    return PairedDifference(
        difference=middle,
        interval=interval,
        p=sign_flip_p([math.fsum(group) for group in groups], seed=seed, resamples=resamples),
        p_floor=smallest_p(units, resamples),
        exact=units <= EXACT_UNITS_MAX,
        pairs=len(gaps),
        units=units,
        sd=sd if len(gaps) > 1 else None,
        effect=middle / sd * hedges_correction(len(gaps) - 1) if varies and len(gaps) > 2 else None,
    )


def hedges_correction(df: int) -> float:
    """What an effect size is multiplied by to be unbiased: Γ(df/2) / (√(df/2) · Γ((df-1)/2)) (Hedges 1981).

    df: degrees of freedom, two or more: with one nothing is unbiased. Raises UsageError.
    """
    at_least(df, 2, "df")
    return math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)


def mcnemar(variant: Sequence[bool], baseline: Sequence[bool], level: float = LEVEL) -> PassDifference | None:
    """Compares pass rates over pairs that are independent of one another.

    The test asks whether wins and losses are equally likely, by the binomial distribution of the wins among the pairs
    that differ, two-sided (McNemar 1947; this exact form: Fagerland, Lydersen & Laake 2013). The interval is Newcombe's
    (1998b) method 10, from Wilson's bounds of both rates and their correlation: it stays inside -1 … 1 and has a width
    where no pair differs. Where several pairs share a task use `paired_difference` over zeros and ones, with clusters.
    None without pairs. Raises UsageError for what is neither true nor false, SetupError without scipy.
    """
    same_length(variant, baseline, "variant and baseline")
    ours, theirs, level = _passes(variant, "variant"), _passes(baseline, "baseline"), between(level, 0, 1, "level")
    pairs = list(zip(ours, theirs, strict=True))
    if not pairs:
        return None
    need_scipy()
    from scipy import special

    wins, losses = pairs.count((True, False)), pairs.count((False, True))
    low, high = _newcombe(pairs.count((True, True)), wins, losses, pairs.count((False, False)), level)
    n, difference = len(pairs), (wins - losses) / len(pairs)
    return PassDifference(
        difference=difference,
        interval=Interval(estimate=difference, low=low, high=high, level=level, n=n, units=n, method="newcombe"),
        p=min(1.0, 2 * float(special.bdtr(min(wins, losses), wins + losses, 0.5))),
        wins=wins,
        losses=losses,
        pairs=n,
    )


def _passes(values: Sequence[bool], name: str) -> list[bool]:
    for index, value in enumerate(values):
        if value not in (0, 1):
            raise UsageError(f"{name}[{index}] is {value!r}: expected true or false")
    return [bool(value) for value in values]


def _newcombe(both: int, wins: int, losses: int, neither: int, level: float) -> tuple[float, float]:
    """Bounds of the difference of two paired proportions, by method 10 of Newcombe (1998b)."""
    n = both + wins + losses + neither
    ours, theirs = both + wins, both + losses
    margins = ours * (n - ours) * theirs * (n - theirs)
    association = both * neither - wins * losses
    corrected = max(association - n / 2, 0) if association > 0 else association
    phi = corrected / math.sqrt(margins) if margins else 0.0
    first, second, difference = ours / n, theirs / n, (wins - losses) / n
    (low1, high1), (low2, high2) = wilson_bounds(ours, n, level), wilson_bounds(theirs, n, level)

    def distance(one: float, other: float) -> float:
        return math.sqrt(one * one - 2 * phi * one * other + other * other)

    return difference - distance(first - low1, high2 - second), difference + distance(second - low2, high1 - first)


def direction(difference: float, p_adjusted: float, alpha: float = ALPHA) -> Literal["better", "worse", "undecided"]:
    """What may be said of a variant: better or worse only where the p-value, adjusted by `holm`, is at most alpha.

    difference: variant - baseline of something of which more is better. Raises UsageError.
    """
    number(difference, "difference")
    if number(p_adjusted, "p_adjusted") > between(alpha, 0, 1, "alpha") or difference == 0:
        return "undecided"
    return "better" if difference > 0 else "worse"


def false_positive_rate(
    values_by_task: Mapping[Key, Sequence[float]],
    *,
    seed: int | np.random.Generator,
    splits: int = 200,
    alpha: float = ALPHA,
    level: float = LEVEL,
    resamples: int = SPLIT_FLIPS,
) -> FalsePositives | None:
    """How often the comparison rejects where there is nothing to find: an A/A check of one arm's repeats.

    Each split pairs the values of each task at random, gives one of each pair to either half, and compares the halves
    as `paired_difference` would (Kohavi, Longbotham, Sommerfield & Henne 2009 for A/A tests of an experiment system).
    Tasks are flipped where there are enough of them to reject at alpha, else pairs. It checks the test on values as
    coarse and skewed as these; it cannot see a drift, since splits are random.
    None where no task has two values. Raises UsageError for a value that is no finite number, SetupError without scipy.
    """
    at_least(splits, 1, "splits")
    at_least(resamples, FLIPS_MIN, "resamples")
    between(alpha, 0, 1, "alpha")
    tasks = [finite(values, f"values of {task!r}") for task, values in values_by_task.items()]
    tasks = [values for values in tasks if len(values) > 1]
    if not tasks:
        return None
    unit = comparison_unit(len(tasks), alpha=alpha)
    chance, rejections = generator(seed), 0
    for _ in range(splits):
        gaps = [_split(values, chance) for values in tasks]
        sums = [math.fsum(gap) for gap in gaps] if unit == "task" else [one for gap in gaps for one in gap]
        rejections += sign_flip_p(sums, seed=chance, resamples=resamples) <= alpha
    units = len(tasks) if unit == "task" else sum(len(values) // 2 for values in tasks)
    rate = wilson_interval(rejections, splits, level)
    assert rate is not None
    return FalsePositives(
        rejections=rejections,
        splits=splits,
        alpha=alpha,
        rate=rate,
        attainable=attainable_level(units, alpha, resamples),
        unit=unit,
    )


def _split(values: Sequence[float], chance: np.random.Generator) -> list[float]:
    """The differences of random pairs; of an odd number one is left out."""
    order = chance.permutation(len(values)).tolist()
    half = len(order) // 2
    return [values[one] - values[other] for one, other in zip(order[:half], order[half : 2 * half], strict=True)]
