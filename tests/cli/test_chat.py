"""Chatting from a command line: what stands on which stream, what a conversation is called, how it ends."""

from __future__ import annotations

import json

import pytest

from p2engine.limits import MESSAGE_BYTES_MAX
from tests.cli.project import Project, Run

PARIS = "What's the weather in Paris?"
TOKYO = "Delegate to agent_helper: What's the weather in Tokyo?"
KEYS = ["conversation", "branch", "turn", "reply", "finished", "model", "offline"]
KEYS += ["tokens_in", "tokens_out", "cost_usd", "duration_s"]


def test_replies_are_alone_on_standard_output(here: Run) -> None:
    """With -m: one turn a message, its reply on standard output; calls and delegations on standard error."""
    done = here("chat", "with", "agent_alpha", "-m", PARIS, "--message", TOKYO)

    paris, tokyo = done.out.splitlines()
    assert "22" in paris
    assert "10" in tokyo
    said = [line.strip() for line in done.err.splitlines()]
    assert '→ get_weather(location="Paris")' in said
    assert "→ agent_helper: What's the weather in Tokyo?" in said
    assert 'agent_helper → get_weather(location="Tokyo")' in said
    assert any(line.startswith("← agent_helper: ") for line in said)
    assert done.status == 0


def test_a_line_a_turn_with_json(here: Run) -> None:
    """With --json every turn is one JSON line with the keys of the contract."""
    done = here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS, "-m", TOKYO, "--json")

    assert [list(row) for row in done.rows] == [KEYS, KEYS]
    first, second = done.rows
    assert (first["conversation"], first["branch"], first["turn"], second["turn"]) == ("demo", "main", 1, 2)
    assert first["finished"] == "answered"
    assert first["offline"] is True
    assert second["tokens_in"] > 0


def test_names_count_up_and_are_said_at_both_ends(here: Run) -> None:
    """Without a name: agent_alpha-1, agent_alpha-2; the command that goes on stands first and last."""
    done = [here("chat", "with", "agent_alpha", "-m", PARIS) for _ in range(2)]

    for number, each in enumerate(done, start=1):
        first, *_, last = each.err.splitlines()
        assert first == last == f"conversation agent_alpha-{number} · p2engine chat resume agent_alpha-{number}"


def test_the_command_to_resume_can_be_typed_as_it_stands(project: Project, here: Run) -> None:
    """A name with blanks and quotes is quoted, and places that were given are repeated."""
    done = here("--home", "state", "chat", "with", "agent_alpha", "--name", "it's a demo", "-m", PARIS)
    command = done.err.splitlines()[-1].partition(" · ")[2]

    again = project.run("shell", "--home", "state", input=f"{command} -m {json.dumps(PARIS)} --json\n")

    assert command.startswith("p2engine --home state chat resume ")
    assert [row["turn"] for row in again.rows] == [2]


def test_an_existing_name_goes_on(here: Run) -> None:
    """`--name` of a conversation that exists goes on with it; `chat resume` does too."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    more = here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS, "--json")
    last = here("chat", "resume", "demo", "-m", PARIS, "--json")

    assert [more.rows[0]["turn"], last.rows[0]["turn"]] == [2, 3]


def test_a_conversation_belongs_to_its_agent(here: Run) -> None:
    """The name of a conversation with another agent is refused, with the command that goes on with it."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    done = here("chat", "with", "agent_helper", "--name", "demo", "-m", PARIS)

    assert done.status == 2
    assert "'demo' is with 'agent_alpha', not 'agent_helper'" in done.err
    assert "p2engine chat resume demo" in done.err


def test_an_unknown_agent_is_the_default_one_and_said_so(here: Run) -> None:
    """`chat with ANYNAME` works: the agent has no tools, and one line says so."""
    done = here("chat", "with", "agent_alhpa", "-m", PARIS)

    assert done.status == 0
    assert "'agent_alhpa' is not in config/agents.yml (did you mean agent_alpha?)" in done.err
    assert "no tools" in done.err
    assert "→ get_weather" not in done.err


