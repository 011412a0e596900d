"""Reads all of an embedded ledger for an audit or a proof. Judges nothing.

Opens the file for itself, to read only, so that a ledger that is too damaged to be used can still be looked at.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from p2engine.domain.money import AccountName, Audit, BookId, Checkpoint, Finding, Proof, kind_of_account
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers.auditing import Stop, Told, Walk, make_proof
from p2engine.ledgers.embedded_rows import newest_checkpoint, read_checkpoint
from p2engine.ledgers.keys import Head, Keys
from p2engine.ledgers.writing import AccountKey, ScopeKey
from p2engine.stores.sqlite_file import connect_reader, store_error


def verify(path: Path, folder: Path, published: Checkpoint | None = None) -> Audit:
    """Look through the ledger file `path`, with the key and head in `folder`. Raises StoreError where it cannot.

    published: a checkpoint that was kept elsewhere, which its records must be those of.
    """
    keys = Keys.found(folder)
    head = keys.read_head() if keys else None
    if not path.exists():
        return _verify_none(keys, head, published)
    try:
        with closing(_connect(path)) as db:
            db.execute("BEGIN")  # one look, whoever writes meanwhile
            return _verify(db, keys, head, published)
    except sqlite3.Error as error:
        failed = store_error(error, str(path))
        return Audit(records=0, accounts=0, findings=(Finding("unreadable", str(failed)),), sealed=keys is not None)


def _connect(path: Path) -> sqlite3.Connection:
    """To read only. Raises sqlite3.Error."""
    db = connect_reader(str(path))
    try:
        db.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.OperationalError as error:
        db.close()
        log = path.with_name(f"{path.name}-wal")
        is_read_only = error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
        if not is_read_only or (log.exists() and log.stat().st_size):
            raise
        # SQLite wants to write beside the file even to read it. Without a log, all that was written is in the file.
        return sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
    return db


def _verify_none(keys: Keys | None, head: Head | None, published: Checkpoint | None) -> Audit:
    walk = Walk(keys, head, {})
    if published is not None:
        walk.hold_to(published, keys.public if keys else "")
    if head is not None:
        walk.found("replaced", f"the ledger file is gone: it had {head.seq} records", 1)
    else:
        walk.end()
    return walk.audit()


def _verify(db: sqlite3.Connection, keys: Keys | None, head: Head | None, published: Checkpoint | None) -> Audit:
    (ledger,) = db.execute("SELECT value FROM meta WHERE name = 'ledger'").fetchone() or ("",)
    public = keys.public if keys else str(ledger)
    rows = db.execute("SELECT count, root, at, signature FROM checkpoint ORDER BY count")
    walk = Walk(keys, head, {row[0]: read_checkpoint(row, public) for row in rows})
    if published is not None:
        walk.hold_to(published, public)
    if keys is not None and ledger not in ("", keys.public):
        walk.found("replaced", "the file is of another ledger: it was written with another key")
    try:
        _walk(db, walk)
    except Stop:
        return walk.audit()
    walk.end()
    _compare(db, walk)
    return walk.audit()


def _walk(db: sqlite3.Connection, walk: Walk) -> None:
    rows = db.execute("SELECT aid, book, name, instrument FROM account")
    places = {AccountKey(BookId(book), name, instrument): aid for aid, book, name, instrument in rows}
    place = places.get

    def is_found(record: Told, giver: AccountKey, taker: AccountKey, by: list[Any]) -> bool:
        order, kind, at, payer, payee = by
        if order != record.id or kind != record.type or at != record.at:
            return False
        return kind == "refusal" or (place(giver, 0), place(taker, 0)) == (payer, payee)

    sql = "SELECT seq, body, link, seal, id, type, at, payer, payee FROM record ORDER BY seq"
    walk.over(db.execute(sql), is_found)


def _compare(db: sqlite3.Connection, walk: Walk) -> None:
    accounts = []
    for book, name, instrument, kind, owner, *kept in db.execute(
        "SELECT book, name, instrument, kind, owner, balance, received, sent, transfers FROM account"
    ):
        if kind != _kind(name):
            walk.found("balance", f"{name} is kept as a {kind}, which its name is not")
        accounts.append((AccountKey(book, AccountName(name), instrument), owner, [*map(str, kept)]))
    scopes = {
        ScopeKey(BookId(str(book)), str(name), str(instrument)): [str(spent), str(count)]
        for book, name, instrument, spent, count in db.execute("SELECT book, name, instrument, spent, count FROM scope")
    }
    walk.compare(accounts, scopes, {held: ended or "" for held, ended in db.execute("SELECT id, ended_by FROM hold")})


def _kind(name: object) -> str:
    try:
        return kind_of_account(str(name))
    except UsageError:
        return ""


def prove(db: sqlite3.Connection, order: str, public: str) -> Proof:
    """The way from a record to the newest checkpoint, which must be after it. Raises UsageError."""
    row = db.execute("SELECT seq, body FROM record WHERE id = ?", (order,)).fetchone()
    if row is None:
        raise UsageError(f"no order {order!r} stands in the ledger")
    seq, body = row
    newest = newest_checkpoint(db, public)
    if newest is None or newest.count < seq:
        raise StoreError(f"no checkpoint covers record {seq} yet")
    leaves = [leaf for (leaf,) in db.execute("SELECT link FROM record WHERE seq <= ? ORDER BY seq", (newest.count,))]
    return make_proof(seq, body, leaves, newest)
