"""What is said of a rollout before it runs: the plan, what is wrong with it, and what is odd."""

from __future__ import annotations

import pytest

from p2engine.testing.server import OpenAIServer
from tests.cli.project import Project, Run
from tests.cli.rollouts import AGENTS, JUDGED, RULES, WEATHER, judge_or_echo, with_rollouts

JUDGE = "eval: {evaluator_id: gpt4_judge, rubric: Is it right?%s}"


@pytest.fixture
def rolling(project: Project) -> Project:
    """A project with rollout files, and an agent whose provider is misspelt."""
    with_rollouts(project)
    project.write("config/agents.yml", AGENTS + "  - {id: odd, llm_model: Antropic/claude, wallet: false}\n")
    return project


NAMES = {
    WEATHER.replace("- no_error", "- balance: {agent: agent_alhpa, amount: 1}"): (
        "15: teams.weather.checks[2]: no agent 'agent_alhpa' (did you mean agent_alpha?)"
    ),
    WEATHER.replace("- no_error", '- ledger_received: {agent: "{{ city }}", amount: 1}'): (
        "15: teams.weather.checks[2]: task 'paris': no agent 'Paris' (known: agent_alpha)"
    ),
    WEATHER.replace("- no_error", "- balance: {agent: clerk, amount: 1}"): (
        "15: teams.weather.checks[2]: clerk has no wallet, as agents.yml has it"
    ),
    WEATHER.replace("tool_called: get_weather", "tool_called: get_wether"): (
        "14: teams.weather.checks[1]: no tool 'get_wether' (did you mean get_weather?)"
    ),
    WEATHER.replace("tool_called: get_weather", "tool_not_called: {tool: get_wether}"): (
        "14: teams.weather.checks[1]: no tool 'get_wether' (did you mean get_weather?)"
    ),
    WEATHER.replace("{id: warm,", "{id: warm, model: opneai/gpt-4o,"): (
        "8: teams.weather.variants[1].model: 'opneai/gpt-4o': no provider 'opneai' (did you mean openai?)"
    ),
    WEATHER.replace("agent_id: agent_alpha", "agent_id: odd"): (
        "5: teams.weather.base.agent_id: the model of odd, 'Antropic/claude': no provider 'Antropic' (did you mean"
        " anthropic?)"
    ),
    WEATHER.replace("    checks:", f"    {JUDGE % ', model: gemni/pro'}\n    checks:"): (
        "12: teams.weather.eval.model: 'gemni/pro': no provider 'gemni' (did you mean gemini?)"
    ),
}


@pytest.mark.parametrize(("text", "said"), NAMES.items(), ids=range(len(NAMES)))
def test_failure_27_a_name_that_means_nothing_is_found_when_the_file_is_read(
    rolling: Project, here: Run, text: str, said: str
) -> None:
    """Whose wallet, which tool, which model: file, line and the nearest name; nothing is run."""
    rolling.write("config/bad.yml", text)
    for command in ("start", "check"):
        refused = here("rollout", command, "config/bad.yml")
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.splitlines()[0] == f"error: config/bad.yml:{said}"


def test_names_of_tasks_that_mean_something_pass(rolling: Project, here: Run) -> None:
    """Each task may look at another wallet."""
    text = WEATHER.replace("- no_error", '- balance: {agent: "{{ expected }}", at_least: 0}')
    text = text.replace('expected: "22"', "expected: agent_alpha").replace('expected: "6"', "expected: agent_alpha")
    rolling.write("config/good.yml", text)
    assert here("rollout", "start", "config/good.yml", "--dry-run").status == 0
    rolling.write("config/bad.yml", text.replace("city: Oslo, expected: agent_alpha", "city: Oslo, expected: agnet"))
    assert "task 'oslo': no agent 'agnet'" in here("rollout", "start", "config/bad.yml", "--dry-run").err


def test_a_dry_run_prints_the_plan_and_runs_nothing(rolling: Project, here: Run) -> None:
    """The plan with its notes, for people or as a document; no rollout, no conversation, nobody is asked to pay."""
    with OpenAIServer(judge_or_echo) as server:
        rolling.configure(llm={"api_base": server.base_url})
        plan = here("rollout", "start", "config/judged.yml", "--dry-run", "--repeats", "2", "--show-config")
        document = here("rollout", "start", "config/judged.yml", "--dry-run", "--repeats", "2", "--json").document
    assert (plan.status, server.requests) == (0, [])
    assert plan.out.startswith("judged: 8 trials, 8 at once\n")
    assert "\ncost: about $" in plan.out
    assert "weather/warm: agent agent_alpha, model openai/gpt-4o, temperature 0.9" in plan.out
    assert "team weather:" not in plan.out
    assert (document["trials"], document["paid"], document["judges"]) == (8, True, ["openai/gpt-4o"])
    assert document["cost_usd"] > 0
    assert [each["variant"] for each in document["variants"]] == ["cool", "warm"]
    assert here("rollout", "list", "--json").document == []
    assert here("conversation", "list", "--json").document == []


def test_a_dry_run_refuses_what_a_run_would(rolling: Project, here: Run) -> None:
    """What is wrong is wrong with or without running."""
    refused = here("rollout", "start", "config/weather.yml", "--dry-run", "--fail-under", "contians=1")
    assert (refused.status, refused.out) == (2, "")