def test_a_turn_that_ends_by_budget_is_status_1(project: Project, here: Run) -> None:
    """A turn that hits its bound says which, and the program ends with 1."""
    project.configure(budget={"turn_steps": 1})

    done = here("chat", "with", "agent_alpha", "-m", PARIS, "--json")

    assert done.status == 1
    assert done.rows[0]["finished"] == "budget"
    assert "the turn ended by budget: " in done.err


def test_the_stand_in_says_what_it_is_once(here: Run) -> None:
    """The offline note stands once, with the two lines that get real answers."""
    done = here("chat", "with", "agent_alpha", "-m", PARIS, "-m", PARIS)

    assert done.err.count("stand-in") == 1
    assert "export OPENAI_API_KEY=" in done.err
    assert "api_base" in done.err


# From a pipe


def test_a_piped_line_is_a_turn(here: Run) -> None:
    """Lines on standard input are messages; blank ones are none, `exit` ends, and nothing after it is read."""
    done = here("chat", "with", "agent_alpha", "--json", input=f"{PARIS}\n\n   \n{PARIS}\r\nexit\n{PARIS}\n")

    assert [row["turn"] for row in done.rows] == [1, 2]
    assert done.status == 0


def test_the_last_line_needs_no_end(project: Project) -> None:
    """A pipe that ends without a newline still said something."""
    assert "22" in project.run("chat", "with", "agent_alpha", input=f"\n{PARIS}").out


def test_a_piped_line_is_a_message_whatever_it_begins_with(here: Run) -> None:
    """Commands are typed on a terminal: what a pipe says is said, slashes and all, and nothing is done instead."""
    done = here("chat", "with", "agent_alpha", "--name", "demo", "--json", input="/exit\n//home\n/rewind 0\n")

    assert (done.status, [row["turn"] for row in done.rows]) == (0, [1, 2, 3])
    stack = here("conversation", "stack", "demo", "--json").document
    said = [entry["body"]["text"] for entry in stack if entry["state"] == "UserMessage"]
    assert said == ["/exit", "//home", "/rewind 0"]


@pytest.mark.parametrize("said", ["", "\n  \n", "exit\n"])
def test_where_nothing_is_said_there_is_no_conversation(said: str, here: Run) -> None:
    """An empty standard input: exit 2, one line that says so, and no empty conversation; one that exists may rest."""
    done = here("chat", "with", "agent_alpha", input=said)

    assert done.status == 2
    assert done.err.splitlines()[0] == "error: nothing was said, so no conversation was made"
    assert here("conversation", "list", "--json").document == []
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)
    assert here("chat", "with", "agent_alpha", "--name", "demo", input=said).status == 0


def test_messages_may_begin_with_a_slash(here: Run) -> None:
    """What -m says is a message, whatever it looks like."""
    assert here("chat", "with", "agent_alpha", "-m", "/good", "--json").rows[0]["turn"] == 1


def test_a_branch_to_talk_on(here: Run) -> None:
    """`--branch` talks there and leaves the current branch what it is; an unknown one is named."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)
    assert here("conversation", "fork", "demo", "-1", "side").status == 0

    there = here("chat", "with", "agent_alpha", "--name", "demo", "--branch", "side", "-m", PARIS, "--json")
    current = here("chat", "resume", "demo", "-m", PARIS, "--json")
    nowhere = here("chat", "with", "agent_alpha", "--name", "demo", "--branch", "sdie", "-m", PARIS)

    assert (there.rows[0]["branch"], there.rows[0]["turn"]) == ("side", 2)
    assert (current.rows[0]["branch"], current.rows[0]["turn"]) == ("main", 2)
    assert nowhere.status == 2
    assert "'sdie'" in nowhere.err


def test_resuming_what_rests_says_so(here: Run) -> None:
    """`chat resume` of a conversation where nothing runs says that, and an unknown name lists what there is."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    rests, unknown = here("chat", "resume", "demo"), here("chat", "resume", "demon")

    assert (rests.status, rests.out) == (0, "")
    assert "nothing is running in demo" in rests.err
    assert unknown.status == 2
    assert "no conversation 'demon' (did you mean 'demo'?)" in unknown.err


