"""A rollout file as it is meant: what is read out of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from p2engine.agents.entries import Changes
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.setup import Budget
from p2engine.rollouts.reading import read_rollout
from p2engine.rollouts.spec import Spec, content_hash
from tests.rollouts.rollout_files import KNOWN, read, team

JOKE = """\
teams:
  joke_story_team:
    initial_message: >
      Write a hilarious 10-sentence story describing life on the ISS.
      Finish with a clever pun as the final sentence.
    base:
      agent_id: agent_alpha
    eval:
      evaluator_id: gpt4_judge
      rubric: |
        Evaluate humor quality:
        - Funny? (0.6)
        - Creative/original? (0.3)
        - Followed instructions? (0.1)
      metric: score
    variants:
      - id: gpt4o_lowtemp
        model: openai/gpt-4o
        temperature: 0.3
      - id: gpt35_hightemp
        model: openai/gpt-3.5-turbo
        temperature: 0.8
"""

WEATHER = """\
teams:
  weather_team:
    initial_message: "What's the weather in major cities?"
    base:
      agent_id: agent_alpha
      model: openai/gpt-4o
    variants:
      - tools: ["get_weather"]
        temperature: 0.3
      - tools: ["get_weather", "delegate"]
        temperature: 0.7
    eval:
      evaluator_id: gpt4_judge
      metric: score
      rubric: |
        Score based on:
        - Accuracy of weather information (0.5)
        - Helpfulness and clarity (0.5)
"""


def test_failure_29_the_joke_file_is_read_as_written(tmp_path: Path) -> None:
    """Variants are named by their ids, and their model and temperature are changes to the agent's setup."""
    spec = read(tmp_path, JOKE)
    (only,) = spec.teams
    assert (spec.name, only.id) == ("jokes", "joke_story_team")
    assert [(each.id, each.agent, each.changes) for each in only.variants] == [
        ("gpt4o_lowtemp", "agent_alpha", {"model": "openai/gpt-4o", "temperature": 0.3}),
        ("gpt35_hightemp", "agent_alpha", {"model": "openai/gpt-3.5-turbo", "temperature": 0.8}),
    ]
    assert only.variants[0].message.startswith("Write a hilarious 10-sentence story")
    (judge,) = only.evaluations
    assert (judge.evaluator, judge.params["metric"]) == ("gpt4_judge", "score")
    assert judge.params["rubric"].splitlines()[1] == "- Funny? (0.6)"
    assert (only.repeats, only.ledger, only.tasks, only.depends_on) == (1, "isolated", (), ())


def test_a_message_may_say_what_only_a_result_will_have(tmp_path: Path) -> None:
    """Numbers of an evaluator by any name, later trials, leaders that may be none: what no plan can know is left."""
    says = (
        "{{ teams.aa.trials[0].scores.funny }} {{ teams.aa.trials[7].reply }}",
        "{{ teams.aa.leaders[0].agent }} {{ teams.aa.leaders | map(attribute='score') | first }}",
        "{% for name, each in teams.aa.variants.items() %}{{ name }} {{ each.score }} {{ each.n }}{% endfor %}",
        "{% if teams.aa.ranked_by %}{{ teams.aa.variants['base'].reply.split()[3] }}{% endif %}",
    )
    for text in says:
        path = tmp_path / "two.yml"
        path.write_text(
            "teams:\n  aa: {initial_message: x, base: {agent_id: child}}\n"
            f"  b:\n    depends_on: aa\n    base: {{agent_id: child}}\n    initial_message: >-\n      {text}\n"
        )
        assert read_rollout(path, KNOWN).team("b").variants[0].message == text


def test_variants_without_an_id_are_named_by_their_place(tmp_path: Path) -> None:
    """The weather file's variants are v1 and v2; what base says holds for both."""
    (only,) = read(tmp_path, WEATHER).teams
    assert [each.id for each in only.variants] == ["v1", "v2"]
    assert only.variants[1].changes == {
        "model": "openai/gpt-4o",
        "tools": ["get_weather", "delegate"],
        "temperature": 0.7,
    }


def test_the_place_counts_and_not_how_many_have_no_id(tmp_path: Path) -> None:
    """An id given to one variant does not rename those after it."""
    (only,) = read(tmp_path, team("variants: [{id: a}, {temperature: 0.3}]")).teams
    assert [each.id for each in only.variants] == ["a", "v2"]


def test_a_team_without_variants_has_base_alone(tmp_path: Path) -> None:
    """What base says is then the one variant."""
    (only,) = read(tmp_path, team("variants:")).teams
    assert [(each.id, each.changes) for each in only.variants] == [("base", {})]


