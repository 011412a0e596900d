"""What a planned comparison can detect, and how many repeats it would take: computed before any money is spent.

Pure: knows numbers; never trials, prices, or how a plan is worded.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist
from typing import Final, Literal

from p2engine.errors import UsageError
from p2engine.rollouts.samples import (
    ALPHA,
    at_least,
    between,
    finite,
    grouped,
    mean,
    need_scipy,
    number,
    squares,
    t_quantile,
)
from p2engine.rollouts.sign_flips import attainable_level, smallest_p

POWER: Final = 0.8  # the chance to detect a difference that is there (Cohen 1988)
SCORE_SD: Final = 0.25  # assumed of scores in 0 … 1 without data: a quarter of the range (Hozo et al. 2005)
PASS_SD: Final = 0.5  # assumed of passes and fails without data: the most it can be (Popoviciu 1935)
REPEATS_MAX: Final = 10_000  # more is no plan
PRECISION: Final = 1e-9  # relative, of a solved equation


def difference_sd(sd: float = SCORE_SD, correlation: float = 0.0) -> float:
    """The standard deviation of paired differences: sd · √(2 (1 - correlation)).

    sd: of one arm's values. correlation: between the arms over pairs; without data it is taken as none, which never
    promises too much unless the arms contradict one another. Raises UsageError.
    """
    sd = number(sd, "sd")
    if sd < 0 or not -1 <= correlation <= 1:
        raise UsageError(f"expected sd ≥ 0 and a correlation from -1 to 1, not {sd!r} and {correlation!r}")
    return sd * math.sqrt(2 * (1 - correlation))


def comparison_unit(tasks: int, comparisons: int = 1, alpha: float = ALPHA) -> Literal["task", "trial"]:
    """What a comparison counts as independent: tasks, where there are enough of them to find anything; else trials.

    With trials the finding is about these tasks only, not about others like them. Raises UsageError.
    """
    return "task" if attainable_level(tasks, alpha / at_least(comparisons, 1, "comparisons")) else "trial"


def minimum_detectable_difference(
    repeats: int,
    sd: float,
    *,
    tasks: int = 1,
    icc: float = 0.0,
    comparisons: int = 1,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float | None:
    """The smallest true difference to the baseline that the planned comparison finds with the chance `power`.

    repeats: of each task. sd: of the paired differences (`difference_sd`, or what was measured). icc: which share of
    their variance is between tasks (`intraclass_correlation`). comparisons: variants tested against the baseline; the
    first step of Holm's correction, alpha / comparisons, is assumed. Units are tasks or trials by `comparison_unit`;
    a task's mean has the variance sd² · (icc + (1 - icc)/repeats) (Kish 1965). Power is that of the paired t test, by
    the non-central t distribution (Cohen 1988), at the level that the sign-flip test attains with so many units; where
    that is its smallest p-value, all differences must have one sign, which has the chance Φ(difference/sd)^units.
    None where no difference of any size would be found: too few units. Raises UsageError, SetupError without scipy.
    """
    at_least(repeats, 1, "repeats")
    sd, icc = _spread(sd, icc)
    between(alpha, 0, 1, "alpha")
    between(power, alpha, 1, "power")
    if comparison_unit(tasks, comparisons, alpha) == "task":
        units, unit_sd = tasks, sd * math.sqrt(icc + (1 - icc) / repeats)
    else:
        units, unit_sd = tasks * repeats, sd
    level = attainable_level(units, alpha / comparisons)
    if not level:
        return None
    if level < 2 * smallest_p(units):
        return unit_sd * NormalDist().inv_cdf(power ** (1 / units))
    return unit_sd / math.sqrt(units) * _noncentrality(units - 1, level, power)


def repeats_needed(
    difference: float,
    sd: float,
    *,
    tasks: int = 1,
    icc: float = 0.0,
    comparisons: int = 1,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    """The fewest repeats of each task whose `minimum_detectable_difference` is at most `difference`, which is > 0.

    None where even 10,000 do not suffice: with tasks that differ (icc > 0) more tasks are needed, not more repeats.
    Raises UsageError, SetupError without scipy.
    """
    if number(difference, "difference") <= 0:
        raise UsageError(f"difference is {difference!r}: expected more than 0")

    def detects(repeats: int) -> bool:
        least = minimum_detectable_difference(
            repeats, sd, tasks=tasks, icc=icc, comparisons=comparisons, alpha=alpha, power=power
        )
        return least is not None and least <= difference

    if not detects(REPEATS_MAX):
        return None
    short, enough = 0, REPEATS_MAX
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if detects(middle) else (middle, enough)
    return enough


def _spread(sd: float, icc: float) -> tuple[float, float]:
    sd, icc = number(sd, "sd"), number(icc, "icc")
    if sd < 0 or icc > 1:
        raise UsageError(f"expected sd ≥ 0 and icc ≤ 1, not {sd!r} and {icc!r}")
    return sd, max(icc, 0.0)  # an estimate of icc may fall below zero, the share itself does not


def _noncentrality(df: int, alpha: float, power: float) -> float:
    """How many standard errors away from zero a mean must be for a two-sided t test to find it with that power."""
    need_scipy()
    from scipy import special

    critical = t_quantile(1 - alpha / 2, df)

    def found(away: float) -> float:
        return 1 - float(special.nctdtr(df, away, critical)) + float(special.nctdtr(df, away, -critical))

    short, enough = 0.0, critical + 1
    while found(enough) < power:
        enough *= 2
    while enough - short > PRECISION * enough:
        middle = (short + enough) / 2
        short, enough = (short, middle) if found(middle) >= power else (middle, enough)
    return enough


def intraclass_correlation(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Which share of the variance lies between clusters: ICC(1,1), from the one-way analysis of variance.

    (MSB - MSW) / (MSB + (k - 1) · MSW) (Shrout & Fleiss 1979; k for unequal clusters: Donner 1986). Below zero where
    values of one cluster differ more than those of different ones. None without two clusters, without a cluster of two
    values, or without any spread. Raises UsageError for a value that is no finite number.
    """
    numbers = finite(values, "values")
    groups = grouped(numbers, clusters)
    n, count = len(numbers), len(groups)
    if count < 2 or n == count:
        return None
    grand = mean(numbers)
    between_groups = math.fsum(len(group) * (mean(group) - grand) ** 2 for group in groups) / (count - 1)
    within_groups = math.fsum(squares(group) for group in groups) / (n - count)
    size = (n - sum(len(group) ** 2 for group in groups) / n) / (count - 1)
    whole = between_groups + (size - 1) * within_groups
    return (between_groups - within_groups) / whole if whole > 0 else None
