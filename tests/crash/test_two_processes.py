"""Two processes on one file: they share a conversation, take over from the dead, and leave the living alone."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.crash.actor import Start
from tests.crash.cast import traces


def texts(stack: list[Any], kind: str) -> list[str]:
    return [state["text"] for state in stack if state["k"] == kind]


async def test_failure_05_two_processes_speak_at_once(start: Start, tmp_path: Path) -> None:
    """Every message of both is heard once, in the order of the log, and each say returns the answer to its own."""
    one, two = await start(tmp_path), await start(tmp_path)

    async def chat(actor: Any, name: str) -> None:
        for number in range(8):
            reply = await actor.does("say", f"{name}{number}")
            assert f"{name}{number}" in reply["text"].split(" + ")
            assert reply["finished"] in ("answered", None)

    await asyncio.gather(chat(one, "a"), chat(two, "b"))
    burst = [actor.tell("say", f"{name}{n}") for n in range(8, 13) for actor, name in ((one, "a"), (two, "b"))]
    for number, reply in enumerate(await asyncio.gather(*burst)):
        assert f"{'ab'[number % 2]}{8 + number // 2}" in reply["text"].split(" + ")

    stack = await one.does("stack")
    said = texts(stack, "user_message")
    assert sorted(said) == sorted(f"{name}{number}" for name in "ab" for number in range(13))
    for name in "ab":
        assert [text for text in said if text[0] == name][:8] == [f"{name}{number}" for number in range(8)]
    heard = [word for text in texts(stack, "assistant_message") for word in text.split(" + ")]
    assert heard == said
    assert stack == await two.does("stack")
    assert await two.does("owed") == []


async def test_seam_04_say_follows_the_log(start: Start, tmp_path: Path) -> None:
    """A message to a turn that another process runs is answered by that process; the one that said it is told."""
    one, two = await start(tmp_path, gates=["think"]), await start(tmp_path)
    first = one.tell("say", "first")
    await one.reaches("think boss")
    second = two.tell("say", "second")
    await two.does("sees", "second")
    await one.does("open", "think")
    assert (await first)["text"] == "first"
    assert (await first)["finished"] is None
    assert (await second)["text"] == "second"
    assert (await second)["finished"] == "answered"
    assert not two.was_at("think boss")


async def test_failure_06_who_waits_is_answered_by_who_takes_over(start: Start, tmp_path: Path) -> None:
    """The owner of a turn is killed in a model call; another process, whose say and resume wait, ends it unasked."""
    one, two = await start(tmp_path, gates=["think"]), await start(tmp_path)
    one.tell("say", "first")
    await one.reaches("think boss")
    waiting = two.tell("resume")
    second = two.tell("say", "second")
    await two.does("sees", "second")
    await one.kill()
    async with asyncio.timeout(30):  # its sweeper finds out by itself
        assert (await waiting)["text"] == "first"
        assert (await second)["text"] == "second"
    assert texts(await two.does("stack"), "assistant_message") == ["first", "second"]
    assert await two.does("owed") == []


@pytest.mark.parametrize("tool", ["look", "book", "pay"])
async def test_seam_09_a_living_owner_is_never_robbed(start: Start, tmp_path: Path, tool: str) -> None:
    """However often others sweep, and though the owner is stopped, what it runs stays its own and runs once."""
    one, two = await start(tmp_path, gates=["tool"]), await start(tmp_path)
    reply = one.tell("say", f"use {tool}")
    await one.reaches(f"tool {tool}")
    assert await two.does("sweep") == 0
    one.process.send_signal(signal.SIGSTOP)
    waiting = two.tell("resume")
    assert [await two.does("sweep") for _ in range(5)] == [0] * 5
    one.process.send_signal(signal.SIGCONT)
    await one.does("open", "tool")
    assert (await reply)["text"] == f"{tool} done"
    assert (await waiting)["text"] == f"{tool} done"
    assert [kind for kind, _ in traces(tmp_path)] == ["think", tool, "think"]


@pytest.mark.parametrize(
    ("tool", "told", "runs"), [("look", "look done", 2), ("book", "book done", 2), ("pay", "outcome unknown", 1)]
)
async def test_failure_06_a_tool_whose_process_dies(
    start: Start, tmp_path: Path, tool: str, told: str, runs: int
) -> None:
    """Taken over, a tool that may be repeated runs again under the same key; any other is reported as unknown."""
    one, two = await start(tmp_path, gates=["tool"]), await start(tmp_path)
    one.tell("say", f"use {tool}")
    await one.reaches(f"tool {tool}")
    waiting = two.tell("resume")
    await one.kill()
    await two.does("sweep")
    async with asyncio.timeout(30):
        assert told in (await waiting)["text"]
    keys = [key for kind, key in traces(tmp_path) if kind == tool]
    assert len(keys) == runs
    assert len(set(keys)) == 1


async def test_seam_08_cancelled_from_another_process(start: Start, tmp_path: Path) -> None:
    """Whoever waits is told, and the model that nobody knows; what ran on is a late event; the next message works."""
    one, two = await start(tmp_path, gates=["tool"]), await start(tmp_path)
    reply = one.tell("say", "use pay")
    await one.reaches("tool pay")
    assert await two.does("cancel") is True
    assert await two.does("cancel") is False
    assert (await reply)["finished"] == "cancelled"
    assert await two.does("shown") == "[no result: the turn ended first; outcome unknown]"
    after = await two.does("say", "and now?")
    assert after["text"] == "and now?"
    await one.does("open", "tool")
    assert (await one.does("say", "still there?"))["text"] == "still there?"
    assert await one.does("late") == ["pay done"]
    assert await one.does("owed") == []
    assert [kind for kind, _ in traces(tmp_path)].count("pay") == 1


async def test_seam_07_cancelling_from_another_process_reaches_the_delegate(start: Start, tmp_path: Path) -> None:
    """The child of the cancelled turn ends too, though its model call runs in the other process."""
    one, two = await start(tmp_path, gates=["think ann"]), await start(tmp_path)
    reply = one.tell("say", "ask ann to sing")
    await one.reaches("think ann")
    assert await two.does("cancel") is True
    assert (await reply)["finished"] == "cancelled"
    await one.does("open", "think ann")
    await two.does("rests")
    (child,) = await two.does("delegates")
    assert "cancelled" in child
    assert (await one.does("say", "ask ann to sing"))["text"] == "sing"


@pytest.mark.parametrize("nth", [1, 2])
async def test_seam_07_who_cancels_dies_half_way(start: Start, tmp_path: Path, nth: int) -> None:
    """Killed before the root's end is written, nothing has happened; killed after, the living one ends the child."""
    one, two = await start(tmp_path, gates=["think ann"]), await start(tmp_path)
    reply = one.tell("say", "ask ann to sing")
    await one.reaches("think ann")
    await two.does("die_at_write", nth)
    two.tell("cancel")
    assert await two.ends() == -signal.SIGKILL
    if nth == 2:
        async with asyncio.timeout(30):
            assert (await reply)["finished"] == "cancelled"
        await one.does("sweep")
        await one.does("rests")
        assert "cancelled" in (await one.does("delegates"))[0]
    await one.does("open", "think ann")
    async with asyncio.timeout(30):
        assert (await reply)["text"] == ("sing" if nth == 1 else "")
    await one.does("rests")


