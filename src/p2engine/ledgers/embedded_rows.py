"""Rows of the embedded ledger's file: what stands there, and how what is new is written. Judges nothing."""

import sqlite3
from typing import Any

from p2engine.domain.chain import START, Peaks, link
from p2engine.domain.money import AccountName, BookId, Checkpoint, Record
from p2engine.errors import StoreError
from p2engine.ledgers.keys import Keys, is_signed
from p2engine.ledgers.writing import AccountKey, Line, Row, Scope, ScopeKey, Top, Writing, read_record
from p2engine.limits import LEDGER_CHECKPOINT_RECORDS, LEDGER_ROWS_KEPT_MAX

HINT = "run `p2engine ledger verify`, and restore the file that belongs here"

_NOWHERE = Row(AccountKey(BookId(""), AccountName(""), ""))  # stands for an account that there is not


class FileRows:
    """Implements `writing.Rows` inside a transaction, and writes what is new.

    What was read or written stays true in later transactions of the connection, for as long as they `are_current`.
    """

    def __init__(self, db: sqlite3.Cursor) -> None:
        """Raises StoreError for a newest record that was changed."""
        self._db = db
        self._version = self._committed_by_others()
        self._accounts: dict[AccountKey, Row] = {}
        self._scopes: dict[ScopeKey, Scope] = {}
        self._tree: Peaks | None = None  # over all records, once it has been worked out
        self.top = Top(*(db.execute("SELECT seq, link, at FROM record ORDER BY seq DESC LIMIT 1").fetchone() or ()))
        if not isinstance(self.top.link, bytes) or not isinstance(self.top.at, float):
            raise StoreError(f"record {self.top.seq} of the ledger was changed", hint=HINT)

    def are_current(self) -> bool:
        """Whether nobody else has changed the file, and few enough rows are kept."""
        kept = len(self._accounts) + len(self._scopes)
        return kept < LEDGER_ROWS_KEPT_MAX and self._committed_by_others() == self._version

    def _committed_by_others(self) -> int:
        """Differs once any other connection has committed."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def account(self, key: AccountKey) -> Row | None:
        row = self._accounts.get(key)
        if row is None:
            found = self._db.execute(
                "SELECT balance, received, sent, transfers, owner, aid, newest FROM account"
                " WHERE book = ? AND name = ? AND instrument = ?",
                key,
            ).fetchone()
            if found is None:
                return None
            row = self._accounts[key] = _row(key, found)
        return row

    def record(self, order: str) -> Record | None:
        found = self._db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
        return None if found is None else read_record(*found)

    def ended(self, hold: str) -> str | None:
        found = self._db.execute("SELECT ended_by FROM hold WHERE id = ?", (hold,)).fetchone()
        return None if found is None else found[0]

    def scope(self, key: ScopeKey) -> Scope:
        scope = self._scopes.get(key)
        if scope is None:
            found = self._db.execute(
                "SELECT spent, count FROM scope WHERE book = ? AND name = ? AND instrument = ?", key
            ).fetchone()
            scope = self._scopes[key] = _scope(key, found) if found else Scope()
        return scope

    def flush(self, writing: Writing, keys: Keys) -> None:
        """Write it all; the transaction may be committed then."""
        if not writing.lines:
            return
        db, counted = self._db, writing.counted
        made = [row for row in writing.moved if not row.place]
        if made:
            db.executemany("INSERT INTO account VALUES (?, ?, ?, ?, ?, ?, '0', '0', '0', 0, 0)", _placed(made, db))
        named: dict[int, Row] = {}
        lines = [_line(line, named) for line in writing.lines]
        db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", lines)
        db.executemany(
            "UPDATE account SET balance = ?, received = ?, sent = ?, transfers = ?, newest = ? WHERE aid = ?",
            [
                (str(row.balance), str(row.received), str(row.sent), row.transfers, row.newest, row.place)
                for row in named.values()
            ],
        )
        if counted:
            scopes = [(*key, str(scope.spent), scope.count) for key, scope in counted]
            db.executemany("INSERT OR REPLACE INTO scope VALUES (?, ?, ?, ?, ?)", scopes)
        if writing.holds:
            db.executemany("INSERT INTO hold VALUES (?, ?, NULL)", [(one.id, one.seq) for one in writing.holds])
        if writing.ends:
            ends = [(order, hold) for hold, order in writing.ends.items()]
            db.executemany("UPDATE hold SET ended_by = ? WHERE id = ?", ends)
        for row in writing.moved:
            row.moved = False
        for _, scope in counted:
            scope.moved = False
        self.top = Top(writing.seq, writing.link, writing.at)
        if self._tree is not None:
            for line in writing.lines:
                self._tree.add(line.link)
        if writing.seq // LEDGER_CHECKPOINT_RECORDS > writing.top.seq // LEDGER_CHECKPOINT_RECORDS:
            self._tree = self._tree or tree_of(db, keys)
            sign(self._tree, db, keys, writing.at)


def _row(key: AccountKey, found: tuple[Any, ...]) -> Row:
    """Raises StoreError for what is no number."""
    balance, received, sent, transfers, *rest = found
    try:
        return Row(key, int(balance), int(received), int(sent), int(transfers), *rest)
    except (ValueError, TypeError):
        raise StoreError(f"the account {key.name} of the ledger was changed", hint=HINT) from None


def _scope(key: ScopeKey, found: tuple[Any, ...]) -> Scope:
    """Raises StoreError for what is no number."""
    try:
        return Scope(int(found[0]), int(found[1]))
    except (ValueError, TypeError):
        raise StoreError(f"what the ledger keeps of {key.name} was changed", hint=HINT) from None


def _line(line: Line, named: dict[int, Row]) -> tuple[Any, ...]:
    """A row of the table. It goes to the end of the lists of the accounts that it names."""
    record, body, link, seal, payer, payee = line
    payer, payee = payer or _NOWHERE, payee or _NOWHERE
    found_by = (payer.place or None, payee.place or None)
    columns = (record.seq, record.id, record.type, *found_by, record.at, body, link, seal, payer.newest, payee.newest)
    for row in (payer, payee):
        if row.place:
            row.newest = record.seq
            named[row.place] = row
    return columns


def _placed(rows: list[Row], db: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """Give new accounts their places."""
    (newest,) = db.execute("SELECT coalesce(max(aid), 0) FROM account").fetchone()
    for place, row in enumerate(rows, newest + 1):
        row.place = place
    return [(row.place, *row.key, row.kind, row.owner) for row in rows]


def named(db: sqlite3.Connection) -> str | None:
    """The public key that the file names, "" while it holds no record; None where that was taken out."""
    sql = "SELECT value, EXISTS (SELECT 1 FROM record) FROM meta WHERE name = 'ledger'"
    public, is_used = db.execute(sql).fetchone() or (None, True)
    return public if isinstance(public, str) and (public or not is_used) else None


def newest_checkpoint(db: sqlite3.Connection | sqlite3.Cursor, public: str) -> Checkpoint | None:
    row = db.execute("SELECT count, root, at, signature FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    return row and read_checkpoint(row, public)


def read_checkpoint(row: tuple[Any, ...], public: str) -> Checkpoint:
    """Whatever stands in the row: one that was changed is not signed."""
    count, root, at, signature = row
    root = root.hex() if isinstance(root, bytes) else ""
    return Checkpoint(ledger=public, count=count, root=root, at=at, signature=str(signature))


def sign(tree: Peaks, db: sqlite3.Cursor, keys: Keys, at: float) -> None:
    """Write a checkpoint of all records, whose tree it is, unless there is one."""
    if not db.execute("SELECT 1 FROM checkpoint WHERE count = ?", (tree.count,)).fetchone() and tree.count:
        signed = keys.sign(tree.count, tree.root, at)
        values = (tree.count, bytes(tree), tree.root, at, signed.signature)
        db.execute("INSERT INTO checkpoint VALUES (?, ?, ?, ?, ?)", values)


def tree_of(db: sqlite3.Cursor, keys: Keys) -> Peaks:
    """The tree of all records, grown from that of the newest checkpoint.

    Raises StoreError where that or a record was changed since: what others wrote is never signed.
    """
    peaks = _peaks(db, keys)
    before = peaks.count
    (start,) = db.execute("SELECT link FROM record WHERE seq = ?", (before,)).fetchone() or (START,)
    for seq, body, kept, seal in db.execute(
        "SELECT seq, body, link, seal FROM record WHERE seq > ? ORDER BY seq", (before,)
    ):
        whole = isinstance(body, bytes) and isinstance(kept, bytes) and isinstance(start, bytes)
        if not whole or seq != peaks.count + 1 or link(start, body) != kept or keys.seal(kept) != seal:
            raise StoreError(f"record {peaks.count + 1} of the ledger was changed", hint=HINT)
        start = kept
        peaks.add(kept)
    return peaks


def _peaks(db: sqlite3.Cursor, keys: Keys) -> Peaks:
    """The tree at the newest checkpoint. Raises StoreError for one that was not signed."""
    found = db.execute("SELECT count, peaks FROM checkpoint ORDER BY count DESC LIMIT 1").fetchone()
    if found is None:
        return Peaks()
    count, packed = found
    peaks = Peaks.from_bytes(count, packed if isinstance(packed, bytes) else b"")
    newest, whole = newest_checkpoint(db, keys.public), len(peaks.peaks) == count.bit_count()
    if newest is None or not whole or newest.root != peaks.root.hex() or not is_signed(newest, keys.public):
        raise StoreError(f"the checkpoint of {count} records of the ledger was changed", hint=HINT)
    return peaks
