"""What a later team's message may say of an earlier team: `teams.ID` in a template. Knows results; judges none."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from p2engine.agents.templates import TemplateFault
from p2engine.documents import did_you_mean
from p2engine.domain.ids import AgentId
from p2engine.positions import show
from p2engine.rollouts.results import metric_names
from p2engine.rollouts.spec import Team


class Result(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What came of one trial. scores: evaluator -> score, None where it is undecided or failed, in the team's order."""

    variant: str
    number: int
    agent: AgentId
    reply: str = ""
    task: str = ""
    scores: dict[str, float | None] = {}


def told(results: Mapping[str, Iterable[Result]]) -> dict[str, dict[str, Any]]:
    """By team: `trials` (rows of variant, number, agent, task, reply, scores), `variants` by id (variant, agent, n,
    score, reply of the first trial), `ranked_by` and `leaders`.

    ranked_by: the first evaluator that scored at least one trial of every variant; none where there is none, and then
    every `score` is none and `leaders` is empty. leaders: the variants with the highest mean score: one, or several
    that are even. It is a rule to pay by, not a finding: nothing is said of chance.
    """
    return {team: _team(sorted(rows, key=lambda each: each.number)) for team, rows in results.items()}


class Misnamed(TemplateFault):
    """A template asks an earlier team for what no result of it has."""


class _Named(dict[str, Any]):
    """A mapping that says which name it lacks."""

    def __missing__(self, name: object) -> None:
        raise Misnamed(f"there is no {show(name)}{did_you_mean(str(name), self)}", 1)


class _Scores(dict[str, Any]):
    """Scores by name, of any name: evaluators may give further numbers."""

    def __missing__(self, name: object) -> float:
        return _SCORE


_SCORE = 0.5


def made_up(team: Team, *, scored: bool) -> dict[str, Any]:
    """What a template may say of a team that has not run: a trial of each variant. scored: whether anybody judged it.

    A name that no result has raises Misnamed.
    """
    task = team.tasks[0].id if team.tasks else ""
    scores: dict[str, float | None] = dict.fromkeys(metric_names(team.evaluations), _SCORE if scored else None)
    rows = [
        Result(variant=each.id, number=1, agent=each.agent, reply="a reply", task=task, scores=scores)
        for each in team.variants
    ]
    found: dict[str, Any] = _guarded(_team(rows))
    return found


def _guarded(value: Any, key: str = "") -> Any:
    match value:
        case dict() if key == "scores":
            return _Scores(value)
        case dict():
            return _Named({name: _guarded(each, name) for name, each in value.items()})
        case list():
            return [_guarded(each) for each in value]
        case _:
            return value


def _team(rows: Sequence[Result]) -> dict[str, Any]:
    arms: dict[str, list[Result]] = {}
    for row in rows:
        arms.setdefault(row.variant, []).append(row)
    evaluators = dict.fromkeys(name for row in rows for name in row.scores)
    ranked_by = next((name for name in evaluators if all(_scores(arm, name) for arm in arms.values())), None)
    variants = {name: _variant(arm, ranked_by) for name, arm in arms.items()}
    best = max((each["score"] for each in variants.values()), default=None) if ranked_by else None
    return {
        "trials": [msgspec.structs.asdict(row) for row in rows],
        "variants": variants,
        "ranked_by": ranked_by,
        "leaders": [each for each in variants.values() if best is not None and each["score"] == best],
    }


def _variant(rows: Sequence[Result], ranked_by: str | None) -> dict[str, Any]:
    first = rows[0]
    return {
        "variant": first.variant,
        "agent": first.agent,
        "n": len(rows),
        "score": fmean(_scores(rows, ranked_by)) if ranked_by else None,
        "reply": first.reply,
    }


def _scores(rows: Iterable[Result], evaluator: str) -> list[float]:
    return [score for row in rows if (score := row.scores.get(evaluator)) is not None]
