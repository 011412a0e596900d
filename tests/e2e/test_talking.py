"""Talking, in both modes: answers over tools and delegates, text as it comes, turns that are left or resumed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pexpect
import pytest

from tests.cli.project import TIMEOUT_S, Run
from tests.e2e.deployment import Deployment
from tests.e2e.model import FIRST, REST

PARIS = "What's the weather in Paris?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"
KEYS = ["conversation", "branch", "turn", "reply", "finished", "model", "offline"]
KEYS += ["tokens_in", "tokens_out", "cost_usd", "duration_s"]


def test_a_first_result(deployment: Deployment, name: str) -> None:
    """The first commands of the README: the weather by a tool, and by somebody else; calls are seen as they happen."""
    done = deployment.cli("chat", "with", "agent_alpha", "--name", name, "-m", PARIS, "-m", TOKYO)

    assert done.status == 0, done.err
    paris, tokyo = done.out.splitlines()
    assert "Paris: 22 °C" in paris
    assert tokyo.startswith("agent_helper says: ")
    assert "Tokyo: 10 °C" in tokyo
    said = [line.strip() for line in done.err.splitlines()]
    assert said[0] == said[-1] == f"conversation {name} · p2engine chat resume {name}"
    shown = [
        '→ get_weather(location="Paris")',
        "→ agent_helper: What's the weather in Tokyo?",
        'agent_helper → get_weather(location="Tokyo")',
    ]
    assert [line for line in said if line in shown] == shown
    assert any(line.startswith("the offline stand-in answered") for line in said)


def test_a_line_a_turn(deployment: Deployment, here: Run, name: str) -> None:
    """With --json every turn is one JSON line with the keys of the contract; what is said may come on a pipe."""
    done = here("chat", "with", "agent_alpha", "--name", name, "--json", input=f"{PARIS}\n{TOKYO}\n")

    assert [list(row) for row in done.rows] == [KEYS, KEYS]
    assert [(row["turn"], row["finished"], row["offline"]) for row in done.rows] == [
        (1, "answered", True),
        (2, "answered", True),
    ]
    assert all(row["tokens_in"] > 0 and row["duration_s"] > 0 for row in done.rows)


async def test_tools_of_the_project(deployment: Deployment, name: str) -> None:
    """`def` and `async def` tools of the project's own files run, over several processes in one of the workers."""
    async with deployment.engine() as engine:
        chat = await engine.conversation(name, agent="talker")
        added = await chat.say('call add {"numbers": [2, 3, 5]}')
        told = await chat.say("call whereabouts {}")

    assert (added.text, added.finished, added.offline) == ("It says 10", "answered", False)
    where = int(told.text.removeprefix("It says "))
    assert (where in deployment.worker_pids) == deployment.is_distributed


async def test_a_model_over_a_socket(deployment: Deployment, name: str) -> None:
    """The text arrives in pieces where it was asked for; the whole answer is the one that is kept."""
    heard: list[str] = []
    gate = deployment.model.gate(name)
    gate.opened.set()
    async with deployment.engine() as engine:
        chat = await engine.conversation(name, agent="talker")
        reply = await chat.say(f"hold {name}", on_text=heard.append)

    assert reply.text == "".join(heard) == f"You said: hold {name}"
    assert (reply.offline, reply.tokens_in > 0) == (False, True)


def test_text_grows_and_a_running_turn_is_cancelled(deployment: Deployment, here: Run, name: str) -> None:
    """The first words stand there while the rest is still to come; who cancels from elsewhere ends the turn for all."""
    terminal = deployment.terminal("chat", "with", "talker", "--name", name, "-m", "story")
    terminal.expect_exact(FIRST[:8])
    done = here("conversation", "cancel", name, "--json")
    terminal.expect("ended by cancelled.*status=")
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert done.status == 0, done.err
    assert REST not in str(terminal.before)
    states = here("conversation", "stack", name, "--json").document
    assert states[-1]["body"]["reason"] == "cancelled"


