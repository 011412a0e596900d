"""`conversation prune`: what would go is shown, nobody loses anything unasked, and what goes is gone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import pexpect
import pytest

from p2engine.domain.ids import blob_ref
from tests.cli.project import TIMEOUT_S, Project, Run
from tests.cli.rollouts import with_rollouts
from tests.cli.scenes import PARIS, TOKYO, keeper, say


def _names(run: Run) -> list[str]:
    return sorted(row["name"] for row in run("conversation", "list", "--all", "--json").document)


@pytest.fixture
def two(here: Run) -> Run:
    """Two conversations."""
    say(here, "demo", PARIS, TOKYO, agent="agent_alpha")
    say(here, "other", PARIS, agent="agent_alpha")
    return here


def test_without_a_word_for_it_nothing_goes(two: Run) -> None:
    """Not on a terminal the plan is printed, with exit 2; --yes does what it said."""
    planned = two("conversation", "prune", "demo")
    assert planned.status == 2
    assert planned.out.splitlines()[1].startswith("demo")
    assert "nothing was pruned; --yes deletes 1 conversation, " in planned.err
    assert _names(two) == ["demo", "other"]
    document = two("conversation", "prune", "demo", "--json")
    assert (document.status, document.document["pruned"]) == (2, False)
    (row,) = document.document["conversations"]
    done = two("conversation", "prune", "demo", "--yes", "--json")
    assert done.status == 0
    assert done.document == {**document.document, "pruned": True}
    assert row["entries"] > 10
    assert row["bytes"] > 1000
    assert _names(two) == ["other"]
    gone = two("conversation", "prune", "demo", "--yes")
    assert (gone.status, gone.out) == (2, "")
    assert "no conversation 'demo'" in gone.err


def test_a_name_is_free_again(two: Run) -> None:
    """What was pruned leaves no trace in a new conversation of its name; the store is sound."""
    assert two("conversation", "prune", "demo", "other", "--yes").out.splitlines()[-1].startswith("pruned 2 ")
    say(two, "demo", PARIS, agent="agent_alpha")
    assert two("conversation", "show", "demo", "--json").document["turns"] == 1
    assert "sound" in two("doctor").out


def test_age_chooses(two: Run) -> None:
    """Those that moved within the time stay; with names, of those only; nothing to do is no error."""
    young = two("conversation", "prune", "--older-than", "1w", "--yes")
    assert (young.status, young.out) == (0, "nothing to prune\n")
    two("conversation", "prune", "other", "--older-than", "0s", "--yes")
    assert _names(two) == ["demo"]
    assert two("conversation", "prune", "--older-than", "0s", "--yes").status == 0
    assert _names(two) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name conversations, or say --older-than AGE or --rollout ID"),
        (["--branches"], "name conversations"),
        (["--older-than", "3"], "like 30d, not '3'"),
        (["--older-than", "-3d"], "like 30d"),
        (["--older-than", "1y"], "like 30d"),
        (["--older-than", "9999999d"], "like 30d"),
        (["ghost"], "no conversation 'ghost'"),
        (["demi"], "did you mean 'demo'?"),
        (["demo", "ghost"], "no conversation 'ghost'"),
        (["demo", "--rollout", "x"], "exclude each other"),
        (["--rollout", "nosuch"], "no rollout 'nosuch'"),
    ],
)
def test_what_cannot_be_meant_is_refused(two: Run, words: list[str], said: str) -> None:
    """Exit 2 with the mend, before anything goes, --yes or not."""
    done = two("conversation", "prune", *words, "--yes")
    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert _names(two) == ["demo", "other"]


def test_side_branches_go_and_the_conversation_stays(two: Run) -> None:
    """What the current branch does not need; it and the name of its trunk stay, and can be gone back to."""
    before = two("conversation", "stack", "demo", "--json").document
    two("conversation", "fork", "demo", "3", "early")
    two("conversation", "rewind", "demo", "3", "--name", "again")
    say(two, "demo", PARIS, agent="agent_alpha")
    current = two("conversation", "stack", "demo", "--json").document
    done = two("conversation", "prune", "demo", "--branches", "--yes")
    assert done.out.splitlines()[-1].startswith("pruned side branches of 1 conversation, ")
    assert "early, the end of main" in done.out
    assert two("conversation", "stack", "demo", "--json").document == current
    rows = two("conversation", "branches", "demo", "--json").document
    assert [row["name"] for row in rows] == ["main", "again"]
    assert rows[0]["entries"] < len(before)
    assert two("conversation", "checkout", "demo", "main").status == 0
    say(two, "demo", PARIS, agent="agent_alpha")
    assert two("conversation", "prune", "other", "--branches", "--yes").out == "nothing to prune\n"
    assert "sound" in two("doctor").out


def test_artifacts_go_an_hour_later(here: Run, project: Project) -> None:
    """Young bodies stay, since somebody may be about to name them; a later pruning takes what is old by then."""
    keeper(project)
    say(here, "demo", "save list.txt milk and eggs")
    blob = blob_ref(b"milk and eggs").removeprefix("b2:")
    body = project.folder / ".p2engine" / "blobs" / blob[:2] / blob[2:]
    assert here("conversation", "prune", "demo", "--yes", "--json").document["bodies"] == 0
    assert body.exists()
    os.utime(body, (1, 1))
    say(here, "other", "hello")
    done = here("conversation", "prune", "other", "--yes")
    assert done.out.splitlines()[-1].endswith("and 1 artifact of 13 B")
    assert not body.exists()


def test_trials_go_with_their_rollout(here: Run, project: Project) -> None:
    """One trial alone is refused, and those of rollouts are not old conversations; the results stay in the report."""
    with_rollouts(project)
    assert here("rollout", "start", "config/rules.yml").status == 0
    rollout = here("rollout", "list", "--json").document[0]["id"]
    trial = _names(here)[0]
    refused = here("conversation", "prune", trial, "--yes")
    assert refused.status == 2
    assert f"is a trial of rollout '{rollout}'" in refused.err
    assert f"--rollout {rollout}" in refused.err
    assert here("conversation", "prune", "--older-than", "0s", "--yes").out == "nothing to prune\n"
    report = here("rollout", "show", rollout, "--json").document
    done = here("conversation", "prune", "--rollout", rollout, "--yes")
    assert done.out.splitlines()[-1].startswith("pruned 4 conversations, ")
    assert _names(here) == []
    assert here("rollout", "show", rollout, "--json").document == report
    assert "no conversation" in here("rollout", "show", rollout, "one", "1").err


def test_what_is_owed_is_named(project: Project, here: Run) -> None:
    """A turn that was cut off: its conversation is refused by name, passed over by age, and can go once it is ended."""
    project.write("tools/slow.py", SLOW)
    project.write("config/agents.yml", AGENT)
    with project.process("chat", "with", "slow", "--name", "demo", "-m", "go") as process:
        assert process.stderr is not None
        while not (project.folder / "begun").exists():
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)
    refused = here("conversation", "prune", "demo", "--yes")
    assert refused.status == 2
    assert "'demo' is not at rest: it owes " in refused.err
    assert "conversation cancel demo" in refused.err
    passed = here("conversation", "prune", "--older-than", "0s", "--yes", "--json").document
    assert [row["name"] for row in passed["skipped"]] == ["demo"]
    assert len(passed["skipped"][0]["owed"]) == 1
    assert here("conversation", "cancel", "demo").status == 0
    assert here("conversation", "prune", "demo", "--yes").status == 0
    assert _names(here) == []


SLOW = '''\
"""A tool that takes for ever."""

import time
from pathlib import Path

from p2engine import function_tool


@function_tool
def slow() -> str:
    """Take for ever."""
    Path("begun").touch()
    time.sleep(600)
    return "done"
'''
AGENT = """\
agents:
  - id: slow
    type: rule
    tools: [slow]
    rules: [{contains: go, tool: slow}]
    default: done
