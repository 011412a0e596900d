"""The report of a rollout of 100,000 trials: reading them from the log, and counting."""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.rows import Row
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.records import Batch, Fact
from p2engine.domain.setup import Spent
from p2engine.rollouts import journal
from p2engine.rollouts.journal import Options, Rollout
from p2engine.rollouts.report import Report, report_of
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.spec import Spec, Task, Team, Variant, sealed
from p2engine.wiring import Engine

VARIANTS = 10
TASKS = 100
WRITTEN_AT_ONCE = 500
JUDGE = Evaluation(evaluator="gpt4_judge", params={"metric": "score"})
CHECK = Evaluation(evaluator="contains")


async def rollout_report(*, quick: bool) -> list[Row]:
    """100,000 trials of ten variants on a hundred tasks, written once, then read and reported."""
    trials_n = 5_000 if quick else 100_000
    read_s, count_s = [], []
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        (Path(name) / "config").mkdir()
        async with Engine.open(Path(name), work=False) as engine:
            spec = _spec(trials_n // VARIANTS // TASKS)
            rollout = await journal.start(engine.world, spec, Options(), {})
            await _write(engine, rollout, _trials(spec))
            report_of(rollout, ())  # loads what counts
            for _ in range(1 if quick else 3):
                began = time.perf_counter()
                results = await journal.results(engine.world, rollout)
                read_s.append(time.perf_counter() - began)
                began = time.perf_counter()
                report = report_of(rollout, results)
                count_s.append(time.perf_counter() - began)
                _checked(report, trials_n)
    whole = [read + count for read, count in zip(read_s, count_s, strict=True)]
    size = f"{trials_n:,} trials"
    return [
        Row(bench="rollout_report", what=f"read {size} from the log", unit="wall s", values=read_s),
        Row(bench="rollout_report", what=f"figures, tests, findings of {size}", unit="wall s", values=count_s),
        Row(bench="rollout_report", what=f"the report over {size}", unit="wall s", values=whole, target=5),
    ]


async def _write(engine: Engine, rollout: Rollout, results: Sequence[TrialResult]) -> None:
    """As `journal.record` writes them, but many at once: writing is not what is measured."""
    for start in range(0, len(results), WRITTEN_AT_ONCE):
        facts = tuple(
            Fact(
                id=f"{rollout.id}/{each.key}",
                kind=journal.TRIAL,
                cause=rollout.id,
                at=rollout.started_at,
                body={"rollout": rollout.id, "result": msgspec.to_builtins(each)},
            )
            for each in results[start : start + WRITTEN_AT_ONCE]
        )
        await engine.world.store.write(Batch(conversation=None, facts=facts))


def _spec(repeats: int) -> Spec:
    team = Team(
        id="team",
        variants=tuple(Variant(id=f"v{n}", agent=AgentId("alpha"), message="Hello") for n in range(VARIANTS)),
        tasks=tuple(Task(id=f"t{n}") for n in range(TASKS)),
        evaluations=(JUDGE, CHECK),
        repeats=repeats,
    )
    return sealed(Spec(name="bench", teams=(team,)))


def _trials(spec: Spec) -> list[TrialResult]:
    """Noisy scores, costs and times, from a seed."""
    chance = random.Random(1)
    (team,) = spec.teams
    found = []
    for number in range(1, team.trials_each() + 1):
        for place, variant in enumerate(team.variants):
            score = min(1.0, max(0.0, chance.gauss(0.5 + place / 100, 0.2)))
            found.append(
                TrialResult(
                    team=team.id,
                    variant=variant.id,
                    number=number,
                    agent=variant.agent,
                    conversation=f"bench/{variant.id}/{number}",
                    status="done",
                    task=team.tasks[(number - 1) % TASKS].id,
                    repeat=(number - 1) // TASKS + 1,
                    reply="an answer of a sentence or so, as they come",
                    metrics={"score": score, "contains": float(chance.random() < 0.8)},
                    verdicts={"score": "scored", "contains": "scored"},
                    spent=Spent(3, 400 + number % 90, 80, 0.002 * chance.random()),
                    judged=Spent(1, 300, 20, 0.001),
                    steps=3,
                    duration_s=round(chance.gauss(2, 0.3), 3),
                    models=("gpt-4o-2024-08-06",),
                )
            )
    return found


def _checked(report: Report, trials_n: int) -> None:
    """That it is the whole report which was timed."""
    assert len(report.rows) == trials_n
    assert len(report.contrasts) == (VARIANTS - 1) * 5
    assert all(arm.metrics["score"] and arm.metrics["score"].low is not None for arm in report.teams[0].arms)
