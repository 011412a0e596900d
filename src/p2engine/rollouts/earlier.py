"""What a later team's message may say of an earlier team: `teams.ID` in a template. Knows results; judges none."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import msgspec

from p2engine.domain.ids import AgentId


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
