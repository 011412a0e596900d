"""Wrong names, indexes and files, as a caller of the engine and a person at a command line give them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from p2engine.domain.decisions import Move, UseTool
from p2engine.domain.records import Branch
from p2engine.domain.states import AssistantMessage, Finished, UserMessage
from p2engine.errors import NameTaken, UsageError
from p2engine.limits import NAME_BYTES_MAX
from p2engine.ports import AgentView
from p2engine.runtime.branches import Forked
from p2engine.runtime.conversation import Conversation
from tests.cli.project import Project, Run
from tests.runtime.conftest import Gate, Stage, states_of

TEN_KB = "x" * 10_240
GOOD = ["two words", "a/b/../c", "/", "🚀 émoji", "--name", "x" * NAME_BYTES_MAX, "'; DROP TABLE log; --", "[red]"]
NONE = ["", " ", "\t\n", "a\0b", "\0", TEN_KB, "🚀" * 31, "a\x1b[31m", "\ud800", "a\u202eb"]


async def hello(view: AgentView) -> str:
    return f"heard {len(view.fragments)}"


# Names


@pytest.mark.parametrize("name", GOOD, ids=range(len(GOOD)))
async def test_a_name_is_kept_as_it_is(name: str, stage: Stage) -> None:
    """A conversation and a branch of that name are made once, found again, and spoken to."""
    engine = stage.engine({"boss": hello})
    conversation = await engine.conversation(name, agent="boss")
    await conversation.say("one")
    again = await engine.conversation(name)
    assert (again.record.id, again.name) == (conversation.record.id, name)
    assert (await conversation.fork(-1, name)).branch.name == name
    assert (await conversation.checkout(name)).name == name
    assert (await again.say("two")).branch == name
    assert (await again.say("three", branch="main")).branch == "main"


@pytest.mark.parametrize("name", NONE, ids=range(len(NONE)))
async def test_a_name_that_is_none_is_refused_in_a_line(name: str, stage: Stage) -> None:
    """Empty, blank, with control characters, too long, or no text: nothing is made, whatever it was to name."""
    engine = stage.engine({"boss": hello})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("one")
    before = await stage.events()
    tries: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: engine.conversation(name),
        lambda: engine.conversation(name, agent="boss"),
        lambda: engine.conversation(agent=name),
        lambda: conversation.fork(0, name),
        lambda: conversation.rewind(0, name=name) if name else conversation.fork(0, name),
        lambda: conversation.checkout(name),
        lambda: conversation.say("two", branch=name),
    )
    for attempt in tries:
        with pytest.raises(UsageError) as refused:
            await attempt()
        assert len(refused.value.message) < 200
        assert refused.value.message.isprintable()
    assert await stage.events() == before
    assert (await conversation.say("two")).text == "heard 3"


async def test_a_conversation_that_is_not_there_is_not_made_by_asking(stage: Stage) -> None:
    """Without an agent an unknown name is an error; with one it is made, and the second time found."""
    engine = stage.engine({"boss": hello, "ann": hello})
    with pytest.raises(UsageError, match="no conversation 'demo'"):
        await engine.conversation("demo")
    assert await engine.conversations() == []
    made = await asyncio.gather(*(engine.conversation("demo", agent="boss") for _ in range(5)))
    assert len({conversation.record.id for conversation in made}) == 1
    assert len(await engine.conversations()) == 1


async def test_a_branch_name_that_is_taken_is_refused(stage: Stage) -> None:
    """By fork and by rewind, at once or one after the other: one has it, and the current branch stays what it was."""
    conversation = await stage.engine({"boss": hello}).conversation("demo", agent="boss")
    await conversation.say("one")
    for attempt in (conversation.fork(0, "main"), conversation.rewind(0, name="main")):
        with pytest.raises(NameTaken, match="'main'"):
            await attempt
    racing = await asyncio.gather(*(conversation.fork(0, "side") for _ in range(5)), return_exceptions=True)
    assert sorted(type(one).__name__ for one in racing) == ["Forked"] + ["NameTaken"] * 4
    with pytest.raises(NameTaken):
        await conversation.rewind(0, name="side")
    assert [branch.name for branch in await conversation.branches()] == ["main", "side"]
    assert (await conversation.say("two")).branch == "main"


@pytest.mark.parametrize("words", [("fork", "demo", "1", "main"), ("rewind", "demo", "1", "--name", "main")])
def test_a_taken_branch_name_is_told_in_a_line(words: tuple[str, ...], here: Run) -> None:
    """Exit status 2, the name, and nothing changed."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello")
    done = here("conversation", *words)
    assert (done.status, done.out) == (2, "")
    assert "there is a branch 'main'" in done.err
    assert len(done.err.splitlines()) <= 2
    assert len(here("conversation", "branches", "demo", "--json").document) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("chat", "with", "agent_alpha", "--name", TEN_KB, "-m", "hi"),
        ("chat", "resume", TEN_KB),
        ("chat", "with", TEN_KB, "-m", "hi"),
        ("conversation", "show", TEN_KB),
        ("conversation", "checkout", "demo", TEN_KB),
        ("conversation", "stack", "demo", "--branch", TEN_KB),
        ("conversation", "stack", "demo", "--agent", TEN_KB),
        ("conversation", "fork", "demo", "0", TEN_KB),
        ("conversation", "rewind", "demo", "0", "--name", TEN_KB),
        ("config", "set-behavior", "demo", TEN_KB),
        ("config", "set-tools", "demo", TEN_KB),
        ("config", "set-override", "demo", f"{TEN_KB}=1"),
        ("artifact", "cat", TEN_KB),
        ("artifact", "why", TEN_KB),
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_ten_kilobytes_are_not_said_back(words: tuple[str, ...], here: Run) -> None:
    """A name of 10 kB is refused with exit status 1 or 2, in a line that can be read."""
    here("chat", "with", "agent_alpha", "--name", "demo", "-m", "hello")
    done = here(*words)
    assert done.status in (1, 2)
    assert 0 < len(done.err) < 600
    assert "Traceback" not in done.err


