"""The program around the commands: help, global options, errors and exit statuses, what is loaded."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup

from p2engine.cli import main
from p2engine.cli.options import LATER, Group, walk
from tests.cli.project import PROGRAM, TIMEOUT_S, Project, Run

HEAVY = (
    "aiohttp",
    "litellm",
    "prompt_toolkit",
    "pydantic",
    "jinja2",
    "rich",
    "genai_prices",
    "ruamel",
    "asyncio",
    "plotext",
)
GLOBAL = ("--project", "--home", "--config", "--json", "--no-color", "--quiet", "--debug", "--no-project-code")
COMMANDS = [path for path, _ in walk(main.command())]


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    say = "import sys; print('modules:', *sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}; {say}"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    return set(done.stdout.rpartition("modules:")[2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import p2engine` loads no library."""
    assert loaded_after("import p2engine") & {*HEAVY, "typer", "msgspec"} == set()


def test_help_loads_nothing_heavy() -> None:
    """`p2engine --help` opens nothing and loads nothing that only commands need."""
    assert loaded_after("from p2engine.cli.main import execute; execute(['--help'])") & {*HEAVY, "msgspec"} == set()


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...], here: Run) -> None:
    """Every command explains itself, in plain text."""
    done = here(*path, "--help")

    assert done.status == 0
    assert done.out.startswith(" ".join(("Usage: p2engine", *path)))
    assert "\x1b" not in done.out


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_takes_the_global_options(path: tuple[str, ...]) -> None:
    """The global options may stand before and after any command."""
    command = dict(walk(main.command()))[path]

    assert set(GLOBAL) <= {option for param in command.params for option in param.opts}
    assert not isinstance(command, TyperGroup) or isinstance(command, Group)


def test_global_options_mean_the_same_before_and_after(project: Project, here: Run, tmp_path: Path) -> None:
    """`--home DIR --json` before a command and after it say the same; after it wins."""
    before = here("--json", "--home", str(tmp_path / "one"), "chat", "with", "a", "-m", "hi")
    after = here("chat", "with", "a", "-m", "hi", "--json", "--home", str(tmp_path / "two"))
    both = here("--home", str(tmp_path / "two"), "chat", "with", "a", "-m", "hi", "--home", str(tmp_path / "three"))

    assert before.rows[0]["reply"] == after.rows[0]["reply"]
    assert [(tmp_path / name / "store.db").exists() for name in ("one", "two", "three")] == [True, True, True]
    assert both.status == 0
    assert not (project.folder / ".p2engine").exists()


def test_version(here: Run) -> None:
    """`--version` names the program and its version."""
    from p2engine import __version__

    assert here("--version")[:2] == (0, f"p2engine {__version__}\n")
    for words in (("--version", "--json"), ("--json", "--version")):
        done = here(*words)
        assert (done.status, done.document) == (0, {"version": __version__})


@pytest.mark.parametrize("words", sorted(LATER))
def test_commands_that_are_not_built_are_refused_by_name(words: str, here: Run) -> None:
    """A command of a later version is not in the help, and typing it says so, with exit status 2."""
    done = here(*words.split("."), "something")

    assert done.status == 2
    assert f"not available in this version: {words.replace('.', ' ')}" in done.err
    assert tuple(words.split(".")) not in COMMANDS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("cht with x", "no command 'cht'; did you mean 'chat'?"),
        ("chat wiht x", "no command 'chat wiht'; did you mean 'chat with'?"),
        ("zzz", "no command 'zzz'"),
        ("chat with", "missing argument 'agent'"),
        ("chat with a --nmae b", "no such option: --nmae"),
        ("chat with a b", "unexpected extra argument"),
        ("chat with a --name", "requires an argument"),
    ],
)
def test_a_wrong_line_is_told_in_two_lines(line: str, says: str, here: Run) -> None:
    """Wrong usage: exit status 2, what is wrong and what was meant, no traceback."""
    done = here(*line.split())

    assert done.status == 2
    assert says in done.err
    assert len(done.err.splitlines()) <= 2
    assert done.out == ""


def test_errors_are_documents_with_json(here: Run) -> None:
    """With --json an error is one document on standard output."""
    done = here("chat", "with", "--json")

    assert done.status == 2
    assert set(done.document["error"]) == {"code", "message", "hint", "file", "line"}
    assert done.document["error"]["code"] == "usage"
    assert done.err == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("agents:\n  - id: a\n    llm_modle: x\n", 3),
        ("agents:\n  - id: a\n  - id: a\n", 3),
        ("agents: {{{\n", 2),
        ("", None),
    ],
)
def test_failure_27_a_broken_file_is_named(text: str, line: int | None, project: Project, here: Run) -> None:
    """An agents.yml that is wrong: one line with file and line, exit status 2, and nothing is started."""
    project.write("config/agents.yml", text)

    done = here("chat", "with", "agent_alpha", "-m", "hi", "--json")

    assert done.status == 2
    error = done.document["error"]
    assert error["code"] == "config"
    assert error["file"].endswith("config/agents.yml")
    assert error["line"] == line