def test_an_edit_takes_effect_on_the_next_turn(project: Project) -> None:
    """agents.yml edited while a chat runs: the next turn has it, and the file is named; a broken one is named too."""
    with project.process("chat", "with", "agent_alpha") as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def say(text: str) -> str:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(text + "\n")
            process.stdin.flush()
            return process.stdout.readline()

        before = say(PARIS)
        project.write("config/agents.yml", "agents:\n  - id: agent_alpha\n    tools: []\n")
        after = say(PARIS)
        project.write("config/agents.yml", "agents:\n  - id: agent_alpha\n    tolos: []\n")
        kept = say(PARIS)
        _, err = process.communicate(timeout=60)

    assert "22" in before
    assert "22" not in after
    assert kept == after
    named = [line for line in err.splitlines() if line.startswith("changed on disk: config/agents.yml")]
    assert named[0] == "changed on disk: config/agents.yml"
    assert "tolos" in named[1]
    assert named[1].endswith("; the last good version, if any, stays in use")
    assert len(named) == 2


# Bad input

NASTY = "\x1b[31mred\x1b[0m [bold]bold[/bold] {{ 7 * 7 }} \x07 \u202e \x9b1m"


def test_failure_25_text_is_shown_and_never_interpreted(here: Run) -> None:
    """Escape sequences, markup and template braces in what a model says are text on the screen."""
    done = here("chat", "with", "agent_alpha", "-m", NASTY)

    for stream in (done.out, done.err):
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(stream)
    assert "\\x1b[31mred\\x1b[0m [bold]bold[/bold] {{ 7 * 7 }} \\x07 \\u202e \\x9b1m" in done.out


@pytest.mark.parametrize(
    "name", ["with blanks", "../../etc/passwd", "/absolute", "🦊", "[red]x[/red]", "-starts-with-a-dash", "a" * 120]
)
def test_failure_26_odd_names_stay_inside(name: str, project: Project, here: Run) -> None:
    """A conversation may be called anything printable; nothing outside the state folder is touched."""
    done = here("chat", "with", "agent_alpha", f"--name={name}", "-m", PARIS, "--json")

    assert done.status == 0
    assert done.rows[0]["conversation"] == name
    assert {path.name for path in project.folder.iterdir()} == {".p2engine", "config", "logs"}
    assert {path.name for path in project.folder.parent.iterdir()} == {"project"}


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[31mb", "a" * 121, "ü" * 61])
def test_names_that_are_none_are_refused(name: str, here: Run) -> None:
    """An empty name, one with control characters, or one of more than 120 bytes: exit status 2 and no conversation."""
    done = here("chat", "with", "agent_alpha", f"--name={name}", "-m", PARIS)

    assert done.status == 2
    assert "name" in done.err
    assert len(done.err.splitlines()) <= 2
    assert "\x1b" not in done.err
    assert here("conversation", "list", "--json").document == []


@pytest.mark.parametrize("agent", ["", "with blanks", "🦊", "a/b", "a" * 65])
def test_agents_that_cannot_be_are_refused(agent: str, here: Run) -> None:
    """A name that no agent can have: exit status 2, one line, and no conversation that nobody could talk in."""
    done = here("chat", "with", agent, "-m", PARIS)

    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert here("conversation", "list", "--json").document == []


@pytest.mark.parametrize("message", ["", "  \n"])
def test_a_message_needs_text(message: str, here: Run) -> None:
    """An empty message is refused before a conversation is opened for it."""
    assert here("chat", "with", "agent_alpha", "-m", PARIS, "-m", message).status == 2
    assert here("conversation", "list", "--json").document == []


def test_a_message_that_is_too_long_is_refused(project: Project) -> None:
    """A line of more than a megabyte: exit status 2, one line."""
    done = project.run("chat", "with", "agent_alpha", input="x" * (MESSAGE_BYTES_MAX + 1))

    assert done.status == 2
    assert str(MESSAGE_BYTES_MAX) in done.err


def test_bytes_that_are_no_text_are_replaced(project: Project) -> None:
    """Input that is not UTF-8 is a message with replacement characters, not a crash."""
    said = project.folder / "said"
    said.write_bytes(b"caf\xe9 \xff\xfe\n")

    with said.open() as stdin, project.process("chat", "with", "agent_alpha", "--json", stdin=stdin) as process:
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    assert json.loads(out)["turn"] == 1
