"""Follows the log: short reads, woken by commits of this store at once and by those of other processes soon."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator

from p2engine.domain.records import Cursor, Event
from p2engine.stores.rows import AFTER_ALL, ALL_KINDS, events_of
from p2engine.stores.sqlite_events import check_kept, next_rows
from p2engine.stores.sqlite_file import Reader

POLL_MIN_S = 0.05  # how soon a commit of another process is seen
POLL_MAX_S = 0.5  # and how late, when nothing has come for a while


class Tails:
    """All who follow one store. `polls`: whether other processes may write to it."""

    def __init__(self, read: Reader, *, polls: bool) -> None:
        self._read = read
        self._polls = polls
        self._changed: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Something was committed, or the store was closed."""
        for changed in self._changed:
            changed.set()

    async def follow(self, after: Cursor, *, whole: bool) -> AsyncIterator[Event]:
        """Every event after `after`, until the store closes.

        whole: raises Pruned where one of them is gone, unless all there is was asked for.
        """
        whole = whole and after.row > 0
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            while not self._read.closed:
                changed.clear()
                version = self._read(_version)
                rows = self._read(next_rows, after)
                if whole:
                    self._read(check_kept, after)
                for row in rows:
                    for event in events_of(row, ALL_KINDS):
                        if event.cursor > after:
                            after = event.cursor
                            yield event
                    after = Cursor(row.cursor, AFTER_ALL)
                if not rows:
                    await self._change(changed, version)
        finally:
            self._changed.discard(changed)

    async def _change(self, changed: asyncio.Event, version: int) -> None:
        """Wait for a commit that the read after `version` may have missed."""
        if not self._polls:
            await changed.wait()
            return
        pause = POLL_MIN_S
        while self._read(_version) == version:
            try:
                async with asyncio.timeout(pause):
                    await changed.wait()
                    return
            except TimeoutError:
                pause = min(2 * pause, POLL_MAX_S)


def _version(db: sqlite3.Connection) -> int:
    """Differs once any other connection has committed."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])
