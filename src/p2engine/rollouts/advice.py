"""Which rollout would decide what this one left open: how many repeats, for how much, to find what.

Pure: knows contrasts and costs; never files, or how the advice is worded.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10

import msgspec

from p2engine.rollouts.contrasts import Contrast
from p2engine.rollouts.power import (
    PASS_SD,
    SCORE_SD,
    comparison_unit,
    difference_sd,
    minimum_detectable_difference,
    repeats_needed,
)

LEAST, MOST = 0.05, 0.25  # of a score: smaller differences are seldom worth their price, larger ones are luck
GROWTH_MAX = 16  # times the repeats there were: more is no next step
REPEATS_LEAST = 24  # that may always be advised
ROOM = 1.25  # times what it costs by the mean, so that a budget does not end it before its time


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """repeats: of each task, for the whole rollout. difference: what they find with 80 % power; None where it is more
    than a score can differ by, so that only more tasks would help. cost_usd: None where it is not known. budget_usd:
    what it must be allowed to spend; None where it may already. more_tasks: whether more tasks would find more than
    more repeats.
    """

    repeats: int
    difference: float | None
    cost_usd: float | None = None
    budget_usd: float | None = None
    more_tasks: bool = False


def advice(undecided: Sequence[Contrast], repeats: int, tasks: int, comparisons: int) -> Advice:
    """What would decide between variants whose scores differ by what was seen. undecided: one or more contrasts of one
    score. repeats, tasks: of the team as it ran. The cost is for the caller to add. Raises SetupError without scipy.
    """
    seen = max(undecided, key=lambda each: abs(each.difference))
    sd, icc = _spread(seen), max(0.0, seen.icc or 0.0)
    target = min(MOST, max(LEAST, abs(seen.difference)))
    enough = repeats_needed(target, sd, tasks=tasks, icc=icc, comparisons=comparisons)
    most = max(REPEATS_LEAST, GROWTH_MAX * repeats)
    wanted = max(repeats + 1, min(enough or most, most))
    found = minimum_detectable_difference(wanted, sd, tasks=tasks, icc=icc, comparisons=comparisons)
    return Advice(
        repeats=wanted,
        difference=found if found is not None and found <= 1 else None,
        more_tasks=enough is None and comparison_unit(tasks, comparisons) == "task",
    )


def budget_needed(cost_usd: float | None, allowed_usd: float | None) -> float | None:
    """What a rollout of that cost must be allowed to spend, with some room, in two digits; None where it may already.

    allowed_usd: None where nothing bounds it.
    """
    if not cost_usd or allowed_usd is None or cost_usd * ROOM <= allowed_usd:
        return None
    digit = 10.0 ** (floor(log10(cost_usd * ROOM)) - 1)
    return round(ceil(round(cost_usd * ROOM / digit, 6)) * digit, 12)


def _spread(contrast: Contrast) -> float:
    """Of the differences; where it was not seen, what is assumed of scores and of passes before any data."""
    if contrast.sd:
        return contrast.sd
    return difference_sd(PASS_SD if contrast.wins is not None else SCORE_SD)
