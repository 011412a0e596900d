"""What the embedded ledger tells: accounts and records, by index. Knows rows; writes nothing."""

import sqlite3
from typing import Any

from p2engine.domain.money import Account, AccountName, Amount, BookId, Record, RecordQuery
from p2engine.ledgers.keys import Head
from p2engine.ledgers.writing import read_record
from p2engine.limits import RECORDS_MAX

_ACCOUNT = "SELECT name, book, kind, balance, received, sent, transfers, owner, instrument FROM account"


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
    for where, value in _places(db, query):
        left = limit
        for row in _rows(db, query, where, value):
            if left == 0:
                break
            one = read_record(*row)
            if query.book is None or one.book == query.book:
                found[one.seq] = one
                left -= 1
    ordered = [found[seq] for seq in sorted(found)]
    return ordered[max(0, len(ordered) - limit) :] if query.newest else ordered[:limit]


def _places(db: sqlite3.Connection, query: RecordQuery) -> list[tuple[str, int]]:
    """Where records may lie: by the index of payers and of payees, or anywhere."""
    if query.account is None:
        return [("seq >= ?", 0)]
    sql = "SELECT aid FROM account WHERE name = ? AND (book = ? OR ?)"
    aids = [aid for (aid,) in db.execute(sql, (query.account, query.book, query.book is None))]
    return [(where, aid) for aid in aids for where in ("payer = ?", "payee = ?")]


def _rows(db: sqlite3.Connection, query: RecordQuery, where: str, value: int) -> sqlite3.Cursor:
    types = ", ".join("?" * len(query.types))
    return db.execute(
        f"SELECT seq, body FROM record WHERE {where} AND seq > ? AND at >= ?"  # noqa: S608 — no word of anybody's
        f" {f'AND type IN ({types})' if types else ''} ORDER BY seq {'DESC' if query.newest else 'ASC'}",
        (value, query.after, query.since or 0.0, *query.types),
    )


def _account(row: tuple[Any, ...]) -> Account:
    name, book, kind, balance, received, sent, transfers, owner, instrument = row
    return Account(
        name=name,
        book=book,
        kind=kind,
        balance=Amount(int(balance), instrument),
        received=Amount(int(received), instrument),
        sent=Amount(int(sent), instrument),
        transfers=transfers,
        owner=owner,
    )
