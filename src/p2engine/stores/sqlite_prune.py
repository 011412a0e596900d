"""Takes conversations, or branches of them, out of the file: each in one transaction, wholly or not at all.

Knows the tables. What may go was decided before; here it is only refused where the file is no longer as it was then.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from p2engine.domain.codec import encode
from p2engine.domain.ids import ConversationId, EffectId, StackRef
from p2engine.domain.records import LEDGER, NO_END, Pruning, Weight
from p2engine.errors import ConflictError, UsageError
from p2engine.stores.rows import owing, unlike
from p2engine.stores.sqlite_batch import add_fact

ROW_BYTES = 64  # what a row of the log takes beside its body, its indexes included

_CONVERSATION = "SELECT cid, current FROM conversation WHERE id = ?"
_WEIGHT = """
SELECT coalesce(sum(stop - seq), 0), count(*), coalesce(sum(length(body)), 0), coalesce(max(cursor), 0)
FROM log WHERE cid = ?
"""
_BRANCHES = """
SELECT b.bid, b.ref, p.ref, b.at FROM branch b LEFT JOIN branch p ON p.bid = b.parent WHERE b.cid = ? ORDER BY b.bid
"""
_OWED = """
SELECT owed.id FROM branch JOIN owed ON owed.id >= branch.ref || ':' AND owed.id < branch.ref || ';'
WHERE branch.cid = ? ORDER BY owed.born, owed.id
"""
_LEAVE_ALL = "UPDATE log SET bid = NULL, cid = NULL WHERE cid = ? AND kind >= ? AND kind < ?"
_LEAVE_BRANCH = "UPDATE log SET bid = NULL WHERE bid = ? AND kind >= ? AND kind < ?"
_OF_LEDGER = (LEDGER, LEDGER[:-1] + "/")  # `/` follows `.`
_NEWEST_OF_ALL = "SELECT coalesce(max(cursor), 0) FROM log WHERE cid = ?"
_NEWEST_OF_BRANCH = "SELECT coalesce(max(cursor), 0) FROM log WHERE bid = ?"
_NEWEST_FROM = "SELECT coalesce(max(cursor), 0) FROM log WHERE bid = ? AND seq >= ?"
_RAISE_HORIZON = "UPDATE meta SET value = max(value, ?) WHERE name = 'horizon'"
_FORGET = "DELETE FROM known WHERE row NOT IN (SELECT cursor FROM log)"
_COUNT = "INSERT INTO meta VALUES ('prunes', 1) ON CONFLICT(name) DO UPDATE SET value = value + 1"


class _Branch(NamedTuple):
    bid: int
    ref: StackRef
    parent: StackRef | None
    at: int


def weigh(db: sqlite3.Connection, conversation: ConversationId) -> Weight:
    """Raises UsageError for a conversation that there is not."""
    found = db.execute(_CONVERSATION, (conversation,)).fetchone()
    if found is None:
        raise UsageError(f"there is no conversation {conversation!r}")
    cid = found[0]
    entries, rows, size, newest = db.execute(_WEIGHT, (cid,)).fetchone()
    (branches,) = db.execute("SELECT count(*) FROM branch WHERE cid = ?", (cid,)).fetchone()
    owed = tuple(EffectId(effect) for (effect,) in db.execute(_OWED, (cid,)))
    return Weight(branches, entries, rows, size + ROW_BYTES * rows, newest, owed)


class Removal:
    """A pruning that needs no transaction yet. Calling it does it in an open one."""

    def __init__(self, pruning: Pruning) -> None:
        self._pruning = pruning
        self._fact = encode(pruning.fact)

    def __call__(self, db: sqlite3.Cursor) -> None:
        """Raises UsageError and ConflictError, having written nothing."""
        pruning = self._pruning
        if db.execute("SELECT 1 FROM log WHERE fact = ?", (pruning.fact.id,)).fetchone():
            return  # done already
        found = db.execute(_CONVERSATION, (pruning.conversation,)).fetchone()
        if found is None:
            raise UsageError(f"there is no conversation {pruning.conversation!r}")
        cid, current = found
        weight = weigh(db.connection, pruning.conversation)
        if weight.owed:
            raise owing(pruning.conversation, weight.owed)
        branches = [_Branch(*row) for row in db.execute(_BRANCHES, (cid,))]
        if (weight.row, len(branches)) != (pruning.row, pruning.branches):
            raise unlike(pruning.conversation)
        if pruning.keeps is None:
            newest = _remove_all(db, cid)
        else:
            check_rooted(pruning.keeps, current, branches)
            newest = max((_remove_some(db, pruning.keeps, branch) for branch in branches), default=0)
            newest = max(newest, *_remove_rows(db, cid, pruning.rows), 0)
        db.execute(_FORGET)
        db.execute(_RAISE_HORIZON, (newest,))
        db.execute(_COUNT)
        add_fact(db, pruning.fact, self._fact)


def check_rooted(keeps: Mapping[StackRef, int], current: str, branches: list[_Branch]) -> None:
    """Raises ConflictError where something that stays would lose what it stands on."""
    if current not in keeps:
        raise ConflictError(f"branch {current} is the current one, and stays")
    for branch in branches:
        if branch.ref in keeps and branch.parent and keeps.get(branch.parent, 0) < branch.at:
            raise ConflictError(f"branch {branch.ref} stands on {branch.at} entries of {branch.parent}, which stay")


def _remove_all(db: sqlite3.Cursor, cid: int) -> int:
    """The newest row that went; 0 where none did."""
    db.execute(_LEAVE_ALL, (cid, *_OF_LEDGER))
    newest = _one(db, _NEWEST_OF_ALL, cid)
    db.execute("DELETE FROM log WHERE cid = ?", (cid,))
    db.execute("DELETE FROM branch WHERE cid = ?", (cid,))
    db.execute("DELETE FROM conversation WHERE cid = ?", (cid,))
    return newest


def _remove_some(db: sqlite3.Cursor, keeps: Mapping[StackRef, int], branch: _Branch) -> int:
    """What goes of one branch. The newest row that went; 0 where none did."""
    length = keeps.get(branch.ref)
    if length is None:
        db.execute(_LEAVE_BRANCH, (branch.bid, *_OF_LEDGER))
        newest = _one(db, _NEWEST_OF_BRANCH, branch.bid)
        db.execute("DELETE FROM log WHERE bid = ?", (branch.bid,))
        db.execute("DELETE FROM branch WHERE bid = ?", (branch.bid,))
        return newest
    if length >= NO_END:
        return 0
    newest = _one(db, _NEWEST_FROM, branch.bid, length)
    db.execute("DELETE FROM log WHERE bid = ? AND seq >= ?", (branch.bid, length))
    return newest


def _remove_rows(db: sqlite3.Cursor, cid: int, rows: tuple[int, ...]) -> Iterator[int]:
    for row in rows:
        done = db.execute("DELETE FROM log WHERE cursor = ? AND cid = ? AND seq IS NULL", (row, cid))
        yield row if done.rowcount else 0


def _one(db: sqlite3.Cursor, sql: str, *values: object) -> int:
    return int(db.execute(sql, values).fetchone()[0])
