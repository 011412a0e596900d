"""Events and artifacts as the command line shows them, and the way back from each to the message that started it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2engine.domain.ids import blob_ref
from p2engine.testing.server import OpenAIServer, showcase
from tests.cli.project import Project, Run
from tests.cli.scenes import EVIL, PARIS, TOKYO, keeper, say

ROW = ["ref", "at", "kind", "agent", "branch", "cause", "bytes", "summary"]


def shown(run: Run, name: str, *more: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run("artifact", "show", name, "--json", *more).document
    return rows


def last(run: Run, name: str, kind: str) -> str:
    """The ref of the newest event of a kind."""
    ref: str = shown(run, name, "--kind", kind, "--limit", "1")[0]["ref"]
    return ref


# show


def test_events_and_saved_artifacts_stand_in_one_list(project: Project, here: Run) -> None:
    """Each row has the keys of the contract; an artifact has the bytes of its content."""
    keeper(project)
    say(here, "demo", "save report.md héllo")

    rows = shown(here, "demo")

    assert [list(row) for row in rows] == [ROW] * len(rows)
    saved = next(row for row in rows if row["kind"] == "artifact.saved")
    assert saved["bytes"] == len("héllo".encode())
    assert saved["summary"].startswith("report.md ")
    assert rows[0]["kind"] == "conversation.opened"


@pytest.mark.parametrize(
    ("kind", "kinds"),
    [
        ("model", {"model.reply"}),
        ("tool_call", {"state.tool_call"}),
        ("ToolCall", {"state.tool_call"}),
        ("state.finished", {"state.finished"}),
        ("conversation", {"conversation.opened"}),
    ],
)
def test_a_kind_chooses(kind: str, kinds: set[str], here: Run) -> None:
    """A family, a state's name as it is stored or read, or a kind in full."""
    say(here, "demo", PARIS, agent="agent_alpha")
    assert {row["kind"] for row in shown(here, "demo", "--kind", kind)} == kinds


def test_the_newest_are_kept_and_the_limit_is_said(here: Run) -> None:
    """`--limit` keeps the newest; people are told that there may be more."""
    say(here, "demo", PARIS, agent="agent_alpha")
    rows = shown(here, "demo", "--limit", "1000")

    assert shown(here, "demo", "--limit", "3") == rows[-3:]
    assert "the newest 3" in here("artifact", "show", "demo", "--limit", "3").err


def test_a_time_chooses(here: Run) -> None:
    """`--since` takes ISO 8601 or how long ago; what is no time is refused."""
    say(here, "demo", PARIS, agent="agent_alpha")
    rows = shown(here, "demo")

    assert shown(here, "demo", "--since", "1h") == rows
    assert shown(here, "demo", "--since", "2099-01-01") == []
    assert shown(here, "demo", "--since", rows[0]["at"])[-1] == rows[-1]
    assert here("artifact", "show", "demo", "--since", "yesterday").status == 2


def test_a_branch_chooses_what_lies_on_its_path(here: Run) -> None:
    """Entries before the cut, delegations under them, and what came after on that branch: nothing of the other."""
    say(here, "demo", PARIS, TOKYO, agent="agent_alpha")
    here("conversation", "rewind", "demo", "8", "--name", "other")
    say(here, "demo", "What's the weather in Oslo?", agent="agent_alpha")

    main = shown(here, "demo", "--branch", "main")
    other = shown(here, "demo", "--branch", "other")

    assert any("Tokyo" in row["summary"] and row["agent"] == "agent_helper" for row in main)
    assert not any("Oslo" in row["summary"] for row in main)
    assert not any("Tokyo" in row["summary"] for row in other)
    assert any("Oslo" in row["summary"] for row in other)
    assert any("Paris" in row["summary"] for row in other)
    assert sum(row["kind"] == "model.reply" for row in other) == 4


def test_a_request_is_rebuilt_exactly(project: Project, here: Run) -> None:
    """`--kind model --full` gives what the server was sent, byte for byte, and its hash holds."""
    with OpenAIServer(showcase) as server:
        project.configure(llm={"api_base": server.base_url})
        say(here, "demo", PARIS, TOKYO, agent="agent_alpha")
        here("config", "set-override", "demo", "temperature=0.25", "max_tokens=50")
        say(here, "demo", PARIS, agent="agent_alpha")
        sent = [request.body for request in server.requests]

    rows = shown(here, "demo", "--kind", "model", "--full")

    assert [row["hash_ok"] for row in rows] == [True] * len(sent)
    for row, body in zip(rows, sent, strict=True):
        request = row["request"]
        assert request["messages"] == body["messages"]
        assert request["tools"] == body.get("tools", [])
        assert request.get("temperature") == body.get("temperature")
    assert rows[-1]["request"]["temperature"] == 0.25


