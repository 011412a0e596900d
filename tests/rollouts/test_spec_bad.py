"""What is wrong with a rollout file is said in one line: the file, the line, and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.errors import ConfigError, NotAvailable, SetupError
from tests.rollouts.rollout_files import KNOWN, read, team

HUNDRED = ", ".join(str(n / 100) for n in range(100))
MILLION = [f"  temperature: [{HUNDRED}]", f"  top_p: [{HUNDRED}]", f"  max_tokens: {list(range(1, 101))}"]
CITY = "tasks: [{city: x}]"
TWO = "teams:\n  aa: {initial_message: x, base: {agent_id: child}}\n  b: {base: {agent_id: child}, "

BAD = {
    # the file
    "": ": is empty",
    "- a\n": ":1: expected a mapping, not ['a']",
    "name: x\n": ":1: the key teams is missing",
    "teams: {}\n": ":1: teams: expected a mapping of teams, not {}",
    "teams:\n  t: 3\n": ":2: teams.t: expected a mapping, not 3",
    "teams:\n  ../x: {}\n": ":2: teams: a team's name has 1 to 64 letters, digits, _ . and -; this is '../x'",
    "teams:\n  1: {}\n": ":1: teams: a key must be text, not 1",
    team(tems="{}"): ":1: unknown key 'tems' (did you mean teams?)",
    team(seed="-1"): ":1: seed: expected a whole number from 0 to 9223372036854775807, not -1",
    team(concurrency="0"): ":1: concurrency.trials: expected a whole number of at least 1, not 0",
    team(concurrency="many"): ":1: concurrency: expected a number, or {trials, providers}, not 'many'",
    team(name="../../evil"): ":1: name: a rollout's name has 1 to 64 letters, digits, _ . and -; this is '../../evil'",
    team(budget="{usd: -1}"): ":1: budget.usd: expected a number above 0, not -1",
    team(budget="{trial: {usd: 0}}"): ":1: budget.trial.usd: expected a number above 0, not 0",
    team(name="2024-01-01"): ":1: name: datetime.date(2024, 1, 1) is neither text nor a plain number; put it in quotes",
    # a team
    team("varients: []"): ":6: teams.t: unknown key 'varients' (did you mean variants?)",
    team("repeats: 0"): ":6: teams.t.repeats: expected a whole number of at least 1, not 0",
    team("repeats: 100001"): ":2: teams.t: 100001 trials are more than 100000",
    team("ledger: isolatd"): ":6: teams.t.ledger: expected isolated or shared, not 'isolatd' (did you mean isolated?)",
    team("timeout_sec: 0"): ":6: teams.t.timeout_sec: expected a number above 0, not 0",
    team("depends_on: tt"): ":6: teams.t.depends_on: no team 'tt' (did you mean t?)",
    team("depends_on: t"): ":6: teams.t.depends_on: teams wait for one another: t → t",
    TWO.replace("aa: {", "aa: {depends_on: b, ") + "initial_message: x, depends_on: aa}\n": ":2: teams.aa.depends_on:"
    " teams wait for one another: aa → b → aa",
    # base and variants
    team(
        "base: {agent_id: child, temprature: 1}"
    ): ":5: teams.t.base: unknown key 'temprature' (did you mean temperature?)",
    team("base: {}"): ":4: teams.t.variants[0]: the key agent_id is missing, here and in base",
    team(
        "base: {agent_id: agent_alfa}"
    ): ":5: teams.t.base.agent_id: no agent 'agent_alfa' (did you mean agent_alpha?)",
    team(
        "base: {agent_id: clerk}"
    ): ":4: teams.t.variants[0].temperature: clerk answers by rules; no model decides for it",
    team("initial_message:"): ":4: teams.t.variants[0]: the key initial_message is missing, here and in the team",
    team(
        "variants: []"
    ): ":5: teams.t.variants: expected a list of variants, or a grid of lists (key: [value, …]), not []",
    team("variants:", "- {id: a}", "- {id: b}", "- {id: a}"): ":8: teams.t.variants[2]: variant 'a' is there already"
    " (line 6)",
    team("variants:", "- {id: v2}", "- {}"): ":7: teams.t.variants[1]: variant 'v2' is there already (line 6)",
    team("variants: [{id: a/b}]"): ":5: teams.t.variants[0].id: a variant's id has 1 to 64 letters, digits, _ . = , + :"
    " and -; this is 'a/b'",
    team("variants: [{agent_id: chil}]"): ":5: teams.t.variants[0].agent_id: no agent 'chil' (did you mean child?)",
    team("variants: [{temperature: 3}]"): ":5: teams.t.variants[0].temperature: expected a number from 0 to 2, not 3",
    team("variants: [{budget: {tokens: -5}}]"): ":5: teams.t.variants[0].budget.tokens: expected a whole number of at"
    " least 1, not -5",
    team("variants:", "- tools: [get_weather,", "          get_wether]"): ":7: teams.t.variants[0].tools[1]: no tool"
    " 'get_wether' (did you mean get_weather?)",
    team("variants: [{behavior_template: wether_expert}]"): ":5: teams.t.variants[0].behavior_template: no persona"
    " 'wether_expert' (did you mean weather_expert?)",
    # grids
    team("variants:", *MILLION): ":5: teams.t.variants: 1000000 combinations are more than 1000 variants",
    team(
        "variants:", "  temperature: [0.3, 3]"
    ): ":6: teams.t.variants.temperature: expected a number from 0 to 2, not 3",
    team("variants: {temprature: 1}"): ":5: teams.t.variants: unknown key 'temprature' (did you mean temperature?)",
    team("variants: {temperature: 0.3}"): ":5: teams.t.variants.temperature: expected a list of values, not 0.3",
    team("variants: {temperature: []}"): ":5: teams.t.variants.temperature: expected a list of values, not []",
    team("variants: {temperature: [1, 1.0]}"): ":5: teams.t.variants: temperature has the value 1.0 twice",
    # evaluators and checks
    team("eval: gpt4_judge"): ":6: teams.t.eval: expected a mapping, not 'gpt4_judge'",
    team("eval: {rubric: x y}"): ":6: teams.t.eval: the key evaluator_id is missing",
    team("eval: {evaluator_id: gpt4_judge}"): ":6: teams.t.eval: the key rubric is missing",
    team(
        "eval: {evaluator_id: gpt4_judge, rubric: ' '}"
    ): ":6: teams.t.eval.rubric: expected a text, a list or weights by criterion, not ''",
    team(
        "eval: {evaluator_id: gpt4_judge, rubric: joke_qality}"
    ): ":6: teams.t.eval.rubric: no rubric 'joke_qality' (did you mean joke_quality?)",
    team("eval: {evaluator_id: contains, rubrik: x}"): ":6: teams.t.eval: unknown key 'rubrik' (did you mean rubric?)",
    team(
        "eval: {evaluator_id: contains, params: {rubric: x}}"
    ): ":6: teams.t.eval: rubric stands beside params, not in it",
    team(
        "eval: [{evaluator_id: no_error}, {evaluator_id: gpt5_judge}]"
    ): ":6: teams.t.eval[1]: no evaluator 'gpt5_judge'",
    team("eval: {evaluator_id: contains, judge_version: '9'}"): ":6: teams.t.eval: no version '9' of contains",
    team("eval: {evaluator_id: contains@1, judge_version: '2'}"): ":6: teams.t.eval: evaluator_id asks for version 1,"
    " judge_version for 2",
    team(
        "eval: {evaluator_id: contains, evaluate: stp}"
    ): ":6: teams.t.eval.evaluate: expected finish, step or milestone, not 'stp' (did you mean step?)",
    team("checks: {contains: x}"): ":6: teams.t.checks: expected a list of checks, not {'contains': 'x'}",
    team("checks:", "- no_error", "- {contians: x}"): ":8: teams.t.checks[1]: no evaluator 'contians'",
    team(
        "checks: [{contains: x, equals: y}]"
    ): ":6: teams.t.checks[0]: expected one check, such as {contains: Paris}, not {'contains': 'x', 'equals': 'y'}",
    team("checks: ['a b']"): ":6: teams.t.checks[0]: an evaluator is named as ID or ID@VERSION; this is 'a b'",
    # templates
    team(
        "checks: [{contains: '{{ expected }}'}]"
    ): ":6: teams.t.checks[0]: there is no 'expected': the team has no tasks",
    team("checks: [{contains: '{{ expected }}'}]", CITY): ":6: teams.t.checks[0]: task 't1' has no expected value",
    team("checks: [{equals: {expected: cty}}]", "tasks: [{expected: {city: x}}]"): ":6: teams.t.checks[0]: task 't1':"
    " template: 'dict object' has no attribute 'cty'",
    team("checks: [{contains: '{{ ctiy }}'}]", CITY): ":6: teams.t.checks[0]: there is no 'ctiy' (did you mean city?)",
    team(
        "checks: [{contains: '{{ a'}]"
    ): ":6: teams.t.checks[0]: template: unexpected end of template, expected 'end of print statement'.",
    team(
        "initial_message: 'Hi {{ ctiy }}'", CITY
    ): ":5: teams.t.initial_message: there is no 'ctiy' (did you mean city?)",
    team(
        "variants: [{initial_message: '{{ ctiy }}'}]", CITY
    ): ":5: teams.t.variants[0].initial_message: there is no 'ctiy' (did you mean city?)",
    team("initial_message: 'Hi {{ city }}'"): ":5: teams.t.initial_message: there is no 'city': the team has no tasks",
    team("initial_message: 'Hi {{ city }}'", "tasks: [{city: x}, {town: y}]"): ":5: teams.t.initial_message: task 't2':"
    " template: 'city' is undefined",
    team(
        "initial_message: '{{ expected }}'", "tasks: [{expected: x}]"
    ): ":5: teams.t.initial_message: a message does not tell what is expected",
    team(
        "initial_message: '{{ task.citi }}'", CITY
    ): ":5: teams.t.initial_message: task 't1': template: 'dict object' has no attribute 'citi'",
    team("initial_message: '{% if false %}x{% endif %}'"): ":5: teams.t.initial_message: the message is empty",
    team("initial_message: \"{{ ''.__class__ }}\""): ":5: teams.t.initial_message: template: access to attribute"
    " '__class__' of 'str' object is unsafe.",
    team(
        "initial_message: '{{ teams.a }}'"
    ): ":5: teams.t.initial_message: teams is there for teams with depends_on only",
    TWO
    + "depends_on: [aa], initial_message: '{{ teams.ab.leaders }}'}\n": ":3: teams.b.initial_message: teams.ab: 'ab' is"
    " not under depends_on (known: aa)",
    TWO
    + "depends_on: [aa], initial_message: 'by {{ teams.aa.rankd_by }}'}\n": ":3: teams.b.initial_message: there is no"
    " 'rankd_by' (did you mean ranked_by?)",
    TWO + "depends_on: [aa], initial_message: '{% for each in teams.aa.trials %}{{ each.agnt }}{% endfor %}'}\n": ":3: "
    "teams.b.initial_message: there is no 'agnt' (did you mean agent?)",
    TWO + "depends_on: [aa], initial_message: '{{ teams.aa.variants.bas.score }}'}\n": ":3: teams.b.initial_message: "
    "there is no 'bas' (did you mean base?)",
    TWO + "depends_on: [aa], initial_message: '{% if not teams.aa.ranked_by %}{{ teams.aa.leders }}{% endif %}x'}\n": (
        ":3: teams.b.initial_message: there is no 'leders' (did you mean leaders?)"
    ),
}


@pytest.mark.parametrize(("text", "says"), BAD.items(), ids=range(len(BAD)))
def test_failure_27_a_wrong_rollout_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    """Whatever is wrong with a rollout file is said in one line that starts with where it is; nothing is started."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    assert str(raised.value) == f"jokes.yml{says}"


