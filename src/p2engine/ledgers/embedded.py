"""The embedded ledger: one SQLite file of its own, written through one door, each commit flushed.

Every transfer is one record, moved between two accounts in one transaction. Knows nothing of agents or effects.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from p2engine.domain.chain import START
from p2engine.domain.money import (
    CREDIT,
    MAIN_BOOK,
    Account,
    AccountName,
    Audit,
    BookId,
    Checkpoint,
    Hold,
    Opening,
    Proof,
    Receipt,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.errors import StoreError
from p2engine.ledgers import embedded_audit, orders, reading
from p2engine.ledgers.embedded_rows import HINT, FileRows, named, newest_checkpoint, sign, tree_of
from p2engine.ledgers.keyless import KeylessLedger
from p2engine.ledgers.keys import Head, KeyMissing, Keys
from p2engine.ledgers.reading import FileBooks
from p2engine.ledgers.tables import LEDGER
from p2engine.ledgers.writing import Writing
from p2engine.limits import BUSY_WAIT_S
from p2engine.stores.sqlite_file import Opened, Reader, connect_reader, open_file, store_error
from p2engine.stores.sqlite_writer import Writer

T = TypeVar("T")


def _salt() -> str:
    return os.urandom(12).hex()


class EmbeddedLedger:
    """Implements `ports.Ledger` and `ports.Auditable`. Belongs to the event loop that opened it."""

    def __init__(
        self, path: Path, folder: Path, opened: Opened, keys: Keys, *, now: Callable[[], float], busy_wait_s: float
    ) -> None:
        self.path = path
        self._folder = folder
        self._keys = keys
        self._seen = keys.read_head() or Head(0, START)  # the newest record that is known to be written
        self._now = now
        self._db = opened.writer
        self._read = Reader(opened.reader, str(path))
        self._books = FileBooks(self._read)
        self._rows: FileRows | None = None  # as this process left them, while nobody else has written
        self._writer = Writer(
            self._db, str(path), grouped=True, committed=self._note, undone=self._forget, busy_wait_s=busy_wait_s
        )
        self._closing: asyncio.Task[None] | None = None
        self._file: tuple[int, int] | None
        self._file, self._size = _file_at(path) or (None, 0)

    @classmethod
    async def open(
        cls, path: Path, keys: Path, *, now: Callable[[], float] = time.time, busy_wait_s: float = BUSY_WAIT_S
    ) -> "EmbeddedLedger":
        """The ledger in the file `path`, its key in the folder `keys`; both made where there is neither.

        Raises StoreError where they do not belong together, or the file is not the one that was last written.
        """
        opened, key = await asyncio.to_thread(_open, path, keys, busy_wait_s)
        return cls(path, keys, opened, key, now=now, busy_wait_s=busy_wait_s)

    @property
    def public_key(self) -> str:
        """In hexadecimal: what its checkpoints and proofs are checked by."""
        return self._keys.public

    async def open_wallets(self, *openings: Opening) -> Sequence[bool]:
        for opening in openings:
            orders.check_opening(opening)
        return await self._write(lambda writing: [orders.open_wallet(opening, writing) for opening in openings])

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        return await self._write(lambda writing: [orders.transfer(transfer, writing) for transfer in transfers])

    async def hold(self, hold: Hold) -> Receipt:
        return await self._write(partial(orders.hold, hold))

    async def release(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        return await self._write(lambda writing: orders.end_hold(orders.Ending(hold, by, cause, pays=True), writing))

    async def refund(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        return await self._write(lambda writing: orders.end_hold(orders.Ending(hold, by, cause, pays=False), writing))

    async def receipt(self, order: str) -> Receipt | None:
        record = await self._books.record(order)
        return None if record is None else record.receipt

    async def account(self, name: AccountName, *, book: BookId = MAIN_BOOK, instrument: str = CREDIT) -> Account | None:
        return await self._books.account(book, name, instrument)

    async def accounts(self, *, book: BookId = MAIN_BOOK) -> Sequence[Account]:
        return await self._books.accounts(book)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        return await self._books.records(query)

    async def verify(self) -> Audit:
        return await asyncio.to_thread(embedded_audit.verify, self.path, self._folder)

    async def checkpoint(self) -> Checkpoint:
        await self._writer.run(self._sign)
        newest = self._read(newest_checkpoint, self._keys.public)
        return newest or self._keys.sign(0, START, self._now())

    async def proof(self, order: str) -> Proof:
        await self.checkpoint()
        return await asyncio.to_thread(self._prove, order)

    async def aclose(self) -> None:
        """Commit what waits, and close the file. A second call waits for the first."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    def _write(self, work: Callable[[Writing], T]) -> Awaitable[T]:
        if self._closing is not None:
            raise StoreError(f"the ledger {self.path} is closed")
        return self._writer.run(partial(self._transact, work))

    def _transact(self, work: Callable[[Writing], T], cursor: sqlite3.Cursor) -> T:
        self._check_place()
        rows, self._rows = self._rows, None  # what fails half-way has changed them
        if rows is None or not rows.are_current():
            rows = FileRows(cursor)
            if rows.top.seq < self._seen.seq or (rows.top.seq == self._seen.seq and rows.top.link != self._seen.link):
                raise _not_as_written(self.path)
        writing = Writing(rows, rows.top, self._keys, self._now(), _salt)
        result = work(writing)
        rows.flush(writing, self._keys)
        self._rows = rows
        return result

    def _sign(self, cursor: sqlite3.Cursor) -> None:
        self._check_place()
        sign(tree_of(cursor, self._keys), cursor, self._keys, self._now())

    def _check_place(self) -> None:
        """Raises StoreError where the file is no more under its name, or not whole: what is written would be lost."""
        file, size = _file_at(self.path) or (None, 0)
        if file != self._file or size < self._size:
            hint = "end what uses it, run `p2engine ledger verify`, and restore the file that belongs there"
            raise StoreError(f"{self.path} was cut, replaced or moved away while it was open", hint=hint)
        self._size = size  # nothing is ever deleted from it, so it only grows, whoever writes

    def _forget(self) -> None:
        """Called where a transaction is undone: the rows are as they were."""
        self._rows = None

    def _note(self) -> None:
        """Called after each commit. A head that is not known to be committed is read back."""
        newest = self._rows.top if self._rows is not None else self._read_back()
        if newest.seq > self._seen.seq:
            self._seen = Head(newest.seq, newest.link)
            self._keys.write_head(self._seen)

    def _read_back(self) -> Head:
        with suppress(StoreError):  # what is committed is committed: the next head is as good
            return self._read(reading.head) or self._seen
        return self._seen

    def _prove(self, order: str) -> Proof:
        reader = Reader(connect_reader(str(self.path)), str(self.path))
        try:
            return reader(embedded_audit.prove, order, self._keys.public)
        finally:
            reader.close()

    async def _close(self) -> None:
        await self._writer.aclose()
        self._read.close()
        await asyncio.to_thread(self._db.close)


