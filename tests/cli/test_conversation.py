"""Looking at conversations, travelling through their time, rating and watching them, as typed at a command line."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from p2engine.testing.server import OpenAIServer
from tests.cli.project import TIMEOUT_S, Project, Run
from tests.cli.scenes import EVIL, PARIS, TOKYO, keeper, say
from tests.cli.test_chat_http import Gate

LISTED = ["name", "id", "agent", "branch", "status", "turns", "tokens", "cost_usd", "updated_at"]
ENTRY = ["index", "at", "agent", "branch", "state", "body", "cause", "tokens"]
BRANCH = ["name", "parent", "at", "entries", "current", "updated_at"]


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A model that does not answer before it is let."""
    gate = Gate()
    yield gate
    gate.opened.set()


def states(run: Run, name: str, *more: str) -> list[str]:
    """The states on a stack, in order."""
    return [row["state"] for row in run("conversation", "stack", name, "--json", *more).document]


def text_of(run: Run, name: str, index: int) -> str:
    text: str = run("conversation", "stack", name, "--json").document[index]["body"]["text"]
    return text


# Looking


def test_a_project_without_conversations_has_an_empty_list(here: Run) -> None:
    """Nothing there is no error: an empty list for programs, a note for people."""
    assert here("conversation", "list", "--json").document == []
    done = here("conversation", "list")
    assert (done.status, done.out, done.err) == (0, "", "no conversations yet\n")


def test_the_list_has_a_row_a_conversation_the_last_that_moved_first(here: Run) -> None:
    """Every row has the keys of the contract; tokens include the delegates'."""
    say(here, "one", PARIS, agent="agent_alpha")
    say(here, "two", PARIS, TOKYO, agent="agent_alpha")
    say(here, "one", PARIS, agent="agent_alpha")

    rows = here("conversation", "list", "--json").document

    assert [list(row) for row in rows] == [LISTED, LISTED]
    assert [(row["name"], row["turns"], row["status"]) for row in rows] == [
        ("one", 2, "finished"),
        ("two", 2, "finished"),
    ]
    spent = [row["tokens"] for row in here("conversation", "stack", "two", "--json").document if row["tokens"]]
    assert rows[1]["tokens"] > sum(spent)
    assert rows[1]["cost_usd"] == 0
    assert rows[1]["updated_at"].endswith("Z")


def test_show_tells_what_the_list_tells_and_more(here: Run) -> None:
    """`show` has the row of the list, the number of entries, and the overrides."""
    say(here, "demo", PARIS, agent="agent_alpha")
    here("config", "set-override", "demo", "temperature=0.5")

    shown = here("conversation", "show", "demo", "--json").document

    assert {name: shown[name] for name in LISTED} == here("conversation", "list", "--json").document[0]
    assert shown["entries"] == 10
    assert shown["overrides"] == {"temperature": 0.5}


def test_a_stack_lists_entries_with_index_time_cause_tokens_and_state(here: Run) -> None:
    """The rows of the contract; a cause names the effect, and people read the entry it belongs to."""
    say(here, "demo", PARIS, agent="agent_alpha")

    rows = here("conversation", "stack", "demo", "--json").document
    printed = here("conversation", "stack", "demo").out.splitlines()

    assert [list(row) for row in rows] == [ENTRY] * 9
    assert [row["index"] for row in rows] == list(range(9))
    assert [row["state"] for row in rows[1:5]] == ["UserMessage", "Waiting", "ToolCall", "Waiting"]
    assert rows[1]["body"] == {"text": PARIS, "sender": "user", "caller": None, "grant": None}
    assert rows[8]["body"] == {"reason": "answered", "detail": ""}
    assert rows[5]["cause"].endswith(":4.0")
    assert rows[3]["tokens"] > 0
    assert rows[4]["tokens"] is None
    assert printed[0].split() == ["index", "time", "(UTC)", "cause", "tokens", "state", "body"]
    assert "#4" in printed[6]
    assert 'get_weather(location="Paris")' in printed[4]


