"""What the embedded ledger tells: accounts and records, by index. Knows rows; writes nothing."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from p2engine.domain.money import Account, AccountName, Amount, BookId, Record, RecordQuery
from p2engine.errors import StoreError
from p2engine.ledgers.embedded_rows import HINT, named
from p2engine.ledgers.keys import Head
from p2engine.ledgers.writing import read_record
from p2engine.limits import RECORDS_MAX
from p2engine.stores.sqlite_file import Reader

T = TypeVar("T")

_ACCOUNT = "SELECT name, book, kind, balance, received, sent, transfers, owner, instrument FROM account"


_BEFORE = "CASE WHEN payer = ? THEN payer_before ELSE payee_before END"
_LIST = f"""
WITH RECURSIVE list(seq) AS (
  SELECT newest FROM account WHERE aid = ? UNION ALL
  SELECT {_BEFORE} FROM list CROSS JOIN record USING (seq) WHERE {_BEFORE} < seq AND seq > ? AND at >= ?)
"""  # noqa: S608 — it never goes round in a list that somebody has changed


def head(db: sqlite3.Connection) -> Head | None:
    row = db.execute("SELECT seq, link FROM record ORDER BY seq DESC LIMIT 1").fetchone()
    return None if row is None else Head(*row)


def account(db: sqlite3.Connection, book: BookId, name: AccountName, instrument: str) -> Account | None:
    row = db.execute(f"{_ACCOUNT} WHERE book = ? AND name = ? AND instrument = ?", (book, name, instrument)).fetchone()
    return None if row is None else _account(row)


def accounts(db: sqlite3.Connection, book: BookId) -> list[Account]:
    return [_account(row) for row in db.execute(f"{_ACCOUNT} WHERE book = ? ORDER BY name, instrument", (book,))]


def record(db: sqlite3.Connection, order: str) -> Record | None:
    row = db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
    return None if row is None else read_record(*row)


def records(db: sqlite3.Connection, query: RecordQuery) -> list[Record]:
    """The records that match, oldest first."""
    limit = max(0, min(query.limit, RECORDS_MAX))
    found: dict[int, Record] = {}
    for place in _places(db, query):
        left = limit
        for row in _rows(db, query, place):
            if left == 0:
                break
            one = read_record(*row)
            if query.book is None or one.book == query.book:
                found[one.seq] = one
                left -= 1
    ordered = [found[seq] for seq in sorted(found)]
    return ordered[max(0, len(ordered) - limit) :] if query.newest else ordered[:limit]


class FileBooks:
    """The accounts and records of one file, to be read. Implements `keyless.Books`."""

    def __init__(self, read: Reader) -> None:
        self._read = read

    def public(self) -> str:
        """The public key that the file names."""
        return self._read(named) or ""

    async def record(self, order: str) -> Record | None:
        return self._found(None, record, order)

    async def account(self, book: BookId, name: AccountName, instrument: str) -> Account | None:
        return self._found(None, account, book, name, instrument)

    async def accounts(self, book: BookId) -> Sequence[Account]:
        return self._found([], accounts, book)

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        return self._found([], records, query)

    async def aclose(self) -> None:
        self._read.close()

    def _found(self, nothing: T, read: Callable[..., T], *words: Any) -> T:
        try:
            return self._read(read, *words)
        except UnicodeEncodeError:  # nobody could have written words of that kind
            return nothing


def _places(db: sqlite3.Connection, query: RecordQuery) -> list[int | None]:
    """The accounts whose records they are; None: anybody's."""
    if query.account is None:
        return [None]
    sql = "SELECT aid FROM account WHERE name = ? AND (book = ? OR ?)"
    return [aid for (aid,) in db.execute(sql, (query.account, query.book, query.book is None))]


def _rows(db: sqlite3.Connection, query: RecordQuery, place: int | None) -> sqlite3.Cursor:
    types = ", ".join("?" * len(query.types))
    where = f"seq > ? AND at >= ?{f' AND type IN ({types})' if types else ''}"
    values = (query.after, query.since or 0.0, *query.types)
    order = f"ORDER BY seq {'DESC' if query.newest else 'ASC'}"
    if place is None:
        return db.execute(f"SELECT seq, body FROM record WHERE {where} {order}", values)  # noqa: S608 — our words
    # The list goes from the newest to the oldest, so whoever wants the newest need not know where it ends.
    sql = f"{_LIST} SELECT seq, body FROM list CROSS JOIN record USING (seq) WHERE {where}"  # noqa: S608
    return db.execute(sql if query.newest else f"{sql} {order}", (place, place, place, *values[:2], *values))


def _account(row: tuple[Any, ...]) -> Account:
    """Raises StoreError for what is no number."""
    name, book, kind, balance, received, sent, transfers, owner, instrument = row
    try:
        return Account(
            name=name,
            book=book,
            kind=kind,
            balance=Amount(int(balance), instrument),
            received=Amount(int(received), instrument),
            sent=Amount(int(sent), instrument),
            transfers=int(transfers),
            owner=owner,
        )
    except (ValueError, TypeError):
        raise StoreError(f"the account {name} of the ledger was changed", hint=HINT) from None
