"""What the trials of one variant came to: its figures, what is undecided, what failed and why.

Pure: knows rows; compares nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import fsum
from operator import attrgetter
from typing import Any, Final

import msgspec

from p2engine.domain.setup import Spent
from p2engine.rollouts.columns import MEASURES, Columns
from p2engine.rollouts.figures import Chance, Figure, figure_of
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.stats import saturated

DETAIL_CHARS_MAX: Final = 120  # of a reason, so that reasons of one kind count together

ALWAYS: Final = ("tokens", "cost_usd", "judge_cost_usd", "duration_s", "steps", "artifacts")
"""Measures that a trial has whatever it does: unknown in one of them, the mean of the others would mislead."""


class Unjudged(msgspec.Struct, frozen=True):
    """How often an evaluator gave no score: it could not decide, or failed. of: verdicts that were owed."""

    undecided: int
    failed: int
    of: int


class Failure(msgspec.Struct, frozen=True):
    """A way in which trials ended without an answer, and how many of them."""

    status: str
    detail: str
    n: int


class ArmReport(msgspec.Struct, frozen=True, kw_only=True):
    """One variant. n: trials that ended. answered: those with an answer. metrics, measures: name -> figure of a trial,
    None where no trial has the number. unjudged: by evaluator. spent, judged: by all its trials together. saturated:
    metric -> the end of its scale that it stands at.
    """

    team: str
    variant: str
    n: int
    answered: int
    metrics: dict[str, Figure | None]
    measures: dict[str, Figure | None]
    unjudged: dict[str, Unjudged]
    failures: tuple[Failure, ...]
    spent: Spent
    judged: Spent
    saturated: dict[str, str] = {}

    @property
    def errors(self) -> int:
        """Trials without an answer."""
        return self.n - self.answered

    @property
    def cost(self) -> Spent:
        """What all its trials and their judges spent together."""
        return self.spent.plus(self.judged)

    def scored(self, metric: str) -> int:
        """How many trials have that number."""
        figure = self.metrics.get(metric)
        return figure.n if figure else 0

    @property
    def document(self) -> dict[str, Any]:
        """As programs see it: tokens, cost_usd and duration_s are means over a trial, delegates and judges included."""
        nothing = {"mean": None, "low": None, "high": None, "n": 0}

        def shown(figures: dict[str, Figure | None]) -> dict[str, Any]:
            return {name: each.document if each else nothing for name, each in figures.items()}

        def middle(name: str) -> float | None:
            figure = self.measures[name]
            return figure.mean if figure else None

        return {
            "team": self.team,
            "variant": self.variant,
            "n": self.n,
            "metrics": shown(self.metrics),
            "tokens": middle("tokens"),
            "cost_usd": middle("cost_usd"),
            "duration_s": middle("duration_s"),
            "errors": self.errors,
            "failures": [msgspec.structs.asdict(each) for each in self.failures],
            "undecided": {name: msgspec.structs.asdict(each) for name, each in self.unjudged.items()},
            "measures": shown(self.measures),
            "spent": {
                "tokens": self.cost.tokens,
                "cost_usd": self.cost.cost_usd,
                "judge_cost_usd": self.judged.cost_usd,
            },
        }


def arm_report(team: str, variant: str, columns: Columns, scores: Iterable[str], chance: Chance) -> ArmReport:
    """The report of one variant's trials. scores: the metrics that its team's evaluators give, in their order."""
    rows, scores = columns.rows, tuple(scores)
    metrics: dict[str, Figure | None] = {}
    for name in dict.fromkeys((*scores, *columns.metrics)):
        values, tasks, _ = columns.metric(name)
        metrics[name] = figure_of(values, tasks, chance, team, variant, "metric", name, is_score=name in scores)
    return ArmReport(
        team=team,
        variant=variant,
        n=len(rows),
        answered=sum(row.status == "done" for row in rows),
        metrics=metrics,
        measures={name: _measure(name, columns, chance, team, variant) for name in MEASURES},
        unjudged={name: found for name in scores if (found := _unjudged(name, rows)) is not None},
        failures=_failures(rows),
        spent=_sum([row.spent for row in rows]),
        judged=_sum([row.judged for row in rows]),
        saturated={name: end for name in scores if (end := saturated(columns.metric(name).values)) is not None},
    )


def together(team: str, variant: str, arms: Sequence[ArmReport]) -> ArmReport:
    """All of a team's variants as one, without intervals: their trials are of different agents."""
    metrics = dict.fromkeys(name for arm in arms for name in arm.metrics)
    unjudged = dict.fromkeys(name for arm in arms for name in arm.unjudged)
    reasons: Counter[tuple[str, str]] = Counter()
    for failure in (each for arm in arms for each in arm.failures):
        reasons[failure.status, failure.detail] += failure.n
    return ArmReport(
        team=team,
        variant=variant,
        n=sum(arm.n for arm in arms),
        answered=sum(arm.answered for arm in arms),
        metrics={name: _pooled([arm.metrics.get(name) for arm in arms]) for name in metrics},
        measures={name: _pooled_measure(name, arms) for name in MEASURES},
        unjudged={name: _asked(each for arm in arms if (each := arm.unjudged.get(name))) for name in unjudged},
        failures=tuple(Failure(status, detail, n) for (status, detail), n in reasons.most_common()),
        spent=_sum([arm.spent for arm in arms]),
        judged=_sum([arm.judged for arm in arms]),
    )


def _pooled(figures: Iterable[Figure | None]) -> Figure | None:
    """The mean over all trials that have the number."""
    found = [figure for figure in figures if figure is not None]
    n = sum(figure.n for figure in found)
    return Figure(mean=fsum(figure.mean * figure.n for figure in found) / n, n=n, units=n) if n else None


def _pooled_measure(name: str, arms: Sequence[ArmReport]) -> Figure | None:
    if name in ALWAYS and any(arm.n and arm.measures[name] is None for arm in arms):
        return None
    return _pooled(arm.measures[name] for arm in arms)


def _asked(parts: Iterable[Unjudged]) -> Unjudged:
    undecided, failed, of = zip(*((each.undecided, each.failed, each.of) for each in parts), strict=True)
    return Unjudged(sum(undecided), sum(failed), sum(of))


def _measure(name: str, columns: Columns, chance: Chance, team: str, variant: str) -> Figure | None:
    values, tasks, _ = columns.measure(name)
    if name in ALWAYS and len(values) < len(columns.rows):
        return None
    if values and min(values) == max(values) and name != "duration_s":  # what is always the same has no interval
        return Figure(mean=values[0], low=None, high=None, n=len(values), units=len(values))
    return figure_of(values, tasks, chance, team, variant, "measure", name, is_amount=True)


def _unjudged(name: str, rows: Iterable[TrialResult]) -> Unjudged | None:
    """None where nobody was asked."""
    counts = Counter([row.verdicts.get(name) for row in rows])
    owed = counts.total() - counts[None]
    return Unjudged(counts["undecided"], counts["error"], owed) if owed else None


def _failures(rows: Iterable[TrialResult]) -> tuple[Failure, ...]:
    counts = Counter((row.status, row.detail[:DETAIL_CHARS_MAX]) for row in rows if row.status != "done")
    return tuple(Failure(status, detail, n) for (status, detail), n in counts.most_common())


def _sum(parts: Sequence[Spent]) -> Spent:
    def whole(field: str) -> int:
        return sum(map(attrgetter(field), parts))

    usd = fsum(map(attrgetter("usd"), parts))
    return Spent(whole("steps"), whole("tokens_in"), whole("tokens_out"), usd, whole("unpriced"))