def test_a_stack_shows_its_last_entries(here: Run) -> None:
    """`--n` cuts from the front and keeps the indexes."""
    say(here, "demo", PARIS, agent="agent_alpha")
    assert [row["index"] for row in here("conversation", "stack", "demo", "--n", "2", "--json").document] == [7, 8]


def test_a_delegates_stacks_newest_first(here: Run) -> None:
    """`--agent` shows what each delegation added, the newest first; `--branch` shows all that one remembers."""
    say(here, "demo", TOKYO, TOKYO.replace("Tokyo", "Oslo"), agent="agent_alpha")

    rows = here("conversation", "stack", "demo", "--agent", "agent_helper", "--json").document
    newest = rows[0]["branch"]
    whole = here("conversation", "stack", "demo", "--agent", "agent_helper", "--branch", newest[:6], "--json").document

    assert [row["agent"] for row in rows] == ["agent_helper"] * len(rows)
    asked = [row["body"]["text"] for row in rows if row["state"] == "UserMessage"]
    assert ["Oslo" in text for text in asked] == [True, False]
    assert [row["index"] for row in whole] == list(range(len(whole)))
    assert sum(row["state"] == "UserMessage" for row in whole) == 2


def test_unknown_names_are_answered_with_what_there_is(here: Run) -> None:
    """A conversation, agent or branch that is not there: one or two lines, exit 2."""
    say(here, "demo", PARIS, agent="agent_alpha")
    for words, said in (
        (("show", "nix"), "no conversation 'nix'"),
        (("stack", "demo", "--agent", "bob"), "no agent 'bob' in 'demo'; there is agent_alpha"),
        (("stack", "demo", "--branch", "b"), "no branch 'b' in 'demo'; there is 'main'"),
        (("checkout", "demo", "nowhere"), "no branch 'nowhere' in 'demo'; there is 'main'"),
    ):
        done = here("conversation", *words)
        assert done.status == 2
        assert said in done.err
        assert len(done.err.splitlines()) <= 2


@pytest.mark.parametrize("name", ["two words", "a/b/c", "🚀 émoji", "--dashes", 'it\'s "quoted"'])
def test_names_of_every_kind_work(name: str, here: Run) -> None:
    """Spaces, slashes, emoji and quotes are part of a name; one that looks like an option stands after `--`."""
    say(here, name, PARIS, agent="agent_alpha")
    assert here("conversation", "show", "--json", "--", name).document["name"] == name
    assert here("conversation", "rewind", "--json", "--", name, "1").document["at"] == 2


def test_a_unique_beginning_of_a_name_or_id_is_enough(here: Run) -> None:
    """The beginning of a name or id finds it; several that begin so are listed, exit 2."""
    say(here, "alpha-run", PARIS, agent="agent_alpha")
    say(here, "alpine", PARIS, agent="agent_alpha")
    uid = here("conversation", "show", "alpha", "--json").document["id"]

    assert here("conversation", "show", uid[:8], "--json").document["name"] == "alpha-run"
    done = here("conversation", "show", "alp")
    assert done.status == 2
    assert "ambiguous" in done.err
    assert "alpine" in done.err


@pytest.mark.parametrize("words", [("list",), ("show", "demo"), ("stack", "demo"), ("stack", "demo", "--n", "5")])
def test_failure_25_data_is_shown_as_text(words: tuple[str, ...], here: Run) -> None:
    """Escape sequences and turning characters are written out; markup and braces stay as they are."""
    say(here, "demo", EVIL, agent="agent_alpha")

    done = here("conversation", *words)

    assert "\x1b" not in done.out + done.err
    assert "\u202e" not in done.out + done.err
    if words[0] == "stack":
        assert "\\x1b[31mred\\x1b[0m [bold]x[/bold]" in done.out
        assert "{{ 7*7 }}" in done.out


def test_failure_25_data_is_shown_as_text_on_a_terminal(project: Project, here: Run) -> None:
    """On a terminal too, where tables are drawn: no escape sequence of the data, no markup swallowed."""
    say(here, "demo", "[bold]\x1b]0;title\x07", agent="agent_alpha")
    terminal = project.terminal("conversation", "stack", "demo", "--no-color")
    seen = terminal.read()
    terminal.close()
    assert "[bold]" in seen.replace("\r\n", "")
    assert "\x1b]0;" not in seen


