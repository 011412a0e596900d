"""What a rollout came to, and what may be concluded from it: the whole report as values.

Pure: puts figures, contrasts and findings together. Where the offline stand-in answered, nothing is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from p2engine.domain.setup import Spent
from p2engine.errors import UsageError
from p2engine.rollouts import findings
from p2engine.rollouts.advice import Advice, budget_needed
from p2engine.rollouts.columns import Columns
from p2engine.rollouts.contrasts import Contrast, contrasts
from p2engine.rollouts.figures import Chance
from p2engine.rollouts.journal import Rollout
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.team_report import TeamReport, team_report
from p2engine.rollouts.trial_rows import flat_row, trial_row


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout and what came of it. status: its own, or `interrupted` where whoever ran it is gone. rows: every trial
    that ended, by team, variant and number. offline: whether the stand-in answered any: nothing is compared then.
    no_statistics: why there are no intervals and no tests, with the mend; empty where there are, and offline. advice:
    the rollout that would decide what is open.
    """

    rollout: Rollout
    status: str
    rows: tuple[TrialResult, ...]
    offline: bool
    teams: tuple[TeamReport, ...]
    no_statistics: str = ""
    advice: Advice | None = None

    @property
    def id(self) -> str:
        return self.rollout.id

    @property
    def seed(self) -> int:
        """What every trial's seed was derived from."""
        given = self.rollout.options.seed
        return self.rollout.spec.seed if given is None else given

    @property
    def planned(self) -> int:
        """How many trials there are to be."""
        return sum(team.planned for team in self.teams)

    @property
    def spent(self) -> Spent:
        """By all trials and judges together, attempts that were cut off included."""
        total = nothing = Spent()
        for cost in (
            *(team.whole.cost for team in self.teams),
            *(row.lost for row in self.rows if row.lost != nothing),
        ):
            total = total.plus(cost)
        return total

    @property
    def models(self) -> tuple[str, ...]:
        """The models that answered, as their providers named them."""
        return tuple(sorted({model for row in self.rows for model in row.models}))

    @property
    def contrasts(self) -> tuple[Contrast, ...]:
        return tuple(each for team in self.teams for each in team.contrasts)

    def team(self, name: str) -> TeamReport:
        """Raises UsageError for an unknown one."""
        for team in self.teams:
            if team.team == name:
                return team
        raise UsageError(f"the rollout has no team {name!r}")

    def of(self, team: str, variant: str) -> tuple[TrialResult, ...]:
        """The trials of one variant."""
        return tuple(row for row in self.rows if (row.team, row.variant) == (team, variant))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat row a trial, for a data frame or a CSV file; `metric.NAME` and `verdict.NAME` are columns."""
        metrics = list(dict.fromkeys(name for row in self.rows for name in row.metrics))
        evaluators = list(dict.fromkeys(name for row in self.rows for name in row.verdicts))
        return [flat_row(row, metrics, evaluators) for row in self.rows]

    def compare(
        self, variant: str | None = None, baseline: str | None = None, *, metric: str | None = None
    ) -> tuple[Contrast, ...]:
        """Variants against a baseline, in one metric or all; p-values are corrected for all variants of the team, also
        where only one is asked for. Names are `VARIANT`, or `TEAM/VARIANT` where several teams have one.

        Raises UsageError for unknown names, and offline, where nothing may be compared; SetupError without scipy.
        """
        if self.offline:
            raise UsageError(
                "the offline stand-in answered: configurations are not compared",
                hint="p2engine models shows what real models need",
            )
        if self.rows and not any(team.whole.answered for team in self.teams):
            raise UsageError("no trial has an answer: nothing is compared", hint=f"p2engine rollout show {self.id}")
        teams = self.teams
        found: list[Contrast] = []
        chosen = self.find(variant) if variant else None
        base = self.find(baseline) if baseline else None
        if chosen and base and chosen[0] is not base[0]:
            raise UsageError(f"{variant!r} and {baseline!r} are of two teams: they had different tasks")
        if chosen or base:
            teams = ((chosen or base)[0],)  # type: ignore[index]
        for team in teams:
            found += self._contrasts(team, base[1] if base else team.baseline)
        return tuple(
            each
            for each in found
            if (chosen is None or each.variant == chosen[1]) and (metric is None or each.metric == metric)
        )

    def _contrasts(self, team: TeamReport, baseline: str) -> tuple[Contrast, ...]:
        if not team.whole.answered or (baseline == team.baseline and not self.no_statistics):
            return team.contrasts
        arms: dict[str, list[TrialResult]] = {arm.variant: [] for arm in team.arms}
        for row in self.rows:
            if row.team == team.team:
                arms[row.variant].append(row)
        columns = {variant: Columns(rows) for variant, rows in arms.items()}
        return contrasts(team.team, columns, baseline, tuple(team.whole.metrics), team.scores, Chance(self.seed))

    def find(self, name: str) -> tuple[TeamReport, str]:
        """The team and variant of `VARIANT` or `TEAM/VARIANT`. Raises UsageError."""
        known = [(team, arm.variant) for team in self.teams for arm in team.arms]
        found = [each for each in known if name in (each[1], f"{each[0].team}/{each[1]}")]
        if len(found) == 1:
            return found[0]
        there = ", ".join(f"{team.team}/{variant}" for team, variant in (found or known)[:20])
        raise UsageError(f"{'ambiguous' if found else 'no'} variant {name[:80]!r} in {self.id}; there is {there}")

    def to_dict(self) -> dict[str, Any]:
        """The document of `rollout show --json`."""
        return {
            "id": self.id,
            "status": self.status,
            "why": self.rollout.why or None,
            "offline": self.offline,
            "seed": self.seed,
            "spec_hash": self.rollout.spec.hash,
            "started_at": _iso(self.rollout.started_at),
            "ended_at": _iso(self.rollout.ended_at),
            "planned": self.planned,
            "arms": [arm.document for team in self.teams for arm in team.arms],
            "trials": [trial_row(row) for row in self.rows],
            "comparisons": [each.document for each in self.contrasts],
            "teams": [team.document for team in self.teams],
            "advice": msgspec.structs.asdict(self.advice) if self.advice else None,
            "statistics": self.no_statistics or None,
            "provenance": {**self.rollout.provenance, "models": list(self.models)},
        }


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def report_of(
    rollout: Rollout,
    results: Sequence[TrialResult],
    baselines: Mapping[str, str] | None = None,
    *,
    status: str | None = None,
) -> Report:
    """The report of the trials that have ended so far. baselines: team -> variant; else the first of each. status: as
    whoever looks at the runner knows it; else as it is written down.

    Without scipy there are means and no intervals or tests, and the report says so. Raises UsageError for a baseline
    that is no variant.
    """
    order = {(team.id, variant.id): place for place, (team, variant) in enumerate(rollout.spec.arms())}
    rows = tuple(sorted(results, key=lambda row: (order.get((row.team, row.variant), len(order)), row.number)))
    by_arm: dict[tuple[str, str], list[TrialResult]] = {}
    for row in rows:
        by_arm.setdefault((row.team, row.variant), []).append(row)
    offline = any(row.offline for row in rows) or bool(not rows and rollout.provenance.get("offline"))
    options = rollout.options
    chance = Chance(rollout.spec.seed if options.seed is None else options.seed, is_counted=not offline)
    teams = []
    for team in rollout.spec.teams:
        arms = {variant.id: by_arm.get((team.id, variant.id), []) for variant in team.variants}
        found = team_report(rollout, team, arms, (baselines or {}).get(team.id), chance)
        if offline:  # neither may be said of a stand-in
            found = replace(found, front=(), best=None, worst=None)
        said = findings.conclusion(found, offline=offline, is_counted=chance.is_counted)
        teams.append(replace(found, conclusion=said, warnings=tuple(findings.warnings(found, offline=offline))))
    report = Report(
        rollout=rollout,
        status=status or rollout.status,
        rows=rows,
        offline=offline,
        teams=tuple(teams),
        no_statistics=chance.why_not,
    )
    return replace(report, advice=_advice(report))


def _advice(report: Report) -> Advice | None:
    """That of the team that needs the most repeats, with what the whole rollout would cost then."""
    advised = max((team.advice for team in report.teams if team.advice), key=lambda each: each.repeats, default=None)
    if advised is None:
        return None
    cost: float | None = 0.0
    for team in report.teams:
        trial = team.whole.measures["cost_usd"]
        tasks = max(1, len(report.rollout.spec.team(team.team).tasks))
        cost = None if trial is None or cost is None else cost + trial.mean * len(team.arms) * tasks * advised.repeats
    budget, said = report.rollout.spec.budget.usd, report.rollout.options.budget_usd
    return replace(advised, cost_usd=cost, budget_usd=budget_needed(cost, said if budget is None else budget))
