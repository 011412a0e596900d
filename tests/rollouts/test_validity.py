"""A check that a right agent fails, or a useless one passes, is found before anybody pays for its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.ports.judging import NONE_KNOWN
from p2engine.rollouts.spec import Spec, Task, Team, Variant
from p2engine.rollouts.validity import Finding, Place, is_valid, validity
from p2engine.wiring import Engine
from tests.cli.project import Project

WALLETS = {"treasurer": "100", "beta": "100"}


class Bench:
    """The evaluators of a project, and some that only this test has."""

    def __init__(self, engine: Engine, own: Mapping[str, Any]) -> None:
        self._judges = engine.world.judges
        self._own = own

    def has(self, evaluation: Evaluation) -> bool:
        return True

    def key(self, evaluation: Evaluation, subject: Subject) -> str:
        return ""

    def asks_model(self, evaluation: Evaluation) -> bool:
        return False

    async def __call__(
        self, evaluation: Evaluation, subject: Subject, known: Mapping[int, Verdict] = NONE_KNOWN
    ) -> Verdict:
        if evaluation.evaluator in self._own:
            score = float(self._own[evaluation.evaluator](subject))
            return Verdict(evaluator=evaluation.evaluator, version="1", subject=subject.event, score=score)
        assert self._judges is not None
        return await self._judges(evaluation, subject)


async def findings(
    project: Project,
    *checks: Evaluation,
    tasks: tuple[Task, ...] = (),
    message: str = "What is it?",
    own: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """What is found of these checks in a team of one variant that has the tool get_weather."""
    variant = Variant(id="a", agent=AgentId("agent_alpha"), message=message)
    spec = Spec(name="s", teams=(Team(id="t", variants=(variant,), tasks=tasks, evaluations=checks),))
    async with Engine.open(project.folder, work=False) as engine:
        judges = Bench(engine, own or {})
        place = Place(judges, lambda each: each.evaluator == "gpt4_judge", WALLETS, {"t": ["get_weather"]})
        return await validity(spec, place)


def check(name: str, value: Any = None, **params: Any) -> Evaluation:
    return Evaluation(evaluator=name, params=params if value is None else {"value": value, **params})


def expecting(*values: Any) -> tuple[Task, ...]:
    return tuple(Task(id=f"t{number}", values={"n": number}, expected=value) for number, value in enumerate(values))


@pytest.fixture
def project(tmp_path: Any) -> Project:
    """A project folder."""
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


SOUND = {
    "contains": (check("contains", "Paris"), ()),
    "several": (check("contains", ["Paris", "London"]), ()),
    "equals": (check("equals", "yes"), ()),
    "equals a number": (check("equals", "{{ expected }}"), expecting(4, 5.5)),
    "numeric": (check("numeric", "{{ expected }}", tolerance=0.5), expecting(22, -3)),
    "expected": (check("contains", "{{ expected }}"), expecting("Paris", "Oslo")),
    "one part": (check("equals", "{{ expected['city'] }}"), expecting({"city": "Paris", "country": "France"})),
    "regex": (check("regex", "Paris|Tokyo"), ()),
    "regex of digits": (check("regex", r"^\d+ °C$"), expecting("22 °C")),
    "json": (
        check("json_schema", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        (),
    ),
    "called": (check("tool_called", "get_weather", arguments={"location": "Paris"}, times=2), ()),
    "received": (check("ledger_received", agent="beta", amount=20), ()),
    "at least": (check("ledger_received", agent="beta", at_least=5), ()),
    "balance": (check("balance", agent="treasurer", amount=40), ()),
}


@pytest.mark.parametrize(("evaluation", "tasks"), SOUND.values(), ids=SOUND)
async def test_a_sound_check_is_valid(project: Project, evaluation: Evaluation, tasks: tuple[Task, ...]) -> None:
    """A right agent passes, one that says or does nothing does not, for every task."""
    (found,) = await findings(project, evaluation, tasks=tasks)
    assert (found.status, found.why, found.guards) == ("valid", "", False)
    assert found.tried == max(1, len(tasks))


UNSOUND = {
    "everything contains it": (check("contains", "know"), (), "a null agent passes, which answers 'I do not know.'"),
    "anything matches": (check("regex", ".*"), (), "a null agent passes, which answers ''"),
    "one of the tasks": (
        check("contains", "{{ expected }}"),
        expecting("Paris", "not"),
        "task t1: a null agent passes, which answers 'I do not know.'",
    ),
    "what is right is another thing": (
        check("equals", "Paris"),
        expecting("Paris", "Oslo"),
        "task t1: a gold agent fails, which answers 'Oslo'",
    ),
    "what nobody expects": (
        check("contains", "zebra"),
        expecting(5),
        "task t0: a gold agent fails, which answers '5': 'zebra' not in '5'",
    ),
    "beside what is expected": (
        check("contains", "°C"),
        expecting("22", "6"),
        "task t0: a gold agent fails, which answers '22': '°C' not in '22'",
    ),
    "a pattern of something else": (check("regex", "Paris|Tokyo"), expecting("22"), "task t0: a gold agent fails"),
    "a pattern that is no pattern": (
        check("regex", "^{{ expected }}$"),
        expecting("C++"),
        "task t0: a gold agent fails, which answers 'C++'",
    ),
    "nobody has the tool": (check("tool_called", "get_wether"), (), "no variant has the tool 'get_wether'"),
    "who has it anyway": (check("balance", agent="beta", amount=100), (), "a null agent passes"),
    "no wallet": (check("ledger_received", agent="nobody", amount=1), (), "'nobody' has no wallet"),
}


@pytest.mark.parametrize(("evaluation", "tasks", "why"), UNSOUND.values(), ids=UNSOUND)
async def test_failure_40_a_check_that_measures_nothing_is_invalid(
    project: Project, evaluation: Evaluation, tasks: tuple[Task, ...], why: str
) -> None:
    """A right agent fails it, or a useless one passes it; which, and on which task, is said."""
    found = await findings(project, evaluation, tasks=tasks)
    assert found[0].status == "invalid"
    assert found[0].why.startswith(why)
    assert not is_valid(found)


GUARDS = (
    check("no_error"),
    check("max_steps", 3),
    check("tool_not_called", "get_weather"),
    check("tool_called", "get_weather", times=0),
    check("balance", agent="treasurer", at_most=100),
)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda each: each.evaluator)
async def test_what_only_forbids_is_tried_on_who_does_it_and_is_no_evidence_alone(
    project: Project, guard: Evaluation
) -> None:
    """Valid beside another check; a team with nothing else is invalid, since doing nothing passes."""
    beside = await findings(project, guard, check("contains", "Paris"))
    assert [(each.status, each.guards) for each in beside] == [("valid", True), ("valid", False)]
    alone = await findings(project, guard)
    assert [(each.check, each.status) for each in alone][-1] == ("all", "invalid")


async def test_an_evaluator_of_the_project_is_tried_by_what_is_expected(project: Project) -> None:
    """It passes what is expected and nothing else; without an expected value nobody knows what is right."""
    own = {"mine": lambda subject: subject.answer == "42", "kind": lambda subject: 1.0}
    good = await findings(project, check("mine"), tasks=expecting("42"), own=own)
    assert good[0].status == "valid"
    assert (await findings(project, check("mine"), own=own))[0].status == "skipped"
    assert (await findings(project, check("kind"), own=own))[0].status == "invalid"
    other = await findings(project, check("mine"), tasks=expecting("43"), own=own)
    assert other[0].status == "invalid"


async def test_a_judge_is_skipped_and_said_so(project: Project) -> None:
    """No model is asked; the file is no worse for it."""
    found = await findings(project, check("gpt4_judge", rubric="Is it right?"), check("contains", "Paris"))
    assert [each.status for each in found] == ["skipped", "valid"]
    assert "eval calibrate" in found[0].why
    assert is_valid(found)


async def test_a_pattern_for_which_no_answer_can_be_made_up_is_skipped(project: Project) -> None:
    """It is not called invalid: an expected value would tell."""
    pattern = check("regex", r"(\w)\1{3}x[q-z]{2}")
    assert (await findings(project, pattern))[0].status == "skipped"
    assert (await findings(project, pattern, tasks=expecting("aaaaxqq")))[0].status == "valid"


async def test_an_order_that_gives_the_answer_away_is_noted(project: Project) -> None:
    """An agent that repeats its order passes: the check is valid, and says little."""
    (found,) = await findings(project, check("contains", "Paris"), message="What's the weather in Paris?")
    assert (found.status, found.echoes) == ("valid", True)
    (other,) = await findings(project, check("contains", "22"), message="What's the weather in Paris?")
    assert not other.echoes