def test_a_damaged_conversation_does_not_hide_the_others(project: Project, here: Run) -> None:
    """An entry that cannot be read makes one row `unreadable`; its stack says which entry it is, exit 1."""
    say(here, "good", PARIS, agent="agent_alpha")
    say(here, "bad", PARIS, agent="agent_alpha")
    with sqlite3.connect(project.folder / ".p2engine/store.db") as db:
        db.execute("UPDATE log SET body = x'00' WHERE cursor = (SELECT max(cursor) FROM log WHERE seq IS NOT NULL)")
    db.close()

    rows = here("conversation", "list", "--json").document
    stack = here("conversation", "stack", "bad")

    assert {row["name"]: row["status"] for row in rows} == {"good": "finished", "bad": "unreadable"}
    assert stack.status == 1
    assert "cannot be read" in stack.err


# Time travel


def test_rewind_keeps_the_old_path(here: Run) -> None:
    """Rewinding makes a new branch the current one, named after where it was cut; the old one keeps its entries."""
    say(here, "demo", PARIS, "hello", agent="agent_alpha")

    done = here("conversation", "rewind", "demo", "8", "--branch", "--json")
    branches = here("conversation", "branches", "demo", "--json").document

    assert done.document == {
        "conversation": "demo",
        "branch": "main~8",
        "parent": "main",
        "asked": 9,
        "at": 9,
        "moved_back": False,
        "current": True,
        "left_behind": [],
    }
    assert [list(row) for row in branches] == [BRANCH, BRANCH]
    assert [(row["name"], row["entries"], row["current"]) for row in branches] == [
        ("main", 13, False),
        ("main~8", 9, True),
    ]
    assert states(here, "demo")[-1] == "Finished"
    assert len(states(here, "demo", "--branch", "main")) == 13


def test_a_negative_index_counts_from_the_end(here: Run) -> None:
    """`rewind demo -5` needs no `--`, and stands beside options before and after it."""
    say(here, "demo", PARIS, "hello", agent="agent_alpha")
    assert here("conversation", "rewind", "demo", "-5", "--json").document["at"] == 9
    assert here("conversation", "rewind", "--json", "demo", "-1").document["at"] == 9
    assert here("conversation", "fork", "demo", "-1", "side", "--json").document["at"] == 9


def test_automatic_names_count_up_and_a_name_may_be_given(here: Run) -> None:
    """`main~8`, then `main~8.2`; `--name` names it; a name that is taken is refused and changes nothing."""
    say(here, "demo", PARIS, agent="agent_alpha")

    names = []
    for more in ([], [], ["--name", "colder 🧊"]):
        names.append(here("conversation", "rewind", "demo", "8", "--json", *more).document["branch"])
        here("conversation", "checkout", "demo", "main")
    taken = here("conversation", "rewind", "demo", "8", "--name", "colder 🧊")

    assert names == ["main~8", "main~8.2", "colder 🧊"]
    assert taken.status == 2
    assert "colder" in taken.err
    current = [row["name"] for row in here("conversation", "branches", "demo", "--json").document if row["current"]]
    assert current == ["main"]


@pytest.mark.parametrize("index", ["9", "-10", "999999999999999999999"])
def test_an_index_that_is_not_there_is_refused(index: str, here: Run) -> None:
    """Past either end: exit 2, and what there is."""
    say(here, "demo", PARIS, agent="agent_alpha")
    done = here("conversation", "rewind", "demo", index)
    assert done.status == 2
    assert "0…8" in done.err
    assert len(here("conversation", "branches", "demo", "--json").document) == 1


def test_an_index_that_is_no_number_is_refused(here: Run) -> None:
    """A misspelt option does not pass for a number."""
    say(here, "demo", PARIS, agent="agent_alpha")
    for words in (("demo", "two"), ("demo", "--nmae", "x"), ("demo",)):
        assert here("conversation", "rewind", *words).status == 2


