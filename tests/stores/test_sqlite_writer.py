"""When the SQLite store commits: at once, in groups, or in its thread; and that nobody pays for anybody else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2engine.errors import AlreadySettled, StoreError, UsageError
from p2engine.stores import sqlite_writer
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.histories import answering, asking, opening, ref


class Commits:
    """Counts what the writing connection does."""

    def __init__(self, store: SqliteStore) -> None:
        self.count = 0
        store._db.set_trace_callback(self._see)

    def _see(self, statement: str) -> None:
        self.count += statement == "COMMIT"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "store.db")
    yield store
    await store.aclose()


async def test_seam_22_flushed_commits_are_shared(store: SqliteStore) -> None:
    """Of writes at one moment up to 16 share a flush; one alone is flushed at once."""
    commits = Commits(store)
    await asyncio.gather(*(store.write(opening(f"n{number}")) for number in range(100)))
    assert commits.count <= 100 / 16 + 1
    commits.count = 0
    await store.write(opening("alone"))
    assert commits.count == 1


async def test_seam_22_unflushed_commits_are_not_held_back(tmp_path: Path) -> None:
    """Without a flush every write is committed by itself, before anybody else runs."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="NORMAL")
    commits = Commits(store)
    await asyncio.gather(*(store.write(opening(f"n{number}")) for number in range(10)))
    assert commits.count == 10
    await store.aclose()


async def test_what_comes_alone_is_not_kept_waiting(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that had no company the next is committed at once; those within the same tick share a flush again."""
    monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", float("inf"))
    await store.write(opening("first"))
    commits = Commits(store)
    writes = [asyncio.ensure_future(store.write(opening(f"n{number}"))) for number in range(10)]
    await asyncio.sleep(0)
    assert commits.count == 1
    await asyncio.gather(*writes)
    assert commits.count == 2
    await asyncio.gather(*(store.write(opening(f"m{number}")) for number in range(10)))
    assert commits.count == 3


async def test_whoever_comes_alone_goes_on_at_once(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next of the same task is committed within the same tick; others have the loop before it holds it too long."""
    monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", float("inf"))
    await store.write(opening("first"))
    commits, ticks = Commits(store), list[int]()
    asyncio.get_running_loop().call_soon(ticks.append, 1)
    await store.write(opening("second"))
    await store.write(opening("third"))
    assert (commits.count, ticks) == (2, [])
    monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", -1.0)
    await store.write(opening("fourth"))
    assert (commits.count, ticks) == (3, [1])


async def test_a_member_that_cannot_be_bound_fails_alone(store: SqliteStore) -> None:
    """What SQLite cannot store fails the write that brought it; those that shared its flush are written."""
    good = [opening(f"n{number}") for number in range(5)]
    bad = opening("lone \ud800 surrogate")
    done = await asyncio.gather(*map(store.write, [*good[:2], bad, *good[2:]]), return_exceptions=True)
    assert [isinstance(one, UsageError) for one in done] == [False, False, True, False, False, False]
    assert len(await store.conversations()) == 5


async def test_a_failing_group_fails_each_alone(store: SqliteStore) -> None:
    """When the whole flush is refused each write hears a StoreError, and the next ones are written."""
    store._db.execute("PRAGMA query_only = 1")
    done = await asyncio.gather(*(store.write(opening(f"n{n}")) for n in range(3)), return_exceptions=True)
    assert [type(one) for one in done] == [StoreError] * 3
    store._db.execute("PRAGMA query_only = 0")
    await asyncio.gather(*(store.write(opening(f"n{n}")) for n in range(3)))


async def test_a_cancelled_wait_harms_nobody(store: SqliteStore) -> None:
    """Whoever stops waiting for a flush changes nothing for the others in it."""
    writes = [asyncio.ensure_future(store.write(opening(f"n{number}"))) for number in range(3)]
    await asyncio.sleep(0)
    writes[1].cancel()
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert await store.head(ref("n0")) == await store.head(ref("n2")) == 2


async def test_closing_commits_what_waits(tmp_path: Path) -> None:
    """Writes that wait for their flush when the store closes are written."""
    store = await SqliteStore.open(tmp_path / "store.db")
    writes = [asyncio.ensure_future(store.write(opening(f"n{number}"))) for number in range(20)]
    await asyncio.sleep(0)
    await store.aclose()
    await asyncio.gather(*writes)
    store = await SqliteStore.open(tmp_path / "store.db")
    assert len(await store.conversations()) == 20
    await store.aclose()


async def test_a_slow_disk_gets_a_thread(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a flush takes long it is done off the loop; order, groups and refusals stay as they are."""
    monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", -1.0)
    await store.write(opening())
    first = asyncio.ensure_future(store.write(answering()))
    await asyncio.sleep(0)
    writes = [asking(head=4), answering(head=6), answering(head=6), *(opening(f"n{number}") for number in range(30))]
    done = await asyncio.gather(first, *map(store.write, writes), return_exceptions=True)
    refused = [one for one in done if isinstance(one, Exception)]
    rows = [one.row for one in done if not isinstance(one, BaseException)]
    assert [type(one) for one in refused] == [AlreadySettled]
    assert rows == sorted(rows)
    assert await store.head(ref("demo")) == 8
    assert len(await store.conversations()) == 31


async def test_a_fault_of_ours_leaves_nobody_waiting(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a flush breaks in a way nobody thought of, those who wait for it are told, and the next ones are served."""
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context.get("exception")))

    def broken(db: object) -> None:
        raise ZeroDivisionError

    for slow in (0.003, -1.0):
        monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", slow)
        with pytest.raises(ZeroDivisionError):
            await store._writer.run(broken)
        await store.write(opening(f"after {slow}"))
    assert len(faults) >= 1