def test_a_grid_is_every_combination_named_by_what_it_is(tmp_path: Path) -> None:
    """The last key changes fastest, and a model goes without its provider."""
    (only,) = read(tmp_path, team("variants: {model: [openai/gpt-4o, openai/o3], temperature: [0.3, 1]}")).teams
    assert [(each.id, each.changes) for each in only.variants] == [
        ("model=gpt-4o,temperature=0.3", {"model": "openai/gpt-4o", "temperature": 0.3}),
        ("model=gpt-4o,temperature=1", {"model": "openai/gpt-4o", "temperature": 1}),
        ("model=o3,temperature=0.3", {"model": "openai/o3", "temperature": 0.3}),
        ("model=o3,temperature=1", {"model": "openai/o3", "temperature": 1}),
    ]


NAMES = {
    "{model: [openai/gpt-4o, azure/gpt-4o]}": ["model=openai:gpt-4o", "model=azure:gpt-4o"],
    "{tools: [[], [get_weather], [get_weather, delegate]]}": [
        "tools=none",
        "tools=get_weather",
        "tools=get_weather+delegate",
    ],
    "{behavior_template: [weather_expert]}": ["behavior_template=weather_expert"],
    "{render_policy: [full, {last_n: 4}]}": ["render_policy=full", "render_policy=last_n4"],
    "{budget: [{usd: 0.1}, {steps: 3, usd: 1}]}": ["budget=usd0.1", "budget=steps3+usd1"],
    "{temperature: [0.30000001, 0.3]}": ["temperature=0.30000001", "temperature=0.3"],
}


@pytest.mark.parametrize(("grid", "ids"), NAMES.items(), ids=range(len(NAMES)))
def test_a_grid_names_values_of_every_kind(tmp_path: Path, grid: str, ids: list[str]) -> None:
    """Each value of a grid's key has a short word of its own."""
    (only,) = read(tmp_path, team(f"variants: {grid}")).teams
    assert [each.id for each in only.variants] == ids


def test_a_value_too_long_for_a_name_is_named_by_its_hash_wherever_it_stands(tmp_path: Path) -> None:
    """Two messages of a grid keep their names when a third is written before them."""
    (two,) = read(tmp_path, team("variants: {initial_message: [Say hello there, Say good morning]}")).teams
    (three,) = read(tmp_path, team("variants: {initial_message: [New one, Say hello there, Say good morning]}")).teams
    assert [each.id for each in two.variants] == [each.id for each in three.variants][1:]
    assert [each.message for each in two.variants] == ["Say hello there", "Say good morning"]


def test_a_name_of_many_keys_is_cut_and_stays_its_own(tmp_path: Path) -> None:
    """However many keys a grid has, a variant's id has at most 64 characters and no two are the same."""
    axes = "model: [openai/gpt-4o-2024-08-06-long, openai/o3], behavior_template: [weather_expert, financial_expert]"
    (only,) = read(tmp_path, team(f"variants: {{{axes}, max_tokens: [100, 200], top_p: [0.1, 0.2]}}")).teams
    ids = [each.id for each in only.variants]
    assert len(set(ids)) == 16
    assert max(map(len, ids)) == 64


def test_what_a_variant_changes_is_what_a_runtime_override_takes(tmp_path: Path) -> None:
    """Every key of a variant reaches the agent's setup in the words the roster reads, max_tokens included."""
    keys = (
        "model: m/x, temperature: 0.5, top_p: 0.5, max_tokens: 9, tools: [], behavior_template: weather_expert,"
        " render_policy: {last_n: 3}, budget: {usd: 1}"
    )
    (only,) = read(tmp_path, team(f"variants: [{{{keys}}}]")).teams
    changes = only.variants[0].changes
    read_back = Changes.read(changes)
    assert (read_back.max_tokens, read_back.tools, read_back.behavior) == (9, [], "weather_expert")
    assert len(changes) == len(read_back.model_fields_set) == 8


def test_a_budget_goes_bound_by_bound(tmp_path: Path) -> None:
    """What a trial may spend: the variant's own, else that of base, else that of every trial."""
    text = team(
        "base: {agent_id: child, budget: {usd: 2, tokens: 20}}",
        "variants: [{budget: {usd: 3}}]",
        budget="{usd: 9, seconds: 60, trial: {usd: 1, tokens: 10, steps: 7}}",
    )
    spec = read(tmp_path, text)
    assert spec.teams[0].variants[0].changes["budget"] == {"usd": 3, "tokens": 20, "steps": 7}
    assert spec.budget == Budget(usd=9, seconds=60)


