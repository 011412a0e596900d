"""Writes one batch inside an open transaction: first every check, then every row, so that a refused one left nothing.

Knows the tables and the rules of Batch; nothing of when transactions begin and end.
"""

import sqlite3
from collections.abc import Collection

from p2engine.domain.codec import encode
from p2engine.domain.effects import kind_of
from p2engine.domain.records import Batch, Branch, Conversation, Fact, StackWrite, Written, check_whole
from p2engine.errors import AlreadySettled, HeadMoved, NameTaken, UsageError

_STACK = """
SELECT bid, cid, coalesce((SELECT stop FROM log WHERE log.bid = branch.bid AND seq >= 0 ORDER BY seq DESC LIMIT 1), at)
FROM branch WHERE ref = ?
"""
_OWNER = "SELECT owner FROM owed WHERE id = ?"
_ADD_COMMIT = "INSERT INTO log(bid, seq, stop, cid, body) VALUES (?, ?, ?, ?, ?)"
_ADD_FACT = """
INSERT INTO log(bid, cid, kind, fact, body)
SELECT b.bid, coalesce(c.cid, b.cid), ?3, ?4, ?5
FROM (SELECT 1) LEFT JOIN branch b ON b.ref = ?1 LEFT JOIN conversation c ON c.id = ?2 WHERE true
ON CONFLICT(fact) WHERE fact IS NOT NULL DO NOTHING
"""
_ADD_OWED = "INSERT INTO owed(id, born, kind, owner, tries, started, body) VALUES (?, ?, ?, ?, 0, ?, ?)"
_RELEASE = "UPDATE owed SET owner = NULL, tries = max(0, tries - 1) WHERE id = ? AND owner = ?"
_NEWEST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'"
_ADD_BRANCH = """
INSERT INTO branch(ref, cid, agent, name, parent, at, created_at, delegate)
SELECT ?1, cid, ?3, ?4, (SELECT bid FROM branch WHERE ref = ?5), ?6, ?7, ?8 FROM conversation WHERE id = ?2
"""
_TAKEN = """
SELECT EXISTS (SELECT 1 FROM branch WHERE ref = ?1) OR EXISTS (
  SELECT 1 FROM branch WHERE cid = (SELECT cid FROM conversation WHERE id = ?2) AND agent = ?3 AND name = ?4)
"""
_IN = "SELECT 1 FROM branch JOIN conversation c USING (cid) WHERE ref = ? AND c.id = ?"
_ADD_CONVERSATION = """
INSERT INTO conversation(id, name, agent, current, created_at, grp) VALUES (?, ?, ?, ?, ?, ?)
"""


class Writing:
    """A batch whose bodies are encoded, which needs no transaction. Calling it writes it on a connection."""

    __slots__ = ("_batch", "_commits", "_effects", "_facts")

    def __init__(self, batch: Batch) -> None:
        """Raises UsageError for what no store could write."""
        check_whole(batch)
        self._batch = batch
        self._commits = [encode(write.commit) for write in batch.writes]
        self._effects = [(effect.id, kind_of(effect), encode(effect)) for effect in batch.effects]
        self._facts = [encode(fact) for fact in batch.facts]

    def __call__(self, connection: sqlite3.Connection) -> Written:
        """Raises AlreadySettled, HeadMoved, NameTaken and UsageError, in this order and having written nothing."""
        batch = self._batch
        db = connection.cursor()  # one for all its statements: making one costs a quarter of a short statement
        _check_owed(db, batch)
        fresh = [branch for branch in batch.branches if not _opened_before(db, branch)]
        places = [_place(db, write, fresh) for write in batch.writes]
        if batch.opens or fresh or batch.current:
            _check_names(db, batch, fresh)

        if batch.opens:
            _add_conversation(db, batch.opens)
        for branch in fresh:
            _add_branch(db, branch)
        row = 0
        for write, place, body in zip(batch.writes, places, self._commits, strict=True):
            row = _add_commit(db, write, place or _place(db, write, ()), body)
        for fact, body in zip(batch.facts, self._facts, strict=True):
            row = _add_fact(db, fact, body) or row
        self._change_owed(db, row)
        if batch.current:
            db.execute("UPDATE conversation SET current = ? WHERE id = ?", (batch.current, batch.conversation))
        return Written(row)

    def _change_owed(self, db: sqlite3.Cursor, row: int) -> None:
        batch = self._batch
        for effect in (*batch.settles, *batch.drops):
            db.execute("DELETE FROM owed WHERE id = ?", (effect,))
        for effect in batch.starts:
            db.execute("UPDATE owed SET started = 1 WHERE id = ?", (effect,))
        for effect in batch.releases:
            db.execute(_RELEASE, (effect, batch.owner))
        if self._effects:
            born = row or db.execute(_NEWEST).fetchone()[0]
            for effect, kind, body in self._effects:
                owner = None if effect in batch.leaves else batch.owner
                db.execute(_ADD_OWED, (effect, born, kind, owner, effect in batch.starts, body))


