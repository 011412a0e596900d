"""The SQLite store keeps the store's contract: in memory, and in a file under each way of syncing."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Literal

import pytest

from p2engine.domain.ids import OwnerId
from p2engine.stores import sqlite_writer
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.contracts import ArchiveContract


class _Sqlite(ArchiveContract):
    @pytest.fixture
    def owner(self, store: SqliteStore) -> OwnerId:
        return store.owner

    @pytest.fixture
    def other(self, store: SqliteStore) -> Iterator[OwnerId]:
        other = OwnerId("other")
        store.owners.add(other)
        yield other
        store.owners.drop(other)


class TestMemory(_Sqlite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(":memory:")
        yield store
        await store.aclose()


@pytest.mark.parametrize("sync", ["FULL", "NORMAL", "OFF"])
class TestFile(_Sqlite):
    @pytest.fixture
    async def store(self, tmp_path: Path, sync: Literal["FULL", "NORMAL", "OFF"]) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(tmp_path / "store.db", sync=sync)
        yield store
        await store.aclose()


class TestThread(_Sqlite):
    """A file on a disk so slow that every flush is the thread's."""

    @pytest.fixture
    async def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
        monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", -1.0)
        store = await SqliteStore.open(tmp_path / "store.db")
        yield store
        await store.aclose()