def test_an_unknown_kind_is_refused_with_the_nearest(here: Run) -> None:
    """A kind that means nothing is no empty list."""
    say(here, "demo", PARIS, agent="agent_alpha")
    done = here("artifact", "show", "demo", "--kind", "tol_call")
    assert done.status == 2
    assert "did you mean tool_call?" in done.err


# cat, diff, save


def test_an_artifact_is_printed_by_name_or_reference(project: Project, here: Run) -> None:
    """By CONVERSATION/NAME the newest of that name, by its event's id that one, by its content hash the body."""
    keeper(project)
    say(here, "a/b", "save notes/x.md old", "save notes/x.md new")
    old, new = [row["ref"] for row in shown(here, "a/b", "--kind", "artifact")]

    assert here("artifact", "cat", "a/b/notes/x.md").out == "new\n"
    assert here("artifact", "cat", old).out == "old\n"
    assert here("artifact", "cat", blob_ref(b"old")).out == "old\n"
    document = here("artifact", "cat", new, "--json").document
    assert (document["name"], document["content"], document["bytes"]) == ("notes/x.md", "new", 3)


def test_an_artifact_is_the_one_of_the_current_branch(project: Project, here: Run) -> None:
    """After a rewind the name means what it meant at that point."""
    keeper(project)
    say(here, "demo", "save x old", "save x new")
    end_of_first = next(
        row["index"] for row in here("conversation", "stack", "demo", "--json").document if row["state"] == "Finished"
    )
    here("conversation", "rewind", "demo", str(end_of_first))
    assert here("artifact", "cat", "demo/x").out == "old\n"


def test_an_event_is_found_by_its_id_or_a_unique_beginning(here: Run) -> None:
    """The whole id; the beginning of a branch with an index; the id of a fact cut short; the effect in a cause."""
    say(here, "demo", PARIS, agent="agent_alpha")
    call, opened = last(here, "demo", "tool_call"), last(here, "demo", "conversation")
    branch, _, index = call.partition(":")

    whole = here("artifact", "cat", call, "--json").document
    assert whole["body"]["tool"] == "get_weather"
    assert here("artifact", "cat", f"{branch[:6]}:{index}", "--json").document == whole
    assert here("artifact", "cat", f"{branch}:{int(index) + 1}.0", "--json").document == whole
    assert here("artifact", "cat", opened[:-1], "--json").document["kind"] == "conversation.opened"


@pytest.mark.parametrize(
    "ref",
    [
        "nonsense",
        "",
        "000000000000:0",
        "demo/none.md",
        "b2:" + "0" * 32,
        "../../etc/passwd",
        "/",
        "0" * 12 + ":" + "9" * 5000,
        "a" * 10_000,
    ],
)
def test_what_is_not_there_is_said(ref: str, here: Run) -> None:
    """A reference to nothing: one or two lines, never a traceback."""
    say(here, "demo", PARIS, agent="agent_alpha")
    done = here("artifact", "cat", ref)
    assert done.status in (1, 2)
    assert done.out == ""
    assert 1 <= len(done.err.splitlines()) <= 2


def test_a_beginning_of_several_is_ambiguous(here: Run) -> None:
    """The beginning of a branch alone begins all its entries: they are not guessed among."""
    say(here, "demo", PARIS, agent="agent_alpha")
    branch = last(here, "demo", "tool_call").partition(":")[0]
    done = here("artifact", "cat", branch[:8])
    assert done.status == 2
    assert "ambiguous" in done.err


def test_failure_25_bodies_are_shown_as_text(project: Project, here: Run) -> None:
    """Escape sequences in an artifact are written out by cat; save keeps them."""
    keeper(project)
    say(here, "demo", f"save evil {EVIL}")
    target = project.folder / "evil.bin"

    for words in (
        ("show", "demo"),
        ("show", "demo", "--full"),
        ("cat", "demo/evil"),
        ("why", last(here, "demo", "artifact")),
    ):
        done = here("artifact", *words)
        assert done.status == 0
        assert "\x1b" not in done.out + done.err
    assert "[bold]x[/bold]" in here("artifact", "cat", "demo/evil").out
    here("artifact", "save", "demo/evil", str(target))
    assert target.read_bytes() == EVIL.encode()


