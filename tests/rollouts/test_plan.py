"""The plan: which trials there are, in which order, with which task and seed, and how it may grow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from p2engine.agents.templates import TemplateFault
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.errors import UsageError
from p2engine.rollouts.earlier import Result, told
from p2engine.rollouts.plan import circle, extended, plan, waves
from p2engine.rollouts.spec import Spec, Task, Team, Trial, Variant
from p2engine.rollouts.templates import fill_params, trial_evaluations, trial_message
from tests.rollouts.rollout_files import read, team

ALPHA = AgentId("agent_alpha")


def arms(*ids: str, message: str = "Hello") -> tuple[Variant, ...]:
    return tuple(Variant(id=each, agent=ALPHA, message=message) for each in ids)


def spec_of(*teams: Team, seed: int = 0) -> Spec:
    return Spec(name="s", teams=teams, seed=seed)


TASKS = (Task(id="p", values={"city": "Paris"}), Task(id="o", values={"city": "Oslo"}))


def test_trials_go_round_the_variants_then_the_tasks_then_the_repeats() -> None:
    """Every arm is asked before any is asked again, and every task once before any comes again."""
    trials = plan(spec_of(Team(id="t", variants=arms("a", "b"), tasks=TASKS, repeats=2)))
    assert [(each.key, each.task and each.task.id, each.repeat) for each in trials] == [
        ("t/a/1", "p", 1),
        ("t/b/1", "p", 1),
        ("t/a/2", "o", 1),
        ("t/b/2", "o", 1),
        ("t/a/3", "p", 2),
        ("t/b/3", "p", 2),
        ("t/a/4", "o", 2),
        ("t/b/4", "o", 2),
    ]


def test_trials_with_one_number_share_task_and_seed() -> None:
    """Paired by default: common random numbers for all variants, different ones for every task and repeat."""
    trials = plan(spec_of(Team(id="t", variants=arms("a", "b", "c"), tasks=TASKS, repeats=3)))
    pairs = {(each.number, each.task and each.task.id, each.repeat, each.seed) for each in trials}
    assert len(pairs) == 6
    assert len({each.seed for each in trials}) == 6
    assert all(0 <= each.seed < 2**31 for each in trials)


def test_another_seed_gives_other_trials_and_the_same_one_the_same() -> None:
    """The plan is a function of the spec and its seed."""
    spec = spec_of(Team(id="t", variants=arms("a"), repeats=4), seed=1)
    assert plan(spec) == plan(spec)
    assert plan(spec, seed=2) == plan(replace(spec, seed=2))
    assert not {each.seed for each in plan(spec)} & {each.seed for each in plan(spec, seed=2)}


def test_teams_take_turns_and_dependent_ones_come_after() -> None:
    """Teams that wait for nobody are interleaved; one that depends on them starts when they have all their trials."""
    first = Team(id="x", variants=arms("a"), repeats=2)
    last = Team(id="z", variants=arms("a"), depends_on=("x", "y"))
    second = Team(id="y", variants=arms("a"), repeats=1)
    spec = spec_of(last, first, second)
    assert [each.key for each in plan(spec)] == ["x/a/1", "y/a/1", "x/a/2", "z/a/1"]
    assert [[team.id for team in wave] for wave in waves(spec)] == [["x", "y"], ["z"]]


def test_limit_and_repeats_cut_every_arm_alike() -> None:
    """A limit is of trials of each variant; what is left is the beginning of the whole plan."""
    spec = spec_of(Team(id="t", variants=arms("a", "b"), tasks=TASKS, repeats=2))
    assert plan(spec, limit=3) == plan(spec)[:6]
    assert plan(spec, repeats=1) == plan(spec)[:4]
    assert plan(spec, repeats=5)[:8] == plan(spec)
    assert plan(spec, limit=99) == plan(spec)


BAD: dict[str, dict[str, Any]] = {
    "limit: expected a whole number of at least 1, not 0": {"limit": 0},
    "repeats: expected a whole number of at least 1, not -2": {"repeats": -2},
    "seed: expected a whole number of at least 0, not -1": {"seed": -1},
    "200000 trials are more than 100000": {"repeats": 100_000},
}


@pytest.mark.parametrize(("says", "given_"), BAD.items(), ids=range(len(BAD)))
def test_a_number_that_cannot_be_is_refused(says: str, given_: dict[str, Any]) -> None:
    """Overrides from a command line are bounded like the file."""
    with pytest.raises(UsageError) as raised:
        plan(spec_of(Team(id="t", variants=arms("a", "b"))), **given_)
    assert str(raised.value) == says


@given(
    st.integers(1, 4), st.integers(0, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**40)
)
def test_growing_never_renames_what_ran(
    variants: int, tasks: int, repeats: int, more_variants: int, more_repeats: int, seed: int
) -> None:
    """Whatever is added, a trial that ran has the same key, task, seed and message in the grown plan, once."""
    data = tuple(Task(id=f"q{n}") for n in range(tasks))
    small = Team(id="t", variants=arms(*map(str, range(variants))), tasks=data, repeats=repeats)
    large = replace(small, variants=arms(*map(str, range(variants + more_variants))), repeats=repeats + more_repeats)
    ran, grown = plan(spec_of(small, seed=seed)), plan(extended(spec_of(small, seed=seed), spec_of(large)))
    counted = Counter(each.key for each in grown)
    assert set(counted.values()) == {1}
    assert {each.key: each for each in ran}.items() <= {each.key: each for each in grown}.items()
    assert len(grown) == (variants + more_variants) * max(1, tasks) * (repeats + more_repeats)


def test_extending_keeps_what_the_new_file_leaves_out(tmp_path: Path) -> None:
    """A file with a new variant alone adds it; the hash is of the whole."""
    ran = read(tmp_path, team("variants: [{id: a}, {id: b}]", "repeats: 3", seed="5"))
    grown = extended(ran, read(tmp_path, team("variants: [{id: c, temperature: 1}]")))
    assert [each.id for each in grown.teams[0].variants] == ["a", "b", "c"]
    assert (grown.teams[0].repeats, grown.seed) == (3, 5)
    assert grown.hash != ran.hash
    assert extended(grown, ran) == grown


CHANGED = {
    "variants: [{id: a, temperature: 1}]": "team 't': variant 'a' is not what it was when its trials ran",
    "initial_message: Other": "team 't': variant 'a' is not what it was when its trials ran",
    "tasks: [{q: 1}]": "team 't': tasks is not what it was when its trials ran",
    "checks: [no_error]": "team 't': evaluations is not what it was when its trials ran",
    "ledger: shared": "team 't': ledger is not what it was when its trials ran",
}


@pytest.mark.parametrize(("line", "says"), CHANGED.items(), ids=range(len(CHANGED)))
def test_extending_never_changes_what_ran(tmp_path: Path, line: str, says: str) -> None:
    """A file that says something else of a variant or team that ran is refused."""
    ran = read(tmp_path, team("variants: [{id: a}]"))
    lines = [line] if line.startswith("variants") else ["variants: [{id: a}]", line]
    with pytest.raises(UsageError) as raised:
        extended(ran, read(tmp_path, team(*lines)))
    assert str(raised.value) == says


def test_extending_cannot_tie_teams_into_a_circle() -> None:
    """A new team may depend on an old one, not the other way round through it."""
    old = Team(id="x", variants=arms("a"), depends_on=("y",))
    new = Team(id="y", variants=arms("a"), depends_on=("x",))
    with pytest.raises(UsageError, match="teams wait for one another: x → y → x"):
        extended(spec_of(old), spec_of(new))


CIRCLES = {
    "a": {"a": ("b",), "b": ("c",), "c": ()},
    "b": {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ("x",)},
    "a → a": {"b": ("a",), "a": ("a",)},
    "b → c → b": {"a": ("b",), "b": ("c",), "c": ("b",)},
}


@pytest.mark.parametrize(("found", "teams"), CIRCLES.items(), ids=range(len(CIRCLES)))
def test_a_circle_is_named_where_there_is_one(found: str, teams: dict[str, tuple[str, ...]]) -> None:
    """A diamond is no circle; a circle is named without the way to it."""
    assert circle(teams) == (found if "→" in found else "")


# Messages and checks


def trial(message: str, task: Task | None = None) -> Trial:
    return Trial(team="t", variant="v", number=1, repeat=1, seed=0, message=message, task=task)


def test_a_message_is_filled_with_its_task_and_earlier_teams() -> None:
    """Values of the task by their names, its id, and what came of teams; braces in all of them stay braces."""
    task = Task(id="p", values={"city": "Paris {{ 7 * 7 }}"}, expected="secret")
    rows = [Result(variant="a", number=1, agent=ALPHA, reply="{{ 1 }}", scores={"contains": 1.0})]
    text = "{{ city }} ({{ task.id }}): {{ teams.x.leaders[0].reply }}"
    assert trial_message(trial(text, task), told({"x": rows})) == "Paris {{ 7 * 7 }} (p): {{ 1 }}"


def test_a_message_may_use_what_every_template_has(tmp_path: Path) -> None:
    """A loop over a range needs no data set."""
    spec = read(tmp_path, team("initial_message: '{% for n in range(3) %}{{ n }}{% endfor %}'"))
    assert trial_message(plan(spec)[0]) == "012"


@pytest.mark.parametrize("text", ["{{ expected }}", "{{ task.expected }}", "{{ teams.x }}", "{{ '' }}"])
def test_a_message_never_tells_what_is_expected(text: str) -> None:
    """The right answer is not there to be filled in, nor is a team that is not known; an empty message is none."""
    with pytest.raises(TemplateFault):
        trial_message(trial(text, Task(id="p", expected="secret")))


PARAMS = {
    "plain": "plain",
    "{{ expected }}": {"temp": 22.5, "city": "Paris"},
    "{{- expected.temp -}}": 22.5,
    "{{ expected['temp'] * 2 }}": 45.0,
    "about {{ expected.temp }} in {{ city }}": "about 22.5 in Paris",
    "{% if city %}yes{% endif %}": "yes",
    "{{ city }}{{ city }}": "ParisParis",
    "{{ '}}' }}": "}}",
    "{{ range(2) }}": "range(0, 2)",
}


@pytest.mark.parametrize(("text", "value"), PARAMS.items(), ids=range(len(PARAMS)))
def test_a_check_sees_the_task_and_a_value_alone_keeps_its_type(text: str, value: object) -> None:
    """A number that is expected stays a number; wherever a text stands in the params, it is filled."""
    task = Task(id="p", values={"city": "Paris"}, expected={"temp": 22.5, "city": "Paris"})
    filled = fill_params({"value": text, "deep": [{"x": text}], "n": 3}, task)
    assert filled == {"value": value, "deep": [{"x": value}], "n": 3}
    assert type(filled["value"]) is type(value)


def test_expected_names_a_field_or_is_a_template(tmp_path: Path) -> None:
    """`equals: {expected: city}` compares with that field of what the task expects."""
    text = team(
        "tasks: [{id: a, expected: {city: Paris}}]",
        "checks: [{equals: {expected: city, case: false}}, {equals: {expected: '{{ expected.city }}'}}]",
    )
    (only,) = read(tmp_path, text).teams
    assert trial_evaluations(only, only.tasks[0]) == (
        Evaluation(evaluator="equals", params={"case": False, "value": "Paris"}),
        Evaluation(evaluator="equals", params={"expected": "Paris"}),
    )


# Earlier teams


def rows(**scores: list[dict[str, float | None]]) -> list[Result]:
    """By variant, the scores of its trials."""
    return [
        Result(variant=name, number=n, agent=AgentId(name), reply=f"{name}{n}", scores=each)
        for name, trials in scores.items()
        for n, each in enumerate(trials, 1)
    ]


LEADERS: list[tuple[list[Result], str | None, list[str]]] = [
    (rows(a=[{"j": 0.5}, {"j": 0.9}], b=[{"j": 0.6}, {"j": 0.6}]), "j", ["a"]),
    (rows(a=[{"j": None, "c": 1.0}], b=[{"j": None, "c": 1.0}]), "c", ["a", "b"]),
    (rows(a=[{"j": 0.5, "c": 0.0}], b=[{"j": None, "c": 1.0}]), "c", ["b"]),
    (rows(a=[{"j": None}, {"j": 0.0}], b=[{"j": 0.1}]), "j", ["b"]),
    (rows(a=[{"j": None}], b=[{"j": None}]), None, []),
    ([], None, []),
]


@pytest.mark.parametrize(("results", "ranked_by", "leaders"), LEADERS, ids=range(len(LEADERS)))
def test_leaders_are_ranked_by_what_scored_every_variant(
    results: list[Result], ranked_by: str | None, leaders: list[str]
) -> None:
    """The first evaluator that scored every variant decides; even ones lead together; without scores nobody leads."""
    about = told({"x": results})["x"]
    assert about["ranked_by"] == ranked_by
    assert [each["agent"] for each in about["leaders"]] == leaders
    assert len(about["trials"]) == len(results)
    assert all(each["score"] is not None for each in about["variants"].values()) == (
        ranked_by is not None or not results
    )
