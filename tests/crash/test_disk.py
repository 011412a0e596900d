"""When the disk or the file says no: one clear line, nothing lost, and the conversation goes on once it says yes."""

import asyncio
import ctypes
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.errors import NewerFormat, StoreError
from p2engine.wiring import Engine
from tests.crash import matrix
from tests.crash.actor import Actor, Start
from tests.crash.cast import TASK, Place, one_turn, traces
from tests.crash.nursery import Life


def is_one_line(error: object) -> bool:
    return "\n" not in str(error) and "Traceback" not in str(error) and len(str(error)) < 400


async def last_said(actor: Actor) -> str:
    return str((await actor.does("stack"))[-2]["text"])


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold SQLite's write lock, as another process may."""
    db = sqlite3.connect(home / "store.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        db.close()


# While an engine runs


async def test_failure_35_the_disk_is_full_when_somebody_speaks(start: Start, tmp_path: Path) -> None:
    """The message is refused in one line and leaves nothing; with room again the same message is answered."""
    actor = await start(tmp_path)
    await actor.does("say", "hello")
    before = await actor.does("stack")
    await actor.does("limit", 0)
    refused = await actor.does("say", "and now?")
    assert refused.startswith("StoreError: ")
    assert "nothing was written" in refused
    assert is_one_line(refused)
    assert await actor.does("stack") == before
    await actor.does("limit", None)
    assert (await actor.does("say", "and now?"))["text"] == "and now?"
    assert await actor.does("stack") != before


@pytest.mark.parametrize("tool", ["look", "book", "pay"])
async def test_failure_35_the_disk_is_full_when_a_tool_comes_back(start: Start, tmp_path: Path, tool: str) -> None:
    """The outcome is kept until it can be written: the tool has run once, and the turn goes on."""
    actor = await start(tmp_path, gates=["tool"])
    reply = actor.tell("say", f"use {tool}")
    await actor.reaches(f"tool {tool}")
    await actor.does("limit", 0)
    await actor.does("open", "tool")
    assert (await actor.does("say", "are you there?")).startswith("StoreError: ")
    await actor.does("limit", None)
    await actor.does("sweep")  # it would by itself, soon
    await actor.does("rests")
    assert is_one_line(await reply)  # the answer, or that the disk is full
    assert await last_said(actor) == f"{tool} done"
    assert [kind for kind, _ in traces(tmp_path)] == ["think", tool, "think"]


async def test_failure_35_the_disk_is_full_when_a_model_comes_back(start: Start, tmp_path: Path) -> None:
    """A reply that was paid for is not asked for again; the turn goes on by itself."""
    actor = await start(tmp_path, gates=["think"])
    reply = actor.tell("say", "hello")
    await actor.reaches("think boss")
    await actor.does("limit", 0)
    await actor.does("open", "think")
    assert (await actor.does("say", "are you there?")).startswith("StoreError: ")
    await actor.does("limit", None)
    await actor.does("rests")
    assert is_one_line(await reply)
    assert await last_said(actor) == "hello"
    assert [kind for kind, _ in traces(tmp_path)] == ["think"]


async def test_failure_35_killed_while_the_disk_is_full(start: Start, tmp_path: Path) -> None:
    """What the disk took is there; the next process, with room, goes on from it."""
    actor = await start(tmp_path, gates=["tool"])
    actor.tell("say", "use book")
    await actor.reaches("tool book")
    await actor.does("limit", 0)
    await actor.does("open", "tool")
    await actor.does("say", "are you there?")
    await actor.kill()
    after = await start(tmp_path)
    await after.does("rests")
    assert await last_said(after) == "book done"
    assert len({key for kind, key in traces(tmp_path) if kind == "book"}) == 1


@pytest.mark.parametrize("times", [1, 6])
async def test_failure_35_any_write_may_be_refused(tmp_path: Path, times: int) -> None:
    """Whichever write of the turn the disk refuses, and those after it: all is done once, and the turn ends."""
    nth = 1
    while await _one_turn_with_refusals(tmp_path / str(nth), range(nth, nth + times)):
        case = await matrix.look(tmp_path / str(nth), (), Life(0), set())
        assert case.problems == (), f"refused from write {nth} on"
        nth += 1
    assert nth > 15  # as many as the turn has


async def _one_turn_with_refusals(home: Path, refused: range) -> bool:
    """Play the turn; writes with these numbers fail. False where it has fewer."""
    writes = 0

    def reach(place: Place) -> None:
        nonlocal writes
        writes += place == "before a write"
        if place == "before a write" and writes in refused:
            raise StoreError("the disk is full; nothing was written")

    home.mkdir()
    engine = await one_turn(home, reach)
    dispatcher = engine.world.dispatcher
    assert isinstance(dispatcher, InlineDispatcher)
    for _ in range(50):
        with suppress(StoreError):
            conversation = await engine.conversation("demo", agent="boss")
            await engine.sweeper.sweep()
            if not (await conversation.stack()).turn:
                await conversation.say(TASK)
            if not dispatcher._tasks and (await conversation.stack()).is_resting:
                break
        if dispatcher._tasks:
            await asyncio.wait(dispatcher._tasks)
    await engine.aclose()
    return writes >= refused.start


@pytest.mark.parametrize("words", ["hello", "use pay", "ask ann to use book"])
async def test_failure_35_another_process_locks_the_file(start: Start, tmp_path: Path, words: str) -> None:
    """While the lock is held for less than the engine waits, everything waits; then it goes on as if nothing was."""
    actor = await start(tmp_path, gates=["think boss"])
    reply = actor.tell("say", words)
    await actor.reaches("think boss")
    with locked(tmp_path):
        await actor.does("open", "think boss")
        assert (await actor.does("stack"))[-1]["k"] == "waiting"
    async with asyncio.timeout(30):
        assert (await reply)["finished"] == "answered"
    ran = traces(tmp_path)
    assert len(ran) == len(set(ran))


async def test_failure_35_the_file_stays_locked(start: Start, tmp_path: Path) -> None:
    """Held for longer than the engine waits: who speaks is told, what came back is kept, and later all goes on."""
    actor = await start(tmp_path, gates=["tool"], busy_wait_s=0.05)
    reply = actor.tell("say", "use pay")
    await actor.reaches("tool pay")
    with locked(tmp_path):
        await actor.does("open", "tool")
        refused = await actor.does("say", "are you there?")
        assert refused.startswith("StoreBusy: ")
        assert "is locked by another process" in refused
        assert is_one_line(refused)
    await actor.does("rests")
    assert is_one_line(await reply)
    assert await last_said(actor) == "pay done"
    assert [kind for kind, _ in traces(tmp_path)] == ["think", "pay", "think"]


# When an engine is opened


async def _hears(home: Path, name: str = "demo") -> str:
    """Open the home as the command line does, and speak to the offline model."""
    async with Engine.open(home=home) as engine:
        return (await (await engine.conversation(name, agent="assistant")).say("hello")).text


async def _refused(home: Path) -> StoreError:
    with pytest.raises(StoreError) as refused:
        await _hears(home)
    assert is_one_line(refused.value)
    assert is_one_line(refused.value.hint)
    assert str(home) in str(refused.value)
    return refused.value


async def test_failure_35_the_home_is_a_file(tmp_path: Path) -> None:
    """It is named, and left as it is."""
    home = tmp_path / "home"
    home.write_text("mine")
    await _refused(home)
    assert home.read_text() == "mine"
    home.unlink()
    assert await _hears(home)


async def test_failure_35_the_home_lies_in_a_file(tmp_path: Path) -> None:
    """A parent of the home that is a file is an error of one line."""
    (tmp_path / "file").write_text("mine")
    await _refused(tmp_path / "file" / "home")


@pytest.mark.parametrize("body", [b"garbage" * 1000, b"\x00" * 5000, b"SQLite format 3\x00" + b"\xff" * 5000])
async def test_failure_35_the_store_is_garbage(tmp_path: Path, body: bytes) -> None:
    """It is named and not touched; moved away, a new one is made."""
    home = tmp_path / "home"
    assert await _hears(home)
    store = home / "store.db"
    for part in home.glob("store.db*"):
        part.unlink()
    store.write_bytes(body)
    error = await _refused(home)
    assert error.hint
    assert store.read_bytes() == body
    store.unlink()
    assert await _hears(home)


async def test_failure_35_the_store_is_a_directory(tmp_path: Path) -> None:
    """One line says which."""
    (tmp_path / "home" / "store.db").mkdir(parents=True)
    await _refused(tmp_path / "home")


async def test_failure_35_the_store_is_of_another_program(tmp_path: Path) -> None:
    """A SQLite file that is not ours is refused, and not changed."""
    home = tmp_path / "home"
    home.mkdir()
    db = sqlite3.connect(home / "store.db")
    db.execute("CREATE TABLE theirs (x)")
    db.commit()
    db.close()
    before = (home / "store.db").read_bytes()
    error = await _refused(home)
    assert "not a P2Engine store" in str(error)
    assert (home / "store.db").read_bytes() == before


async def test_failure_35_a_read_only_place_for_the_home(tmp_path: Path) -> None:
    """Where no folder can be made, that is said; where it can be, all works."""
    with without_root_powers():
        tmp_path.chmod(0o555)
        await _refused(tmp_path / "home")
        tmp_path.chmod(0o755)
        assert await _hears(tmp_path / "home")


@pytest.mark.parametrize("folder", [".", "owners", "blobs"])
async def test_failure_35_a_read_only_home(tmp_path: Path, folder: str) -> None:
    """A home that became read-only says so in one line; writable again, its conversation goes on."""
    home = tmp_path / "home"
    assert await _hears(home)
    paths = [home / folder, *(home / folder).iterdir()] if folder == "." else [home / folder]
    with without_root_powers():
        modes = {path: path.stat().st_mode for path in paths}
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            if folder == "blobs":  # needed for what is new only
                assert await _hears(home)
            else:
                await _refused(home)
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        assert await _hears(home)
    async with Engine.open(home=home) as engine:
        assert (await (await engine.conversation("demo")).stack()).turn == (3 if folder == "blobs" else 2)


async def test_failure_35_the_first_start_on_a_full_disk(tmp_path: Path) -> None:
    """A start that could not write its first file hinders no later one."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "format").write_text("")  # made, and then there was no room for what it says
    assert await _hears(home)
    assert (home / "format").read_text().strip() == "1"


async def test_a_home_of_a_later_version(tmp_path: Path) -> None:
    """It is refused and left alone."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "format").write_text("99\n")
    assert isinstance(await _refused(home), NewerFormat)
    assert [path.name for path in home.iterdir()] == ["format"]


@contextmanager
def without_root_powers() -> Iterator[None]:
    """Root writes where nobody may: for a while this thread, and those it starts, may not either."""
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        pytest.skip("root cannot lay down its powers here")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    held = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    assert libc.capget(header, held) == 0
    less = (ctypes.c_uint32 * 6)(*held)
    less[0] &= ~0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0
