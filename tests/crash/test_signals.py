"""A process that is asked to end while effects run: it lets them end within the grace period, or leaves them owed."""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.crash.actor import Start
from tests.crash.cast import traces

NEVER_S = 0.05  # a grace period that no effect of these tests ends in


async def test_failure_36_what_ends_within_the_grace_is_kept(start: Start, tmp_path: Path) -> None:
    """After Ctrl-C a running tool ends and its outcome is written; what follows from it waits for the next start."""
    actor = await start(tmp_path, gates=["tool"])
    actor.tell("say", "use pay")
    await actor.reaches("tool pay")
    actor.process.send_signal(signal.SIGINT)
    await actor.reaches("end")
    await actor.does("open", "tool")
    assert await actor.ends() == -signal.SIGINT
    assert [kind for kind, _ in traces(tmp_path)] == ["think", "pay"]
    after = await start(tmp_path)
    await after.does("rests")
    assert [state.get("text") for state in await after.does("stack")][-2] == "pay done"
    assert [kind for kind, _ in traces(tmp_path)] == ["think", "pay", "think"]


@pytest.mark.parametrize(
    ("words", "place", "told"),
    [
        ("use look", "tool look", "look done"),
        ("use book", "tool book", "book done"),
        ("use pay", "tool pay", "outcome unknown"),
        ("hello", "think boss", "hello"),
        ("ask ann to sing", "think ann", "sing"),
        ("ask ann to use book", "tool book", "book done"),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_failure_36_what_does_not_end_stays_owed(
    start: Start, tmp_path: Path, words: str, place: str, told: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM, and an effect that goes on and on: the process ends, the next one goes on with the turn."""
    actor = await start(tmp_path, gates=[place], grace_s=NEVER_S)
    actor.tell("say", words)
    await actor.reaches(place)
    actor.process.send_signal(number)
    assert await actor.ends() == -number
    after = await start(tmp_path)
    await after.does("rests")
    ended = await after.does("stack")
    assert ended[-1] == {"k": "finished"}
    assert told in ended[-2]["text"]
    if told == "outcome unknown":
        assert [kind for kind, _ in traces(tmp_path)].count("pay") == 1


async def test_failure_36_asked_twice(start: Start, tmp_path: Path) -> None:
    """A second Ctrl-C ends the process in the middle of its grace period; nothing is lost by it."""
    actor = await start(tmp_path, gates=["tool"], grace_s=30.0)
    actor.tell("say", "use book")
    await actor.reaches("tool book")
    actor.process.send_signal(signal.SIGINT)
    await actor.reaches("end")
    actor.process.send_signal(signal.SIGINT)
    assert await actor.ends() == -signal.SIGINT
    after = await start(tmp_path)
    await after.does("rests")
    assert (await after.does("stack"))[-2]["text"] == "book done"


async def test_a_signal_to_one_of_two_processes(start: Start, tmp_path: Path) -> None:
    """What the one that ends leaves behind, the other goes on with, and its waiting say is answered."""
    one, two = await start(tmp_path, gates=["tool"], grace_s=NEVER_S), await start(tmp_path)
    one.tell("say", "use book")
    await one.reaches("tool book")
    waiting = two.tell("resume")
    one.process.send_signal(signal.SIGINT)
    await one.ends()
    await two.does("sweep")
    async with asyncio.timeout(30):
        assert (await waiting)["text"] == "book done"
