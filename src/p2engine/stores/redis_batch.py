"""What the writing script is told of a batch, and what its refusals mean. Knows words on both sides; sends nothing."""

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import msgspec

from p2engine.domain.codec import decode_commit, encode
from p2engine.domain.effects import AnyEffect, kind_of
from p2engine.domain.ids import BlobRef, StackRef
from p2engine.domain.records import (
    Batch,
    Branch,
    Commit,
    Conversation,
    Fact,
    Placed,
    StackWrite,
    check_whole,
)
from p2engine.errors import AlreadySettled, BodiesLost, HeadMoved, NameTaken, StoreError, UsageError
from p2engine.stores.redis_blobs import hash_of
from p2engine.stores.redis_scripts import Known
from p2engine.stores.rows import Where, clip

NO_END: Final = 2**52  # how the scripts say that a branch goes on

_json = msgspec.json.Encoder().encode


class Plan:
    """A batch as the writing script reads it: JSON, and its bodies, which JSON points at by number."""

    def __init__(self, batch: Batch, *, handed_out_us: int, released_us: int, has_bodies: bool) -> None:
        """has_bodies: those that the batch names are to be in the same Redis.

        Raises UsageError for what no store could write.
        """
        check_whole(batch)
        self._bodies: list[bytes] = []
        self._plain: dict[str, Any] = {
            "conversation": batch.conversation,
            "owner": batch.owner or "",
            "settles": batch.settles,
            "needs": batch.needs,
            "drops": batch.drops,
            "starts": batch.starts,
            "releases": batch.releases,
            "effects": [self._effect(effect, left=effect.id in batch.leaves) for effect in batch.effects],
            "writes": [self._write(write) for write in batch.writes],
            "branches": [_branch(branch) for branch in batch.branches],
            "current": batch.current or "",
            "facts": [self._fact(fact) for fact in batch.facts],
            "bodies": [hash_of(body) for body in batch.bodies] if has_bodies else (),
            "handed_out_us": handed_out_us,
            "released_us": released_us,
        }
        if batch.opens is not None:
            self._plain["opens"] = _conversation(batch.opens)

    def arguments(self, *, known: Known, again: bool) -> list[bytes]:
        """What to call the script with. again: an earlier attempt was sent, and its answer never came."""
        return [_json({**self._plain, **known._asdict(), "again": again}), *self._bodies]

    def _body(self, body: Commit | Fact | AnyEffect) -> int:
        self._bodies.append(encode(body))
        return len(self._bodies) + 1

    def _effect(self, effect: AnyEffect, *, left: bool) -> dict[str, Any]:
        return {"id": effect.id, "kind": kind_of(effect), "body": self._body(effect), "left": left}

    def _write(self, write: StackWrite) -> dict[str, Any]:
        return {
            "ref": write.ref,
            "head": write.head,
            "count": len(write.commit.states),
            "answers": write.commit.may_answer,
            "usage": "1" if write.commit.usage is not None else "0",
            "body": self._body(write.commit),
        }

    def _fact(self, fact: Fact) -> dict[str, Any]:
        return {
            "id": fact.id,
            "kind": fact.kind,
            "ref": fact.ref or "",
            "conversation": fact.conversation or "",
            "known_as": fact.known_as,
            "body": self._body(fact),
        }


def _conversation(opens: Conversation) -> dict[str, Any]:
    return {
        "name": opens.name,
        "agent": opens.agent,
        "current": opens.current,
        "created_at": repr(opens.created_at),
        "group": "" if opens.group is None else "=" + opens.group,
    }


def _branch(branch: Branch) -> dict[str, Any]:
    return {
        "ref": branch.ref,
        "agent": branch.agent,
        "name": branch.name,
        "parent": branch.parent or "",
        "at": branch.at,
        "created_at": repr(branch.created_at),
        "delegate": branch.delegate or "",
    }


def placed(rows: list[list[Any]]) -> list[Placed]:
    """Commits from the rows that a script returns."""
    found = []
    for on, seq, stop, row, below, body in rows:
        ref = StackRef(on.decode())
        commit = decode_commit(body, Where(ref, seq, row))
        found.append(Placed(ref, seq, commit if stop <= below else clip(commit, below - seq)))
    return found


def refuse(answer: Sequence[Any]) -> NoReturn:
    """Raise what a refusal of the writing script means."""
    why: str
    more: list[Any]
    why, *more = [part.decode() if isinstance(part, bytes) else part for part in answer]
    match why, more:
        case "settled", [effect]:
            raise AlreadySettled(effect)
        case "head", [ref, head, rows]:
            raise HeadMoved(f"stack {ref} is {head} entries long", missing=placed(rows))
        case "no stack", [ref]:
            raise UsageError(f"there is no stack {ref!r}")
        case "no conversation", [conversation]:
            raise UsageError(f"there is no conversation {conversation!r}")
        case "name", [name]:
            raise NameTaken(f"there is a conversation {name!r} already")
        case "branch name", [name, agent]:
            raise NameTaken(f"there is a branch {name!r} of {agent} already")
        case "no parent", [ref, at]:
            raise UsageError(f"there is no stack {ref!r} of at least {at} entries to branch from")
        case "bodies", lost:
            raise BodiesLost([BlobRef(f"b2:{body}") for body in lost])
        case "no branch", [ref]:
            raise UsageError(f"the conversation has no branch {ref!r}")
        case _:
            raise StoreError(f"the writing script answered {answer!r}")
