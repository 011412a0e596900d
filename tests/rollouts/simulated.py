"""Rollouts that nobody ran: trials of agents whose true means are known, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Spent
from p2engine.rollouts.journal import Options, Rollout, Status
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.spec import Spec, Task, Team, Variant, sealed

TEAM = "team"
JUDGE = Evaluation(evaluator="gpt4_judge", params={"metric": "score"})
CHECK = Evaluation(evaluator="contains", params={"value": "x"})


def rollout(
    variants: Sequence[str] = ("base", "other"),
    *,
    tasks: int = 0,
    repeats: int = 1,
    evaluations: Sequence[Evaluation] = (JUDGE,),
    seed: int = 0,
    status: Status = "finished",
    offline: bool = False,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Rollout:
    """One team of these variants."""
    team = Team(
        id=TEAM,
        variants=tuple(
            Variant(id=name, agent=AgentId("alpha"), message="Hello", changes=dict((changes or {}).get(name, {})))
            for name in variants
        ),
        tasks=tuple(Task(id=f"t{number + 1}") for number in range(tasks)),
        evaluations=tuple(evaluations),
        repeats=repeats,
    )
    spec = sealed(Spec(name="jokes", teams=(team,), seed=seed))
    arms = {f"{TEAM}/{name}": {"model": "openai/gpt-4o", "prompt": "b2:aa", "tools": "b2:bb"} for name in variants}
    return Rollout(
        id="jokes-1a2b3c",
        spec=spec,
        options=Options(),
        started_at=1_700_000_000.0,
        ended_at=1_700_000_060.0,
        status=status,
        provenance={"p2engine": "0.1.0", "python": "3.11", "commit": None, "offline": offline, "arms": arms},
    )


def row(variant: str, number: int, score: float | None = None, **more: Any) -> TrialResult:
    """One trial. score: what the judge said; None is undecided."""
    fields: dict[str, Any] = {
        "team": TEAM,
        "variant": variant,
        "number": number,
        "agent": AgentId("alpha"),
        "conversation": f"jokes-1a2b3c/{TEAM}/{variant}/{number}",
        "status": "done",
        "reply": f"reply {number}",
        "metrics": {"score": score},
        "verdicts": {"score": "undecided" if score is None else "scored"},
        "spent": Spent(1, 100, 20, 0.001),
        "judged": Spent(1, 50, 5, 0.0005),
        "steps": 1,
        "duration_s": 1.5,
        "models": ("gpt-4o-2024-08-06",),
    }
    return TrialResult(**(fields | more))


Draw = Callable[[random.Random, float], float]
"""A score of one trial, around its true mean."""


def noisy(chance: random.Random, mean: float) -> float:
    """A score that stays inside 0 … 1 for means near a half."""
    return mean + chance.gauss(0, 0.08)


def passes(chance: random.Random, mean: float) -> float:
    """1 with that probability, else 0."""
    return float(chance.random() < mean)


def trials(
    means: Mapping[str, float],
    *,
    seed: int,
    tasks: int = 0,
    repeats: int = 1,
    draw: Draw = noisy,
    task_sd: float = 0.0,
) -> list[TrialResult]:
    """Trials of noisy oracles: each has its true mean, each task shifts all of them alike."""
    chance = random.Random(seed)
    shifts = [chance.gauss(0, task_sd) if task_sd else 0.0 for _ in range(max(1, tasks))]
    rows = []
    for variant, mean in means.items():
        for number in range(1, max(1, tasks) * repeats + 1):
            repeat, place = divmod(number - 1, max(1, tasks))
            score = draw(chance, mean + shifts[place])
            task = f"t{place + 1}" if tasks else ""
            rows.append(row(variant, number, score, task=task, repeat=repeat + 1))
    return rows
