"""At a terminal: text as it streams, prompts, completion, Ctrl-C, and two terminals at one conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from p2engine.testing.server import Fault, OpenAIServer, Reply, echo
from tests.cli.project import Project
from tests.cli.test_chat_http import Gate

PARIS = "What's the weather in Paris?"
SHELL = "p2engine▸"  # the blank after it is a movement of the cursor
YOU = "You:"
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that opens at the end, so that the server can close."""
    gate = Gate()
    yield gate
    gate.opened.set()


def ended(terminal: pexpect.spawn[str], project: Project, status: int) -> str:
    """Wait for the end: the exit status is this, and the terminal is as it was. Returns what was shown last."""
    terminal.expect("status=")
    shown = str(terminal.before)
    terminal.expect(pexpect.EOF)
    assert str(terminal.before).strip() == str(status), shown
    terminal.close()
    assert Path(project.folder / "before").read_text() == Path(project.folder / "after").read_text()
    return shown


def test_text_is_shown_as_it_grows_and_ctrl_c_leaves(project: Project) -> None:
    """The first words stand there while the rest is still to come; Ctrl-C then is 130, with the command to go on."""
    story = Reply(text="Once upon a time there was a long story.", write_bytes=700, gap_s=60)
    with OpenAIServer([story]) as server:
        project.configure(llm={"api_base": server.base_url})
        terminal = project.terminal("chat", "with", "agent_alpha", "--name", "demo", "-m", "Tell me a story")
        terminal.expect("agent_alpha: .*Once")
        terminal.send(CTRL_C)
        shown = ended(terminal, project, 130)

    assert "long story" not in shown
    assert "interrupted; the turn goes on with: p2engine chat resume demo" in shown
    assert [line for line in shown.splitlines() if "Once" in line and "interrupted" in line] == []
    assert "Traceback" not in shown


def test_a_conversation_at_a_terminal(project: Project) -> None:
    """Prompt, calls as they happen, the reply under the agent's name, commands inside, and `exit`."""
    terminal = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
    terminal.expect("conversation demo · p2engine chat resume demo")
    terminal.expect(YOU)
    terminal.sendline(PARIS)
    terminal.expect('→ get_weather\\(location="Paris"\\)')
    terminal.expect("← get_weather")
    terminal.expect("agent_alpha: ")
    terminal.expect("22")
    terminal.expect("export OPENAI_API_KEY=")
    terminal.expect(YOU)
    terminal.sendline("/stack")
    terminal.expect("UserMessage|user_message")
    terminal.expect(YOU)
    terminal.sendline("/hlep")
    terminal.expect("no command '/hlep' in a chat \\(did you mean /help\\?\\)")
    terminal.expect(YOU)
    terminal.sendline("exit")
    terminal.expect("conversation demo · p2engine chat resume demo")
    ended(terminal, project, 0)


