"""A new process finds what the old one left: all of it, and what cannot be read is named and hinders nobody else."""

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2engine.domain.records import Job, Perform, Query
from p2engine.domain.stack import Stack
from p2engine.errors import StoreError
from p2engine.wiring import Engine
from tests.crash.actor import Start
from tests.crash.cast import open_engine, traces


async def test_failure_10_a_restart_keeps_everything(tmp_path: Path) -> None:
    """Conversations, branches, overrides, locks, ratings, artifacts, delegates' memories, the log: all as before."""

    async def everything(engine: Engine) -> list[Any]:
        found: list[Any] = []
        for record in await engine.conversations():
            conversation = await engine.conversation(record.name)
            for branch in await conversation.branches(delegates=True):
                stack = await engine.world.stacks.refresh(branch.ref)
                found += [record, branch, await engine.world.store.load(branch.ref), _facts(stack)]
        return [*found, await engine.query(Query(limit=1000))]

    async with Engine.open(home=tmp_path / "home") as engine:
        conversation = await engine.conversation("demo", agent="agent_alpha")
        await conversation.say("What's the weather in Paris?")
        await conversation.say("Delegate to agent_helper: What's the weather in Tokyo?")
        await conversation.say("save 'milk, eggs' as shopping.txt")
        await conversation.rate(1.0, note="good")
        await conversation.override({"temperature": 0.5}, lock=True)
        await conversation.fork(2, "early")
        await conversation.rewind(5)
        await conversation.say("hello")
        await (await engine.conversation("other", agent="agent_helper")).say("hello")
        before = await everything(engine)
    async with Engine.open(home=tmp_path / "home") as engine:
        assert await everything(engine) == before
        conversation = await engine.conversation("demo")
        assert await conversation.resume() is None
        assert (await conversation.say("are you there?")).turn == (await conversation.stack()).turn
        assert (await conversation.checkout("main")).name == "main"
        assert (await conversation.say("are you there?")).finished == "answered"


RENDERED = ("messages", "messages_n", "bytes_n")  # compared as text; how much of it is in memory may differ


def _facts(stack: Stack) -> list[Any]:
    return [
        [fragment.wire for fragment in stack.fragments],
        *(getattr(stack, name) for name in Stack.__struct_fields__ if name not in RENDERED),
    ]


async def test_failure_10_a_restart_keeps_what_was_half_done(start: Start, tmp_path: Path) -> None:
    """A turn cut in a delegate's tool: before anything else is asked, the next process ends it, and both remember."""
    first = await start(tmp_path, gates=["tool"])
    await first.does("say", "ask ann to sing")
    first.tell("say", "ask ann to use book")
    await first.reaches("tool book")
    await first.kill()
    second = await start(tmp_path)
    await second.does("rests")
    said = [state["text"] for state in await second.does("stack") if state["k"] == "assistant_message"]
    assert said == ["sing", "book done"]
    assert (await second.does("say", "ask ann to hum"))["text"] == "hum"
    assert len({key for kind, key in traces(tmp_path) if kind == "book"}) == 1


def spoil(home: Path, conversation: str, body: bytes, entry: int) -> None:
    """Put other bytes in the place of a commit of that conversation."""
    db = sqlite3.connect(home / "store.db")
    spoiled = db.execute(
        "UPDATE log SET body = ? WHERE seq = ? AND cid = (SELECT cid FROM conversation WHERE name = ?)",
        (body, entry, conversation),
    )
    assert spoiled.rowcount == 1
    db.commit()
    db.close()


GARBAGE = b"\xc1 this is no message pack"
NEWER = msgspec.msgpack.encode([99, {"what": "nobody here knows"}])


async def _half_done(start: Start, home: Path) -> None:
    """Two conversations, both killed in a model call of their second turn."""
    first = await start(home, gates=["think boss"])
    for name in ("good", "bad"):
        reply = first.tell("say", "hello", name)
        await first.reaches("think boss")
        await first.does("open", "think boss")
        assert (await reply)["text"] == "hello"
        await first.does("close", "think boss")
    for name in ("good", "bad"):
        first.tell("say", "go on", name)
        await first.reaches("think boss")
    await first.kill()


@pytest.mark.parametrize(
    ("body", "error"), [(GARBAGE, "CorruptEntry: "), (NEWER, "NewerFormat: ")], ids=["corrupt", "newer"]
)
async def test_failure_14_an_entry_that_cannot_be_read(start: Start, tmp_path: Path, body: bytes, error: str) -> None:
    """Whoever asks for that conversation is told which entry; the other one goes on; nothing is settled or lost."""
    await _half_done(start, tmp_path)
    with sqlite3.connect(tmp_path / "store.db") as db:
        (whole,) = db.execute(
            "SELECT body FROM log WHERE seq = 3 AND cid = (SELECT cid FROM conversation WHERE name = 'bad')"
        ).fetchone()
    db.close()
    spoil(tmp_path, "bad", body, 3)

    second = await start(tmp_path)
    for command in (("resume", "bad"), ("say", "are you there?", "bad"), ("stack", None, "bad")):
        told = await second.does(*command)
        assert told.startswith(error)
        assert "entry 3 of branch" in told
        assert "\n" not in told
    assert (await second.does("say", "are you there?", "good"))["text"].endswith("are you there?")
    for _ in range(5):
        await second.does("sweep")
    await second.does("say", "still?", "good")
    await second.does("end")
    assert await second.ends() == 0
    complaints = [line for line in (await second.complains()).splitlines() if "entry 3 of branch" in line]
    assert 1 <= len(complaints) <= 2  # in a line, and perhaps at the end of its traceback; not at every sweep

    spoil(tmp_path, "bad", whole, 3)  # mended: an update, or a copy
    third = await start(tmp_path)
    await third.does("rests", "bad")
    assert (await third.does("say", "and now?", "bad"))["text"] == "and now?"


async def test_a_sweep_that_fails_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of ours that failed is tried again, even when the store cannot be asked at the next sweep."""
    engine = await open_engine(tmp_path, {}, {}, {})
    submitted: list[Job] = []

    async def submit(*jobs: Job) -> None:
        submitted.extend(jobs)

    async def fail(**_: Any) -> list[Job]:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(engine.world.dispatcher, "submit", submit)
    job = Perform("ref:1.0", "think")  # type: ignore[arg-type]
    engine.sweeper.again(job)
    with monkeypatch.context() as gone:
        gone.setattr(engine.world.store, "due", fail, raising=False)
        with pytest.raises(StoreError):
            await engine.sweeper.sweep()
    assert await engine.sweeper.sweep() == 1
    assert submitted == [job]
    await engine.aclose()