def _file_at(path: Path) -> tuple[tuple[int, int], int] | None:
    """What tells the file of that name from any other, and its bytes; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino), found.st_size


async def open_keyless(
    path: Path, folder: Path, missing: KeyMissing, *, busy_wait_s: float = BUSY_WAIT_S
) -> KeylessLedger:
    """The ledger in the file `path` to be read only, for its key is not in `folder`. Raises StoreError."""
    opened = await asyncio.to_thread(open_file, str(path), sync="FULL", wait_s=busy_wait_s, form=LEDGER)
    opened.writer.close()
    books = FileBooks(Reader(opened.reader, str(path)))
    return KeylessLedger(
        books, books.public(), missing, partial(asyncio.to_thread, embedded_audit.verify, path, folder)
    )


def _open(path: Path, folder: Path, wait_s: float) -> tuple[Opened, Keys]:
    keys = Keys.found(folder)
    if keys is None and path.exists() and path.stat().st_size:
        hint = "restore it; without it nobody can pay, and the ledger can only be looked at"
        raise KeyMissing(f"the key of the ledger {path} is not in {folder}", hint=hint)
    head = keys.read_head() if keys else None
    if keys and head is not None and head.seq and not path.exists():
        hint = f"restore it; or, to begin anew, take {keys.head_file} away: the key stays"
        raise StoreError(f"the ledger {path} is gone: it had {head.seq} records", hint=hint)
    keys = keys or Keys.at(folder)
    opened = open_file(str(path), sync="FULL", wait_s=wait_s, form=LEDGER)
    try:
        opened.writer.execute(f"PRAGMA busy_timeout={int(wait_s * 1000)}")  # another process may be first
        _recognise(opened.writer, keys, head, path)
        opened.writer.execute("PRAGMA busy_timeout=0")
    except sqlite3.Error as error:
        _shut(opened)
        raise store_error(error, str(path)) from error
    except StoreError:
        _shut(opened)
        raise
    return opened, keys


def _recognise(db: sqlite3.Connection, keys: Keys, head: Head | None, path: Path) -> None:
    """Raises StoreError for a file that is not the one which this key wrote last."""
    ledger = named(db)
    if ledger != keys.public:
        keys.check_public()
    if ledger == "":
        db.execute("UPDATE meta SET value = ? WHERE name = 'ledger' AND value = ''", (keys.public,))
        ledger = named(db)  # another process may have been first
    if ledger is None:
        raise StoreError(f"{path} does not say whose ledger it is: that was taken out", hint=HINT)
    if ledger != keys.public:
        raise StoreError(f"{path} is another ledger: it was written with another key", hint=HINT)
    if head is None or not head.seq:
        return
    row = db.execute("SELECT link FROM record WHERE seq = ?", (head.seq,)).fetchone()
    if row is None or row[0] != head.link:
        raise _not_as_written(path)


def _not_as_written(path: Path) -> StoreError:
    return StoreError(f"{path} is not as it was last written: it was cut, changed or replaced", hint=HINT)


def _shut(opened: Opened) -> None:
    opened.reader.close()
    opened.writer.close()
