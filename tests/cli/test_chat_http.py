"""Chatting through a real server over a real socket: answers, errors, interruptions, and going on afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.messages import ToolUse
from p2engine.testing.server import Answer, Fault, OpenAIServer, Reply, echo
from tests.cli.project import TIMEOUT_S, Project, Ran

PARIS = "What's the weather in Paris?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"

COUNTS = """\
from pathlib import Path
from p2engine import function_tool

@function_tool(requires_context=True)
def pay(ctx, to: str) -> str:
    "Pay somebody."
    with Path("paid.txt").open("a") as paid:
        paid.write(f"{ctx.idempotency_key} {to}\\n")
    Path("began").write_text("yes")
    Path("hold").read_text()
    return f"paid {to}"
"""


class Gate:
    """An answer that does not come until it is let through; `asked` is set once somebody waits for it."""

    def __init__(self, after: int = 0) -> None:
        self.asked = threading.Event()
        self.opened = threading.Event()
        self._left = after

    async def __call__(self, body: dict[str, Any]) -> Answer:
        if self._left > 0 or self.opened.is_set():
            self._left -= 1
            return echo(body)
        self.asked.set()
        import asyncio

        await asyncio.to_thread(self.opened.wait, TIMEOUT_S)
        return echo(body)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that opens at the end, whatever happens, so that the server can close."""
    gate = Gate()
    yield gate
    gate.opened.set()


def finished(process: subprocess.Popen[str]) -> Ran:
    """Wait for the end of a process."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Ran(process.returncode, out, err)


def test_a_real_conversation(project: Project) -> None:
    """With llm.api_base set, answers come from there: tools run, the helper is asked, nothing is offline."""
    with OpenAIServer() as server:
        project.configure(llm={"api_base": server.base_url})
        done = project.run("chat", "with", "agent_alpha", "-m", PARIS, "-m", TOKYO, "--json")

    paris, tokyo = done.rows
    assert "22" in paris["reply"]
    assert "10" in tokyo["reply"]
    assert not paris["offline"]
    assert (paris["model"].removeprefix("openai/"), paris["finished"]) == ("gpt-4o", "answered")
    assert paris["tokens_in"] > 0
    assert "stand-in" not in done.err
    assert [request.body["model"] for request in server.requests] == ["gpt-4o"] * 6


def test_environment_variables_choose_the_server(project: Project) -> None:
    """OPENAI_BASE_URL and OPENAI_API_KEY are enough."""
    with OpenAIServer(echo, api_key="sk-right-key-0123456789") as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-right-key-0123456789"}
        done = project.run("chat", "with", "agent_alpha", "-m", "hello", env=env)

    assert done.out == "You said: hello\n"


def test_a_refused_key_is_an_error_and_no_fallback(project: Project) -> None:
    """401 ends the turn with what is wrong; the stand-in does not jump in, and the key is shown nowhere."""
    with OpenAIServer(echo, api_key="sk-right-key-0123456789") as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-wrong-key-9876543210"}
        done = project.run("chat", "with", "agent_alpha", "-m", "hello", "--json", env=env)

    assert done.status == 1
    assert done.rows[0]["finished"] == "error"
    assert done.rows[0]["offline"] is False
    assert "401" in done.err
    assert "sk-wrong-key" not in done.out + done.err + (project.folder / "logs/main.log").read_text()


def test_failure_04_an_error_ends_the_turn_and_the_next_message_works(project: Project) -> None:
    """A provider that fails: the turn ends by error, is told in a line, and the next message is answered."""
    with OpenAIServer([Fault(status=400, message="no \x1b[31mway"), "fine"]) as server:
        project.configure(llm={"api_base": server.base_url})
        done = project.run("chat", "with", "agent_alpha", "-m", "one", "-m", "two")

    assert done.status == 1
    assert done.out == "fine\n"
    assert "the turn ended by error: " in done.err
    assert "\x1b" not in done.err


def test_failure_03_text_beside_calls_is_kept(project: Project) -> None:
    """Text with two calls beside it stands with the calls on standard error; only the answer on standard output."""
    calls = (ToolUse("c1", "get_weather", {"location": "Paris"}), ToolUse("c2", "get_weather", {"location": "Oslo"}))
    with OpenAIServer([Reply(text="Let me see.", calls=calls), "Both are cool."]) as server:
        project.configure(llm={"api_base": server.base_url})
        done = project.run("chat", "with", "agent_alpha", "-m", "Paris and Oslo?")

    assert done.out == "Both are cool.\n"
    said = [line.strip() for line in done.err.splitlines()]
    at = said.index("agent_alpha: Let me see.")
    assert said[at + 1 : at + 3] == ['→ get_weather(location="Paris")', '→ get_weather(location="Oslo")']


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_failure_36_a_turn_that_is_interrupted_goes_on(number: int, project: Project, gate: Gate) -> None:
    """Ctrl-C while the model thinks: the state is safe, the last line is the command that goes on, and it does."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello") as process:
            assert gate.asked.wait(TIMEOUT_S)
            process.send_signal(number)
            cut = finished(process)
        gate.opened.set()
        done = project.run("chat", "resume", "demo", "--json")

    assert cut.status == (130 if number == signal.SIGINT else 143)
    assert cut.out == ""
    assert cut.err.splitlines()[-1] == "interrupted; the turn goes on with: p2engine chat resume demo"
    assert [(row["reply"], row["turn"], row["finished"]) for row in done.rows] == [("You said: hello", 1, "answered")]


