"""Branches, overrides, artifacts, ratings and watching, in both modes."""

from __future__ import annotations

import json
import signal

from tests.cli.project import TIMEOUT_S, Run
from tests.e2e.deployment import Deployment

PARIS = "What's the weather in Paris?"
OSLO = "What's the weather in Oslo?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"


def heard(here: Run, name: str, *more: str) -> list[str]:
    """What was said to the agent on a branch."""
    rows = here("conversation", "stack", name, "--json", *more).document
    return [row["body"]["text"] for row in rows if row["state"] == "UserMessage"]


def test_branches(deployment: Deployment, here: Run, name: str) -> None:
    """Rewound, forked and checked out, every branch shows its own path, and talking goes on where one stands."""
    here("chat", "with", "agent_alpha", "--name", name, "-m", PARIS, "-m", TOKYO)
    rewound = here("conversation", "rewind", name, "8", "--json").document
    here("chat", "resume", name, "-m", OSLO)
    here("conversation", "fork", name, "8", "other")
    here("conversation", "checkout", name, "other")
    here("chat", "resume", name, "-m", TOKYO)

    assert rewound["branch"] == "main~8"
    rows = here("conversation", "branches", name, "--json").document
    assert [(row["name"], row["parent"], row["at"], row["current"]) for row in rows] == [
        ("main", None, None, False),
        ("main~8", "main", 9, False),
        ("other", "main~8", 9, True),
    ]
    assert heard(here, name, "--branch", "main") == [PARIS, TOKYO]
    assert heard(here, name, "--branch", "main~8") == [PARIS, OSLO]
    assert heard(here, name) == [PARIS, TOKYO]


def test_an_override_holds_from_the_next_turn(deployment: Deployment, here: Run, name: str) -> None:
    """Whoever runs the turn: tools that were taken away are not there, and what is recorded says so."""
    here("chat", "with", "agent_alpha", "--name", name, "-m", PARIS)
    changed = here("config", "set-override", name, "temperature=0.3", "--json")
    here("config", "set-tools", name, "delegate")
    done = here("chat", "resume", name, "-m", PARIS)

    assert changed.status == 0, changed.err
    assert "22" not in done.out
    assert here("config", "show-overrides", name, "--json").status == 0
    shown = here("conversation", "show", name, "--json").document
    assert shown["overrides"] == {"temperature": 0.3, "tools": ["delegate"]}


def test_artifacts(deployment: Deployment, here: Run, name: str) -> None:
    """What an agent saved is listed, printed, and read back by it, wherever either ran."""
    done = here("chat", "with", "keeper", "--name", name, "-m", "save note.txt héllo", "-m", "read note.txt")

    assert done.status == 0, done.err
    assert "héllo" in done.out.splitlines()[-1]
    rows = here("artifact", "show", name, "--kind", "artifact.saved", "--json").document
    assert [(row["bytes"], row["summary"].split()[0]) for row in rows] == [(len("héllo".encode()), "note.txt")]
    assert here("artifact", "cat", rows[0]["ref"]).out.strip() == "héllo"
    assert "user" in here("artifact", "why", rows[0]["ref"]).out


def test_the_exact_request_of_a_call(deployment: Deployment, here: Run, name: str) -> None:
    """Rebuilt from the log by a process that did not send it, and checked."""
    here("chat", "with", "talker", "--name", name, "-m", "hello")
    rows = here("artifact", "show", name, "--kind", "model", "--full", "--json").document

    assert len(rows) == 1
    assert "hello" in json.dumps(rows[0])


def test_watching(deployment: Deployment, here: Run, name: str) -> None:
    """Who watches sees every event of the turns of others as it happens, in the order of the log, and nothing twice."""
    here("chat", "with", "agent_alpha", "--name", name, "-m", "hello")
    with deployment.process("conversation", "watch", name, "--json") as watching:
        assert watching.stderr is not None
        assert watching.stdout is not None
        assert "watching" in watching.stderr.readline()
        here("chat", "resume", name, "-m", TOKYO)
        rows = []
        for line in watching.stdout:
            rows.append(json.loads(line))
            if rows[-1]["kind"] == "state.finished" and rows[-1]["agent"] == "agent_alpha":
                break
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=TIMEOUT_S)

    first = next(i for i, row in enumerate(rows) if row["kind"] == "state.user_message")
    told = [(row["agent"], row["kind"]) for row in rows[first:]]
    assert told[0] == ("agent_alpha", "state.user_message")
    assert ("agent_helper", "state.tool_result") in told
    whole = [json.loads(line)["ref"] for line in here("conversation", "export", name).out.splitlines()]
    seen = [row["ref"] for row in rows]
    assert seen == whole[whole.index(seen[0]) :][: len(seen)]
    assert watching.returncode == 130


def test_rating(deployment: Deployment, here: Run, name: str) -> None:
    """A person's verdict is a fact about the answer, beside the turn."""
    here("chat", "with", "keeper", "--name", name, "-m", "hello")
    rated = here("conversation", "rate", name, "good", "--note", "short", "--json").document

    assert (rated["evaluator"], rated["score"], rated["comment"]) == ("human", 1.0, "short")
    rows = here("artifact", "show", name, "--kind", "eval.verdict", "--json").document
    assert len(rows) == 1


def test_the_list(deployment: Deployment, here: Run, name: str) -> None:
    """Every conversation of the project is there, with what it came to, and is found by what its name begins with."""
    here("chat", "with", "keeper", "--name", name, "-m", "hello", "-m", "again")

    row = next(row for row in here("conversation", "list", "--json").document if row["name"] == name)
    assert (row["agent"], row["branch"], row["status"], row["turns"]) == ("keeper", "main", "finished", 2)
    assert here("conversation", "show", name[:-2], "--json").document["name"] == name