def test_two_bodies_are_compared_line_by_line(project: Project, here: Run) -> None:
    """A unified diff; equal bodies have none."""
    keeper(project)
    say(here, "demo", "save a one\ntwo\n", "save b one\n2\n")

    done = here("artifact", "diff", "demo/a", "demo/b")
    same = here("artifact", "diff", "demo/a", "demo/a", "--json").document

    assert done.out.splitlines() == ["--- demo/a", "+++ demo/b", "@@ -1,2 +1,2 @@", " one", "-two", "+2"]
    assert (same["equal"], same["diff"]) == (True, [])


def test_saving_does_not_overwrite(project: Project, here: Run) -> None:
    """A file that is there is kept, exit 2; with --force it is replaced; a folder is no file."""
    keeper(project)
    say(here, "demo", "save x new")
    target = project.write("kept.txt", "mine")

    refused = here("artifact", "save", "demo/x", str(target))
    assert (refused.status, target.read_text()) == (2, "mine")
    assert "--force" in refused.err
    assert here("artifact", "save", "demo/x", str(target), "--force").status == 0
    assert target.read_text() == "new"
    assert here("artifact", "save", "demo/x", str(project.folder)).status == 2


def test_failure_26_a_name_from_a_model_is_no_path(project: Project, here: Run) -> None:
    """Saving writes where the person said and nowhere else, whatever the artifact is called."""
    keeper(project)
    say(here, "demo", "save deep/er/x.md content")
    before = {path for path in project.folder.rglob("*") if ".p2engine" not in path.parts}

    here("artifact", "save", "demo/deep/er/x.md", str(project.folder / "here.txt"))

    after = {path for path in project.folder.rglob("*") if ".p2engine" not in path.parts}
    assert after - before == {project.folder / "here.txt"}


# why


def test_why_leads_from_an_answer_to_the_message_through_a_delegate(here: Run) -> None:
    """Answer, what the helper said, its tool, its task, the delegation, the message, a person."""
    say(here, "demo", PARIS, TOKYO, agent="agent_alpha")

    rows = here("artifact", "why", last(here, "demo", "finished"), "--json").document

    assert [(row["agent"], row["kind"].removeprefix("state.")) for row in rows] == [
        ("agent_alpha", "finished"),
        ("agent_alpha", "agent_result"),
        ("agent_helper", "assistant_message"),
        ("agent_helper", "tool_result"),
        ("agent_helper", "tool_call"),
        ("agent_helper", "user_message"),
        ("agent_alpha", "agent_call"),
        ("agent_alpha", "user_message"),
    ]
    assert rows[-1]["summary"] == TOKYO
    assert rows[-1]["cause"] == "user"
    assert here("artifact", "why", rows[0]["ref"]).out.rstrip().endswith("← user")


def test_why_starts_anywhere(project: Project, here: Run) -> None:
    """From an artifact, from a rating, from a model call: always back to the message."""
    keeper(project)
    say(here, "demo", "hello", "save x content")
    here("conversation", "rate", "demo", "good")

    for kind, second in (("artifact", "tool_call"), ("eval", "assistant_message")):
        rows = here("artifact", "why", last(here, "demo", kind), "--json").document
        assert rows[1]["kind"] == f"state.{second}"
        assert (rows[-1]["kind"], rows[-1]["cause"]) == ("state.user_message", "user")
        assert rows[-1]["summary"] == "save x content"


def test_why_names_what_else_was_heard(project: Project, here: Run) -> None:
    """A model call that waited for two results was caused by both: the last leads on, the other stands beside it."""
    from p2engine.domain.messages import ToolUse
    from p2engine.testing.server import Reply

    calls = tuple(ToolUse(f"c{n}", "get_weather", {"location": city}) for n, city in enumerate(("Paris", "Oslo")))
    with OpenAIServer([Reply(text="", calls=calls), "done"]) as server:
        project.configure(llm={"api_base": server.base_url})
        say(here, "demo", "both", agent="agent_alpha")

    rows = here("artifact", "why", last(here, "demo", "finished"), "--json").document

    assert rows[1]["kind"] == "state.tool_result"
    assert len(rows[1]["also"]) == 1
    beside = here("artifact", "cat", rows[1]["also"][0], "--json").document
    assert beside["kind"] == "state.tool_result"
    assert beside["body"]["call_id"] != json.loads(json.dumps(rows[1]))["ref"]


def test_a_cause_before_a_fork_is_found(here: Run) -> None:
    """On a forked branch the way back goes on over the cut, on the branch that wrote it."""
    say(here, "demo", PARIS, agent="agent_alpha")
    here("conversation", "rewind", "demo", "1")
    here("chat", "resume", "demo", "--json", "-m", "hello")

    rows = here("artifact", "why", last(here, "demo", "finished"), "--json").document

    assert rows[-1]["kind"] == "state.user_message"
    assert rows[-1]["cause"] == "user"