def test_failure_27_a_binary_or_missing_config_is_named(project: Project, here: Run) -> None:
    """A configuration file that is no text, a folder, or not there: one line, exit status 2."""
    (project.folder / "config/config.json").write_bytes(b"\x00\xff\xfe")
    assert here("chat", "with", "a", "-m", "hi").status == 2
    for wrong in ("config", "nowhere.json"):
        done = here("--config", wrong, "chat", "with", "a", "-m", "hi")
        assert done.status == 2
        assert wrong in done.err
        assert len(done.err.splitlines()) <= 2


def test_a_state_folder_that_cannot_be_used_is_told(project: Project, here: Run) -> None:
    """The work failed for a reason outside: exit status 1, and the mend."""
    project.write("taken", "a file")

    done = here("--home", "taken", "chat", "with", "a", "-m", "hi")

    assert done.status == 1
    assert "taken" in done.err
    assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize("debug", [False, True])
def test_a_fault_of_ours_is_a_line_without_debug(debug: bool, project: Project) -> None:
    """An unforeseen exception: one line and exit status 1; the traceback only with --debug."""
    breaks = "import sys; from p2engine.cli import main; main.read = None; sys.argv[1:] = ['agent', *sys.argv[1:]]"
    arguments = ["--debug"] if debug else []

    done = subprocess.run(
        [sys.executable, "-c", f"{breaks}; main.run()", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=project.environment(),
    )

    assert done.returncode == 1
    assert "'NoneType' object is not callable" in done.stderr
    assert ("Traceback" in done.stderr) is debug


def test_debug_shows_where_an_error_came_from(here: Run) -> None:
    """With --debug an error has its traceback, and its line still."""
    done = here("--debug", "--config", "nowhere.json", "chat", "with", "a", "-m", "hi")

    assert "Traceback" in done.err
    assert "error:" in done.err
    assert done.status == 2


def test_a_reader_who_leaves_is_no_traceback(project: Project) -> None:
    """`p2engine … | head`: nothing is said when the reader of a pipe has left."""
    reading, writing = os.pipe()
    os.close(reading)

    with project.process("--help", stdout=writing) as process:
        os.close(writing)
        _, err = process.communicate(timeout=TIMEOUT_S)

    assert err == ""
    assert process.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_failure_35_a_full_disk_is_told(project: Project) -> None:
    """Output that cannot be written is an error in a line, not silence and not a traceback."""
    with Path("/dev/full").open("w") as full, project.process("--help", stdout=full) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 1
    assert err.splitlines() == ["error: No space left on device"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_status(number: signal.Signals, status: int, project: Project) -> None:
    """Ctrl-C is 130 and SIGTERM 143, and the state is whole: the next command works."""
    with project.process("chat", "with", "agent_alpha", "--name", "demo") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("What's the weather in Paris?\n")
        process.stdin.flush()
        assert "Paris" in process.stdout.readline()  # now it waits for the next line
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == status
        assert process.stderr is not None
        err = process.stderr.read()

    assert "Traceback" not in err
    assert "p2engine chat resume demo" in err.splitlines()[-1]
    assert "Tokyo" in project.run("chat", "resume", "demo", "-m", "What's the weather in Tokyo?").out


def test_quiet_says_only_the_result(here: Run) -> None:
    """--quiet leaves the reply."""
    done = here("--quiet", "chat", "with", "agent_alpha", "-m", "What's the weather in Paris?")

    assert "22" in done.out
    assert done.err == ""


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_locale_changes_nothing(locale: str, project: Project) -> None:
    """Names and messages are UTF-8 under any locale; what the terminal cannot show is written out."""
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    done = project.run("chat", "with", "agent_alpha", "--name", "🦊", "-m", "ü", "--quiet", env=env)

    assert done.status == 0, done.err
    assert project.run("conversation", "list", "--json").document[0]["name"] == "🦊"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(closed: str, project: Project) -> None:
    """Without standard input, output or error the work is done all the same."""
    line = f"{shlex.join(PROGRAM)} chat with agent_alpha --name demo -m hi {closed}"

    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
    assert project.run("conversation", "list", "--json").document[0]["turns"] == 1


def test_python_m_is_the_program() -> None:
    """`python -m p2engine` is `p2engine`."""
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout.startswith("p2engine ")


def test_public_names_are_loaded_when_asked_for() -> None:
    """Each public name of the package is what its module holds; another name is an AttributeError."""
    import p2engine

    names: dict[str, Any] = {name: getattr(p2engine, name) for name in p2engine.__all__}

    assert names["function_tool"].__module__.startswith("p2engine.tools")
    assert set(p2engine.__all__) <= set(dir(p2engine))
    with pytest.raises(AttributeError, match="nothing_such"):
        p2engine.nothing_such  # noqa: B018