def _check_owed(db: sqlite3.Cursor, batch: Batch) -> None:
    for effect in (*batch.settles, *batch.needs):
        if db.execute(_OWNER, (effect,)).fetchone() is None:
            raise AlreadySettled(effect)
    for effect in batch.starts:
        if any(effect == born.id for born in batch.effects):
            continue
        row = db.execute(_OWNER, (effect,)).fetchone()
        if row is None or (batch.owner and row[0] not in (None, batch.owner)):
            raise AlreadySettled(effect)


def _opened_before(db: sqlite3.Cursor, branch: Branch) -> bool:
    """Whether this same delegation opened its branch already: then only the head tells, and nothing is added."""
    if branch.delegate is None:
        return False
    found = db.execute("SELECT delegate FROM branch WHERE ref = ?", (branch.ref,)).fetchone()
    return found is not None and found[0] == branch.delegate


def _place(db: sqlite3.Cursor, write: StackWrite, fresh: Collection[Branch]) -> tuple[int, int] | None:
    """The numbers of the stack's branch and conversation, once its head is right; None while it has no row yet."""
    found = db.execute(_STACK, (write.ref,)).fetchone()
    if found:
        bid, cid, head = found
    else:
        head = next((branch.at for branch in fresh if branch.ref == write.ref), None)
        if head is None:
            raise UsageError(f"there is no stack {write.ref!r}")
    if head != write.head:
        raise HeadMoved(f"stack {write.ref} is {head} entries long, not {write.head}")
    return (bid, cid) if found else None


def _check_names(db: sqlite3.Cursor, batch: Batch, fresh: Collection[Branch]) -> None:
    known = db.execute("SELECT 1 FROM conversation WHERE id = ?", (batch.conversation,)).fetchone()
    if batch.opens is None and not known:
        raise UsageError(f"there is no conversation {batch.conversation!r}")
    if batch.opens is not None:
        name = batch.opens.name
        if known or db.execute("SELECT 1 FROM conversation WHERE name = ?", (name,)).fetchone():
            raise NameTaken(f"there is a conversation {name!r} already")
    for branch in fresh:
        if db.execute(_TAKEN, (branch.ref, branch.conversation, branch.agent, branch.name)).fetchone()[0]:
            raise NameTaken(f"there is a branch {branch.name!r} of {branch.agent} already")
        if branch.parent:
            found = db.execute(_STACK, (branch.parent,)).fetchone()
            if found is None or not 0 <= branch.at <= found[2]:
                raise UsageError(f"there is no stack {branch.parent!r} of at least {branch.at} entries to branch from")
    if batch.current and all(batch.current != branch.ref for branch in fresh):
        found = db.execute(_IN, (batch.current, batch.conversation)).fetchone()
        if found is None:
            raise UsageError(f"conversation {batch.conversation!r} has no branch {batch.current!r}")


def _add_conversation(db: sqlite3.Cursor, opens: Conversation) -> None:
    db.execute(_ADD_CONVERSATION, (opens.id, opens.name, opens.agent, opens.current, opens.created_at, opens.group))


def _add_branch(db: sqlite3.Cursor, new: Branch) -> None:
    db.execute(
        _ADD_BRANCH,
        (new.ref, new.conversation, new.agent, new.name, new.parent, new.at, new.created_at, new.delegate),
    )


def _add_commit(db: sqlite3.Cursor, write: StackWrite, place: tuple[int, int] | None, body: bytes) -> int:
    bid, cid = place or (0, 0)
    values = (bid, write.head, write.head + len(write.commit.states), cid, body)
    return db.execute(_ADD_COMMIT, values).lastrowid or 0


def _add_fact(db: sqlite3.Cursor, fact: Fact, body: bytes) -> int:
    """The row it made; 0 when there is a fact of that id."""
    done = db.execute(_ADD_FACT, (fact.ref, fact.conversation, fact.kind, fact.id, body))
    return (done.lastrowid or 0) if done.rowcount == 1 else 0
