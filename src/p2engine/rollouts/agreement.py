"""How far judges agree: with one another, and with people.

Pure: knows ratings; never judges, verdicts, or how a finding is worded.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, cast

from p2engine.errors import UsageError
from p2engine.rollouts.samples import finite, mean, number, same_length, squares


def krippendorff_alpha(
    ratings: Sequence[Sequence[Hashable | None]], metric: Literal["nominal", "interval"] = "nominal"
) -> float | None:
    """Agreement of two or more raters beyond chance: 1 is perfect, 0 is what chance gives, below is worse than chance.

    ratings: a row per rater, a column per item; None where a rater did not rate. metric: `nominal` for labels, where
    two differ or do not; `interval` for numbers, where squared distance counts. alpha = 1 - observed / expected
    disagreement, over items with at least two ratings (Krippendorff 2011; 2019, chapter 12).
    None where it is not defined: no item with two ratings, or all ratings alike, so that nothing could disagree.
    Raises UsageError for rows of different lengths and for what is no rating.
    """
    for row in ratings[1:]:
        same_length(ratings[0], row, "rows of ratings")
    _ratings_checked(ratings, metric)
    items = [[rating for rating in column if rating is not None] for column in zip(*ratings, strict=True)]
    items = [item for item in items if len(item) > 1]
    everything = [rating for item in items for rating in item]
    disagreement = _DISAGREEMENT[metric]
    expected = disagreement(everything) / (len(everything) - 1) if everything else 0.0
    if expected == 0:
        return None
    observed = math.fsum(disagreement(item) / (len(item) - 1) for item in items)
    return 1 - observed / expected


def _ratings_checked(ratings: Sequence[Sequence[Hashable | None]], metric: str) -> None:
    if metric not in _DISAGREEMENT:
        raise UsageError(f"metric is {metric!r}: expected nominal or interval")
    for rater, row in enumerate(ratings):
        for index, rating in enumerate(row):
            if rating is not None and (metric == "interval" or isinstance(rating, float)):
                number(cast("float", rating), f"ratings[{rater}][{index}]")


def _unlike_pairs(ratings: Sequence[Hashable]) -> float:
    """How many ordered pairs are not alike."""
    return len(ratings) ** 2 - sum(count * count for count in Counter(ratings).values())


def _squared_distances(ratings: Sequence[Hashable]) -> float:
    """The sum of squared distances over all ordered pairs: twice n times the sum of squares about the mean."""
    return 2 * len(ratings) * squares(cast("Sequence[float]", ratings))


_DISAGREEMENT: dict[str, Callable[[Sequence[Hashable]], float]] = {
    "nominal": _unlike_pairs,
    "interval": _squared_distances,
}


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Agreement of two raters on labels, beyond chance: (observed - expected) / (1 - expected) (Cohen 1960).

    Items that either did not rate are left out by the caller. None without items, or where both gave one and the same
    label throughout, so that nothing could disagree. Raises UsageError.
    """
    same_length(one, other, "the ratings of both raters")
    _ratings_checked((one, other), "nominal")
    n, first, second = len(one), Counter(one), Counter(other)
    by_chance = sum(count * second[label] for label, count in first.items())
    if n == 0 or by_chance == n * n:
        return None
    alike = sum(mine == theirs for mine, theirs in zip(one, other, strict=True))
    return (n * alike - by_chance) / (n * n - by_chance)


def quadratic_kappa(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Agreement of two raters on a scale of numbers: Cohen's weighted kappa (1968) with squared distance as weight.

    1 - Σ (x_i - y_i)² / n over the mean of (x_i - y_j)² over all i, j. On equally spaced categories it is the usual
    quadratic kappa; on any numbers it is Lin's (1989) concordance coefficient (King & Chinchilli 2001, on both).
    None without items, or where all ratings are one number. Raises UsageError.
    """
    same_length(one, other, "the ratings of both raters")
    mine, theirs = finite(one, "the first rater"), finite(other, "the second rater")
    n = len(mine)
    if n == 0:
        return None
    by_chance = squares(mine) / n + squares(theirs) / n + (mean(mine) - mean(theirs)) ** 2
    if by_chance == 0:
        return None
    return 1 - math.fsum((x - y) ** 2 for x, y in zip(mine, theirs, strict=True)) / n / by_chance