def test_ctrl_c_leaves_a_turn_that_goes_on(deployment: Deployment, here: Run, name: str) -> None:
    """What is said about the turn is true: alone it goes on with whoever comes next, with workers at once."""
    gate = deployment.model.gate(name)
    with deployment.process("chat", "with", "talker", "--name", name, "-m", f"hold {name}") as process:
        assert gate.asked.wait(TIMEOUT_S)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)
    gate.opened.set()

    how = "at the workers; to see its answer" if deployment.is_distributed else "with"
    assert err.splitlines()[-1] == f"interrupted; the turn goes on {how}: p2engine chat resume {name}"
    assert process.returncode == 130
    if deployment.is_distributed:
        with deployment.process("conversation", "watch", name, "--from-start", "--json") as watching:
            assert watching.stdout is not None
            assert any("state.finished" in line for line in watching.stdout)
            watching.send_signal(signal.SIGINT)
            watching.communicate(timeout=TIMEOUT_S)
    resumed = here("chat", "resume", name)
    assert f"You said: hold {name}" in resumed.out + resumed.err
    assert here("conversation", "show", name, "--json").document["turns"] == 1


def test_a_killed_client_and_resume(deployment: Deployment, here: Run, name: str) -> None:
    """kill -9 of the client while the model thinks: `chat resume` shows the answer, then says what it was given."""
    gate = deployment.model.gate(name)
    with deployment.process("chat", "with", "talker", "--name", name, "-m", f"hold {name}") as process:
        assert gate.asked.wait(TIMEOUT_S)
        process.kill()
        process.communicate(timeout=TIMEOUT_S)
    gate.opened.set()
    done = here("chat", "resume", name, "-m", "again", "--json")

    assert done.rows[-1]["reply"] == "You said: again"
    assert here("conversation", "show", name, "--json").document["turns"] == 2


def test_two_clients_in_one_conversation(deployment: Deployment, name: str) -> None:
    """Two processes speak at once: both are answered, each message is heard once, and both see the same stack."""
    gate = deployment.model.gate(name)
    with deployment.process("chat", "with", "talker", "--name", name, "-m", f"hold {name}", "--json") as first:
        assert gate.asked.wait(TIMEOUT_S)
        with deployment.process("chat", "resume", name, "-m", "two", "--json") as second:
            assert second.stderr is not None
            assert any("following" in line for line in iter(second.stderr.readline, ""))
            gate.opened.set()
            texts = [each.communicate(timeout=TIMEOUT_S)[0] for each in (first, second)]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]

    assert {row["reply"] for row in rows} == {f"You said: hold {name}", "You said: two"}
    stack = deployment.cli("conversation", "stack", name, "--json").document
    heard = [entry["body"]["text"] for entry in stack if entry["state"] == "UserMessage"]
    assert sorted(heard) == sorted([f"hold {name}", "two"])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("chat", "resume", "nobody"), 2, "no conversation 'nobody'"),
        (("conversation", "stack", "nobody"), 2, "no conversation 'nobody'"),
        (("agent", "show", "nobody"), 2, "nobody"),
        (("chat", "with", "talker", "-m", " "), 2, "a message needs some text"),
    ],
)
def test_names_that_nobody_has(
    deployment: Deployment, here: Run, words: tuple[str, ...], status: int, said: str
) -> None:
    """Unknown names are one line and status 2, in words and as a document."""
    told, shown = here(*words), here(*words, "--json")

    assert (told.status, told.out, shown.status) == (status, "", status)
    assert said in told.err.splitlines()[0]
    assert said in shown.document["error"]["message"]


def test_an_agent_that_is_in_no_file(deployment: Deployment, here: Run, name: str) -> None:
    """It is the default agent, which is said; a conversation that is another's is refused."""
    done = here("chat", "with", "agent_alhpa", "--name", name, "-m", "hello")
    refused = here("chat", "with", "keeper", "--name", name, "-m", "hello")

    assert done.status == 0, done.err
    assert "is not in config/agents.yml (did you mean agent_alpha?): this is the default agent" in done.err
    assert done.out == "You said: hello\n"
    assert (refused.status, "is with 'agent_alhpa'" in refused.err) == (2, True)


def test_a_page_and_lines_of_a_conversation(deployment: Deployment, here: Run, name: str, tmp_path: Path) -> None:
    """Exported, a conversation is a page to read, or every event of it as a JSON line."""
    here("chat", "with", "agent_alpha", "--name", name, "-m", PARIS)
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    for form, path in (("html", page), ("jsonl", lines)):
        done = here("conversation", "export", name, "--format", form, "--output", str(path))
        assert done.status == 0, done.err

    assert "Paris: 22 °C" in page.read_text()
    kinds = [json.loads(line).get("kind") for line in lines.read_text().splitlines()]
    assert {"conversation.opened", "state.user_message", "state.tool_result", "state.finished"} <= set(kinds)
