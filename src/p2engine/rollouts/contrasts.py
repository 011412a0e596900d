"""A variant against the baseline of its team: difference, interval, test, and what may be said of it.

Pure: knows rows in pairs. Corrects for the number of variants, for each number by itself; words nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import sub
from typing import Any, Final, Literal

import msgspec
from msgspec.structs import replace

from p2engine.rollouts.columns import Columns
from p2engine.rollouts.comparison import (
    Matched,
    PairedDifference,
    direction,
    hedges_correction,
    matched,
    mcnemar,
    paired_difference,
)
from p2engine.rollouts.figures import Chance
from p2engine.rollouts.power import comparison_unit, intraclass_correlation
from p2engine.rollouts.samples import are_passes, mean, sample_sd
from p2engine.rollouts.sign_flips import FLIPS, smallest_p
from p2engine.rollouts.stats import holm

COMPARED: Final = ("cost_usd", "tokens", "duration_s")
"""What is compared beside the metrics: money, tokens and time of a trial."""

SIGNS_MAX: Final = 4_000_000  # drawn for one test of very many units
FLIPS_LEAST: Final = 999

Said = Literal["better", "worse", "more", "less", "undecided"]
"""better, worse: of a score. more, less: of any other number. undecided: chance would do as much."""


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """How much a variant is above the baseline in one number, over pairs of trials of the same task and seed.

    difference: the mean of variant - baseline, with its interval. p: of the test; p_adjusted: by Holm, for all variants
    of the team. p_least: the smallest p that the test could have given; above alpha it could find nothing. effect: d_z,
    corrected for few pairs. pairs; units: how many of them count as independent; unit: what was counted. unmatched:
    trials without a partner. sd, icc: of the differences, and the share of their variance between tasks. wins, losses:
    pairs that only one of the two passes, where the number is a pass. What is not defined is None.
    """

    team: str
    metric: str
    variant: str
    baseline: str
    difference: float
    low: float | None
    high: float | None
    p: float
    p_adjusted: float
    p_least: float
    effect: float | None
    pairs: int
    units: int
    unit: Literal["task", "trial"]
    unmatched: int
    test: Literal["sign flips", "McNemar"]
    said: Said
    sd: float | None = None
    icc: float | None = None
    wins: int | None = None
    losses: int | None = None

    @property
    def document(self) -> dict[str, Any]:
        """As programs see it."""
        return msgspec.structs.asdict(self)


def contrasts(
    team: str,
    arms: Mapping[str, Columns],
    baseline: str,
    metrics: Sequence[str],
    scores: Sequence[str],
    chance: Chance,
) -> tuple[Contrast, ...]:
    """Every other variant against the baseline: in each metric, then in each of COMPARED. arms: of one team, by
    variant. scores: metrics of which more is better. What two arms have in no trial in common is left out. Raises
    SetupError without scipy.
    """
    found: list[Contrast] = []
    others = [variant for variant in arms if variant != baseline]
    task_of = {variant: dict(zip(arm.trials, arm.tasks, strict=True)) for variant, arm in arms.items()}
    for metric in (*metrics, *COMPARED):
        values = {variant: _values(arm, metric) for variant, arm in arms.items()}
        family = [
            _contrast(
                team, metric, variant, baseline, both, task_of[variant], len(others), chance, is_score=metric in scores
            )
            for variant in others
            if (both := matched(values[variant], values[baseline])).keys
        ]
        adjusted = holm([each.p for each in family])
        found += [_judged(each, p, is_score=metric in scores) for each, p in zip(family, adjusted, strict=True)]
    return tuple(found)


def _values(arm: Columns, metric: str) -> dict[int, float]:
    """The number of each trial that has it. Trials of one number are pairs."""
    column = arm.measure(metric) if metric in COMPARED else arm.metric(metric)
    return dict(zip(column.trials, column.values, strict=True))


def _contrast(
    team: str,
    metric: str,
    variant: str,
    baseline: str,
    both: Matched,
    task_of: Mapping[int, str],
    comparisons: int,
    chance: Chance,
    *,
    is_score: bool,
) -> Contrast:
    tasks = list(map(task_of.__getitem__, both.keys))  # type: ignore[arg-type]
    distinct, pairs = len(set(tasks)), len(tasks)
    shared = 1 < distinct < pairs
    unit = comparison_unit(distinct, max(1, comparisons)) if shared else ("task" if distinct == pairs > 1 else "trial")
    gaps = list(map(sub, both.variant, both.baseline))
    clusters = tasks if shared and unit == "task" else None
    draws = max(FLIPS_LEAST, min(FLIPS, SIGNS_MAX // pairs))
    ends = both.variant + both.baseline
    is_passes = metric not in COMPARED and are_passes(ends)
    passes = None
    if is_passes and clusters is None:
        passes = mcnemar([bool(each) for each in both.variant], [bool(each) for each in both.baseline])
    tested = passes or paired_difference(
        both.variant, both.baseline, clusters, seed=chance.of(team, variant, baseline, metric), resamples=draws
    )
    assert tested is not None
    units = distinct if clusters is not None else pairs
    low, high = (tested.interval.low, tested.interval.high) if tested.interval else (None, None)
    if low is not None and high is not None and is_score and min(ends) >= 0 and max(ends) <= 1:
        low, high = max(-1.0, low), min(1.0, high)
    return Contrast(
        team=team,
        metric=metric,
        variant=variant,
        baseline=baseline,
        difference=tested.difference,
        low=low,
        high=high,
        p=tested.p,
        p_adjusted=tested.p,
        p_least=smallest_p(units, draws),
        effect=tested.effect if isinstance(tested, PairedDifference) else _effect(gaps),
        pairs=pairs,
        units=units,
        unit=unit,
        unmatched=both.unmatched,
        test="McNemar" if passes else "sign flips",
        said="undecided",
        sd=tested.sd if isinstance(tested, PairedDifference) else sample_sd(gaps) if pairs > 1 else None,
        icc=intraclass_correlation(gaps, tasks) if shared and metric not in COMPARED else None,
        wins=passes.wins if passes else None,
        losses=passes.losses if passes else None,
    )


def _effect(gaps: Sequence[float]) -> float | None:
    """Of passes: Cohen's (1988) d_z with Hedges' (1981) correction, as `paired_difference` has it of scores."""
    sd = sample_sd(gaps) if len(gaps) > 2 else 0.0
    return mean(gaps) / sd * hedges_correction(len(gaps) - 1) if sd else None


def _judged(contrast: Contrast, p: float, *, is_score: bool) -> Contrast:
    said: Said = direction(contrast.difference, p)
    if not is_score and said != "undecided":
        said = "more" if said == "better" else "less"
    return replace(contrast, p_adjusted=p, said=said)