# Rewinding


async def test_every_index_is_an_entry_or_an_error(stage: Stage) -> None:
    """−1 and the end keep everything; past either end is refused with what there is; each cut can be gone on from."""
    conversation = await stage.engine({"boss": hello}).conversation("demo", agent="boss")
    with pytest.raises(UsageError, match="no entries yet"):
        await conversation.rewind(-1)
    await conversation.say("one")
    await conversation.say("two")
    head = (await conversation.stack()).head
    for index in (-1, head - 1):
        forked = await conversation.rewind(index)
        assert (forked.asked, forked.at, forked.left_behind) == (head, head, ())
        assert (await conversation.say("three")).text == "heard 5"
        await conversation.checkout("main")
    for index in (head, head + 1, -head - 1, 10**30, -(10**30)):
        with pytest.raises(UsageError, match=f"it has {head} entries, 0…{head - 1}"):
            await conversation.rewind(index)
    assert (await conversation.branch()).name == "main"
    for index in range(head):
        kept = (await conversation.rewind(index)).at
        said = [type(state) for state in await states_of(conversation)].count
        assert (await conversation.say("again")).text == f"heard {said(UserMessage) + said(AssistantMessage) + 1}"
        assert kept <= index + 1
        await conversation.checkout("main")


@pytest.mark.parametrize("keep_running", [False, True])
async def test_a_cut_inside_a_wait_that_is_open_now(keep_running: bool, stage: Stage) -> None:
    """It moves back to where nothing is open; the turn that runs is cancelled, or goes on on its own branch."""
    gate = Gate()

    async def boss(view: AgentView) -> Sequence[Move] | str:
        if view.fragments[-1].message.text == "wait":
            await gate.pass_through()
        return f"answer to {view.fragments[-1].message.text}"

    conversation = await stage.engine({"boss": boss}).conversation("demo", agent="boss")
    await conversation.say("hello")
    head = (await conversation.stack()).head
    saying = asyncio.ensure_future(conversation.say("wait"))
    await gate.reached.wait()

    forked = await conversation.rewind(-1, keep_running=keep_running)
    assert (forked.asked, forked.at) == (head + 2, head + 1)  # the message stays, the wait for its answer does not
    assert (await conversation.branch()).ref == forked.branch.ref
    assert await stage.store.owed(forked.branch.ref) == []
    assert (await conversation.say("instead")).text == "answer to instead"
    gate.open.set()
    assert (await saying).finished == ("answered" if keep_running else "cancelled")
    left = [state for state in await states_of(conversation, branch="main") if isinstance(state, Finished)]
    assert [state.reason for state in left] == ["answered", "answered" if keep_running else "cancelled"]