LATER = {
    team("human_in_loop: true"): ("human_in_loop", 6),
    team("base: {agent_id: child, requires_approval: [x]}"): ("requires_approval", 5),
    team("variants: [{enable_self_reflection: true}]"): ("enable_self_reflection: true", 5),
    team(reflection_agent_id="x"): ("reflection_agent_id", 1),
}


@pytest.mark.parametrize(
    ("text", "key", "line"), [(text, *says) for text, says in LATER.items()], ids=range(len(LATER))
)
def test_what_is_not_built_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, line: int
) -> None:
    """A key of what this version does not have is neither unknown nor ignored."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotAvailable) as raised:
        read(tmp_path, text)
    assert str(raised.value) == f"not available in this version: {key}"
    assert raised.value.hint == f"jokes.yml:{line}: take it out"


def test_a_bound_of_a_provider_that_nobody_asks_is_refused(tmp_path: Path) -> None:
    """With the nearest of those that are known or asked; one that a variant or its agent asks is known."""
    known = KNOWN._replace(providers={"openai", "mistral"}, own_models={"agent_alpha": "home/llama"})
    asked = 'variants: [{id: a, model: "local/x"}, {id: b}]'
    assert read(tmp_path, team(asked, concurrency="{providers: {local: 1, home: 2, openai: 3}}"), known).providers
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, team(asked, concurrency="{providers: {opanai: 2}}"), known)
    assert str(caught.value).endswith(":1: concurrency.providers.opanai: no provider 'opanai' (did you mean openai?)")


def test_a_supported_model_is_asked_for_where_there_are_such(tmp_path: Path) -> None:
    """With a list of supported models, a variant names one of them."""
    text = team("variants: [{model: openai/gpt-4}]")
    assert read(tmp_path, text)
    with pytest.raises(ConfigError, match=r"no supported model 'openai/gpt-4' \(did you mean openai/gpt-4o\?\)"):
        read(tmp_path, text, KNOWN._replace(models=["openai/gpt-4o"]))


WORDS = [
    "teams",
    "t",
    "base",
    "variants",
    "agent_id",
    "child",
    "tasks",
    "eval",
    "checks",
    "contains",
    "initial_message",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["Hi {{ x }}", "{{", *WORDS]) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["initial_message", "base", "variants", "eval", "checks", "tasks", "repeats", "depends_on"])


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_no_team_whatever_is_in_it_makes_the_reader_fail(
    tmp_path_factory: pytest.TempPathFactory, body: dict[str, object]
) -> None:
    """Whatever stands under a team, the file is read or refused with a line."""
    from io import StringIO

    from ruamel.yaml import YAML

    good = {"initial_message": "Hello", "base": {"agent_id": "child"}}
    stream = StringIO()
    YAML(typ="safe", pure=True).dump({"teams": {"t": {**good, **body}}}, stream)
    said = ""
    try:
        read(tmp_path_factory.getbasetemp(), stream.getvalue())
    except SetupError as error:
        said = str(error)
    assert "\n" not in said