"""


def test_on_a_terminal_it_asks(two: Run, project: Project) -> None:
    """No: nothing goes, exit 1. Ctrl-C: 130. Yes: it is gone."""
    for answer, status, said, names in (
        ("\r", "1", "nothing was pruned", ["demo", "other"]),
        ("\x03", "130", "nothing was pruned", ["demo", "other"]),
        ("y\r", "0", "pruned 1 conversation", ["other"]),
    ):
        terminal = project.terminal("conversation", "prune", "demo", "--no-color")
        terminal.expect(r"Delete 1 conversation, \d+ entries, about [\d.]+ k?B, for good\? \[y/N\]")
        terminal.send(answer)
        terminal.expect(said)
        terminal.expect(rf"status={status}")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert _names(two) == names


def test_a_watch_ends_with_its_conversation(two: Run, project: Project) -> None:
    """Whoever watches is told that it was pruned; the watch is over, without an error."""
    with project.process("conversation", "watch", "demo", "--from-start", stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert two("conversation", "prune", "demo", "--yes").status == 0
        rest, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "demo was pruned" in rest
    assert lines


def test_room_is_given_back_by_vacuum(two: Run, project: Project, tmp_path: Path) -> None:
    """As the docs say: SQLite's own command shrinks the file, and everything in it stays where it was."""
    store = project.folder / ".p2engine" / "store.db"
    say(two, "large", *["x" * 50_000] * 3, agent="agent_alpha")
    two("conversation", "prune", "large", "--yes")
    before, stack = store.stat().st_size, two("artifact", "show", "demo", "--json").document
    db = sqlite3.connect(store)
    db.execute("VACUUM")
    db.close()
    assert store.stat().st_size < before - 100_000
    assert two("artifact", "show", "demo", "--json").document == stack
    assert two("conversation", "prune", "demo", "--yes").status == 0
    assert "sound" in two("doctor").out
