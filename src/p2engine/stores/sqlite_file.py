"""Opens the file of the SQLite store: makes it, migrates it, sets its pragmas, and says what SQLite's errors mean.

Knows versions and connections; nothing of what the rows mean to anybody.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from p2engine.errors import NewerFormat, StoreBusy, StoreError
from p2engine.stores.sqlite_schema import APPLICATION, MIGRATIONS, SCHEMA, TABLES

MEMORY = ":memory:"

PAGE_BYTES = (
    1024  # a commit writes whole pages: 1 KB ones cost a tenth less CPU and a third of the WAL that 4 KB ones do
)
CHECKPOINT_PAGES = 4096  # 4 MB of WAL between checkpoints
WAL_BYTES_KEPT = 64 * 1024 * 1024  # a WAL that grew beyond, behind a long reader, is cut back to this
READ_WAIT_S = 1.0  # while another process recovers or closes the file, which takes milliseconds
RETRY_S = 0.02

P = ParamSpec("P")
T = TypeVar("T")

_ADVICE = (
    (("SQLITE_CORRUPT",), "is damaged", "run `p2engine doctor`, and restore a copy of the file"),
    (("SQLITE_NOTADB",), "is not a P2Engine store", "move it away, or name another file"),
    (("SQLITE_FULL",), "is on a full disk; nothing was written", "make room, and try again"),
    (
        ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM"),
        "cannot be written",
        "check it, its directory and the disk",
    ),
)


def busy(error: sqlite3.Error) -> bool:
    """Whether it says that another connection holds the lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """What SQLite says, in words of what to do."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if busy(error):
        return StoreBusy(f"{path} is locked by another process", hint="wait for it or end it, and try again")
    for names, what, hint in _ADVICE:
        if name.startswith(names):
            return StoreError(f"{path} {what}: {error}", hint=hint)
    return StoreError(f"{path}: {error} ({name}); nothing was written", hint="run `p2engine doctor`")


class Reader:
    """Calls reading functions with the reading connection, and turns what SQLite says into errors of the store."""

    def __init__(self, db: sqlite3.Connection, path: str) -> None:
        self._db = db
        self._path = path
        self.closed = False

    def __call__(self, read: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self.closed:
            raise StoreError(f"the store {self._path} is closed")
        try:
            return read(self._db, *args, **kwargs)
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def close(self) -> None:
        self.closed = True
        self._db.close()


def connect_writer(path: str, *, sync: str) -> sqlite3.Connection:
    """It never waits for a lock. Handed to and fro between the loop and one thread, which do not use it at once."""
    return _connect(
        path,
        0,
        f"synchronous={sync}",
        "fullfsync=1",  # macOS: a plain fsync leaves the bytes in the drive's cache
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
        f"journal_size_limit={WAL_BYTES_KEPT}",
    )


def connect_reader(path: str) -> sqlite3.Connection:
    return _connect(path, READ_WAIT_S, "query_only=1")


def _connect(path: str, timeout_s: float, *pragmas: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=timeout_s)
    try:
        for pragma in pragmas:
            db.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        db.close()
        raise
    return db


class Form(NamedTuple):
    """What a file of ours is: its mark, the tables of its newest schema, the steps from older ones, and its name."""

    application: int
    schema: int
    tables: str
    migrations: Mapping[int, str]
    name: str


STORE = Form(APPLICATION, SCHEMA, TABLES, MIGRATIONS, "store")


class Opened(NamedTuple):
    writer: sqlite3.Connection
    reader: sqlite3.Connection  # in memory, the same


def open_file(path: str, *, sync: str, wait_s: float, form: Form = STORE) -> Opened:
    """The connections to a file of this form, made or migrated where needed.

    Blocks for about `wait_s` seconds at most. Raises StoreError, StoreBusy, NewerFormat.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return _open(path, sync, form)
        except sqlite3.Error as error:
            if not busy(error) or time.monotonic() > deadline:
                raise store_error(error, path) from error
            time.sleep(RETRY_S)  # switching to WAL does not heed SQLite's own way of waiting


def _open(path: str, sync: str, form: Form) -> Opened:
    db = connect_writer(path, sync=sync)
    try:
        _bring_up(db, path, form)
        return Opened(db, db if path == MEMORY else connect_reader(path))
    except (sqlite3.Error, StoreError):
        db.close()
        raise


def _bring_up(db: sqlite3.Connection, path: str, form: Form) -> None:
    found = _schema_of(db, path, form)
    if found == 0:
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
    (journal,) = db.execute("PRAGMA journal_mode=WAL").fetchone()  # a copy that SQLite made is not in it
    if journal not in ("wal", "memory"):
        raise StoreError(f"{path} lies where SQLite cannot keep a write-ahead log", hint="put it on a local disk")
    if found == form.schema:
        return
    if found:
        _keep_copy(db, path, found)
    db.execute("BEGIN IMMEDIATE")
    try:
        found = _schema_of(db, path, form)  # another process may have been first
        scripts = [form.migrations[version] for version in range(found, form.schema)] if found else [form.tables]
        for script in scripts:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA application_id={form.application}")
        db.execute(f"PRAGMA user_version={form.schema}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _schema_of(db: sqlite3.Connection, path: str, form: Form) -> int:
    """The schema of the file, 0 when it is empty. Raises unless it is ours, and not of a later version."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (found,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        return 0
    if application != form.application:
        raise StoreError(f"{path} is not a P2Engine {form.name}", hint="move it away, or name another file")
    if found > form.schema:
        raise NewerFormat(
            f"{path} was written by a later version of P2Engine (schema {found}; this one reads up to {form.schema})",
            hint="update P2Engine",
        )
    return int(found)


def _keep_copy(db: sqlite3.Connection, path: str, found: int) -> None:
    """The file as it is before a migration, beside it. The first copy stays: a later one could be of the migrated."""
    copy, part = Path(f"{path}.schema-{found}"), Path(f"{path}.schema-{found}.{os.getpid()}")
    try:
        part.unlink(missing_ok=True)
        with closing(sqlite3.connect(part)) as target:
            db.backup(target)
        with suppress(FileExistsError):
            copy.hardlink_to(part)
        part.unlink()
    except OSError as error:
        raise StoreError(
            f"{path} cannot be copied before it is migrated: {error.strerror}", hint="make room"
        ) from error
