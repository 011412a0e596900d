"""Evaluators of a project in its engine: loaded, reloaded, asked by the real roster, left to whoever has them."""

import asyncio
from pathlib import Path

import pytest

from p2engine import Engine
from p2engine.cli.verdicts import records_of, verdicts_in
from p2engine.dispatch.celery import Routes
from p2engine.domain.effects import Judge
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import EffectId
from p2engine.domain.records import Query
from p2engine.errors import UsageError
from p2engine.runtime.judging import VERDICT, judge_now
from p2engine.tools.registry import Registry
from p2engine.wiring.workers import keeps_of
from tests.evals.subjects import registry

AGENTS = "agents:\n- {id: alpha, llm_model: openai/gpt-4o, tools: [get_weather]}\n"
POLITE = """\
from p2engine import evaluator

@evaluator(id="polite", version="1.0")
def polite(subject):
    return {score}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one agent and one evaluator."""
    for name, text in (("config/agents.yml", AGENTS), ("evals/own.py", POLITE.format(score=0.25))):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


async def verdicts(engine: Engine, count: int) -> list[float | None]:
    """The scores, once there are so many."""
    async with asyncio.timeout(30):
        while len(found := await engine.query(Query(kinds=(VERDICT,)))) < count:
            await asyncio.sleep(0)
    return [event.body.get("score") for event in found]


async def test_a_turn_is_judged_by_a_projects_evaluator_and_an_edit_counts(project: Path) -> None:
    """The override `evaluations` owes the verdict; an edited file judges the next turn, and is named as reloaded."""
    async with Engine.open(project) as engine:
        chat = await engine.conversation("demo", agent="alpha")
        await chat.override({"evaluations": [{"evaluator": "polite"}, {"evaluator": "no_error"}]})
        await chat.say("What's the weather in Paris?")
        assert sorted(await verdicts(engine, 2), key=str) == [0.25, 1.0]

        (project / "evals" / "own.py").write_text(POLITE.format(score="0.75  # kinder"))
        assert engine.refresh() == ["evals/own.py"]
        await chat.say("What's the weather in Tokyo?")
        assert sorted(await verdicts(engine, 4), key=str)[1:3] == [0.75, 1.0]

        (project / "evals" / "own.py").write_text("def broken(:\n")
        (said,) = engine.refresh()
        assert said.startswith("evals/own.py:1: SyntaxError")
        assert engine.evaluators.get("polite") is not None


async def test_a_rollouts_verdicts_are_those_of_its_trials(project: Path) -> None:
    """By the id of the rollout or its beginning, in the order of the trials; a conversation's name wins over it."""
    async with Engine.open(project) as engine:
        for name, group in (("t1", "jokes-1"), ("t2", "jokes-1"), ("t3", "jokes-2"), ("jokes", None)):
            chat = await engine.conversation(name, agent="alpha", group=group)
            await chat.say("hello")
            await judge_now(engine.world, chat.record.current, Evaluation(evaluator="polite"))

        async def names(session: str) -> list[str]:
            return [record.name for record in await records_of(engine, session)]

        assert await names("jokes-1") == ["t1", "t2"]
        assert await names("jokes") == ["jokes"]
        assert await names("t3") == ["t3"]
        with pytest.raises(UsageError, match=r"ambiguous rollout 'jok': 'jokes-1', 'jokes-2'"):
            await records_of(engine, "jok")
        seen = await verdicts_in(engine, await records_of(engine, "jokes-1"), "polite@1.0")
        assert [(each.record.name, each.value("score")) for each in seen] == [("t1", 0.25), ("t2", 0.25)]
        assert await verdicts_in(engine, await records_of(engine, "jokes-1"), "no_error") == []


async def test_without_a_projects_code_its_evaluators_are_not_there(project: Path) -> None:
    """And it is said why."""
    async with Engine.open(project, project_code=False, work=False) as engine:
        assert engine.evaluators.get("polite") is None
        with pytest.raises(UsageError) as caught:
            engine.evaluators.check(Evaluation(evaluator="polite"))
        assert caught.value.hint == "the project's own evaluators are not loaded"


@pytest.mark.parametrize(
    ("evaluator", "version", "consumes", "keeps"),
    [
        ("contains", "", {"evals"}, True),
        ("contains", "1", {"evals"}, True),
        ("contains", "2", {"evals"}, False),
        ("polite", "", {"evals"}, False),
        ("contains", "", {"ticks", "tools"}, False),
    ],
)
def test_a_verdict_is_left_to_whoever_has_the_evaluator(
    evaluator: str, version: str, consumes: set[str], keeps: bool
) -> None:
    """A process keeps what it judges: of its queues, and loaded here in the version that is asked for."""
    keep = keeps_of(Routes({}, lambda name: True), frozenset(consumes), Registry(), registry())
    effect = Judge(id=EffectId("ref:1.1"), evaluation=Evaluation(evaluator=evaluator, version=version))
    assert keep(effect) is keeps


MARKED = """\
from p2engine import function_tool

@function_tool(milestone=True)
def plan(good: bool) -> str:
    \"\"\"Make a plan.\"\"\"
    if not good:
        raise ValueError("no plan")
    return "planned"

@function_tool(side_effect_free=True)
def look() -> str:
    \"\"\"Look around.\"\"\"
    return "seen"
"""
CLERK = """\
agents:
- id: clerk
  type: rule
  tools: [plan, look]
  rules:
  - {regex: "^look", tool: look}
  - {regex: "^plan", tool: plan, arguments: {good: true}}
  - {regex: "^fail", tool: plan, arguments: {good: false}}
  default: "done"
"""


async def test_a_milestone_is_the_success_of_a_marked_tool(project: Path) -> None:
    """Its result is what is judged. Other tools are none, and a marked one that failed is none."""
    (project / "tools").mkdir()
    (project / "tools" / "own.py").write_text(MARKED)
    (project / "config" / "agents.yml").write_text(CLERK)
    async with Engine.open(project) as engine:
        chat = await engine.conversation("demo", agent="clerk")
        at_end = {"evaluator": "no_error"}
        await chat.override({"evaluations": [{"evaluator": "polite", "when": "milestone"}, at_end]})
        for text in ("look", "fail", "plan"):
            await chat.say(text)
        await verdicts(engine, 4)
        judged = await engine.query(Query(kinds=(VERDICT,)))
        (milestone,) = [event for event in judged if event.body["evaluator"] == "polite"]
        results = await engine.query(Query(kinds=("state.tool_result",)))
        assert [event.body["status"] for event in results] == ["ok", "error", "ok"]
        assert milestone.cause == results[-1].id