def test_failure_06_a_killed_turn_goes_on(project: Project, gate: Gate) -> None:
    """kill -9 while the model thinks: `chat resume` answers, then says the message that was given."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello") as process:
            assert gate.asked.wait(TIMEOUT_S)
            process.kill()
            finished(process)
        gate.opened.set()
        done = project.run("chat", "resume", "demo", "-m", "again", "--json")

    assert [(row["reply"], row["turn"]) for row in done.rows] == [("You said: hello", 1), ("You said: again", 2)]


def test_failure_06_a_tool_that_must_not_run_twice_does_not(project: Project) -> None:
    """kill -9 inside a tool that is neither idempotent nor free: after `resume` the model is told, and it ran once."""
    project.write("tools/pay.py", COUNTS)
    project.write("config/agents.yml", "agents:\n  - id: agent_alpha\n    tools: [pay]\n")
    for pipe in ("began", "hold"):  # the tool says through one that it runs, and waits at the other
        os.mkfifo(project.folder / pipe)
    answers: list[Answer] = [Reply(calls=(ToolUse("c1", "pay", {"to": "bob"}),)), "I was told."]
    with OpenAIServer(answers) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "Pay bob") as process:
            assert (project.folder / "began").read_text() == "yes"
            process.kill()
            finished(process)
        done = project.run("chat", "resume", "demo")

    assert done.out == "I was told.\n"
    assert len((project.folder / "paid.txt").read_text().splitlines()) == 1
    told = server.requests[-1].body["messages"][-1]
    assert told["role"] == "tool"
    assert "interrupted" in told["content"]


def test_another_process_follows_the_one_at_work(project: Project, gate: Gate) -> None:
    """`chat resume` while a live process holds the turn says so, waits, and shows the same answer; it is asked once."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello") as first:
            assert gate.asked.wait(TIMEOUT_S)
            with project.process("chat", "resume", "demo", "--json") as second:
                assert second.stderr is not None
                said = iter(second.stderr.readline, "")
                who = f"process {first.pid} on {socket.gethostname()}"
                at_it = f"resuming demo: waiting for agent_alpha (its model); {who} is at it; following\n"
                assert at_it in said
                gate.opened.set()
                followed = finished(second)
            done = finished(first)

    assert done.out == "You said: hello\n"
    assert json.loads(followed.out)["reply"] == "You said: hello"
    assert len(server.requests) == 1


def test_what_a_turn_waits_for_is_named(project: Project) -> None:
    """Who resumes a conversation in a turn reads at once which tool it waits for; then the answer."""
    project.write("tools/pay.py", COUNTS)
    project.write("config/agents.yml", "agents:\n  - id: agent_alpha\n    tools: [pay]\n")
    for pipe in ("began", "hold"):
        os.mkfifo(project.folder / pipe)
    message = 'Use pay with {"to": "bob"}'
    with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", message) as first:
        assert (project.folder / "began").read_text() == "yes"
        with project.process("chat", "resume", "demo") as second:
            assert second.stderr is not None
            who = f"process {first.pid} on {socket.gethostname()}"
            at_it = f"resuming demo: waiting for agent_alpha (pay); {who} is at it; following\n"
            assert at_it in iter(second.stderr.readline, "")
            (project.folder / "hold").write_text("go")
            assert "paid bob" in finished(second).out
        assert "paid bob" in finished(first).out


def test_a_second_terminal_is_answered_too(project: Project, gate: Gate) -> None:
    """Two processes speak to one conversation at once: both are answered, each message once."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "one", "--json") as first:
            assert gate.asked.wait(TIMEOUT_S)
            with project.process("chat", "resume", "demo", "-m", "two", "--json") as second:
                assert second.stderr is not None
                assert any("following" in line for line in iter(second.stderr.readline, ""))
                gate.opened.set()
                rows = [json.loads(line) for each in (first, second) for line in finished(each).out.splitlines()]

    assert sorted({row["reply"] for row in rows}) == ["You said: one", "You said: two"]
    assert {row["finished"] for row in rows} <= {"answered", None}


def test_the_state_folder_holds_no_key(project: Project) -> None:
    """A key is written nowhere: not in the log, not in the store."""
    key = "sk-secret-0123456789abcdef"
    with OpenAIServer(echo, api_key=key) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": key, "LOG_LEVEL": "DEBUG"}
        env |= {"LITELLM_LOG_LEVEL": "debug"}
        project.run("chat", "with", "agent_alpha", "-m", "hello", "--debug", env=env)

    files: list[Path] = [path for path in project.folder.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if key.encode() in path.read_bytes()] == []
