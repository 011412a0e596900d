"""What one team of a rollout came to: its variants side by side, and against their baseline.

Pure: knows the rows of one team. Where nothing may be compared, nothing is computed that compares.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import msgspec

from p2engine.errors import UsageError
from p2engine.rollouts.advice import Advice, advice
from p2engine.rollouts.agreement import krippendorff_alpha
from p2engine.rollouts.arm_report import ArmReport, arm_report, together
from p2engine.rollouts.columns import Columns
from p2engine.rollouts.contrasts import Contrast, contrasts
from p2engine.rollouts.differences import Difference, differences
from p2engine.rollouts.figures import Chance
from p2engine.rollouts.journal import Rollout
from p2engine.rollouts.results import TrialResult, metric_names
from p2engine.rollouts.spec import Team
from p2engine.rollouts.stats import Arm, pareto_front

WHOLE = "all variants"


class TeamReport(msgspec.Struct, frozen=True, kw_only=True):
    """One team. baseline: what the other variants are compared with. primary: the metric that conclusions are about, of
    the first evaluator that scored anything; None where none did. whole: all its trials as one, without intervals.
    front: the variants that no other one beats in quality, cost and time together; empty where one of them is unknown,
    or of a single trial. Where no trial has an answer there are no contrasts, no front, no ends and no advice. best,
    worst: trials by the primary metric; None where all have the same, or each variant has one. agreement: of several
    judges on the same trials, Krippendorff's alpha; None for one judge, or where nothing could differ. conclusion: one
    sentence.
    """

    team: str
    planned: int
    baseline: str
    primary: str | None
    scores: tuple[str, ...]
    arms: tuple[ArmReport, ...]
    whole: ArmReport
    contrasts: tuple[Contrast, ...]
    differences: tuple[Difference, ...]
    front: tuple[str, ...]
    best: TrialResult | None
    worst: TrialResult | None
    agreement: float | None = None
    advice: Advice | None = None
    warnings: tuple[str, ...] = ()
    conclusion: str = ""

    def arm(self, variant: str) -> ArmReport:
        """Raises UsageError for an unknown one."""
        for arm in self.arms:
            if arm.variant == variant:
                return arm
        raise UsageError(f"team {self.team!r} has no variant {variant!r}")

    @property
    def document(self) -> dict[str, Any]:
        """As programs see it, beside its arms and contrasts."""
        return {
            "team": self.team,
            "baseline": self.baseline,
            "metric": self.primary,
            "trials": self.whole.n,
            "spent": self.whole.document["spent"],
            "metrics": {name: each.mean if each else None for name, each in self.whole.metrics.items()},
            "differences": [msgspec.structs.asdict(each) for each in self.differences],
            "pareto": list(self.front),
            "best": self.best.conversation if self.best else None,
            "worst": self.worst.conversation if self.worst else None,
            "agreement": self.agreement,
            "warnings": list(self.warnings),
            "conclusion": self.conclusion,
        }


def team_report(
    rollout: Rollout, team: Team, rows: Mapping[str, Sequence[TrialResult]], baseline: str | None, chance: Chance
) -> TeamReport:
    """rows: by variant. baseline: the first variant where None. Warnings and conclusion are for the caller to add.

    Raises UsageError for a baseline that is no variant.
    """
    options = rollout.options
    base = team.variant(baseline).id if baseline else team.variants[0].id
    scores = tuple(metric_names(team.evaluations))
    columns = {variant: Columns(each) for variant, each in rows.items()}
    arms = tuple(arm_report(team.id, variant, each, scores, chance) for variant, each in columns.items())
    whole = together(team.id, WHOLE, arms)
    primary = next((name for name in scores if whole.metrics.get(name)), None)
    metrics = [name for name, figure in whole.metrics.items() if figure]
    is_compared = chance.is_counted and whole.answered
    compared = contrasts(team.id, columns, base, metrics, scores, chance) if is_compared else ()
    trials = team.trials_each(options.repeats)
    is_single = all(arm.scored(primary) < 2 for arm in arms) if primary else True
    best, worst = (None, None) if is_single or not whole.answered else _ends(columns.values(), primary)
    return TeamReport(
        team=team.id,
        planned=min(trials, options.limit or trials) * len(team.variants),
        baseline=base,
        primary=primary,
        scores=scores,
        arms=arms,
        whole=whole,
        contrasts=compared,
        differences=differences(team, rollout.provenance.get("arms", {})),
        front=_front(arms, primary) if whole.answered else (),
        best=best,
        worst=worst,
        agreement=_agreement(team, scores, rows.values()),
        advice=_advice(compared, primary, team, options.repeats or team.repeats),
    )


def _advice(compared: Sequence[Contrast], primary: str | None, team: Team, repeats: int) -> Advice | None:
    """None where nothing is open."""
    undecided = [each for each in compared if each.metric == primary and each.said == "undecided"]
    return advice(undecided, repeats, max(1, len(team.tasks)), len(team.variants) - 1) if undecided else None


def _agreement(team: Team, scores: Sequence[str], arms: Iterable[Sequence[TrialResult]]) -> float | None:
    judges = [name for name, each in zip(scores, team.evaluations, strict=True) if "rubric" in each.params]
    if len(judges) < 2:
        return None
    rows = list(chain.from_iterable(arms))
    return krippendorff_alpha([[row.metrics.get(judge) for row in rows] for judge in judges], "interval")


def _front(arms: Sequence[ArmReport], primary: str | None) -> tuple[str, ...]:
    points = []
    for arm in arms:
        if not arm.answered:  # it is cheap because it was cut off
            continue
        quality = arm.metrics.get(primary) if primary else None
        cost, time = arm.measures["cost_usd"], arm.measures["duration_s"]
        if quality is None or cost is None or time is None or quality.n < 2:
            return ()
        points.append(Arm(name=arm.variant, quality=quality.mean, cost_usd=cost.mean, latency_s=time.mean))
    return pareto_front(points)


def _ends(arms: Collection[Columns], primary: str | None) -> tuple[TrialResult | None, TrialResult | None]:
    """The best trial and the worst; none where all are alike."""
    if primary is None:
        return None, None
    scored = list(chain.from_iterable(arm.metric(primary).values for arm in arms))
    if not scored or max(scored) == min(scored):
        return None, None

    def first(score: float) -> TrialResult:
        return next(row for arm in arms for row in arm.rows if row.metrics.get(primary) == score)

    return first(max(scored)), first(min(scored))
