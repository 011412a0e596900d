"""`rollout …` offline: the plan, the lines, the end; what is added, ended and checked; and what starts nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2engine.testing.server import OpenAIServer
from p2engine.wiring import Engine, runners
from tests.cli.project import Project, Ran, Run
from tests.cli.rollouts import RULES, WEATHER, judge_or_echo, with_rollouts


@pytest.fixture
def rolling(project: Project) -> Project:
    """A project with rollout files."""
    with_rollouts(project)
    return project


def only(here: Run) -> dict[str, str]:
    """The one rollout that there is."""
    row: dict[str, str]
    (row,) = here("rollout", "list", "--json").document
    return row


def test_a_rollout_runs_offline_without_asking(rolling: Project, here: Run) -> None:
    """Plan, a line a trial, the report; nothing is compared, and nobody is asked for money."""
    ran = here("rollout", "start", "config/judged.yml", "--follow", "--parallel", "1")
    lines = ran.out.splitlines()
    assert ran.status == 0
    assert lines[0] == "judged: 4 trials, 1 at once"
    assert lines[1] == "  weather: 4 trials = 2 variants (cool, warm) × 2 tasks × 1 repeat"
    assert lines[3] == "offline stand-in: configurations are not compared; nothing is paid"
    assert lines[4] == "[1/4] done      weather/cool/1  score –  contains 1  tool_called 1  no_error 1"
    assert [line[:5] for line in lines[4:8]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    assert "cost:" not in ran.out
    assert " detects " not in ran.out
    assert only(here)["status"] == "finished"


def test_without_follow_there_is_the_plan_and_the_report(rolling: Project, here: Run) -> None:
    """No line a trial where nobody asked for it."""
    ran = here("rollout", "start", "config/weather.yml")
    assert ran.status == 0
    assert "[1/4]" not in ran.out
    assert "4 of 4 trials" in ran.out


def test_with_json_there_is_one_document_or_a_line_a_trial(rolling: Project, here: Run) -> None:
    """The document is that of `rollout show`; with --follow it is the last line of a stream of trials."""
    document = here("rollout", "start", "config/weather.yml", "--json").document
    assert (document["status"], len(document["trials"]), document["offline"]) == ("finished", 4, True)
    *trials, last = here("rollout", "start", "config/weather.yml", "--json", "--follow").rows
    assert sorted((each["variant"], each["trial"]) for each in trials) == [
        ("cool", 1),
        ("cool", 2),
        ("warm", 1),
        ("warm", 2),
    ]
    assert last["trials"][0] in trials


def test_the_options_bound_the_plan(rolling: Project, here: Run) -> None:
    """--limit, --repeats and --seed say which trials there are."""
    ran = here("rollout", "start", "config/weather.yml", "--repeats", "3", "--limit", "5", "--seed", "9", "--json")
    assert len(ran.document["trials"]) == 10
    assert ran.document["seed"] == 9
    assert {row["repeat"] for row in ran.document["trials"]} == {1, 2, 3}


def test_show_config_prints_what_every_variant_runs_with(rolling: Project, here: Run) -> None:
    """Model, temperature, tools: as they will be, whoever said so."""
    ran = here("rollout", "start", "config/weather.yml", "--show-config")
    assert "weather/warm: agent agent_alpha, model openai/gpt-4o, temperature 0.9" in ran.out
    assert 'tools ["get_weather"]' in ran.out


def test_a_tool_that_a_persona_wants_is_a_note_or_with_strict_tools_an_error(rolling: Project, here: Run) -> None:
    """What is missing is named; with --strict-tools nothing starts."""
    rolling.write("templates/personas/seer.j2", "{# tools: get_weather, list_artifacts #}\nYou see.")
    rolling.write("config/weather.yml", WEATHER.replace("{id: warm,", "{id: warm, behavior_template: seer,"))
    words = "weather/warm: persona seer wants the tool list_artifacts, which it does not have"
    assert words in here("rollout", "start", "config/weather.yml", "--limit", "1").err
    refused = here("rollout", "start", "config/weather.yml", "--strict-tools")
    assert (refused.status, words in refused.err) == (2, True)
    assert len(here("rollout", "list", "--json").document) == 1


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("balance: {agent: agent_alpha, amount: 90}", "the check balance needs the ledger, which is off"),
        ("tool_called: transfer_funds", "the check tool_called transfer_funds needs the ledger, which is off"),
    ],
)
def test_failure_28_a_check_of_the_ledger_without_one_is_one_line(
    rolling: Project, here: Run, monkeypatch: pytest.MonkeyPatch, check: str, said: str
) -> None:
    """With the ledger off nothing starts that could only fail; a rollout that needs none runs."""
    monkeypatch.setenv("LEDGER_ENABLED", "false")
    rolling.write("config/paying.yml", WEATHER.replace("no_error", check))
    refused = here("rollout", "start", "config/paying.yml")
    assert refused.status == 2
    assert f"team weather: {said} (environment: LEDGER_ENABLED)" in refused.err
    assert "set LEDGER_ENABLED=true" in refused.err
    assert here("rollout", "list", "--json").document == []
    assert here("rollout", "start", "config/weather.yml").status == 0


# What is wrong


BAD = {
    "teams: {}": "config/bad.yml:1: teams: ",
    WEATHER.replace("agent_id: agent_alpha", "agent_id: agent_alhpa"): (
        "config/bad.yml:5: teams.weather.base.agent_id: no agent 'agent_alhpa' (did you mean agent_alpha?)"
    ),
    WEATHER.replace("tools: [get_weather]", "tools: [get_wether]"): (
        "config/bad.yml:5: teams.weather.base.tools[0]: no tool 'get_wether' (did you mean get_weather?)"
    ),
    WEATHER.replace("initial_message", "inital_message"): (
        "config/bad.yml:4: teams.weather: unknown key 'inital_message' (did you mean initial_message?)"
    ),
    WEATHER.replace(
        "id: warm", "id: cool"
    ): "config/bad.yml:8: teams.weather.variants[1]: variant 'cool' is there already (line 7)",
    WEATHER.replace("    tasks:\n", "    repeats: 0\n    tasks:\n"): "config/bad.yml:9: teams.weather.repeats: ",
    WEATHER.replace("seed: 7", "budget: {usd: -1}"): "config/bad.yml:1: budget.usd: ",
    WEATHER.replace("- no_error", "- no_eror"): "no evaluator 'no_eror' (did you mean no_error?)",
    WEATHER.replace("    checks:", "    eval: {evaluator_id: gpt5_judge, rubric: x y}\n    checks:"): (
        "config/bad.yml:12: teams.weather.eval: no evaluator 'gpt5_judge' (did you mean gpt4_judge?)"
    ),
    WEATHER.replace("    checks:", "    eval: {evaluator_id: gpt4_judge, rubric: joke_qualty}\n    checks:"): (
        "config/bad.yml:12: teams.weather.eval.rubric: no rubric 'joke_qualty' (did you mean joke_quality?)"
    ),
    RULES.replace("[{id: paris, city: Paris, expected: warm}]", "nowhere.jsonl"): "nowhere.jsonl",
    RULES.replace("[{id: one}, {id: two}]", f"{{initial_message: [{', '.join(f'm{n}' for n in range(1001))}]}}"): (
        "1001 combinations are more than 1000 variants"
    ),
    "teams: [": "config/bad.yml:1: not YAML",
    "": "config/bad.yml: is empty",
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_failure_27_a_wrong_file_is_one_line_and_starts_nothing(
    rolling: Project, here: Run, text: str, said: str
) -> None:
    """File, line and the nearest name; exit 2; no rollout, no conversation."""
    rolling.write("config/bad.yml", text)
    refused = here("rollout", "start", "config/bad.yml", "--yes")
    assert refused.status == 2
    assert said in refused.err
    assert refused.out == ""
    assert len(refused.err.splitlines()) <= 2
    assert here("rollout", "list", "--json").document == []
    assert here("conversation", "list", "--json").document == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("start", "config/none.yml"), "config/none.yml"),
        (("start", "config"), "folder"),
        (("start", "config/weather.yml", "--repeats", "0"), "--repeats"),
        (("start", "config/weather.yml", "--budget", "-1"), "--budget is a number of US dollars above 0, not -1"),
        (("start", "config/weather.yml", "--budget", "nan"), "--budget is a number of US dollars above 0"),
        (("start", "config/weather.yml", "--rerun"), "not available in this version: rollout start --rerun"),
        (("start", "config/weather.yml", "--fail-under", "score"), "--fail-under is METRIC=X, such as score=0.7"),
        (
            ("start", "config/weather.yml", "--fail-under", "contians=1"),
            "no metric 'contians' (did you mean contains?)",
        ),
        (("start", "config/weather.yml", "--fail-if-worse-than", "wram"), "no variant 'wram' (did you mean warm?)"),
        (("start", "config/weather.yml", "--repeats", "99999"), "trials are more than 100000"),
        (("resume", "nothing"), "no rollout 'nothing'"),
        (("cancel", "nothing"), "no rollout 'nothing'"),
        (("extend", "nothing", "config/weather.yml"), "no rollout 'nothing'"),
    ],
)
def test_wrong_words_are_one_line_and_start_nothing(
    rolling: Project, here: Run, words: tuple[str, ...], said: str
) -> None:
    """Exit 2, and what is wrong with which word."""
    refused = here("rollout", *words)
    assert refused.status == 2
    assert said in refused.err
    assert here("rollout", "list", "--json").document == []


def test_a_file_that_is_edited_afterwards_changes_nothing_that_was_stored(rolling: Project, here: Run) -> None:
    """What is resumed is what was started, whatever stands in the file by then."""
    here("rollout", "start", "config/weather.yml", "--limit", "1")
    rolling.write("config/weather.yml", "teams: nothing of the kind")
    assert here("rollout", "resume", only(here)["id"]).status == 0


# Growing and ending


def test_extend_adds_variants_and_repeats_and_runs_only_those(rolling: Project, here: Run) -> None:
    """What ran keeps its rows; the new trials are pairs of theirs; nothing new is a line."""
    before = here("rollout", "start", "config/weather.yml", "--json").document
    third = WEATHER.replace("    tasks:\n", "      - {id: hot, temperature: 1.5}\n    tasks:\n")
    more = str(rolling.write("more.yml", third.replace("    checks:", "    repeats: 2\n    checks:")))
    grown = here("rollout", "extend", before["id"], more, "--json").document
    assert [row for row in grown["trials"] if row in before["trials"]] == before["trials"]
    assert len(grown["trials"]) == 12
    seeds: dict[tuple[str, int], set[int]] = {(row["task"], row["repeat"]): set() for row in grown["trials"]}
    for row in grown["trials"]:
        seeds[row["task"], row["repeat"]].add(row["seed"])
    assert [len(found) for found in seeds.values()] == [1] * 4
    again = here("rollout", "extend", before["id"], more)
    assert (again.status, "that adds no trial to" in again.err) == (2, True)


def test_extend_never_changes_what_ran(rolling: Project, here: Run) -> None:
    """A variant of the same name with another temperature is refused, and so are fewer repeats."""
    started = here("rollout", "start", "config/weather.yml", "--repeats", "2", "--json").document
    changed = str(rolling.write("more.yml", WEATHER.replace("0.9", "0.8")))
    refused = here("rollout", "extend", started["id"], changed)
    assert (refused.status, "variant 'warm' is not what it was" in refused.err) == (2, True)
    fewer = here("rollout", "extend", started["id"], "config/weather.yml", "--repeats", "1")
    assert (fewer.status, "adds no trial" in fewer.err) == (2, True)


def test_extend_leaves_repeats_to_those_they_were_said_of(rolling: Project, here: Run) -> None:
    """What --repeats said once is not said of the teams that a later file adds."""
    started = here("rollout", "start", "config/weather.yml", "--repeats", "3", "--json").document
    other = str(rolling.write("other.yml", WEATHER.replace("  weather:", "  other:", 1)))
    assert here("rollout", "extend", started["id"], other).status == 0
    trials = here("rollout", "show", started["id"], "--json").document["trials"]
    assert {team: sum(row["team"] == team for row in trials) for team in ("weather", "other")} == {
        "weather": len(started["trials"]),
        "other": len(started["trials"]) // 3,
    }


def test_what_has_ended_cannot_be_cancelled_and_is_not_run_again(rolling: Project, here: Run) -> None:
    """Resuming a finished rollout shows it as it is."""
    before = here("rollout", "start", "config/weather.yml", "--json").document
    assert "is finished already" in here("rollout", "cancel", before["id"]).err
    after = here("rollout", "resume", before["id"], "--json").document
    assert after["trials"] == before["trials"]


def test_one_process_runs_a_rollout_at_a_time(rolling: Project, here: Run) -> None:
    """While a runner lives it is named, and the list says so; when it has died the list says that."""
    id_ = here("rollout", "start", "config/weather.yml", "--limit", "1", "--json").document["id"]
    with runners.hold(rolling.folder / ".p2engine", id_):
        refused = here("rollout", "resume", id_)
        assert (refused.status, f"{id_} runs already: process " in refused.err) == (2, True)
        assert only(here)["status"] == "running"
    assert only(here)["status"] == "finished"


# Thresholds


def test_a_mean_below_its_threshold_is_exit_3(rolling: Project, here: Run) -> None:
    """Met: 0. Missed, or measured by nobody: 3, with the number."""
    words = ("rollout", "start", "config/judged.yml", "--limit", "1")
    assert here(*words, "--fail-under", "contains=1").status == 0
    undecided = here(*words, "--fail-under", "score=0.1")
    assert undecided.status == 3
    assert "--fail-under score: no trial of weather/cool has a value" in undecided.err
    stand_in = here(*words, "--fail-if-worse-than", "cool")
    assert (stand_in.status, "configurations are not compared" in stand_in.err) == (3, True)
    rolling.write("config/rules.yml", RULES.replace("expected: warm", "expected: cold"))
    missed = here("rollout", "start", "config/rules.yml", "--fail-under", "contains=0.5")
    assert missed.status == 3
    assert "--fail-under contains: clerks/one has 0, less than 0.5" in missed.err


def test_agents_that_answer_by_rules_cost_nothing(rolling: Project, here: Run) -> None:
    """No model is asked: nothing is estimated, nobody is asked, and it is a comparison all the same."""
    ran = here("rollout", "start", "config/rules.yml")
    assert ran.status == 0
    assert "models: none, all agents answer by rules" in ran.out
    assert "cost:" not in ran.out.splitlines()[3]
    assert "clerks: too few trials to find a difference of any size" in ran.out


# Checking


def test_failure_40_check_tries_every_check_on_a_right_and_a_useless_agent(rolling: Project, here: Run) -> None:
    """A sound file is exit 0; a check that nobody can pass, or everybody, is exit 1 and named."""
    sound = here("rollout", "check", "config/judged.yml", "--json")
    assert sound.status == 0
    assert [(row["check"], row["status"]) for row in sound.document] == [
        ("score", "skipped"),
        ("contains", "valid"),
        ("tool_called", "valid"),
        ("no_error", "valid"),
    ]
    rolling.write("config/weather.yml", WEATHER.replace('"{{ expected }}"', "know"))
    unsound = here("rollout", "check", "config/weather.yml")
    assert unsound.status == 1
    assert "a null agent passes, which answers 'I do not know.'" in unsound.out
    assert here("rollout", "list", "--json").document == []


# Python


async def test_an_engine_runs_a_rollout(rolling: Project) -> None:
    """`engine.rollout` gives the report: rows, documents, comparisons."""
    async with Engine.open(rolling.folder) as engine:
        report = await engine.rollout("config/rules.yml", repeats=3)
    assert len(report.rows) == 6
    assert report.to_dicts()[0]["metric.contains"] == 1.0
    assert [each.variant for each in report.compare(metric="contains")] == ["two"]


def test_the_same_from_the_command_line_of_another_folder(rolling: Project, tmp_path: Path) -> None:
    """A file is looked for in the working folder, then in the project's."""
    ran: Ran = rolling.run("rollout", "check", "config/rules.yml", "--project", str(rolling.folder), "--json")
    assert json.loads(ran.out)[0]["status"] == "valid"


def test_a_paid_rollout_is_refused_where_nobody_can_be_asked(rolling: Project, here: Run) -> None:
    """Exit 2 with the line that runs it; nothing was asked of anybody."""
    with OpenAIServer(judge_or_echo) as server:
        rolling.configure(llm={"api_base": server.base_url})
        refused = here("rollout", "start", "config/judged.yml")
        assert refused.status == 2
        assert "this rollout asks models that are paid (about $0.0" in refused.err
        assert "rollout start config/judged.yml --yes" in refused.err
        assert "cost: about $0.0" in refused.out
        assert server.requests == []
        assert here("rollout", "list", "--json").document == []