async def test_rewound_from_another_process(start: Start, tmp_path: Path) -> None:
    """Rewinding away from a turn that runs elsewhere cancels it there; both go on, on the new branch."""
    one, two = await start(tmp_path, gates=["think ann"]), await start(tmp_path)
    assert (await one.does("say", "hello"))["text"] == "hello"
    entries = len(await one.does("stack"))
    reply = one.tell("say", "ask ann to sing")
    await one.reaches("think ann")
    forked = await two.does("rewind", entries - 1)
    assert forked["at"] == entries
    assert (await reply)["finished"] == "cancelled"
    assert (await two.does("say", "again"))["branch"] == forked["branch"]["name"]
    assert (await one.does("say", "me too"))["branch"] == forked["branch"]["name"]
    await one.does("open", "think ann")
    await two.does("rests")
    assert texts(await two.does("stack"), "user_message") == ["hello", "again", "me too"]
    assert texts(await two.does("stack", "main"), "user_message") == ["hello", "ask ann to sing"]


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("command", [("rewind", 4), ("checkout", "side")])
async def test_seam_07_who_leaves_a_branch_dies_half_way(
    start: Start, tmp_path: Path, command: tuple[str, object], nth: int
) -> None:
    """Killed before the first write, all is as it was; killed after, the other branch is current and this one ends."""
    one, two = await start(tmp_path, gates=["think ann"]), await start(tmp_path)
    await one.does("say", "hello")
    await two.does("fork", -1, "side")
    reply = one.tell("say", "ask ann to sing")
    await one.reaches("think ann")
    await two.does("die_at_write", nth)
    two.tell(*command)
    assert await two.ends() == -signal.SIGKILL
    if nth == 2:
        async with asyncio.timeout(30):
            assert (await reply)["finished"] == "cancelled"
        await one.does("sweep")
    await one.does("open", "think ann")
    async with asyncio.timeout(30):
        assert (await reply)["text"] == ("sing" if nth == 1 else "")
    await one.does("rests")
    assert ((await one.does("say", "and now?"))["branch"] == "main") is (nth == 1)


async def test_seam_08_a_rewind_lists_what_stays_done(start: Start, tmp_path: Path) -> None:
    """What changed the world after the cut is named, a delegate's and another process's running call included."""
    one, two = await start(tmp_path), await start(tmp_path)
    await one.does("say", "hello")
    entries = len(await one.does("stack"))
    await one.does("say", "use look book")
    await one.does("say", "ask ann to use book")
    await one.does("close", "tool pay")
    reply = one.tell("say", "use pay")
    await one.reaches("tool pay")
    forked = await two.does("rewind", entries - 1)
    assert sorted(forked["left_behind"]) == ["book({}) → ok", "book({}) → ok", "pay({}) → cut off, outcome unknown"]
    assert (await reply)["finished"] == "cancelled"
    assert (await two.does("rewind", -1))["left_behind"] == []
    await two.does("checkout", "main")
    again = await two.does("rewind", entries - 1)
    assert sorted(again["left_behind"]) == sorted(forked["left_behind"])


async def test_checked_out_from_another_process(start: Start, tmp_path: Path) -> None:
    """Checking out another branch cancels what runs on the one left; coming back, it goes on from there."""
    one, two = await start(tmp_path, gates=["tool"]), await start(tmp_path)
    assert (await two.does("say", "hello"))["branch"] == "main"
    side = (await two.does("rewind", -1))["branch"]["name"]
    reply = one.tell("say", "use look")
    await one.reaches("tool look")
    assert (await two.does("checkout", "main"))["name"] == "main"
    assert (await reply)["finished"] == "cancelled"
    assert (await one.does("say", "on main"))["branch"] == "main"
    await one.does("open", "tool")
    assert (await two.does("checkout", side))["name"] == side
    assert (await one.does("say", "back"))["text"] == "back"
    assert texts(await two.does("stack"), "user_message") == ["hello", "use look", "back"]
    assert await two.does("owed") == []
