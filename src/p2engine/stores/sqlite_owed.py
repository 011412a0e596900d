"""What is owed and who holds it: finds, lists and takes open effects.

Knows the one table of them, and asks an `Owners` who is alive.
"""

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from p2engine.domain.codec import decode_commit, decode_effect, decode_fact
from p2engine.domain.ids import EffectId, OwnerId, StackRef, ref_of
from p2engine.domain.records import Claimed, Perform
from p2engine.stores.owners import Owners
from p2engine.stores.sqlite_stacks import load

_FIND = "SELECT owner, tries, started, body FROM owed WHERE id = ?"
_OF_STACK = "SELECT id FROM owed WHERE id >= ?1 || ':' AND id < ?1 || ';' ORDER BY born, id"  # `;` follows `:`
_TAKE = "UPDATE owed SET owner = ?, tries = tries + 1 WHERE id = ?"
_HOLDERS = "SELECT DISTINCT owner FROM owed WHERE owner IS NOT NULL"
_FREE = """
SELECT id, kind, owner FROM owed WHERE owner IS NULL OR owner NOT IN (SELECT value FROM json_each(?))
ORDER BY born, id LIMIT ?
"""

_WAITING = """
SELECT count(*), min(born) FROM owed WHERE owner IS NULL OR owner NOT IN (SELECT value FROM json_each(?))
"""
_ROW = "SELECT bid, body FROM log WHERE cursor = ?"


class Owed(NamedTuple):
    owner: OwnerId | None
    tries: int
    started: int
    body: bytes

    def free_for(self, owner: OwnerId, owners: Owners) -> bool:
        """Whether `owner` may have it: nobody else who lives has it."""
        return self.owner is None or self.owner == owner or not owners.alive(self.owner)


def find(db: sqlite3.Connection, effect: EffectId) -> Owed | None:
    row = db.execute(_FIND, (effect,)).fetchone()
    return Owed(*row) if row else None


def claimed(db: sqlite3.Connection, effect: EffectId, owed: Owed, since: int) -> Claimed:
    """Raises NewerFormat and CorruptEntry when the effect or its stack cannot be read here."""
    body = decode_effect(owed.body, f"owed effect {effect}")
    return Claimed(body, owed.tries, bool(owed.started), load(db, ref_of(effect), since))


def take(cursor: sqlite3.Cursor, effect: EffectId, owner: OwnerId, owners: Owners, since: int) -> Claimed | None:
    """Make it `owner`'s, inside a transaction; None when it is settled or held by another who lives."""
    db = cursor.connection
    owed = find(db, effect)
    if owed is None or not owed.free_for(owner, owners):
        return None
    if owed.owner == owner:
        return claimed(db, effect, owed, since)
    taken = claimed(db, effect, owed._replace(owner=owner, tries=owed.tries + 1), since)
    db.execute(_TAKE, (owner, effect))
    return taken


def due(db: sqlite3.Connection, owners: Owners, limit: int, handed_out: "HandedOut") -> list[Perform]:
    rows = db.execute(_FREE, (_living(db, owners), handed_out.looks_at(limit)))
    return handed_out.due([(Perform(EffectId(effect), kind), owner) for effect, kind, owner in rows], limit)


class HandedOut:
    """What this process has handed out a moment ago: it lies on a queue, and is not due again for `for_s` seconds.

    What nobody has ever held was put on a queue by whoever wrote it, so that the first sight of it counts as well.
    """

    def __init__(self, for_s: float, now: Callable[[], float]) -> None:
        self._for_s = for_s
        self._now = now
        self._at: dict[tuple[EffectId, str | None], float] = {}

    def looks_at(self, limit: int) -> int:
        """How many effects to look at for so many that are due; -1: all."""
        return limit if self._for_s == 0 else -1

    def due(self, free: Sequence[tuple[Perform, str | None]], limit: int) -> list[Perform]:
        """Those of the effects that no living process holds, each with its last owner, that are to be handed out."""
        if self._for_s == 0:
            return [job for job, _ in free]
        now, before = self._now(), self._at
        self._at = {}
        jobs: list[Perform] = []
        for job, owner in free:
            at = before.get((job.effect, owner), now if owner is None else now - self._for_s)
            if now - at >= self._for_s and len(jobs) < limit:
                jobs.append(job)
                at = now
            self._at[job.effect, owner] = at
        return jobs


def backlog(db: sqlite3.Connection, owners: Owners) -> tuple[int, float | None]:
    """How many effects no living owner holds, and since when the oldest of them is owed, in Unix seconds."""
    number, born = db.execute(_WAITING, (_living(db, owners),)).fetchone()
    row = db.execute(_ROW, (born,)).fetchone() if number else None
    if row is None:
        return number, None
    bid, body = row
    decode = decode_fact if bid is None else decode_commit
    return number, decode(body, f"row {born}").at


def _living(db: sqlite3.Connection, owners: Owners) -> str:
    living = [owner for (owner,) in db.execute(_HOLDERS).fetchall() if owners.alive(owner)]
    return msgspec.json.encode(living).decode()


def held(db: sqlite3.Connection, owner: OwnerId) -> list[EffectId]:
    return [EffectId(effect) for (effect,) in db.execute("SELECT id FROM owed WHERE owner = ?", (owner,))]


def holders(db: sqlite3.Connection, ref: StackRef, besides: OwnerId | None, owners: Owners) -> list[str]:
    """Who lives and holds what this stack owes, in words."""
    found = {owner for effect in of_stack(db, ref) if (owed := find(db, effect)) and (owner := owed.owner)}
    return sorted({owners.who(owner) for owner in found if owner != besides and owners.alive(owner)})


def of_stack(db: sqlite3.Connection, ref: StackRef) -> list[EffectId]:
    return [EffectId(effect) for (effect,) in db.execute(_OF_STACK, (ref,))]
