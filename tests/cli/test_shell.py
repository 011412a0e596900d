"""The shell from a pipe: a command a line on one engine, what goes wrong in a line, and chats inside it."""

from __future__ import annotations

import json

import pytest

from p2engine.cli.main import command
from p2engine.cli.options import walk
from tests.cli.project import Project, Run

PARIS = "What's the weather in Paris?"
LEAVES = [path for path, each in walk(command()) if not hasattr(each, "commands")]


def documents(text: str) -> list[object]:
    """The JSON documents that stand one after the other in a text."""
    found: list[object] = []
    decoder, rest = json.JSONDecoder(), text.lstrip()
    while rest:
        document, end = decoder.raw_decode(rest)
        found.append(document)
        rest = rest[end:].lstrip()
    return found


def test_a_line_is_a_command(here: Run) -> None:
    """Every command works as it does outside, blank lines and comments are none, and `exit` ends."""
    lines = f"""
# what there is
agent list --json
p2engine▸ chat with agent_alpha --name demo -m "{PARIS}"   # a comment
p2engine conversation list --json
exit
agent list
"""
    done = here("shell", input=lines)

    agents, *_ = documents(done.out.partition("\nWeather")[0])
    assert [agent["id"] for agent in agents] == ["agent_alpha", "agent_helper"]  # type: ignore[attr-defined]
    assert "22" in done.out
    assert '"demo"' in done.out
    assert done.status == 0
    assert "p2engine▸" not in done.out


def test_global_options_of_the_shell_hold_for_its_lines(here: Run) -> None:
    """`p2engine --json shell`: every line answers in JSON."""
    done = here("--json", "shell", input="agent list\nconversation list\n")

    assert len(documents(done.out)) == 2


def test_a_failed_line_is_told_and_the_next_one_runs(here: Run) -> None:
    """An unknown command, a bad quote, a wrong name: each is told, the shell goes on, and the first failure counts."""
    lines = "cht with x\nchat with agent_alpha -m 'oops\nchat resume nowhere\nrouter overview\nagent list --json\n"

    done = here("shell", input=lines)

    told = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert told == [
        "error: no command 'cht'; did you mean 'chat'?",
        "error: a quote is not closed",
        "error: no conversation 'nowhere'",
        "error: not available in this version: router",
    ]
    assert len(documents(done.out)) == 1
    assert done.status == 2


def test_help_is_the_help_of_the_commands(here: Run) -> None:
    """`help` lists every command in a line, with what it does; `help chat` and `help chat with` explain."""
    done = here("shell", input="help\nhelp chat\nhelp chat with\n")

    listed, _, explained = done.out.partition("Usage: ")
    lines = {path: next(line for line in listed.splitlines() if line.startswith(" ".join(path))) for path in LEAVES}
    assert [path for path in LEAVES if len(lines[path].removeprefix(" ".join(path)).split()) < 3] == []
    assert lines["conversation", "rewind"].endswith("  Go back so that entries 0…INDEX stay.")
    assert "p2engine chat [OPTIONS] COMMAND" in explained
    assert "Usage: p2engine chat with" in explained
    assert "exit" in done.err
    assert done.status == 0


def test_the_last_line_again(here: Run) -> None:
    """`!!` shows the last line and runs it; before there is one it says so."""
    done = here("shell", input="!!\nagent list --json\n!!\n")

    first, second = documents(done.out)
    assert first == second
    assert "there is no last line yet" in done.err
    assert "agent list --json" in done.err.splitlines()


def test_a_chat_inside_the_shell_reads_the_same_lines(here: Run) -> None:
    """`chat with …` takes the lines up to its `exit`; what follows are commands again."""
    lines = f"chat with agent_alpha --name demo\n{PARIS}\nexit\nconversation list --json\n"

    done = here("shell", input=lines)

    assert "22" in done.out
    listed = json.loads(done.out[done.out.index("[") :])
    assert [(row["name"], row["turns"]) for row in listed] == [("demo", 1)]
    assert done.status == 0


def test_a_chat_in_which_nothing_is_said_leaves_the_rest_of_the_lines(here: Run) -> None:
    """`exit` as its first line is the chat's own: no conversation, and the shell reads on."""
    done = here("shell", input="chat with agent_alpha\nexit\nconversation list --json\n")

    assert "nothing was said" in done.err
    assert documents(done.out) == [[]]
    assert done.status == 2


def test_a_shell_inside_the_shell_is_refused(here: Run) -> None:
    """There is one shell."""
    done = here("shell", input="shell\nagent list --json\n")

    assert "this is the shell already" in done.err
    assert len(documents(done.out)) == 1


def test_a_line_may_mean_another_project(project: Project, here: Run) -> None:
    """`--project` on a line is for that line only."""
    other = Project(project.folder.parent / "other")
    other.write("config/agents.yml", "agents:\n  - id: somebody\n")

    done = here("shell", input=f"agent list --json --project {other.folder}\nagent list --json\n")

    names = [[agent["id"] for agent in each] for each in documents(done.out)]  # type: ignore[attr-defined]
    assert names == [["somebody"], ["agent_alpha", "agent_helper"]]


def test_an_edit_is_named_before_the_next_line(project: Project) -> None:
    """agents.yml edited while a shell runs: the next line sees it, and the file is named."""
    with project.process("shell", "--json") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("agent list\n")
        process.stdin.flush()
        assert process.stdout.readline() == "[\n"
        while process.stdout.readline() != "]\n":
            pass
        project.write("config/agents.yml", "agents:\n  - id: newcomer\n")
        out, err = process.communicate("agent list\n", timeout=60)

    assert [agent["id"] for agent in json.loads(out)] == ["newcomer"]
    assert "agents.yml" in err


@pytest.mark.parametrize("line", ["\x00", "\x1b[31m", "'", "🦊", "--", "-", "chat with", "!!!", "help zzz", "x" * 5000])
def test_odd_lines_are_no_end(line: str, here: Run) -> None:
    """Whatever a line holds, it is told in a line or two without escapes, and the shell goes on."""
    done = here("shell", input=f"{line}\nagent list --json\n")

    assert len(documents(done.out[done.out.index("[\n") :])) == 1
    assert not {"\x1b", "\x00"} & set(done.err)
    assert "Traceback" not in done.err


def test_nothing_typed_is_no_error(here: Run) -> None:
    """An empty script ends well."""
    assert here("shell").status == 0
