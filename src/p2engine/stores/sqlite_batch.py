"""Writes one batch inside an open transaction: wholly, or nothing of it.

Knows the tables and the rules of Batch; nothing of when transactions begin and end.
"""

import sqlite3
from collections.abc import Collection, Mapping

import msgspec

from p2engine.domain.codec import encode
from p2engine.domain.effects import kind_of
from p2engine.domain.ids import StackRef
from p2engine.domain.records import Batch, Branch, Conversation, Fact, StackWrite, Written, check_whole
from p2engine.errors import AlreadySettled, HeadMoved, NameTaken, UsageError
from p2engine.stores.sqlite_writer import Again

_STACK = """
SELECT bid, cid, coalesce((SELECT stop FROM log WHERE log.bid = branch.bid AND seq >= 0 ORDER BY seq DESC LIMIT 1), at)
FROM branch WHERE ref = ?
"""
_OWNER = "SELECT owner FROM owed WHERE id = ?"
_SETTLE = "DELETE FROM owed WHERE id = ?"
# What is remembered of a place is true until something is pruned: then its numbers may be another's, and the body that
# must not be NULL is. As the SELECT of an INSERT the same test would cost each commit ten times as much.
_PRUNES = "SELECT value FROM meta WHERE name = 'prunes'"
_ADD_COMMIT = """
INSERT INTO log(bid, seq, stop, cid, body)
VALUES (?, ?, ?, ?, CASE WHEN (SELECT value FROM meta WHERE name = 'prunes') IS ? THEN ? END)
"""
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


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a stack stands: the numbers of its branch and its conversation, and its length after a commit.

    prunes: how often something was pruned by then; None for never.
    """

    bid: int
    cid: int
    length: int
    prunes: int | None = None


class Writing:
    """A batch whose bodies are encoded, which needs no transaction. Calling it writes it in an open one.

    places: of stacks, as commits made them. A batch that grows one of these from just there is written without a look
    at what it stands on: settling deletes what is owed, and a row at that length can be only once. Where either fails,
    the transaction is done again, and this batch with every check before the first row. Any other is checked at once.
    grown: the places of its stacks, once it is written.
    """

    __slots__ = ("_batch", "_commits", "_effects", "_facts", "_sure", "grown")

    def __init__(self, batch: Batch, places: Mapping[StackRef, Place]) -> None:
        """Raises UsageError for what no store could write."""
        check_whole(batch)
        self._batch = batch
        self._commits = [encode(write.commit) for write in batch.writes]
        self._effects = [(effect.id, kind_of(effect), encode(effect)) for effect in batch.effects]
        self._facts = [encode(fact) for fact in batch.facts]
        self._sure: Place | None = None
        self.grown: dict[StackRef, Place] = {}
        if len(batch.writes) == 1 and not (batch.branches or batch.needs or batch.starts or batch.current):
            write = batch.writes[0]
            place = places.get(write.ref)
            if place is not None and place.length == write.head:
                self._sure = place

    def __call__(self, db: sqlite3.Cursor) -> Written:
        """Raises AlreadySettled, HeadMoved, NameTaken and UsageError, in this order and having written nothing."""
        if self._sure is not None:
            place, self._sure = self._sure, None
            row = self._grow(db, place)
        else:
            row = self._check_and_add(db)
        for fact, body in zip(self._batch.facts, self._facts, strict=True):
            row = add_fact(db, fact, body) or row
        self._change_owed(db, row)
        return Written(row)

    def _grow(self, db: sqlite3.Cursor, place: Place) -> int:
        """Settle, and add the only commit at that place; the row it made. Raises Again where the store refuses."""
        for effect in self._batch.settles:
            if db.execute(_SETTLE, (effect,)).rowcount != 1:
                raise Again
        try:
            return self._add_commit(db, self._batch.writes[0], place, self._commits[0])
        except sqlite3.IntegrityError as error:
            raise Again from error

    def _check_and_add(self, db: sqlite3.Cursor) -> int:
        """Every check, then settle and add all but facts and effects; the last row of the log it made, or 0."""
        batch = self._batch
        _check_owed(db, batch)
        fresh = [branch for branch in batch.branches if not _opened_before(db, branch)]
        places = [_place(db, write, fresh) for write in batch.writes]
        if batch.opens or fresh or batch.current:
            _check_names(db, batch, fresh)

        for effect in batch.settles:
            db.execute(_SETTLE, (effect,))
        if batch.opens:
            _add_conversation(db, batch.opens)
        for branch in fresh:
            _add_branch(db, branch)
        if batch.current:
            db.execute("UPDATE conversation SET current = ? WHERE id = ?", (batch.current, batch.conversation))
        row = 0
        (prunes,) = (batch.writes and db.execute(_PRUNES).fetchone()) or (None,)
        for write, place, body in zip(batch.writes, places, self._commits, strict=True):
            bid, cid = place or _place(db, write, ()) or (0, 0)
            row = self._add_commit(db, write, Place(bid, cid, write.head, prunes), body)
        return row

    def _add_commit(self, db: sqlite3.Cursor, write: StackWrite, place: Place, body: bytes) -> int:
        length = write.head + len(write.commit.states)
        row = db.execute(_ADD_COMMIT, (place.bid, write.head, length, place.cid, place.prunes, body)).lastrowid or 0
        self.grown[write.ref] = Place(place.bid, place.cid, length, place.prunes)
        return row

    def _change_owed(self, db: sqlite3.Cursor, row: int) -> None:
        batch = self._batch
        for effect in batch.drops:
            db.execute(_SETTLE, (effect,))
        for effect in batch.starts:
            db.execute("UPDATE owed SET started = 1 WHERE id = ?", (effect,))
        for effect in batch.releases:
            db.execute(_RELEASE, (effect, batch.owner))
        if self._effects:
            born = row or db.execute(_NEWEST).fetchone()[0]
            for effect, kind, body in self._effects:
                owner = None if effect in batch.leaves else batch.owner
                db.execute(_ADD_OWED, (effect, born, kind, owner, int(effect in batch.starts), body))


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


def add_fact(db: sqlite3.Cursor, fact: Fact, body: bytes) -> int:
    """The row it made; 0 when there is a fact of that id."""
    done = db.execute(_ADD_FACT, (fact.ref, fact.conversation, fact.kind, fact.id, body))
    row = (done.lastrowid or 0) if done.rowcount == 1 else 0
    if row and fact.known_as:
        db.executemany("INSERT OR IGNORE INTO known VALUES (?, ?)", [(name, row) for name in fact.known_as])
    return row
