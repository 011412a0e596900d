"""Writing without a look at what a stack stands on: quicker, and refused just where a look would have refused it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from p2engine.domain.records import Batch, Query
from p2engine.domain.states import UserMessage
from p2engine.errors import AlreadySettled, HeadMoved, StoreError
from p2engine.stores import sqlite
from p2engine.stores.sqlite import SqliteStore, Sync
from p2engine.testing.histories import answered, answering, asking, conversation, fact, grown, opening, ref, thought


@pytest.fixture(params=["FULL", "NORMAL"])
async def stores(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    """One file, as two processes have it open. `demo` was opened by the first."""
    sync: Sync = request.param
    here, there = [await SqliteStore.open(tmp_path / "store.db", sync=sync) for _ in range(2)]
    await here.write(opening())
    yield here, there
    await here.aclose()
    await there.aclose()


class Asked:
    """The statements of the writing connection."""

    def __init__(self, store: SqliteStore) -> None:
        self.statements: list[str] = []
        store._db.set_trace_callback(self.statements.append)

    @property
    def looks(self) -> int:
        return sum(statement.lstrip().startswith("SELECT") for statement in self.statements)


async def _kept(store: SqliteStore) -> tuple[int, int, list[str]]:
    """What a refused write must not change."""
    return await store.head(ref("demo")), len(await store.events(Query())), [*await store.owed(ref("demo"))]


async def test_a_stack_that_grows_here_is_not_looked_at(stores: tuple[SqliteStore, SqliteStore]) -> None:
    """Who wrote the last commit of a stack writes the next one, settlement and all, without one question."""
    here, _ = stores
    asked = Asked(here)
    await here.write(answering())
    await here.write(asking(head=4))
    await here.write(answering(head=6))
    assert asked.looks == 0
    assert await _kept(here) == (8, len(await here.events(Query())), [])


async def test_a_stack_that_another_process_grew_has_moved(stores: tuple[SqliteStore, SqliteStore]) -> None:
    """What is known of a stack may be old: then the write is HeadMoved, nothing of it stays, and the next one lands."""
    here, there = stores
    await there.write(Batch(conversation=conversation("demo").id, writes=(grown("demo", 2, [UserMessage(text="!")]),)))
    before = await _kept(here)
    with pytest.raises(HeadMoved, match="3 entries long, not 2"):
        await here.write(replace(answering(), facts=(fact("noted"),)))
    assert await _kept(here) == before
    await here.write(Batch(conversation=conversation("demo").id, writes=(grown("demo", 3, [UserMessage(text="?")]),)))
    assert (await _kept(here))[0] == 4


async def test_an_effect_that_another_process_settled_is_settled(stores: tuple[SqliteStore, SqliteStore]) -> None:
    """AlreadySettled comes before HeadMoved here too, and where the stack has not moved; nothing is written."""
    here, there = stores
    await there.write(Batch(conversation=conversation("demo").id, settles=(thought("demo"),)))
    before = await _kept(here)
    with pytest.raises(AlreadySettled):
        await here.write(answering())
    await there.write(Batch(conversation=conversation("demo").id, writes=(answered("demo"),)))
    with pytest.raises(AlreadySettled):
        await here.write(answering())
    assert (await _kept(here))[2] == before[2] == []
    assert (await _kept(here))[0] == 4


async def test_a_refusal_spoils_nobody_in_its_group(stores: tuple[SqliteStore, SqliteStore]) -> None:
    """Of writes that share a flush, one that turns out to be late has the flush done again: the others are in it."""
    here, there = stores
    for number in range(6):
        await here.write(opening(f"n{number}"))
    for number in (1, 4):
        await there.write(answering(f"n{number}"))
    writes = [answering(f"n{number}") for number in range(6)]
    done = await asyncio.gather(*map(here.write, writes), return_exceptions=True)
    assert [isinstance(one, AlreadySettled) for one in done] == [False, True, False, False, True, False]
    assert [await here.head(ref(f"n{number}")) for number in range(6)] == [4] * 6
    assert [await here.owed(ref(f"n{number}")) for number in range(6)] == [[]] * 6


async def test_what_was_not_committed_is_not_known(stores: tuple[SqliteStore, SqliteStore]) -> None:
    """A commit that the disk refused has not made a stack longer: a write that stands on it is refused, not a gap."""
    here, _ = stores
    here._db.execute("PRAGMA query_only = 1")
    with pytest.raises(StoreError):
        await here.write(answering())
    here._db.execute("PRAGMA query_only = 0")
    with pytest.raises(HeadMoved):
        await here.write(Batch(conversation=conversation("demo").id, writes=(answered("demo", head=4),)))
    await here.write(answering())
    assert await here.check() == []


async def test_places_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of stacks is bounded; a stack that was forgotten is looked at, and grows as any other."""
    monkeypatch.setattr(sqlite, "PLACES_MAX", 3)
    store = await SqliteStore.open(tmp_path / "store.db", sync="NORMAL")
    for number in range(8):
        await store.write(opening(f"n{number}"))
        assert len(store._places) <= 3
    for number in range(8):
        await store.write(answering(f"n{number}"))
    assert await store.check() == []
    await store.aclose()


async def test_a_name_is_found_by_an_index(tmp_path: Path) -> None:
    """Whoever opens a conversation asks for its name: no row of another conversation is read for that."""
    store = await SqliteStore.open(tmp_path / "store.db", sync="NORMAL")
    await store.write(opening())
    asked: list[str] = []
    store._read._db.set_trace_callback(asked.append)
    await store.conversations(prefix="unheard")
    store._read._db.set_trace_callback(None)
    db = sqlite3.connect(store.path)
    plans = [row[3] for statement in asked for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
    db.close()
    assert plans
    assert not [step for step in plans if step.startswith("SCAN")]
    await store.aclose()
