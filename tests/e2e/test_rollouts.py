"""Rollouts as people run them, in one process and over several: rows, verdicts, intervals, and a kill in the middle."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

import pytest

from tests.e2e.deployment import PATIENCE_S, Deployment

JUDGED = """\
teams:
  tellers:
    initial_message: "It is worth {{ worth }}, said by PLACE."
    base: {agent_id: talker, tools: []}
    variants:
      - {id: plain}
      - {id: warm, temperature: 0.9}
    tasks:
      - {id: low, worth: "0.2", expected: "0.2"}
      - {id: middle, worth: "0.5", expected: "0.5"}
      - {id: high, worth: "0.8", expected: "0.8"}
    repeats: 2
    eval: {evaluator_id: gpt4_judge, rubric: What is it worth?, metric: score, model: local/model}
    checks:
      - contains: "{{ expected }}"
      - no_error
"""
HELD = """\
teams:
  tellers:
    base: {agent_id: talker, tools: []}
    variants:
      - {id: quick, initial_message: "quick as ever, NAME"}
      - {id: held, initial_message: "hold NAME"}
    repeats: 2
    checks: [no_error]
"""


def rows(deployment: Deployment, rollout: str) -> Any:
    ran = deployment.cli("rollout", "show", rollout, "--json")
    assert ran.status == 0, ran.err
    return ran.document


def trials(deployment: Deployment, rollout: str) -> dict[str, Any]:
    return {f"{row['variant']}/{row['trial']}": row for row in rows(deployment, rollout)["trials"]}


@pytest.fixture
def started(deployment: Deployment, name: str) -> Any:
    """Start the rollout of this text; its id."""

    def start(text: str) -> str:
        file = f"config/{name}.yml"
        deployment.project.write(file, text.replace("PLACE", name).replace("NAME", name))
        ran = deployment.cli("rollout", "start", file, "--yes", "--follow")
        assert ran.status == 0, ran.out + ran.err
        (listed,) = [each for each in deployment.cli("rollout", "list", "--json").document if name in each["id"]]
        return str(listed["id"])

    return start


def test_a_judges_scores_come_with_intervals(deployment: Deployment, started: Any) -> None:
    """Against a server that speaks chat completions: every trial has a score, every arm a mean with an interval."""
    document = rows(deployment, started(JUDGED))
    assert (document["status"], document["offline"], len(document["trials"])) == ("finished", False, 12)
    for arm in document["arms"]:
        score = arm["metrics"]["score"]
        assert score["mean"] == pytest.approx(0.5)
        assert score["low"] < 0.5 < score["high"]
        assert arm["metrics"]["contains"]["mean"] == arm["metrics"]["no_error"]["mean"] == 1.0
        assert arm["n"] == 6
    (comparison,) = [each for each in document["comparisons"] if each["metric"] == "score"]
    assert comparison["difference"] == pytest.approx(0.0)


def test_the_judge_is_not_asked_the_same_in_another_rollout(deployment: Deployment, started: Any, name: str) -> None:
    """The second one has the scores of the first, trial by trial, and pays no judge."""
    first = trials(deployment, started(JUDGED))
    asked = sum(name in prompt and "Judge this record" in prompt for prompt in deployment.prompts())
    ran = deployment.cli("rollout", "start", f"config/{name}.yml", "--yes", "--json")
    assert ran.status == 0, ran.err
    second = trials(deployment, ran.document["id"])
    assert sum(name in prompt and "Judge this record" in prompt for prompt in deployment.prompts()) == asked >= 6
    assert sum(row["judge_tokens"] for row in first.values()) > 0
    assert sum(row["judge_tokens"] for row in second.values()) == 0
    priced = [[row["judge_tokens"] + row["saved_tokens"] for row in ran.values()] for ran in (first, second)]
    assert priced[0] == priced[1]
    assert all(tokens > 0 for tokens in priced[0])
    assert {key: row["metrics"] for key, row in first.items()} == {key: row["metrics"] for key, row in second.items()}


def test_failure_06_a_rollout_that_was_killed_goes_on(deployment: Deployment, name: str) -> None:
    """kill -9 in the middle, then `resume`: it finishes, and no trial that had finished is asked again."""
    file = f"config/{name}.yml"
    deployment.project.write(file, HELD.replace("NAME", name))
    gate = deployment.model.gate(name)
    with deployment.process("rollout", "start", file, "--yes", "--follow") as process:
        assert process.stdout is not None
        said = iter(process.stdout.readline, "")
        done = [next(line for line in said if "done" in line) for _ in range(2)]
        assert gate.asked.wait(PATIENCE_S)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
    assert all("quick" in line for line in done)
    gate.opened.set()
    (listed,) = [each for each in deployment.cli("rollout", "list", "--json").document if name in each["id"]]
    ran = deployment.cli("rollout", "resume", listed["id"])
    assert ran.status == 0, ran.out + ran.err
    assert {key: row["status"] for key, row in trials(deployment, listed["id"]).items()} == {
        "quick/1": "done",
        "quick/2": "done",
        "held/1": "done",
        "held/2": "done",
    }
    assert Counter(deployment.prompts())[f"quick as ever, {name}"] == 2


PAYING = """\
teams:
  payers:
    initial_message: Transfer 10 to agent_beta for the demo.
    base: {agent_id: agent_alpha}
    variants: [{id: only}]
    repeats: 2
    ledger: BOOKS
    checks:
      - balance: {agent: agent_alpha, amount: 90}
      - tool_called: transfer_funds
concurrency: 1
"""


@pytest.mark.parametrize(("books", "as_the_first"), [("isolated", [1.0, 1.0]), ("shared", [0.0, 1.0])])
def test_failure_24_a_trial_has_wallets_of_its_own(
    deployment: Deployment, started: Any, books: str, as_the_first: list[float]
) -> None:
    """Each trial finds what every wallet is opened with, unless the rollout shares them; nobody else's are touched."""
    before = deployment.cli("ledger", "overview", "--json").document
    found = trials(deployment, started(PAYING.replace("BOOKS", books)))
    assert sorted(row["metrics"]["balance"] for row in found.values()) == as_the_first
    assert {row["metrics"]["tool_called"] for row in found.values()} == {1.0}
    assert deployment.cli("ledger", "overview", "--json").document == before


FLOW = """\
teams:
  payers:
    variants:
      - {id: direct, agent_id: treasurer, initial_message: Transfer 10 to agent_beta for the demo.}
      - id: delegated
        agent_id: agent_alpha
        initial_message: "Delegate to treasurer: Transfer 10 to agent_beta for the demo."
    checks:
      - ledger_received: {agent: agent_beta, amount: 10}
"""


def test_what_delegates_pay_is_the_trials(deployment: Deployment, started: Any) -> None:
    """What flows in a trial is counted by the wallets of all who took part, whoever was spoken to."""
    found = trials(deployment, started(FLOW))
    assert {key: (row["received"], row["sent"]) for key, row in found.items()} == {
        "direct/1": ("0.0", "10.0"),
        "delegated/1": ("0.0", "10.0"),
    }