async def test_a_cut_between_a_call_and_its_result(stage: Stage) -> None:
    """Wherever in a turn with a tool the cut falls, a call is never kept without its result."""
    looked: list[int] = []

    async def look(arguments: object, ctx: object) -> str:
        looked.append(1)
        return "seen"

    async def boss(view: AgentView) -> Sequence[Move] | str:
        return [UseTool("look")] if view.fragments[-1].message.role == "user" else "done"

    conversation = await stage.engine({"boss": boss}, {"look": look}).conversation("demo", agent="boss")
    await conversation.say("go")
    head = (await conversation.stack()).head
    for index in range(head):
        forked: Forked = await conversation.rewind(index)
        shown = [piece.message for piece in (await conversation.stack()).fragments]
        calls = {use.call_id for message in shown for use in message.calls}
        assert calls == {message.call_id for message in shown if message.role == "tool"}
        assert (await conversation.say("go on")).finished == "answered"
        assert forked.at <= forked.asked == index + 1
        await conversation.checkout("main")
    assert len(looked) == 1 + head


# Two terminals


async def test_two_terminals_on_one_conversation(stage: Stage) -> None:
    """Both talk at once, one of them rewinds meanwhile: every message is answered on the branch it was said on."""
    engines = [stage.engine({"boss": hello}) for _ in range(2)]
    one, two = [await engine.conversation("demo", agent="boss") for engine in engines]

    async def chat(terminal: Conversation, name: str) -> list[str]:
        return [(await terminal.say(f"{name}{number}")).branch for number in range(5)]

    async with asyncio.timeout(30):
        await asyncio.gather(chat(one, "a"), chat(two, "b"))
        forked = await one.rewind(1)
        assert set(await chat(two, "c")) == {forked.branch.name}
    said = [state.text for state in await states_of(two, branch="main") if isinstance(state, UserMessage)]
    assert sorted(said) == sorted(f"{name}{number}" for name in "ab" for number in range(5))
    branches: Sequence[Branch] = await two.branches()
    assert [branch.name for branch in branches] == ["main", "main~1"]


# Files of a project

TOOL = """\
from p2engine import function_tool

@function_tool
def {name}() -> str:
    "Say where this is."
    return "{says}"
"""


def test_a_tool_file_with_a_syntax_error_does_not_stop_the_others(project: Project, here: Run) -> None:
    """A chat begins all the same: the file and its line are named on standard error, the other files' tools run."""
    project.write("tools/bad.py", "x = 1\ndef broken(:\n")
    project.write("tools/good.py", TOOL.format(name="good", says="from good.py"))
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    tools: [good]\n")
    done = here("chat", "with", "alpha", "-m", "Use good with {}")

    assert done.status == 0
    assert "from good.py" in done.out
    told = [line for line in done.err.splitlines() if "bad.py" in line]
    assert told == ["tools/bad.py:2: SyntaxError: invalid syntax"]


def test_two_tools_of_one_name_are_named_and_the_first_is_taken(project: Project, here: Run) -> None:
    """One line names both places; the agent has the first, whichever was written last."""
    project.write("tools/b.py", TOOL.format(name="same", says="second"))
    project.write("tools/a.py", TOOL.format(name="same", says="first"))
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    tools: [same]\n")
    done = here("chat", "with", "alpha", "-m", "Use same with {}")

    assert done.status == 0
    assert "first" in done.out
    (line,) = [line for line in done.err.splitlines() if "two tools are named 'same'" in line]
    assert str(Path("tools/a.py")) in line
    assert str(Path("tools/b.py")) in line


def test_a_persona_whose_tool_is_missing_is_named_and_answers(project: Project, here: Run) -> None:
    """Agent, persona and tool stand in one line with the file; the agent speaks without it."""
    project.write("config/agents.yml", "agents:\n  - id: alpha\n    behavior_template: weather_expert\n")
    done = here("chat", "with", "alpha", "-m", "hello")

    assert done.status == 0
    (line,) = [line for line in done.err.splitlines() if "weather_expert" in line]
    assert line.startswith("config/agents.yml:2: ")
    assert "alpha" in line
    assert "get_weather" in line
