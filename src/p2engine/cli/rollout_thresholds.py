"""What a rollout must reach for its command to exit with 0: means that are given, and no variant worse than one."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from p2engine.documents import did_you_mean
from p2engine.errors import P2EngineError, UsageError
from p2engine.rollouts.findings import number, span
from p2engine.rollouts.report import Report
from p2engine.rollouts.spec import Spec

if TYPE_CHECKING:
    from p2engine.wiring import Engine


class Thresholds(NamedTuple):
    """at_least: metric -> the mean that every variant must have. baseline: the variant that no other is worse than.

    notes: which of the metrics nobody can be sure of before the run.
    """

    at_least: dict[str, float]
    baseline: str | None
    notes: tuple[str, ...] = ()

    def missed(self, report: Report) -> list[str]:
        """What was not reached, in words. What nobody could measure was not reached."""
        found = list(self._too_low(report))
        if self.baseline is not None:
            found += _worse(report, self.baseline)
        return found

    def _too_low(self, report: Report) -> Iterator[str]:
        for metric, least in self.at_least.items():
            arms = [arm for team in report.teams if _has(report, team.team, metric) for arm in team.arms]
            for arm in arms:
                figure, name = arm.metrics.get(metric), f"{arm.team}/{arm.variant}"
                if figure is None:
                    yield f"--fail-under {metric}: no trial of {name} has a value"
                elif figure.mean < least:
                    yield f"--fail-under {metric}: {name} has {number(figure.mean)}, less than {number(least)}"
            if not arms:
                yield f"--fail-under {metric}: nothing is called so"


def _has(report: Report, team: str, metric: str) -> bool:
    found = report.team(team)
    return metric in found.scores or metric in found.whole.metrics


def _worse(report: Report, baseline: str) -> Iterator[str]:
    flag = f"--fail-if-worse-than {baseline}"
    try:
        team, name = report.find(baseline)
        compared = report.compare(None, f"{team.team}/{name}", metric=team.primary)
    except P2EngineError as error:  # nothing is compared offline, nor without scipy
        yield f"{flag}: {error.message}"
        return
    if team.primary is None:
        yield f"{flag}: no trial has a score"
    for each in compared:
        if each.said == "worse" and each.high is not None and each.high < 0:
            away = f"{number(each.difference)}{span(each.low, each.high)}"
            yield f"{flag}: {each.variant} is worse in {each.metric}: {away}"


def read_thresholds(engine: "Engine", spec: Spec, fail_under: Sequence[str], baseline: str | None) -> Thresholds:
    """Raises UsageError for what is no threshold, for a metric that no trial will have, and for unknown variants."""
    from p2engine.wiring import experiments

    metrics = experiments.metrics_of(engine, spec) if fail_under else experiments.Metrics()
    at_least: dict[str, float] = {}
    for text in fail_under:
        metric, _, value = text.rpartition("=")
        try:
            least = float(value)
        except ValueError:
            least = math.nan
        if not metric or not math.isfinite(least):
            raise UsageError(f"--fail-under is METRIC=X, such as score=0.7, not {text[:80]!r}")
        if not metrics.may_have(metric):
            raise UsageError(f"--fail-under: no metric {metric[:80]!r}{did_you_mean(metric, metrics.names)}")
        at_least[metric] = least
    if baseline is not None:
        known = [name for team, variant in spec.arms() for name in (variant.id, f"{team.id}/{variant.id}")]
        if known.count(baseline) != 1:
            what = "several variants" if baseline in known else "no variant"
            raise UsageError(f"--fail-if-worse-than: {what} {baseline[:80]!r}{did_you_mean(baseline, known)}")
    sure = f"all trials have {', '.join(sorted(metrics.names))}"
    unsure = [metric for metric in at_least if metric not in metrics.names]
    notes = tuple(f"--fail-under {metric}: that there is one shows only when it runs; {sure}" for metric in unsure)
    return Thresholds(at_least, baseline, notes)
