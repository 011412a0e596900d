"""The row of a trial: what its judges gave, of the end and of steps, under one name each, and what all of it cost."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from p2engine.domain.decisions import Decision, Say, UseTool
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.domain.setup import Budget, Spent
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.ports import AgentView
from p2engine.rollouts import journal
from p2engine.rollouts.journal import Options
from p2engine.rollouts.results import CHECKS, TrialResult, further_name, metric_names
from p2engine.rollouts.run import Runner
from p2engine.rollouts.spec import Spec, Team, Variant, sealed
from p2engine.testing.doubles import FunctionJudges
from tests.evals.subjects import registry
from tests.runtime.conftest import Stage


@pytest.fixture
async def stage(tmp_path: Any) -> AsyncIterator[Stage]:
    stage = await Stage.open(tmp_path / "store.db")
    yield stage
    await stage.aclose()


async def paid(subject: Subject) -> Verdict:
    """An evaluator double: scores by how long the transcript is, counts its lines, and costs a dime each time."""
    is_shy = bool(subject.params.get("shy"))
    return Verdict(
        evaluator="long",
        version="1",
        subject=subject.event,
        score=None if is_shy else len(subject.transcript) / 10,
        status="undecided" if is_shy else "scored",
        metrics={"lines": float(len(subject.transcript))},
        spent=Spent(1, 10, 5, 0.1),
    )


async def alpha(view: AgentView) -> Decision:
    """Calls a tool once, then answers."""
    said = view.fragments[-1].message
    moves = (Say("there"),) if said.role == "tool" else (UseTool("look"),)
    return Decision(moves, Usage(model="m", tokens_in=10, tokens_out=5, cost_usd=0.0))


async def look(arguments: Any, ctx: Any) -> str:
    return "seen"


async def rows_of(
    stage: Stage, *evaluations: Evaluation, repeats: int = 1, usd: float | None = None
) -> list[TrialResult]:
    engine = stage.engine({"alpha": alpha}, {"look": look})
    engine.world.judges = FunctionJudges({"long": paid, "words": paid})
    variant = Variant(id="v", agent=AgentId("alpha"), message="where is it?")
    team = Team(id="team", variants=(variant,), evaluations=evaluations, repeats=repeats)
    spec = sealed(Spec(name="demo", teams=(team,), budget=Budget(usd=usd)))
    runner = Runner(engine, await journal.start(engine.world, spec, Options(parallel=1), {}))
    await runner.run()
    return list(runner.results.values())


STEP = Evaluation(evaluator="long", when="step")


async def test_verdicts_of_steps_make_one_figure(stage: Stage) -> None:
    """The mean over the steps that were decided, under the name of the evaluation; the end is a figure of its own."""
    (row,) = await rows_of(stage, STEP, Evaluation(evaluator="words"))
    assert row.verdicts == {"long": "scored", "words": "scored"}
    # three outcomes: the call (a message and it), the result, the answer
    assert row.metrics["long"] == pytest.approx((0.2 + 0.3 + 0.4) / 3)
    assert row.metrics["words"] == 0.4
    assert (row.metrics["long.lines"], row.metrics["words.lines"]) == (3.0, 4.0)


async def test_what_was_not_reached_is_no_failure(stage: Stage) -> None:
    """A milestone that never came was not judged: no verdict, no number, and not an error."""
    (row,) = await rows_of(stage, Evaluation(evaluator="long", when="milestone"))
    assert (row.verdicts, row.metrics, row.judged) == ({}, {"long": None}, Spent())


async def test_failure_32_judges_of_steps_are_paid_from_the_budget(stage: Stage) -> None:
    """Each verdict that was owed is counted, whatever it judged: a rollout ends when they have spent its money."""
    rows = await rows_of(stage, STEP, Evaluation(evaluator="words"), repeats=9, usd=0.8)
    assert [(row.judged.steps, row.judged.tokens, round(row.judged.usd, 9)) for row in rows] == [(4, 60, 0.4)] * 2


async def test_an_undecided_step_makes_no_number(stage: Stage) -> None:
    """Undecided in every step is undecided."""
    (row,) = await rows_of(stage, Evaluation(evaluator="long", when="step", params={"shy": True}))
    assert (row.verdicts, row.metrics["long"]) == ({"long": "undecided"}, None)


def test_numbers_of_two_evaluators_are_never_mixed() -> None:
    """Where several may give further numbers, each has its evaluation before it: by the file, so in all trials."""
    one, two = Evaluation(evaluator="brev", version="1"), Evaluation(evaluator="brev", version="2")
    check = Evaluation(evaluator="contains")
    both = [one, two, check]
    names = metric_names(both)
    assert [further_name(names, both, n, "words") for n in range(2)] == ["brev.words", "brev_2.words"]
    alone = [one, check]
    assert further_name(metric_names(alone), alone, 0, "words") == "words"
    assert further_name(metric_names(alone), alone, 0, "contains") == "brev.contains"


def test_the_checks_that_give_one_number_are_known() -> None:
    """All that come with P2Engine, but the judge and a function of the project's own."""
    assert {each.id for each in registry().all()} - CHECKS == {"gpt4_judge", "python"}
