"""Looks a whole store over: is the file sound, can every row be read, do the stacks hang together.

Reads everything, so it is for a person who asks, not for a loop that serves others. Changes nothing.
"""

import sqlite3
from collections.abc import Iterator
from itertools import islice

import msgspec

from p2engine.domain.codec import decode_commit, decode_effect, decode_fact
from p2engine.errors import StoreError
from p2engine.stores.rows import Where

PROBLEMS_MAX = 50  # more than a person reads; the rest is of the same kind

_GAPS = """
SELECT ref, seq, cursor, expected FROM (
  SELECT b.ref, log.seq, log.cursor,
    coalesce(lag(log.stop) OVER (PARTITION BY log.bid ORDER BY log.seq), b.at) AS expected
  FROM log JOIN branch b ON b.bid = log.bid WHERE log.seq IS NOT NULL)
WHERE seq <> expected
"""
_LOST = """
SELECT cursor FROM log WHERE bid IS NOT NULL AND bid NOT IN (SELECT bid FROM branch)
"""
_ROOTLESS = """
SELECT c.name, c.current FROM conversation c
WHERE NOT EXISTS (SELECT 1 FROM branch b WHERE b.ref = c.current AND b.cid = c.cid)
"""
_ROWS = "SELECT log.cursor, log.seq, log.body, b.ref FROM log LEFT JOIN branch b ON b.bid = log.bid"


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is. bytes: of the file, without its WAL."""

    conversations: int
    branches: int
    rows: int
    owed: int
    owners: int
    bytes: int
    journal: str
    schema: int
    sqlite: str


def check(db: sqlite3.Connection) -> list[str]:
    """What is wrong, in words of what and where; empty when all is well. At most PROBLEMS_MAX."""
    found: list[str] = []
    try:
        found += islice(_problems(db), PROBLEMS_MAX)
    except sqlite3.DatabaseError as error:  # too damaged to be looked over
        found.append(str(error))
    return found


def stats(db: sqlite3.Connection) -> Stats:
    def number(sql: str) -> int:
        return int(db.execute(sql).fetchone()[0])

    return Stats(
        conversations=number("SELECT count(*) FROM conversation"),
        branches=number("SELECT count(*) FROM branch"),
        rows=number("SELECT count(*) FROM log"),
        owed=number("SELECT count(*) FROM owed"),
        owners=number("SELECT count(DISTINCT owner) FROM owed"),
        bytes=number("PRAGMA page_count") * number("PRAGMA page_size"),
        journal=db.execute("PRAGMA journal_mode").fetchone()[0],
        schema=number("PRAGMA user_version"),
        sqlite=sqlite3.sqlite_version,
    )


def _problems(db: sqlite3.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA quick_check"):
        if line != "ok":
            yield line
    for ref, seq, row, expected in db.execute(_GAPS):
        yield f"branch {ref} has entry {seq} (row {row}) where {expected} should come next"
    for (row,) in db.execute(_LOST):
        yield f"row {row} belongs to no branch"
    for name, ref in db.execute(_ROOTLESS):
        yield f"conversation {name!r} points at branch {ref}, which it does not have"
    for row, seq, body, ref in db.execute(_ROWS):
        try:
            if seq is None:
                decode_fact(body, f"row {row}")
            else:
                decode_commit(body, Where(ref or "?", seq, row))
        except StoreError as error:
            yield str(error)
    for effect, body in db.execute("SELECT id, body FROM owed"):
        try:
            decode_effect(body, f"owed effect {effect}")
        except StoreError as error:
            yield str(error)
