"""The embedded store: one SQLite file in WAL mode, or memory. Puts its parts together.

Writes go through one door (`sqlite_writer`), reads are short and stay on the loop, and whose effects are free to take
is for the owners to say.
"""

import asyncio
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from p2engine.domain.ids import ConversationId, EffectId, OwnerId, StackRef
from p2engine.domain.records import (
    Batch,
    Branch,
    Claimed,
    Conversation,
    Cursor,
    Event,
    Job,
    Placed,
    Pruning,
    Query,
    Weight,
    Written,
)
from p2engine.errors import StoreError
from p2engine.limits import BUSY_WAIT_S, FOLLOW_PERIOD_S
from p2engine.stores import sqlite_check, sqlite_events, sqlite_owed, sqlite_prune, sqlite_stacks
from p2engine.stores.owners import FileOwners, MemoryOwners, Owners
from p2engine.stores.rows import AFTER_ALL
from p2engine.stores.sqlite_batch import Place, Writing
from p2engine.stores.sqlite_file import MEMORY, Opened, Reader, connect_reader, open_file
from p2engine.stores.sqlite_tail import Tails
from p2engine.stores.sqlite_writer import Writer

T = TypeVar("T")
Sync = Literal["FULL", "NORMAL", "OFF"]

PLACES_MAX = 10_000  # stacks whose place is remembered: some 200 bytes each