def test_a_cut_inside_an_open_wait_moves_back_and_says_so(here: Run) -> None:
    """Entry 4 waits for a tool: the rewind goes back to the message before, and says where it is."""
    say(here, "demo", PARIS, agent="agent_alpha")

    done = here("conversation", "rewind", "demo", "4")

    assert done.status == 0
    assert "entry 4 lies inside a wait that is still open there: moved back, it begins after entry 1" in done.out
    assert states(here, "demo") == ["Override", "UserMessage"]
    assert here("conversation", "show", "demo", "--json").document["status"] == "stopped"


def test_where_a_branch_begins_is_said_by_index(here: Run) -> None:
    """INDEX, as `stack` prints it, in every place: the rewind, the fork, the branches, and the title of the stack."""
    say(here, "demo", PARIS, PARIS, agent="agent_alpha")

    assert "on branch main~8, after entry 8 of main\n" in here("conversation", "rewind", "demo", "8").out
    assert here("conversation", "fork", "demo", "8", "side").out == "made branch side, after entry 8 of main~8\n"
    rows = [line.split("  ") for line in here("conversation", "branches", "demo").out.splitlines()]
    assert any("main after entry 8" in row for row in rows)
    assert any("main~8 after entry 8" in row for row in rows)
    assert (
        "agent_alpha on side, from main~8 after entry 8"
        in here("conversation", "stack", "demo", "--branch", "side").err
    )


def test_no_tools_are_none_and_a_rating_names_its_turn(here: Run) -> None:
    """An override without tools reads `tools=none`; a rating says of which turn it is."""
    say(here, "demo", PARIS, PARIS, agent="agent_alpha")
    here("config", "set-tools", "demo", "")

    assert "overrides   tools=none\n" in here("conversation", "show", "demo").out
    assert "tools=none" in here("conversation", "stack", "demo").out
    assert here("conversation", "rate", "demo", "bad", "--turn", "1").out == "rated turn 1 of demo: bad\n"
    assert here("conversation", "rate", "demo", "0.25").out == "rated turn 2 of demo: 0.25\n"


@pytest.mark.parametrize(
    "words",
    [
        ("conversation", "show"),
        ("conversation", "rewind", "0"),
        ("conversation", "watch"),
        ("conversation", "export"),
        ("config", "show-overrides"),
        ("artifact", "show"),
    ],
)
def test_a_name_that_is_mistyped_is_answered_with_the_nearest(words: tuple[str, ...], here: Run) -> None:
    """Exit 2, and what was probably meant."""
    say(here, "shopping", PARIS, agent="agent_alpha")
    group, command, *more = words

    done = here(group, command, "shoping", *more)

    assert done.status == 2
    assert done.err.startswith("error: no conversation 'shoping' (did you mean 'shopping'?)\n")


def test_side_effects_that_are_left_behind_are_listed(project: Project, here: Run) -> None:
    """What was paid after the cut stays paid, and the rewind says so; what only looked is not listed."""
    keeper(project)
    say(here, "demo", "hello", "pay bob", "what's the weather in Paris?")

    done = here("conversation", "rewind", "demo", "4", "--json").document
    again = here("conversation", "checkout", "demo", "main")

    assert len(done["left_behind"]) == 1
    assert done["left_behind"][0].startswith('pay({"to":"bob"})')
    assert again.status == 0
    assert 'pay({"to":"bob"})' in here("conversation", "rewind", "demo", "4").out


def test_a_fork_leaves_the_current_branch(here: Run) -> None:
    """A fork makes a branch and stays where it is; checkout goes there, and the next turn stands on it alone."""
    say(here, "demo", PARIS, agent="agent_alpha")

    done = here("conversation", "fork", "demo", "8", "side", "--json").document
    before = here("conversation", "show", "demo", "--json").document["branch"]
    moved = here("conversation", "checkout", "demo", "si", "--json").document
    say(here, "demo", TOKYO, agent="agent_alpha")

    assert (done["branch"], done["current"], before) == ("side", False, "main")
    assert moved == {"conversation": "demo", "branch": "side", "from": "main", "moved": True}
    assert len(states(here, "demo", "--branch", "main")) == 9
    assert len(states(here, "demo", "--branch", "side")) > 9
    assert "already" in here("conversation", "checkout", "demo", "side").out


