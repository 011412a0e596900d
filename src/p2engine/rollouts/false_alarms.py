"""How often the comparison would find a difference where there is none: an A/A check of a rollout that ran.

Pure: knows reports and the test's own rate. Where the offline stand-in answered, there is no chance to check against.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from p2engine.errors import UsageError
from p2engine.rollouts.comparison import FalsePositives, false_positive_rate
from p2engine.rollouts.figures import Chance
from p2engine.rollouts.report import Report
from p2engine.rollouts.results import TrialResult

SPLITS: Final = 200


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """Of one score of one variant. found: None where no task was repeated, so that nothing can be split. varies:
    whether any repeats of a task differ; where none do, nothing was checked.
    """

    team: str
    variant: str
    metric: str
    found: FalsePositives | None
    varies: bool

    @property
    def document(self) -> dict[str, Any]:
        """As programs see it; rate, low and high are None where nothing could be split, holds where nothing varies."""
        one, rate = self.found, self.found.rate if self.found else None
        return {
            "team": self.team,
            "variant": self.variant,
            "metric": self.metric,
            "splits": one.splits if one else 0,
            "rejections": one.rejections if one else 0,
            "rate": rate.estimate if rate else None,
            "low": rate.low if rate else None,
            "high": rate.high if rate else None,
            "alpha": one.alpha if one else None,
            "attainable": one.attainable if one else None,
            "unit": one.unit if one else None,
            "varies": self.varies,
            "holds": one.holds if one and self.varies else None,
        }


def can_halve(report: Report) -> bool:
    """Whether two trials of one task and variant have a score. Offline nothing is halved."""
    seen: set[tuple[str, str, str, str]] = set()
    scores = {team.team: team.scores for team in report.teams}
    for row in report.rows if not report.offline else ():
        for metric in scores.get(row.team, ()):
            if row.metrics.get(metric) is not None:
                place = (row.team, row.variant, row.task, metric)
                if place in seen:
                    return True
                seen.add(place)
    return False


def false_alarms(report: Report, *, splits: int = SPLITS) -> tuple[FalseAlarms, ...]:
    """Halves of each variant's own repeats, drawn so many times and compared, in each score that it has.

    Raises UsageError offline, SetupError without scipy.
    """
    if report.offline:
        raise UsageError(
            "the offline stand-in answered: what it says again is the same, so there is no chance to check against",
            hint="p2engine models shows what real models need",
        )
    chance = Chance(report.seed)
    rows: dict[tuple[str, str], list[TrialResult]] = {}
    for row in report.rows:
        rows.setdefault((row.team, row.variant), []).append(row)
    found = []
    for team in report.teams:
        for arm in team.arms:
            for metric in team.scores:
                values: dict[str, list[float]] = {}
                for row in rows.get((team.team, arm.variant), ()):
                    if (value := row.metrics.get(metric)) is not None:
                        values.setdefault(row.task, []).append(value)
                if values:
                    names = (team.team, arm.variant, metric, "A/A")
                    rate = false_positive_rate(values, seed=chance.of(*names), splits=splits)
                    varies = any(min(each) < max(each) for each in values.values())
                    found.append(
                        FalseAlarms(team=team.team, variant=arm.variant, metric=metric, found=rate, varies=varies)
                    )
    return tuple(found)
