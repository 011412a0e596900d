"""What rows of the log say, whichever store they lie in: the events of a row, and a commit that a fork cut in two.

A commit is one event a state and one for what it cost, a fact is one event. Reads bytes; knows no store.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from p2engine.domain.codec import decode_commit, decode_fact
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.records import Commit, Cursor, Event, Query, body_of
from p2engine.domain.states import tag_of
from p2engine.errors import ConflictError, Pruned, UsageError
from p2engine.limits import REFERENCES_LISTED_MAX

MODEL_REPLY = "model.reply"
AFTER_ALL = 2**31  # greater than the item of any event in its row


class Where(NamedTuple):
    """How errors name an entry, put into words only when there is one."""

    ref: str
    entry: int
    row: int

    def __str__(self) -> str:
        return f"entry {self.entry} of branch {self.ref} (row {self.row})"


class Row(NamedTuple):
    """A row of the log, and what its events say of its branch and conversation."""

    cursor: int
    seq: int | None
    body: bytes
    ref: StackRef | None
    branch: str | None
    agent: AgentId | None
    conversation: ConversationId | None
    group: str | None


class Kinds:
    """Which kinds are asked for: exact names, prefixes that end in `.`, or all when none is given.

    of_commits: whether some of them are events of commits. of_states: whether not only what commits cost.
    """

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.all = not kinds
        self.exact = frozenset(kinds)
        self.prefixes = tuple(kind for kind in kinds if kind.endswith("."))
        self.of_states = self.all or any(kind.startswith("state.") for kind in kinds)
        self.of_commits = self.of_states or MODEL_REPLY in self

    def __contains__(self, kind: str) -> bool:
        return self.all or kind in self.exact or kind.startswith(self.prefixes)


ALL_KINDS = Kinds(())


def events_of(row: Row, kinds: Kinds) -> Iterator[Event]:
    """The events of one row. Raises NewerFormat and CorruptEntry, naming it."""
    if row.seq is None:
        yield from _event_of_fact(row, kinds)
        return
    commit = decode_commit(row.body, Where(row.ref or "?", row.seq, row.cursor))
    for place, state in enumerate(commit.states):
        kind = "state." + tag_of(state)
        if kind in kinds:
            index = row.seq + place
            yield _event(row, place, f"{row.ref}:{index}", kind, commit.cause, commit.at, index, body_of(state))
    if commit.usage is not None and MODEL_REPLY in kinds:
        ref = f"{row.ref}:{row.seq}.model"
        yield _event(row, len(commit.states), ref, MODEL_REPLY, commit.cause, commit.at, None, body_of(commit.usage))


def _event_of_fact(row: Row, kinds: Kinds) -> Iterator[Event]:
    fact = decode_fact(row.body, f"row {row.cursor}")
    if fact.kind in kinds:
        yield _event(row, 0, fact.id, fact.kind, fact.cause, fact.at, None, fact.body)


def _event(
    row: Row, place: int, id_: str, kind: str, cause: str, at: float, index: int | None, body: dict[str, Any]
) -> Event:
    return Event(
        cursor=Cursor(row.cursor, place),
        id=id_,
        kind=kind,
        cause=cause,
        at=at,
        conversation=row.conversation,
        agent=row.agent,
        branch=row.branch,
        ref=row.ref,
        index=index,
        group=row.group,
        body=body,
    )


def matching(row: Row, kinds: Kinds, query: Query) -> Iterable[Event]:
    """The events of one row that a query asks for, in its order."""
    events = [
        event
        for event in events_of(row, kinds)
        if event.cursor > query.after
        and (query.before is None or event.cursor < query.before)
        and (query.since is None or event.at >= query.since)
    ]
    return reversed(events) if query.newest else events


def owing(conversation: str, effects: Sequence[EffectId]) -> UsageError:
    """Why a conversation that owes something cannot be pruned."""
    named = ", ".join(effects[:REFERENCES_LISTED_MAX]) + (", …" if len(effects) > REFERENCES_LISTED_MAX else "")
    return UsageError(
        f"conversation {conversation!r} is not at rest: it owes {named}",
        hint="wait until it is answered, or end its turn: p2engine conversation cancel",
    )


def unlike(conversation: str) -> ConflictError:
    """Why a conversation that moved since it was looked at is not pruned."""
    return ConflictError(f"conversation {conversation!r} has moved since it was looked at", hint="look again")


def check_horizon(after: Cursor, horizon: int) -> None:
    """Raises Pruned when something after `after` was pruned. (0, 0) means from the oldest that is kept."""
    if 0 < after.row < horizon:
        raise Pruned(
            f"some of the events up to row {horizon} were pruned, and {after} lies before that",
            hint=f"after {Cursor(horizon, 0)} nothing is missing; whole=False gives what is kept",
        )


def clip(commit: Commit, length: int) -> Commit:
    """The first `length` states of a commit that a fork cut in two. What it cost was spent, so usage stays."""
    return msgspec.structs.replace(
        commit,
        states=commit.states[:length],
        outcomes=min(commit.outcomes, length),
        safe=tuple(safe for safe in commit.safe if safe <= length),
    )
