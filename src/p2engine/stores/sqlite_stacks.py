"""Reads stacks and the directory of them from a connection: lineages, commits, lengths, cuts, conversations, branches.

Every function is one short read; none of them writes.
"""

import sqlite3
from typing import NamedTuple

from p2engine.domain.codec import decode_commit
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.records import Branch, Conversation, Placed
from p2engine.errors import UsageError
from p2engine.stores.rows import Where, clip

_LINEAGE = """
WITH RECURSIVE path(bid, ref, parent, at, below) AS (
  SELECT bid, ref, parent, at, ?2 FROM branch WHERE ref = ?1
  UNION ALL
  SELECT b.bid, b.ref, b.parent, b.at, min(p.below, p.at)
  FROM path p JOIN branch b ON b.bid = p.parent WHERE p.at > ?3)
SELECT bid, ref, at, below FROM path
"""
_ROWS = """
SELECT cursor, seq, stop, body FROM log
WHERE bid = ?1 AND seq < ?2 AND stop > ?3
  AND seq >= coalesce((SELECT max(seq) FROM log WHERE bid = ?1 AND seq <= ?3), 0)
ORDER BY seq
"""
_ROW_BELOW = "SELECT cursor, seq, body FROM log WHERE bid = ? AND seq < ? ORDER BY seq DESC LIMIT 1"
_HEAD = """
SELECT coalesce((SELECT stop FROM log WHERE log.bid = branch.bid AND seq >= 0 ORDER BY seq DESC LIMIT 1), at)
FROM branch WHERE ref = ?
"""
_BRANCH = """
SELECT b.ref, c.id, b.agent, b.name, p.ref, b.at, b.created_at, b.delegate
FROM branch b JOIN conversation c ON c.cid = b.cid LEFT JOIN branch p ON p.bid = b.parent
"""
_CONVERSATION = "SELECT id, name, agent, current, created_at, grp FROM conversation"
# By the indexes of both: whoever opens a conversation by its name asks this first, however many there are. FF is in no
# text, so that what lies between a prefix and it behind the prefix begins with the prefix.
_BEGIN_WITH = f"""
{_CONVERSATION} WHERE name >= ?1 AND name < ?1 || CAST(x'FF' AS TEXT) OR id >= ?1 AND id < ?1 || CAST(x'FF' AS TEXT)
ORDER BY cid DESC LIMIT ?2
"""
_NO_END = 2**62


class Reach(NamedTuple):
    """One branch of a lineage, and the entries it gives to it: from `at`, below `below`."""

    bid: int
    ref: StackRef
    at: int
    below: int


def lineage(db: sqlite3.Connection, ref: StackRef, *, since: int = 0, below: int = _NO_END) -> list[Reach]:
    """The branches that entries since..below of a stack are on, its own first. Raises UsageError: no such stack."""
    path = [Reach(*row) for row in db.execute(_LINEAGE, (ref, below, since))]
    if not path:
        raise UsageError(f"there is no stack {ref!r}")
    return path


def load(db: sqlite3.Connection, ref: StackRef, since: int = 0) -> list[Placed]:
    """The commits from entry `since` on; one that `since` falls inside comes whole."""
    placed: list[Placed] = []
    for reach in reversed(lineage(db, ref, since=since)):
        if reach.at >= reach.below:
            continue
        for row, seq, stop, body in db.execute(_ROWS, (reach.bid, reach.below, since)):
            commit = decode_commit(body, Where(reach.ref, seq, row))
            placed.append(Placed(reach.ref, seq, commit if stop <= reach.below else clip(commit, reach.below - seq)))
    return placed


def head(db: sqlite3.Connection, ref: StackRef) -> int:
    found = db.execute(_HEAD, (ref,)).fetchone()
    if found is None:
        raise UsageError(f"there is no stack {ref!r}")
    return int(found[0])


def cut(db: sqlite3.Connection, ref: StackRef, length: int) -> int:
    """The greatest length ≤ `length` at which nothing is open: one row says so."""
    length = min(length, head(db, ref))
    if length <= 0:
        return 0
    reach = lineage(db, ref, since=length - 1, below=length)[-1]
    row, seq, body = db.execute(_ROW_BELOW, (reach.bid, length)).fetchone()
    commit = decode_commit(body, Where(reach.ref, seq, row))
    safe = [offset for offset in commit.safe if offset <= length - seq]
    return int(seq + max(safe)) if safe else commit.safe_before


def conversations(db: sqlite3.Connection, prefix: str, limit: int, grouped: bool) -> list[Conversation]:
    if not prefix:
        rows = db.execute(f"{_CONVERSATION} WHERE ? OR grp IS NULL ORDER BY cid DESC LIMIT ?", (grouped, limit))
        return [_conversation(row) for row in rows]
    exact = db.execute(f"{_CONVERSATION} WHERE name = ?", (prefix,)).fetchone()
    if exact:
        return [_conversation(exact)]
    return [_conversation(row) for row in db.execute(_BEGIN_WITH, (prefix, limit))]


def conversation(db: sqlite3.Connection, uid: ConversationId) -> Conversation | None:
    row = db.execute(f"{_CONVERSATION} WHERE id = ?", (uid,)).fetchone()
    return _conversation(row) if row else None


def _conversation(row: tuple[str, str, str, str, float, str | None]) -> Conversation:
    uid, name, agent, current, created_at, group = row
    return Conversation(
        id=ConversationId(uid),
        name=name,
        agent=AgentId(agent),
        current=StackRef(current),
        created_at=created_at,
        group=group,
    )


def branch(db: sqlite3.Connection, ref: StackRef) -> Branch | None:
    row = db.execute(f"{_BRANCH} WHERE b.ref = ?", (ref,)).fetchone()
    return _branch(row) if row else None


def branches(db: sqlite3.Connection, conversation: ConversationId, *, delegates: bool) -> list[Branch]:
    chosen = "" if delegates else "AND b.delegate IS NULL"
    rows = db.execute(f"{_BRANCH} WHERE c.id = ? {chosen} ORDER BY b.bid", (conversation,))
    return [_branch(row) for row in rows]


def _branch(row: tuple[str, str, str, str, str | None, int, float, str | None]) -> Branch:
    ref, conversation, agent, name, parent, at, created_at, delegate = row
    return Branch(
        ref=StackRef(ref),
        conversation=ConversationId(conversation),
        agent=AgentId(agent),
        name=name,
        parent=StackRef(parent) if parent else None,
        at=at,
        created_at=created_at,
        delegate=EffectId(delegate) if delegate else None,
    )
