"""Several processes on one file: real ones, killed for real, and told when to go on through pipes."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.records import Cursor, Perform, Query
from p2engine.errors import StoreBusy
from p2engine.stores.sqlite import SqliteStore, Sync
from p2engine.testing.histories import answering, conversation, opening, ref, thought

OTHER = Path(__file__).parent / "other_process.py"


class Other:
    """A second process: what it says, and a word that lets it go on."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self) -> str:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        assert line, "the other process ended"
        return line.decode().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")


Start = Callable[..., Awaitable[Other]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    others: list[Other] = []

    async def start(*arguments: object) -> Other:
        process = await asyncio.create_subprocess_exec(
            sys.executable, OTHER, *map(str, arguments), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        others.append(Other(process))
        return others[-1]

    yield start
    for other in others:
        if other.process.returncode is None:
            other.process.kill()
        await other.process.communicate()


@pytest.mark.parametrize("sync", ["FULL", "NORMAL"])
async def test_two_terminals_on_one_file(start: Start, tmp_path: Path, sync: Sync) -> None:
    """Three processes write at once: no commit is lost, every conflict is resolved, and a tail sees all, in order."""
    path, turns = tmp_path / "store.db", 25
    store = await SqliteStore.open(path, sync=sync)
    await store.write(opening("shared"))
    others = [await start("write", path, sync, name, turns) for name in ("one", "two", "three")]
    for other in others:
        assert await other.says() == "open"
    expected = 2 + 3 * (2 + 5 * turns)
    following = asyncio.ensure_future(_take(store, expected))
    for other in others:
        other.go_on()
    assert [await other.process.wait() for other in others] == [0, 0, 0]
    seen = await following
    assert seen == [event.cursor for event in await store.events(Query(limit=10_000))]
    assert seen == sorted(set(seen))
    assert await store.head(ref("shared")) == 2 + 3 * turns
    for name in ("one", "two", "three"):
        assert await store.head(ref(name)) == 2 + 4 * turns
    assert await store.check() == []
    await store.aclose()


async def _take(store: SqliteStore, count: int) -> list[Cursor]:
    tail = store.tail(Cursor())
    return [(await anext(tail)).cursor for _ in range(count)]


async def test_failure_06_what_a_killed_process_held_is_due(start: Start, tmp_path: Path) -> None:
    """While a process lives its effects are its own; after kill −9 they are due, and it is known what had begun."""
    path = tmp_path / "store.db"
    other = await start("own", path)
    dead = await other.says()
    store = await SqliteStore.open(path, sync="NORMAL")
    assert await store.due(limit=10) == []
    assert await store.claim(thought("demo"), store.owner) is None
    other.process.kill()
    await other.process.wait()
    assert await store.due(limit=10) == [Perform(thought("demo"), "think")]
    claimed = await store.claim(thought("demo"), store.owner)
    assert claimed is not None
    assert (claimed.tries, claimed.started) == (1, True)
    assert [path.stem for path in (tmp_path / "owners").iterdir()] == [store.owner]
    assert dead != store.owner
    await store.aclose()


@pytest.mark.parametrize("sync", ["FULL", "NORMAL"])
async def test_failure_06_what_was_acknowledged_survives_a_kill(start: Start, tmp_path: Path, sync: Sync) -> None:
    """A process killed in the midst of writing leaves a sound file with everything that it said was written."""
    path = tmp_path / "store.db"
    other = await start("stream", path, sync)
    for _ in range(150):
        await other.says()
    other.process.kill()
    rest, _ = await other.process.communicate()
    acknowledged = int(rest.split()[-1]) if rest.endswith(b"\n") else 152
    store = await SqliteStore.open(path)
    assert await store.check() == []
    assert await store.head(ref("shared")) >= acknowledged
    await store.aclose()


async def test_seam_09_a_stopped_process_is_alive(start: Start, tmp_path: Path) -> None:
    """However long a process is away, what it holds is not taken from it as long as it exists."""
    path = tmp_path / "store.db"
    other = await start("own", path)
    await other.says()
    store = await SqliteStore.open(path, sync="NORMAL")
    other.process.send_signal(signal.SIGSTOP)
    assert await store.due(limit=10) == []
    other.process.send_signal(signal.SIGCONT)
    await store.aclose()


async def test_a_forked_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """A process that a tool forked lives on after its parent; the parent's effects are due all the same."""
    path = tmp_path / "store.db"
    # Not asyncio's: there a process has not ended before its pipes are closed, and the child has them open.
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, OTHER, "fork", path], **pipes) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        store = await SqliteStore.open(path, sync="NORMAL")
        assert await store.due(limit=10) == []
        parent.kill()
        parent.wait()
        os.kill(child, 0)
        assert await store.due(limit=10) == [Perform(thought("demo"), "think")]
        await store.aclose()
    # Its stdin is closed now, at which the child ends.


