"""One transaction on the embedded ledger: records are appended to the chain, and what is derived follows them.

Knows rows and links; judges nothing. Everything is read through it, so that an order sees those before it.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from p2engine.domain.chain import START, Peaks, link
from p2engine.domain.money import AccountName, Amount, BookId, Kind, Record, kind_of_account
from p2engine.errors import StoreError
from p2engine.ledgers.keys import Keys
from p2engine.limits import LEDGER_CHECKPOINT_RECORDS

_RECORD = msgspec.json.Decoder(Record)
_ENCODE = msgspec.json.Encoder().encode


def read_record(seq: int, body: bytes) -> Record:
    """Raises StoreError for bytes that are no record."""
    try:
        return _RECORD.decode(body)
    except (ValueError, TypeError):
        raise StoreError(f"record {seq} of the ledger cannot be read", hint="run `p2engine ledger verify`") from None


@dataclass(slots=True)
class Row:
    """An account while it is being written."""

    aid: int
    name: AccountName
    kind: Kind
    balance: int
    received: int
    sent: int
    transfers: int


@dataclass(slots=True)
class Scope:
    """What all that share a limit came to."""

    spent: int
    count: int


def _row(name: AccountName, aid: int, kind: Kind, balance: str, received: str, sent: str, transfers: int) -> Row:
    return Row(aid, name, kind, int(balance), int(received), int(sent), transfers)


class Writing:
    """Takes what is to be written, and writes it at `flush`. The transaction is its caller's."""

    def __init__(self, db: sqlite3.Cursor, keys: Keys, now: Callable[[], float], salt: Callable[[], str]) -> None:
        self._db = db
        self._keys = keys
        self._salt = salt
        last = db.execute("SELECT seq, link, at FROM record ORDER BY seq DESC LIMIT 1").fetchone()
        self.seq: int = last[0] if last else 0
        self.link: bytes = last[1] if last else START
        before: float = last[2] if last else 0.0
        if not isinstance(self.link, bytes) or not isinstance(before, float):
            raise StoreError(f"record {self.seq} of the ledger was changed", hint="run `p2engine ledger verify`")
        self.at = max(now(), before)  # a clock that goes back does not take the ledger with it
        self._first = self.seq
        self._aid = 0
        self._made: list[tuple[Any, ...]] = []
        self._rows: dict[tuple[str, str, str], Row | None] = {}
        self._scopes: dict[tuple[str, str, str], Scope] = {}
        self._records: dict[str, Record] = {}
        self._lines: list[tuple[Any, ...]] = []
        self._ends: list[tuple[str, str]] = []

    # Reading

    def row(self, book: BookId, name: AccountName, instrument: str) -> Row | None:
        key = (book, name, instrument)
        if key not in self._rows:
            found = self._db.execute(
                "SELECT aid, kind, balance, received, sent, transfers FROM account"
                " WHERE book = ? AND name = ? AND instrument = ?",
                key,
            ).fetchone()
            self._rows[key] = found and _row(name, *found)
        return self._rows[key]

    def record(self, order: str) -> Record | None:
        """What was written for an order. Raises StoreError for one that cannot be read."""
        if order in self._records:
            return self._records[order]
        found = self._db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
        return None if found is None else read_record(*found)

    def ended(self, hold: str) -> str | None:
        """The order that ended a hold; None while it stands."""
        for held, order in self._ends:
            if held == hold:
                return order
        found = self._db.execute("SELECT ended_by FROM hold WHERE id = ?", (hold,)).fetchone()
        return None if found is None else found[0]

    def scope(self, book: BookId, name: str, instrument: str) -> Scope:
        key = (book, name, instrument)
        if key not in self._scopes:
            found = self._db.execute(
                "SELECT spent, count FROM scope WHERE book = ? AND name = ? AND instrument = ?", key
            ).fetchone()
            self._scopes[key] = Scope(int(found[0]), found[1]) if found else Scope(0, 0)
        return self._scopes[key]

    # Writing

    def make_row(self, book: BookId, name: AccountName, instrument: str, owner: str = "") -> Row:
        """A new account, with nothing in it."""
        if not self._aid:
            (self._aid,) = self._db.execute("SELECT coalesce(max(aid), 0) FROM account").fetchone()
        self._aid += 1
        row = Row(self._aid, name, kind_of_account(name), 0, 0, 0, 0)
        self._rows[book, name, instrument] = row
        self._made.append((row.aid, book, name, instrument, row.kind, owner))
        return row

    def append(self, record: Record, payer: Row | None, payee: Row | None) -> Record:
        """Put a record at the end, and move what it moves. Its seq, salt, time and `left` are given here."""
        self.seq += 1
        left = ""
        if record.moves:
            assert payer is not None
            assert payee is not None
            units = record.money.units
            payer.balance -= units
            payee.balance += units
            if record.type == "transfer":
                payer.sent, payee.received = payer.sent + units, payee.received + units
                payer.transfers, payee.transfers = payer.transfers + 1, payee.transfers + 1
            left = str(Amount(payer.balance))
        whole = msgspec.structs.replace(record, seq=self.seq, salt=self._salt(), at=self.at, left=left)
        body = _ENCODE(whole)
        self.link = link(self.link, body)
        aids = (payer and payer.aid, payee and payee.aid)
        line = (whole.seq, whole.id, whole.type, *aids, whole.at, body, self.link, self._keys.seal(self.link))
        self._lines.append(line)
        self._records[whole.id] = whole
        if whole.hold:
            self._ends.append((whole.hold, whole.id))
        for scope in whole.scopes:
            counted = self.scope(whole.book, scope, whole.instrument)
            counted.spent += record.money.units
            counted.count += 1
        return whole

    def flush(self) -> None:
        """Write it all; the transaction may be committed then."""
        if not self._lines:
            return
        rows = [
            (str(row.balance), str(row.received), str(row.sent), row.transfers, row.aid)
            for row in self._rows.values()
            if row is not None
        ]
        scopes = [(*key, str(scope.spent), scope.count) for key, scope in self._scopes.items() if scope.count]
        holds = [(one.id, one.seq) for one in self._records.values() if one.type == "hold"]
        ends = [(order, hold) for hold, order in self._ends]
        db = self._db
        for sql, values in (
            ("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._lines),
            ("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, '0', '0', '0', 0)", self._made),
            ("UPDATE account SET balance = ?, received = ?, sent = ?, transfers = ? WHERE aid = ?", rows),
            ("INSERT OR REPLACE INTO scope VALUES (?, ?, ?, ?, ?)", scopes),
            ("INSERT INTO hold VALUES (?, ?, NULL)", holds),
            ("UPDATE hold SET ended_by = ? WHERE id = ?", ends),
        ):
            if values:
                db.executemany(sql, values)
        if self.seq // LEDGER_CHECKPOINT_RECORDS > self._first // LEDGER_CHECKPOINT_RECORDS:
            sign(db, self._keys, self.at)


def sign(db: sqlite3.Cursor, keys: Keys, at: float) -> None:
    """Write a checkpoint of all that is there, unless the newest one is that. The tree grows from the one before."""
    found = db.execute("SELECT count, peaks FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    peaks = Peaks.from_bytes(*found) if found else Peaks()
    before = peaks.count
    for (leaf,) in db.execute("SELECT link FROM record WHERE seq > ? ORDER BY seq", (before,)):
        peaks.add(leaf)
    if peaks.count == before:
        return
    signed = keys.sign(peaks.count, peaks.root, at)
    db.execute(
        "INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?)", (peaks.count, bytes(peaks), peaks.root, at, signed.signature)
    )
