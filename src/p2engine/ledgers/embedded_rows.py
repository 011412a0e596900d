"""Rows of the embedded ledger's file: what stands there, and how what is new is written. Judges nothing."""

import sqlite3
from typing import Any

from p2engine.domain.chain import START, Peaks, link
from p2engine.domain.money import Checkpoint, Record
from p2engine.errors import StoreError
from p2engine.ledgers.keys import Keys, is_signed
from p2engine.ledgers.writing import AccountKey, Row, Scope, ScopeKey, Top, Writing, read_record
from p2engine.limits import LEDGER_CHECKPOINT_RECORDS


class FileRows:
    """Implements `writing.Rows` inside a transaction."""

    def __init__(self, db: sqlite3.Cursor) -> None:
        self._db = db

    def top(self) -> Top:
        """Raises StoreError for a newest record that was changed."""
        last = self._db.execute("SELECT seq, link, at FROM record ORDER BY seq DESC LIMIT 1").fetchone()
        if last is None:
            return Top()
        top = Top(*last)
        if not isinstance(top.link, bytes) or not isinstance(top.at, float):
            raise StoreError(f"record {top.seq} of the ledger was changed", hint="run `p2engine ledger verify`")
        return top

    def account(self, key: AccountKey) -> Row | None:
        found = self._db.execute(
            "SELECT aid, balance, received, sent, transfers, owner FROM account"
            " WHERE book = ? AND name = ? AND instrument = ?",
            key,
        ).fetchone()
        if found is None:
            return None
        aid, balance, received, sent, transfers, owner = found
        return Row(key, int(balance), int(received), int(sent), transfers, owner, aid)

    def record(self, order: str) -> Record | None:
        found = self._db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
        return None if found is None else read_record(*found)

    def ended(self, hold: str) -> str | None:
        found = self._db.execute("SELECT ended_by FROM hold WHERE id = ?", (hold,)).fetchone()
        return None if found is None else found[0]

    def scope(self, key: ScopeKey) -> Scope:
        found = self._db.execute(
            "SELECT spent, count FROM scope WHERE book = ? AND name = ? AND instrument = ?", key
        ).fetchone()
        return Scope(int(found[0]), found[1]) if found else Scope()


def flush(writing: Writing, db: sqlite3.Cursor, keys: Keys) -> None:
    """Write it all; the transaction may be committed then."""
    if not writing.lines:
        return
    moved = writing.moved
    made = _place([row for row in moved if not row.place], db)
    rows = [(str(row.balance), str(row.received), str(row.sent), row.transfers, row.place) for row in moved]
    scopes = [(*key, str(scope.spent), scope.count) for key, scope in writing.counted]
    for sql, values in (
        ("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [_line(line) for line in writing.lines]),
        ("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, '0', '0', '0', 0)", made),
        ("UPDATE account SET balance = ?, received = ?, sent = ?, transfers = ? WHERE aid = ?", rows),
        ("INSERT OR REPLACE INTO scope VALUES (?, ?, ?, ?, ?)", scopes),
        ("INSERT INTO hold VALUES (?, ?, NULL)", [(record.id, record.seq) for record in writing.holds]),
        ("UPDATE hold SET ended_by = ? WHERE id = ?", [(order, hold) for hold, order in writing.ends.items()]),
    ):
        if values:
            db.executemany(sql, values)
    if writing.seq // LEDGER_CHECKPOINT_RECORDS > writing.top.seq // LEDGER_CHECKPOINT_RECORDS:
        sign(db, keys, writing.at)


def _line(line: Any) -> tuple[Any, ...]:
    record = line.record
    payer, payee = (row.place or None if row else None for row in (line.payer, line.payee))
    return (record.seq, record.id, record.type, payer, payee, record.at, line.body, line.link, line.seal)


def _place(rows: list[Row], db: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """Give new accounts their places."""
    if not rows:
        return []
    (newest,) = db.execute("SELECT coalesce(max(aid), 0) FROM account").fetchone()
    for place, row in enumerate(rows, newest + 1):
        row.place = place
    return [(row.place, *row.key, row.kind, row.owner) for row in rows]


def newest_checkpoint(db: sqlite3.Connection | sqlite3.Cursor, public: str) -> Checkpoint | None:
    row = db.execute("SELECT count, root, at, signature FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    return row and read_checkpoint(row, public)


def read_checkpoint(row: tuple[Any, ...], public: str) -> Checkpoint:
    """Whatever stands in the row: one that was changed is not signed."""
    count, root, at, signature = row
    root = root.hex() if isinstance(root, bytes) else ""
    return Checkpoint(ledger=public, count=count, root=root, at=at, signature=str(signature))


def sign(db: sqlite3.Cursor, keys: Keys, at: float) -> None:
    """Write a checkpoint of all that is there, unless the newest one is that. The tree grows from the one before.

    Raises StoreError where the tree or a record was changed since: what others wrote is never signed.
    """
    peaks = _peaks(db, keys)
    before = peaks.count
    (start,) = db.execute("SELECT link FROM record WHERE seq = ?", (before,)).fetchone() or (START,)
    for seq, body, kept, seal in db.execute(
        "SELECT seq, body, link, seal FROM record WHERE seq > ? ORDER BY seq", (before,)
    ):
        whole = isinstance(body, bytes) and isinstance(kept, bytes) and isinstance(start, bytes)
        if not whole or seq != peaks.count + 1 or link(start, body) != kept or keys.seal(kept) != seal:
            raise StoreError(f"record {peaks.count + 1} of the ledger was changed", hint="run `p2engine ledger verify`")
        start = kept
        peaks.add(kept)
    if peaks.count == before:
        return
    signed = keys.sign(peaks.count, peaks.root, at)
    db.execute(
        "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?)", (peaks.count, bytes(peaks), peaks.root, at, signed.signature)
    )


def _peaks(db: sqlite3.Cursor, keys: Keys) -> Peaks:
    """The tree at the newest checkpoint. Raises StoreError for one that was not signed."""
    found = db.execute("SELECT count, peaks FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    if found is None:
        return Peaks()
    peaks, newest = Peaks.from_bytes(*found), newest_checkpoint(db, keys.public)
    whole = len(peaks.peaks) == peaks.count.bit_count()
    if newest is None or not whole or newest.root != peaks.root.hex() or not is_signed(newest, keys.public):
        text = f"the checkpoint of {found[0]} records of the ledger was changed"
        raise StoreError(text, hint="run `p2engine ledger verify`")
    return peaks