def test_a_delegates_branch_cannot_be_talked_to(here: Run) -> None:
    """Branches of delegations are listed when asked for, and cannot be checked out."""
    say(here, "demo", TOKYO, agent="agent_alpha")
    rows = here("conversation", "branches", "demo", "--delegates", "--json").document
    child = next(row["name"] for row in rows if row["agent"] == "agent_helper")

    done = here("conversation", "checkout", "demo", child)

    assert [row["name"] for row in here("conversation", "branches", "demo", "--json").document] == ["main"]
    assert done.status == 2
    assert "delegation" in done.err


# A turn that runs


def test_a_running_turn_is_seen_and_cancelled_from_another_process(project: Project, here: Run, gate: Gate) -> None:
    """While another process waits for a model the status is `running`; cancel ends the turn there."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello", "--json") as process:
            assert gate.asked.wait(TIMEOUT_S)
            running = here("conversation", "show", "demo", "--json").document["status"]
            cancelled = here("conversation", "cancel", "demo", "--json").document
            out, _ = process.communicate(timeout=TIMEOUT_S)
        gate.opened.set()

    assert running == "running"
    assert cancelled == {"conversation": "demo", "branch": "main", "cancelled": True}
    assert json.loads(out)["finished"] == "cancelled"
    assert here("conversation", "show", "demo", "--json").document["status"] == "cancelled"
    assert here("conversation", "cancel", "demo", "--json").document["cancelled"] is False


def test_a_turn_whose_process_died_is_stopped(project: Project, here: Run, gate: Gate) -> None:
    """After kill −9 nobody does what is owed: the status is `stopped`."""
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello") as process:
            assert gate.asked.wait(TIMEOUT_S)
            process.kill()
            process.communicate(timeout=TIMEOUT_S)
        gate.opened.set()

    assert here("conversation", "list", "--json").document[0]["status"] == "stopped"


@pytest.mark.parametrize(("more", "ended"), [((), "cancelled"), (("--keep-running",), None)])
def test_what_runs_on_the_branch_that_is_left_is_cancelled_unless_kept(
    more: tuple[str, ...], ended: str | None, project: Project, here: Run, gate: Gate
) -> None:
    """Rewinding away from a running turn cancels it; with --keep-running it goes on."""
    say(here, "demo", PARIS, agent="agent_alpha")
    with OpenAIServer(gate) as server:
        project.configure(llm={"api_base": server.base_url})
        with project.process("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello", "--json") as process:
            assert gate.asked.wait(TIMEOUT_S)
            here("conversation", "rewind", "demo", "8", *more)
            gate.opened.set()
            out, _ = process.communicate(timeout=TIMEOUT_S)

    assert json.loads(out)["finished"] == (ended or "answered")


# Rating


@pytest.mark.parametrize(("rating", "score"), [("good", 1.0), ("bad", 0.0), ("0.25", 0.25), ("1", 1.0)])
def test_a_rating_is_a_verdict_by_a_human(rating: str, score: float, here: Run) -> None:
    """It names the answer it judges, and stands in the log."""
    say(here, "demo", PARIS, "hello", agent="agent_alpha")

    verdict = here("conversation", "rate", "demo", rating, "--turn", "1", "--note", "well [done]", "--json").document
    logged = here("artifact", "show", "demo", "--kind", "eval", "--full", "--json").document[0]

    assert (verdict["evaluator"], verdict["score"], verdict["comment"]) == ("human", score, "well [done]")
    assert verdict["subject"].endswith(":7")
    assert logged["cause"] == verdict["subject"]
    assert logged["body"]["evaluator"] == "human"


@pytest.mark.parametrize("rating", ["meh", "2", "-1", "nan", "inf", ""])
def test_a_rating_that_is_none_is_refused(rating: str, here: Run) -> None:
    """Only good, bad and 0 to 1."""
    say(here, "demo", PARIS, agent="agent_alpha")
    assert here("conversation", "rate", "demo", rating).status == 2


def test_a_turn_without_an_answer_cannot_be_rated(here: Run) -> None:
    """The number of turns there are is said."""
    say(here, "demo", PARIS, agent="agent_alpha")
    done = here("conversation", "rate", "demo", "good", "--turn", "7")
    assert done.status == 2
    assert "1…1" in done.err


# Watching


def watched(project: Project, *more: str) -> Any:
    return project.process("conversation", "watch", "demo", "--json", *more)


def test_failure_30_watch_follows_what_other_processes_write(project: Project, here: Run) -> None:
    """Started in between, it shows each event as it is written elsewhere, as JSON lines, until Ctrl-C."""
    say(here, "demo", PARIS, agent="agent_alpha")
    with watched(project, "--from-start") as process:
        seen = [json.loads(process.stdout.readline())]
        say(here, "demo", TOKYO, agent="agent_alpha")
        while seen[-1]["kind"] != "state.agent_result":
            seen.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 130
    kinds = [event["kind"] for event in seen]
    assert kinds[0] == "conversation.opened"
    assert kinds.count("state.user_message") == 3
    assert len({event["cursor"] for event in seen}) == len(seen)


def test_failure_17_a_watch_goes_on_after_a_cursor_without_gaps(project: Project, here: Run) -> None:
    """Two watches, the second after the last cursor of the first, see together what one sees that missed nothing."""
    say(here, "demo", PARIS, agent="agent_alpha")
    exported = [json.loads(line) for line in here("conversation", "export", "demo").out.splitlines()]
    middle = exported[len(exported) // 2]["cursor"]

    with watched(project, "--after", middle) as process:
        rest = [json.loads(process.stdout.readline()) for _ in exported[len(exported) // 2 + 1 :]]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)

    assert [event["ref"] for event in rest] == [event["ref"] for event in exported[len(exported) // 2 + 1 :]]


def test_watch_prints_plain_lines_for_people(project: Project, here: Run) -> None:
    """Time, whose stack, what, in words; escape sequences are text."""
    say(here, "demo", EVIL, agent="agent_alpha")
    with project.process("conversation", "watch", "demo", "--from-start") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=TIMEOUT_S)

    assert "agent_alpha@main #1  UserMessage  \\x1b[31mred" in lines[2]
    assert "--after" in err


@pytest.mark.parametrize("cursor", ["x", "-1", "1.x", "99999999999999999999999", ""])
def test_a_cursor_that_is_none_is_refused(cursor: str, here: Run) -> None:
    """Exit 2 before anything is followed."""
    say(here, "demo", PARIS, agent="agent_alpha")
    assert here("conversation", "watch", "demo", "--after", cursor).status == 2


@pytest.mark.parametrize("command", ["tree", "diff", "merge", "replay", "tell", "pause"])
def test_commands_of_later_versions_are_refused_by_name(command: str, here: Run) -> None:
    """What is not built is not there, and says so."""
    done = here("conversation", command, "demo")
    assert done.status == 2
    assert f"not available in this version: conversation {command}" in done.err


def test_a_letter_or_two_stand_for_no_id(here: Run) -> None:
    """A name or the beginning of one finds; of a uid it takes four letters, so that no word is a branch by chance."""
    say(here, "demo", PARIS, agent="agent_alpha")
    listed = here("conversation", "show", "demo", "--json").document
    uid = here("conversation", "list", "--json").document[0]["id"]
    refs = [event["ref"] for event in here("artifact", "show", "demo", "--json").document]
    branch = next(ref.partition(":")[0] for ref in refs if ":" in ref)
    assert here("conversation", "show", "d", "--json").document == listed
    for short, whole in ((("conversation", "show"), uid), (("artifact", "why"), branch)):
        assert "no" in here(*short, whole[:3]).err
    done = here("conversation", "stack", "demo", "--branch", branch[:3])
    assert (done.status, done.out) == (2, "")
    assert here("conversation", "stack", "demo", "--branch", branch[:4]).status == 0
    assert here("conversation", "show", uid[:4], "--json").document == listed
