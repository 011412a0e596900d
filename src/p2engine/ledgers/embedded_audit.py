"""Reads all of an embedded ledger for an audit or a proof. Judges nothing.

Opens the file for itself, to read only, so that a ledger that is too damaged to be used can still be looked at.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from p2engine.domain.money import AccountName, Audit, BookId, Checkpoint, Finding, Proof, kind_of_account
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers.auditing import Line, Plain, Stop, Told, Walk, make_proof
from p2engine.ledgers.embedded_rows import named, newest_checkpoint, read_checkpoint
from p2engine.ledgers.keys import PUBLIC_MEND, Keys
from p2engine.ledgers.writing import AccountKey, ScopeKey
from p2engine.stores.sqlite_file import connect_reader, store_error


def verify(path: Path, folder: Path, published: Checkpoint | None = None) -> Audit:
    """Look through the ledger file `path`, with the key and head in `folder`. Raises StoreError where it cannot.

    published: a checkpoint that was kept elsewhere, which its records must be those of.
    """
    keys = Keys.found(folder)
    walk_of = partial(Walk, keys, *(keys.look_at_head() if keys else (None, "")))
    if not path.exists():
        return _verify_none(walk_of({}), keys, published)
    try:
        with closing(_connect(path)) as db:
            db.execute("BEGIN")  # one look, whoever writes meanwhile
            return _verify(db, keys, walk_of, published)
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


def _verify_none(walk: Walk, keys: Keys | None, published: Checkpoint | None) -> Audit:
    if published is not None:
        walk.hold_to(published, keys.public if keys else "")
    if walk.head is not None:
        walk.found("replaced", f"the ledger file is gone: it had {walk.head.seq} records", 1)
    else:
        walk.end()
    return walk.audit()


def _verify(
    db: sqlite3.Connection,
    keys: Keys | None,
    walk_of: Callable[..., Walk],
    published: Checkpoint | None,
) -> Audit:
    ledger = named(db)
    doubt = keys.doubt_public() if keys and ledger != keys.public else ""
    public = keys.public if keys else ledger or ""
    rows = db.execute("SELECT count, root, at, signature, peaks FROM checkpoint ORDER BY count").fetchall()
    walk = walk_of({row[0]: read_checkpoint(row[:4], public) for row in rows}, {row[0]: row[4] for row in rows})
    if published is not None:
        walk.hold_to(published, public)
    if doubt:
        walk.found("changed", f"{doubt}; {PUBLIC_MEND}")
    if ledger is None:
        walk.found("changed", "the file does not say whose ledger it is: that was taken out")
    elif keys is not None and ledger not in ("", keys.public):
        walk.found("replaced", "the file is of another ledger: it was written with another key")
    newest: dict[int, int] = {}
    try:
        _walk(db, walk, newest)
    except Stop:
        return walk.audit()
    walk.end()
    _compare(db, walk, newest)
    return walk.audit()


def _walk(db: sqlite3.Connection, walk: Walk, newest: dict[int, int]) -> None:
    """newest: takes the newest record of each account, by the account's place."""
    rows = db.execute("SELECT aid, book, name, instrument FROM account")
    places: dict[Plain, int] = {(book, name, instrument): aid for aid, book, name, instrument in rows}
    kept = newest.get

    def is_found(record: Told, gives: int | None, takes: int | None, line: Line) -> bool:
        _, _, _, _, order, kind, at, payer, payee, payer_before, payee_before = line
        if kind == "refusal":  # an account is none until something has moved there
            gives = None if payer is None and gives not in newest else gives
            takes = None if payee is None and takes not in newest else takes
        follows = payer_before is None or (kept(payer, 0) == payer_before and kept(payee, 0) == payee_before)
        if payer is not None:
            newest[payer] = record.seq
        if payee is not None:
            newest[payee] = record.seq
        named = order == record.id and payer == gives and payee == takes
        return bool(named and follows and kind == record.type and at == record.at)

    before = "payer_before, payee_before" if _is_listed(db) else "NULL, NULL"
    sql = f"SELECT seq, body, link, seal, id, type, at, payer, payee, {before} FROM record ORDER BY seq"  # noqa: S608
    walk.over(db.execute(sql), lambda account: places.get(account, 0), is_found)


def _is_listed(db: sqlite3.Connection) -> bool:
    """Whether the records of an account are a list; those of the first schema are, once it is opened to be written."""
    return bool(db.execute("SELECT 1 FROM pragma_table_info('record') WHERE name = 'payer_before'").fetchone())


def _compare(db: sqlite3.Connection, walk: Walk, newest: dict[int, int]) -> None:
    accounts = []
    of = "newest" if _is_listed(db) else "NULL"
    for aid, last, book, name, instrument, kind, owner, *kept in db.execute(
        f"SELECT aid, {of}, book, name, instrument, kind, owner, balance, received, sent, transfers FROM account"  # noqa: S608
    ):
        if last is not None and last != newest.get(aid, 0):
            walk.found("balance", f"{name} is kept with another newest record than it has")
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