@pytest.mark.parametrize("sync", ["FULL", "NORMAL"])
async def test_seam_21_a_locked_file_stalls_nobody_else(start: Start, tmp_path: Path, sync: Sync) -> None:
    """While another process holds the lock, writes wait in their order, reads and the loop go on, nothing is lost."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path, sync=sync)
    await store.write(opening())
    other = await start("lock", path)
    assert await other.says() == "locked"
    writes = [asyncio.ensure_future(store.write(batch)) for batch in (answering(), opening("next"))]
    for _ in range(100):
        await asyncio.sleep(0)
        assert await store.head(ref("demo")) == 2
    assert not any(write.done() for write in writes)
    other.go_on()
    assert await other.says() == "free"
    rows = [written.row for written in await asyncio.gather(*writes)]
    assert rows == sorted(rows)
    assert await store.head(ref("demo")) == 4
    await store.write(opening("later"))
    await store.aclose()


@pytest.mark.parametrize("sync", ["FULL", "NORMAL"])
async def test_failure_35_a_file_locked_for_too_long(start: Start, tmp_path: Path, sync: Sync) -> None:
    """A lock that is held for longer than we wait is StoreBusy, which names the file; later all goes on."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path, sync=sync, busy_wait_s=0.05)
    await store.write(opening())
    other = await start("lock", path)
    assert await other.says() == "locked"
    with pytest.raises(StoreBusy, match=r"store\.db"):
        await store.write(answering())
    with pytest.raises(StoreBusy):
        await store.claim(thought("demo"), store.owner)
    other.go_on()
    assert await other.says() == "free"
    await store.write(answering())
    assert await store.head(ref("demo")) == 4
    await store.aclose()


async def test_many_processes_make_one_file(start: Start, tmp_path: Path) -> None:
    """Processes that open a file at the same moment, before it is there, all end up with the same sound one."""
    path = tmp_path / "store.db"
    others = [await start("make", path) for _ in range(4)]
    for other in others:
        assert await other.says() == "ready"
    for other in others:
        other.go_on()
    assert [await other.process.wait() for other in others] == [0] * 4
    store = await SqliteStore.open(path)
    assert len(await store.conversations()) == 4
    assert await store.check() == []
    await store.aclose()


async def test_failure_35_a_full_disk(start: Start, tmp_path: Path) -> None:
    """When the disk takes no more, the write says so and leaves nothing; with room again the store goes on."""
    other = await start("fill", tmp_path / "store.db")
    assert "nothing was written" in await other.says()
    assert await other.says() == "kept"
    assert await other.says() == "1 more; []"
    assert await other.process.wait() == 0


async def test_a_store_in_the_same_process_is_another(tmp_path: Path) -> None:
    """Two stores on one file in one process are two owners, and each tail sees what the other writes."""
    path = tmp_path / "store.db"
    mine, theirs = await SqliteStore.open(path), await SqliteStore.open(path)
    await mine.write(opening(owner=mine.owner))
    tail = theirs.tail(await theirs.newest())
    assert await theirs.claim(thought("demo"), theirs.owner) is None
    await mine.write(answering())
    assert (await anext(tail)).conversation == conversation("demo").id
    await mine.write(opening("next", owner=mine.owner))
    await mine.aclose()
    assert await theirs.due(limit=10) == [Perform(thought("next"), "think")]
    await theirs.aclose()