def test_evaluators_stand_before_checks_and_keep_their_order(tmp_path: Path) -> None:
    """A check is an evaluation whose evaluator is its name; its argument is `value`, or a mapping as it stands."""
    text = team(
        "eval:",
        "- {evaluator_id: gpt4_judge, rubric: joke_quality, judge_version: '1', timeout_sec: 5, repeats: 3, model: x}",
        "- {evaluator_id: contains@1, expected: x, evaluate: step, params: {case: false}}",
        "checks: [{contains: Paris}, no_error, {tool_called: [a, b]}, {balance: {agent: child, amount: 5}}]",
    )
    assert read(tmp_path, text).teams[0].evaluations == (
        Evaluation(
            evaluator="gpt4_judge",
            version="1",
            params={"rubric": "joke_quality", "model": "x"},
            repeats=3,
            timeout_s=5,
        ),
        Evaluation(evaluator="contains", version="1", params={"expected": "x", "case": False}, when="step"),
        Evaluation(evaluator="contains", params={"value": "Paris"}),
        Evaluation(evaluator="no_error"),
        Evaluation(evaluator="tool_called", params={"value": ["a", "b"]}),
        Evaluation(evaluator="balance", params={"agent": "child", "amount": 5}),
    )


RUBRICS = {
    "joke_quality": "joke_quality",
    "Funny?": "Funny?",
    "'  Is it funny?  '": "Is it funny?",
    "[Funny? (0.6), Original? (0.4)]": ["Funny? (0.6)", "Original? (0.4)"],
    "{Funny?: 0.6, Original?: 0.4}": {"Funny?": 0.6, "Original?": 0.4},
}


@pytest.mark.parametrize(("written", "rubric"), RUBRICS.items(), ids=range(len(RUBRICS)))
def test_failure_31_a_rubric_is_a_name_a_line_a_list_or_weights(tmp_path: Path, written: str, rubric: object) -> None:
    """A rubric may be the name of one of the library, one line, a list, or weights by criterion."""
    (judge,) = read(tmp_path, team(f"eval: {{evaluator_id: gpt4_judge, rubric: {written}}}")).teams[0].evaluations
    assert judge.params["rubric"] == rubric


def test_the_rest_of_a_file(tmp_path: Path) -> None:
    """Name, seed, concurrency and what a team says of its trials."""
    spec = read(
        tmp_path,
        team(
            "repeats: 4",
            "ledger: shared",
            "timeout_sec: 90",
            name="my-run",
            seed="7",
            concurrency="{trials: 8, providers: {openai: 2}}",
        ),
    )
    assert (spec.name, spec.seed, spec.concurrency, spec.providers) == ("my-run", 7, 8, {"openai": 2})
    assert (spec.teams[0].repeats, spec.teams[0].ledger, spec.teams[0].timeout_s) == (4, "shared", 90)
    assert read(tmp_path, team(concurrency="3")).concurrency == 3


def test_a_spec_survives_being_stored(tmp_path: Path) -> None:
    """What is read back from the store is what was read from the file: resume needs no file."""
    variants = "variants: [{render_policy: {last_n: 2}, budget: {usd: 1}, tools: []}]"
    tasks = "tasks: [{id: 1, q: [1, 2.5, null, {a: true}], expected: {b: x}}]"
    spec = read(tmp_path, team(variants, tasks, "checks: [no_error]"))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Spec) == spec


SAME = {
    "# a comment\n" + JOKE: True,
    JOKE.replace("temperature: 0.3", "temperature: 0.30"): True,
    JOKE.replace("temperature: 0.3", "temperature: 0.4"): False,
    JOKE.replace("(0.6)", "(0.5)"): False,
    JOKE + "seed: 1\n": False,
    JOKE + "name: another\n": True,
    JOKE.replace("metric: score", "params: {a: 1, b: 2}"): False,
}


@pytest.mark.parametrize(("text", "same"), SAME.items(), ids=range(len(SAME)))
def test_the_hash_is_of_what_runs(tmp_path: Path, text: str, same: bool) -> None:
    """Comments, layout and the name do not change it; whatever decides what is run does."""
    first, second = read(tmp_path, JOKE), read(tmp_path, text)
    assert (first.hash == second.hash) == same
    assert second.hash == content_hash(second)
    assert len(second.hash) == 64


def test_the_hash_does_not_know_the_order_of_keys(tmp_path: Path) -> None:
    """A task with its values in another order is the same task."""
    first, second = (read(tmp_path, team(f"tasks: [{row}]")) for row in ("{a: 1, b: 2}", "{b: 2, a: 1}"))
    assert first.hash == second.hash


def test_the_hash_is_of_the_data_set_too(tmp_path: Path) -> None:
    """The same file with another data set is another experiment."""
    text = team("tasks: q.csv")
    (tmp_path / "q.csv").write_text("q\n1\n")
    first = read(tmp_path, text)
    (tmp_path / "q.csv").write_text("q\n2\n")
    assert first.hash != read(tmp_path, text).hash