OWN = """\
from p2engine import evaluator


@evaluator(id="length")
def length(subject):
    return {"score": 1.0, "words": 3}
"""


def test_a_threshold_on_what_nobody_gives_is_refused_before_anything_runs(rolling: Project, here: Run) -> None:
    """A judge of a free text gives its score alone, an evaluator beside others what begins with its name."""
    rolling.write("evals/length.py", OWN)
    both = JUDGED.replace("    checks:\n", "    checks:\n      - length\n")
    for text, metric in ((JUDGED, "nope"), (JUDGED, "score.nope"), (both, "nope"), (both, "words")):
        rolling.write("config/judged.yml", text)
        refused = here("rollout", "start", "config/judged.yml", "--fail-under", f"{metric}=0.5")
        assert (refused.status, refused.out) == (2, "")
        assert f"--fail-under: no metric '{metric}' (" in refused.err
    assert here("rollout", "list", "--json").document == []


def test_a_threshold_on_what_may_come_is_a_note_before_it_runs(rolling: Project, here: Run) -> None:
    """What an evaluator of the project gives, and what a rubric names, shows only when it runs."""
    rolling.write("evals/length.py", OWN)
    alone = WEATHER.replace("- no_error", "- length")
    beside = JUDGED.replace("    checks:\n", "    checks:\n      - length\n")
    named = JUDGED.replace("Is it right?", "Is it right? Give a number for brevity as well.")
    for text, metric in ((alone, "words"), (beside, "length.words"), (named, "brevity")):
        rolling.write("config/judged.yml", text)
        allowed = here("rollout", "start", "config/judged.yml", "--dry-run", "--fail-under", f"{metric}=0.5")
        said = f"note: --fail-under {metric}: that there is one shows only when it runs; all trials have contains, "
        assert (allowed.status, said in allowed.err) == (0, True)
    sure = here("rollout", "start", "config/judged.yml", "--dry-run", "--fail-under", "score=0.5")
    assert (sure.status, "--fail-under" in sure.err) == (0, False)


@pytest.mark.parametrize("words", [("start", "--dry-run"), ("check",), ("start",)])
def test_a_file_that_could_not_be_loaded_is_named_once(rolling: Project, here: Run, words: tuple[str, ...]) -> None:
    """Whether or not anything is run."""
    rolling.write("evals/bad.py", "def broken(:\n")
    command, *flags = words
    ran = here("rollout", command, "config/rules.yml", *flags)
    assert (ran.status, ran.err.count("evals/bad.py:1: ")) == (0, 1)


def test_variants_that_are_the_same_are_named(rolling: Project, here: Run) -> None:
    """Whatever the file writes: what counts is what is sent. An A/A comparison is legitimate, so it runs."""
    same = "the same: they differ in nothing that is sent, so what differs in their results is chance"
    variants = "[{temperature: 0.1}, {temperature: 0.1, model: openai/gpt-4o}, {temperature: 0.2}, {temperature: 0.10}]"
    head, tail = WEATHER[: WEATHER.index("    variants:")], WEATHER[WEATHER.index("    tasks:") :]
    rolling.write("config/same.yml", f"{head}    variants: {variants}\n{tail}")
    ran = here("rollout", "start", "config/same.yml")
    assert ran.status == 0
    assert ran.err.splitlines()[0] == f"note: team weather: variants v1, v2 and v4 are {same}"
    message = '[{id: a, initial_message: "{{ city }}?"}, {id: b, initial_message: "{{ city }}!"}]'
    rolling.write("config/other.yml", f"{head}    variants: {message}\n{tail}")
    assert same not in here("rollout", "start", "config/other.yml", "--dry-run").err


def test_a_model_that_nobody_answers_is_said_before_anything_runs(
    rolling: Project, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stand-in may not answer, a missing key is one line with its mend, not a table of failed trials."""
    monkeypatch.setenv("P2ENGINE_OFFLINE", "never")
    refused = here("rollout", "start", "config/weather.yml", "--yes")
    assert (refused.status, refused.out) == (2, "")
    assert "nobody answers openai/gpt-4o for weather/cool: no key for openai" in refused.err
    assert "export OPENAI_API_KEY=" in refused.err
    rolling.write("config/rules.yml", RULES.replace("    checks:", f"    {JUDGE % ''}\n    checks:"))
    assert "nobody answers openai/gpt-4o for the judge: no key" in here("rollout", "start", "config/rules.yml").err
    assert here("rollout", "list", "--json").document == []
    assert here("rollout", "check", "config/weather.yml").status == 0


def test_as_many_run_at_once_as_their_providers_take(rolling: Project, here: Run) -> None:
    """Where every variant names a model of a bounded provider, the plan knows."""
    bounded = (
        WEATHER.replace("tools: [get_weather]}", "model: openai/gpt-4o}") + "concurrency: {providers: {openai: 3}}\n"
    )
    rolling.write("config/bounded.yml", bounded)
    said = here("rollout", "start", "config/bounded.yml", "--dry-run").out.splitlines()[0]
    assert said == "bounded: 4 trials, 3 at once"