class SqliteStore:
    """Implements `ports.Archive`. Belongs to the event loop that opened it.

    owners: who is alive; for a file, whoever holds a lock in `owners/` beside it.
    """

    def __init__(
        self, path: str, opened: Opened, *, sync: Sync, owners: Owners, busy_wait_s: float, handed_out_s: float = 0.0
    ) -> None:
        self.path = path
        self._handed_out = sqlite_owed.HandedOut(handed_out_s, time.monotonic)
        self.owners = owners
        self._owner: OwnerId | None = None
        self._db = opened.writer
        memory = path == MEMORY
        self._read = Reader(opened.reader, path)
        self._tails = Tails(self._read, polls=not memory)
        self._writer = Writer(
            self._db, path, grouped=sync == "FULL" and not memory, committed=self._tails.wake, busy_wait_s=busy_wait_s
        )
        self._places: dict[StackRef, Place] = {}  # as this process has written them: others may have gone on since
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        *,
        sync: Sync = "FULL",
        owners: Owners | None = None,
        busy_wait_s: float = BUSY_WAIT_S,
        handed_out_s: float = 0.0,
    ) -> "SqliteStore":
        """Open `path` (or `:memory:`), made or migrated where needed. Raises StoreError, StoreBusy, NewerFormat.

        sync: FULL flushes every commit, so that it survives a power cut; NORMAL loses the newest ones then, and
        nothing when only the process dies; OFF may lose the file to a power cut. handed_out_s: how long what was put
        on a queue is not due again; 0 where there are no queues.
        """
        path = str(path)
        if owners is None:
            owners = MemoryOwners() if path == MEMORY else FileOwners(Path(path).parent / "owners")
        opened = await asyncio.to_thread(open_file, path, sync=sync, wait_s=busy_wait_s)
        return cls(path, opened, sync=sync, owners=owners, busy_wait_s=busy_wait_s, handed_out_s=handed_out_s)

    @property
    def owner(self) -> OwnerId:
        """This incarnation: alive from when it is first asked for until the store closes or the process ends."""
        if self._owner is None:
            owner = OwnerId(uuid.uuid4().hex[:16])
            self.owners.add(owner)
            self._owner = owner
        return self._owner

    async def write(self, batch: Batch) -> Written:
        """All or nothing. Raises AlreadySettled, HeadMoved, NameTaken and UsageError, in this order, and StoreError."""
        self._check_open()
        writing = Writing(batch, self._places)
        written = await self._writer.run(writing)
        if len(self._places) >= PLACES_MAX:
            self._places.clear()
        self._places.update(writing.grown)
        return written

    async def claim(self, effect: EffectId, owner: OwnerId, *, since: int = 0) -> Claimed | None:
        self._check_open()
        owed = self._read(sqlite_owed.find, effect)
        if owed is None or not owed.free_for(owner, self.owners):
            return None
        if owed.owner == owner:
            return self._read(sqlite_owed.claimed, effect, owed, since)
        return await self._writer.run(
            partial(sqlite_owed.take, effect=effect, owner=owner, owners=self.owners, since=since)
        )

    async def due(self, *, limit: int) -> Sequence[Job]:
        return self._read(sqlite_owed.due, self.owners, limit, self._handed_out)

    async def backlog(self) -> tuple[int, float | None]:
        """How many effects no living process holds, and since when the oldest is owed (Unix s). Hands nothing out."""
        return self._read(sqlite_owed.backlog, self.owners)

    async def owed(self, ref: StackRef) -> Sequence[EffectId]:
        return self._read(sqlite_owed.of_stack, ref)

    async def held(self, owner: OwnerId) -> Sequence[EffectId]:
        return self._read(sqlite_owed.held, owner)

    async def drops(self) -> AsyncIterator[Sequence[EffectId]]:
        """A file tells nobody: what another process drops is found out when it is to be settled."""
        nothing: tuple[Sequence[EffectId], ...] = ()
        for effects in nothing:
            yield effects

    async def holders(self, ref: StackRef, *, besides: OwnerId | None = None) -> Sequence[str]:
        return self._read(sqlite_owed.holders, ref, besides, self.owners)

    async def lives(self, owner: OwnerId) -> bool:
        return self.owners.alive(owner)

    async def load(self, ref: StackRef, *, since: int = 0) -> Sequence[Placed]:
        return self._read(sqlite_stacks.load, ref, since)

    def speak(self, ref: StackRef, text: str) -> None:
        """A file carries no text that is not written: other processes hear the answer when it is there."""

    async def follow(
        self, ref: StackRef, *, since: int, answers: bool = False
    ) -> AsyncIterator[Sequence[Placed] | str]:
        while not self._read.closed:
            commits = self._read(sqlite_stacks.load, ref, since)
            if commits:
                since = commits[-1].seq + len(commits[-1].commit.states)
                yield commits
            await asyncio.sleep(FOLLOW_PERIOD_S)

    async def events(self, query: Query) -> Sequence[Event]:
        search = sqlite_events.Search(query)
        more = True
        while more:
            more = self._read(search.step)
            await asyncio.sleep(0)  # a long search takes turns with everybody else
        return search.found()

    async def known(self, name: str) -> Event | None:
        return self._read(sqlite_events.known, name)

    async def newest(self) -> Cursor:
        return Cursor(self._read(sqlite_events.newest), AFTER_ALL)

    def tail(self, after: Cursor, *, whole: bool = True) -> AsyncIterator[Event]:
        return self._tails.follow(after, whole=whole)

    async def conversations(
        self, *, prefix: str = "", limit: int = 1000, grouped: bool = True
    ) -> Sequence[Conversation]:
        return self._read(sqlite_stacks.conversations, prefix, limit, grouped)

    async def conversation(self, key: ConversationId) -> Conversation | None:
        return self._read(sqlite_stacks.conversation, key)

    async def branch(self, ref: StackRef) -> Branch | None:
        return self._read(sqlite_stacks.branch, ref)

    async def branches(self, conversation: ConversationId, *, delegates: bool = False) -> Sequence[Branch]:
        return self._read(sqlite_stacks.branches, conversation, delegates=delegates)

    async def head(self, ref: StackRef) -> int:
        return self._read(sqlite_stacks.head, ref)

    async def cut(self, ref: StackRef, length: int) -> int:
        return self._read(sqlite_stacks.cut, ref, length)

    async def weigh(self, conversation: ConversationId) -> Weight:
        return self._read(sqlite_prune.weigh, conversation)

    async def prune(self, pruning: Pruning) -> None:
        """One transaction. What goes leaves its place in the file to what comes."""
        self._check_open()
        await self._writer.run(sqlite_prune.Removal(pruning))

    async def check(self) -> list[str]:
        """Everything that is wrong with the file, in words; empty when it is sound. Reads all of it."""
        return await self._look(sqlite_check.check)

    async def stats(self) -> sqlite_check.Stats:
        return await self._look(sqlite_check.stats)

    async def aclose(self) -> None:
        """Commit what waits, move the WAL into the file, let go of the owner. A second call waits for the first."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self._writer.aclose()
        self._read.close()
        self._tails.wake()
        if self.path != MEMORY:
            await asyncio.to_thread(_shut, self._db)
        if self._owner is not None:
            self.owners.drop(self._owner)

    async def _look(self, look: Callable[[sqlite3.Connection], T]) -> T:
        """A long read: of a file, on a connection of its own, beside the loop."""
        self._check_open()
        if self.path == MEMORY:
            return self._read(look)

        def apart() -> T:
            reader = Reader(connect_reader(self.path), self.path)
            try:
                return reader(look)
            finally:
                reader.close()

        return await asyncio.to_thread(apart)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreError(f"the store {self.path} is closed")


def _shut(db: sqlite3.Connection) -> None:
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        pass  # the WAL stays, whole and committed, for the next one who opens the file
    finally:
        db.close()