def test_an_existing_conversation_is_asked_for(project: Project) -> None:
    """At a terminal an existing name is gone on with only after a yes."""
    project.run("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    terminal = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
    terminal.expect("demo has 1 turns? already. Go on with it\\?")
    terminal.sendline("n")
    ended(terminal, project, 0)

    terminal = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
    terminal.expect("Go on with it\\?")
    terminal.sendline("")
    terminal.expect(YOU)
    terminal.send(CTRL_D)
    ended(terminal, project, 0)


def test_failure_36_ctrl_c_at_a_prompt(project: Project) -> None:
    """Ctrl-C clears a line that has text; on an empty one it leaves a chat with 130, and never the shell."""
    for arguments, prompt in ((("chat", "with", "agent_alpha"), YOU), (("shell",), SHELL)):
        terminal = project.terminal(*arguments)
        terminal.expect(prompt)
        terminal.send("half a line")
        terminal.expect("half a line")
        terminal.send(CTRL_C)
        terminal.expect(prompt)
        terminal.send(CTRL_C)
        if prompt == SHELL:
            terminal.expect(prompt)
            terminal.sendline("agent list --json")
            terminal.expect('"id": "agent_alpha"')
            terminal.expect(prompt)
            terminal.send(CTRL_D)
        ended(terminal, project, 130 if prompt == YOU else 0)


def test_failure_36_ctrl_c_at_a_question_inside_the_shell(project: Project) -> None:
    """Ctrl-C at the question of a command leaves that command; the shell goes on, and nothing is a fault."""
    project.run("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)
    terminal = project.terminal("shell")
    terminal.expect(SHELL)
    terminal.sendline("chat with agent_alpha --name demo")
    terminal.expect("Go on with it\\?")
    terminal.send(CTRL_C)
    terminal.expect(SHELL)
    assert "error" not in (terminal.before or "")
    terminal.send(CTRL_D)
    ended(terminal, project, 0)


def test_failure_36_ctrl_c_in_a_turn_inside_the_shell(project: Project, gate: Gate) -> None:
    """Inside the shell Ctrl-C leaves the chat and not the shell, and `chat resume` shows the answer."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        terminal = project.terminal("shell")
        terminal.expect(SHELL)
        terminal.sendline("chat with agent_alpha --name demo")
        terminal.expect(YOU)
        terminal.sendline("hello")
        assert gate.asked.wait(60)
        terminal.send(CTRL_C)
        terminal.expect_exact("interrupted; the turn goes on meanwhile: p2engine chat resume demo")
        assert str(terminal.before).rstrip("\x1b[2m").endswith("\r\n")
        terminal.expect(SHELL)
        terminal.sendline("chat resume demo")
        terminal.expect_exact("resuming demo: waiting for agent_alpha (its model)")
        gate.opened.set()
        terminal.expect("You said: hello")
        terminal.expect(YOU)
        terminal.sendline("exit")
        terminal.expect(SHELL)
        terminal.send(CTRL_D)
        ended(terminal, project, 0)


def test_a_call_that_is_retried_says_so(project: Project) -> None:
    """While a model call waits for its next attempt a dim line says until when, why, and which attempt that is."""
    busy = Fault(status=503, message="busy")
    with OpenAIServer([busy, busy, "Here I am."]) as server:
        project.configure(llm={"api_base": server.base_url})
        terminal = project.terminal("chat", "with", "agent_alpha", "-m", "hi")
        for attempt in (2, 3):
            terminal.expect(f"\x1b\\[2m  retrying in [0-9.]+ s: openai: .*503.* \\(attempt {attempt} of 5\\)")
        terminal.expect("agent_alpha: .*Here I am.")
        ended(terminal, project, 0)

    assert "retrying" not in (project.folder / "logs/main.log").read_text()  # LITELLM_LOG_LEVEL is ERROR


def test_a_turn_that_runs_elsewhere_is_named_when_one_joins(project: Project, gate: Gate) -> None:
    """A second terminal at a conversation in a turn: what it waits for stands there at once, and the answer comes."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        first = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
        first.expect(YOU)
        first.sendline("hello")
        assert gate.asked.wait(60)
        second = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
        second.expect("Go on with it\\?")
        second.sendline("")
        second.expect_exact("demo is in a turn: waiting for agent_alpha (its model)")
        second.expect(YOU)
        third = project.terminal("chat", "resume", "demo")
        third.expect("resuming demo: waiting for agent_alpha .its model.; process \\d+ on \\S+ is at it; following")
        third.send(CTRL_C)
        third.expect_exact("interrupted; the turn goes on in the other process: p2engine chat resume demo")
        ended(third, project, 130)
        gate.opened.set()
        for terminal in (first, second):
            terminal.expect("You said: hello")
            terminal.sendline("exit")
            ended(terminal, project, 0)


def test_commands_inside_a_chat(project: Project) -> None:
    """/stack, /good, /rewind and /branch do to this conversation what the commands do; //TEXT is said as /TEXT."""
    terminal = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
    for typed, shown in (
        (PARIS, "22"),
        ("/good it was right", "rated turn 1 of demo: good"),
        ("//rewind", "Not done: “/rewind”"),
        ("/rewind 1", "demo is now on branch main~1, after entry 1 of main"),
        ("/branch", "main after entry 1"),
        ("/branch side", "demo is now on branch side"),
        ("/branch main", "demo is now on branch main"),
        ("/stack", "AssistantMessage"),
        ("/godo", "no command '/godo' in a chat (did you mean /good?)"),
        ("/help", "//TEXT"),
    ):
        terminal.expect(YOU)
        terminal.sendline(typed)
        terminal.expect_exact(shown)
    terminal.expect(YOU)
    terminal.sendline("/exit")
    ended(terminal, project, 0)

    branches = project.run("conversation", "branches", "demo", "--json").document
    assert {branch["name"] for branch in branches} == {"main", "main~1", "side"}
    assert [branch["name"] for branch in branches if branch["current"]] == ["main"]


def test_agents_are_in_columns(project: Project) -> None:
    """On a terminal of 80 columns no line of the list is longer than that, and names and places stay whole."""
    (project.folder / "config/agents.yml").unlink()
    terminal = project.terminal("agent", "list", "--no-color", env={"LEDGER_ENABLED": "false"})
    terminal.setwinsize(40, 80)
    shown = ended(terminal, project, 0).replace("\r", "").splitlines()

    table = shown[: next(n for n, line in enumerate(shown) if line.startswith("* withheld: "))]
    assert [line for line in table if len(line) > 80] == []
    assert [line.split()[0] for line in table if "agents.yml:" in line or "agent_beta" in line]
    assert "agent_helper" in " ".join(table)


def test_two_terminals_see_both_answers(project: Project) -> None:
    """A second terminal joins a conversation: what is said and answered in one appears in the other."""
    with OpenAIServer(echo) as server:
        project.configure(llm={"api_base": server.base_url})
        first = project.terminal("chat", "with", "agent_alpha", "--name", "demo")
        first.expect(YOU)
        second = project.terminal("chat", "resume", "demo")
        second.expect(YOU)

        first.sendline("from the first")
        first.expect("agent_alpha: .*You said: from the first")
        second.expect("user \\(elsewhere\\): from the first")
        second.expect("agent_alpha: .*You said: from the first")

        second.sendline("from the second")
        second.expect("agent_alpha: .*You said: from the second")
        first.expect("user \\(elsewhere\\): from the second")
        first.expect("agent_alpha: .*You said: from the second")

        for terminal in (first, second):
            terminal.sendline("exit")
            ended(terminal, project, 0)


@pytest.mark.parametrize(
    ("typed", "completed", "more", "shown"),
    [
        ("conv", "ersation", " list", "demo"),
        ("chat resume de", "mo", " -m hi", "conversation demo"),
        ("chat with agent_h", "elper", " -m hi", "conversation agent_helper-1"),
        ("conversation stack demo --branch ma", "in", " --json", '"branch": "main"'),
        ("agent list --js", "on", "", '"id": "agent_alpha"'),
        ("hel", "p", " chat", "Usage: p2engine chat"),
        ("config set-behavior demo wea", "ther_expert", "", "behavior = weather_expert"),
        ("config set-tools demo del", "egate", "", "tools = delegate,"),
        ("config set-tools demo delegate,get_w", "eather", "", "tools = delegate, get_weather"),
        ("artifact show demo --kind tool_r", "esult", "", "get_weather"),
    ],
)
def test_completion(typed: str, completed: str, more: str, shown: str, project: Project) -> None:
    """Tab completes commands, options, and the names of conversations, agents and branches."""
    project.run("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    terminal = project.terminal("shell")
    terminal.expect(SHELL)
    terminal.send(typed)
    terminal.expect_exact(typed[-2:])
    terminal.send("\t")
    terminal.expect_exact(completed)
    terminal.send(more + "\r")
    terminal.expect_exact(shown)
    terminal.expect(SHELL)
    terminal.sendline("exit")
    ended(terminal, project, 0)


def test_completion_inside_a_chat(project: Project) -> None:
    """Tab after a slash completes the commands of a chat."""
    terminal = project.terminal("chat", "with", "agent_alpha")
    terminal.expect(YOU)
    terminal.send("/re")
    terminal.expect_exact("/re")
    terminal.send("\t")
    terminal.expect_exact("wind")
    terminal.send("\r")
    terminal.expect("INDEX")
    terminal.expect(YOU)
    terminal.sendline("/exit")
    ended(terminal, project, 0)


def test_lines_are_remembered(project: Project) -> None:
    """What was typed in one shell is one key away in the next; only its owner can read the file."""
    terminal = project.terminal("shell")
    terminal.expect(SHELL)
    terminal.sendline("agent list --json")
    terminal.expect("agent_helper")
    terminal.expect(SHELL)
    terminal.sendline("exit")
    ended(terminal, project, 0)

    terminal = project.terminal("shell")
    terminal.expect(SHELL)
    terminal.send(UP + UP + "\r")
    terminal.expect('"id": "agent_alpha"')
    terminal.expect(SHELL)
    terminal.sendline("exit")
    ended(terminal, project, 0)
    assert (project.folder / ".p2engine/history").stat().st_mode & 0o077 == 0


def test_colour_can_be_turned_off(project: Project) -> None:
    """Errors and hints are styled on a terminal, not with --no-color, and not where NO_COLOR is set."""
    for arguments, env, styled in (((), {}, True), (("--no-color",), {}, False), ((), {"NO_COLOR": "1"}, False)):
        terminal = project.terminal("cht", *arguments, env=env)
        assert ("\x1b[" in ended(terminal, project, 2)) is styled


def test_failure_25_text_of_a_model_does_not_move_the_cursor(project: Project) -> None:
    """Escape sequences in a streamed reply are written out, also one that is cut in two by the stream."""
    with OpenAIServer([Reply(text="a \x1b[2J\x1b]0;title\x07 b [bold]c[/bold]", write_bytes=1)]) as server:
        project.configure(llm={"api_base": server.base_url})
        terminal = project.terminal("chat", "with", "agent_alpha", "-m", "hi", "--no-color")
        shown = ended(terminal, project, 0)

    assert "a \\x1b[2J\\x1b]0;title\\x07 b [bold]c[/bold]" in shown
    assert "\x1b" not in shown
