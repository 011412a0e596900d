"""Finds what a REF names, and walks from an event back to what caused it.

An effect `ref:seq.slot` is caused by the commit that holds entry `seq` of branch `ref`; the first commit of a
delegate's stack is caused by its caller's effect. Knows the store's log; prints nothing.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from p2engine.cli.conversation_view import Entry, Place, entries_of, path_of, place_of
from p2engine.cli.reading import all_events
from p2engine.domain.ids import BlobRef, StackRef, is_beginning, wait_key
from p2engine.domain.money import SPEND
from p2engine.domain.records import Branch, Event, Query
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AssistantMessage,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
    tag_of,
)
from p2engine.errors import UsageError
from p2engine.limits import REFERENCES_LISTED_MAX
from p2engine.runtime.artifacts import SAVED
from p2engine.runtime.bookkeeper import COSTS
from p2engine.runtime.judging import VERDICT
from p2engine.wiring import Engine

FACTS = (
    "agent.",
    "artifact.",
    "branch.",
    "config.",
    "conversation.",
    "effect.",
    "error.",
    "eval.",
    "human.",
    "ledger.",
    "policy.",
    "reward.",
    "rollout.",
    "route.",
    "tool.",
)
"""The kinds of events that are no entries and no model calls."""

WALK_MAX = 100_000  # causes in one walk: more than any turn can have

_BLOB = re.compile(r"b2:[0-9a-f]{32}")
_EFFECT = re.compile(r"[0-9a-f]{12}:[0-9]{1,15}\.[0-9]{1,9}")
_FACT = re.compile(r"[0-9a-f]{12,}")
_HEX = re.compile(r"[0-9a-f]+")
_ENTRY_BY_PREFIX = re.compile(r"([0-9a-f]{1,11}):([0-9]{1,15}(?:\.(?:[0-9]{1,9}|model))?)")

_HEARD = (UserMessage, ToolResult, AgentResult, UserResponse)


class Blob(msgspec.Struct, frozen=True):
    """A body by its content hash alone."""

    ref: BlobRef


Found = Event | Blob


async def find(engine: Engine, ref: str) -> Found:
    """What `ref` names: an event by its id or a unique beginning, an artifact as `CONVERSATION/NAME`, or a body.

    What the ledger wrote has the ledger's id as well, which for an agent's payment is that of the call that paid.

    Raises UsageError where there is no such thing, or more than one.
    """
    if _BLOB.fullmatch(ref):
        return Blob(BlobRef(ref))
    if ref.startswith(SPEND):
        return await _spending(engine, ref.removeprefix(SPEND))
    if by_prefix := _ENTRY_BY_PREFIX.fullmatch(ref):
        branch = await _branch_by_prefix(engine, by_prefix[1])
        return await _event_at(engine, f"{branch.ref}:{by_prefix[2]}", ref)
    if place_of(ref) is not None:
        return await _event_at(engine, ref, ref)
    async for event in all_events(engine, Query(kinds=FACTS)):
        if ref in (event.id, _order(event)):
            return event
    if "/" in ref and (saved := await _artifact(engine, ref)) is not None:
        return saved
    return await _by_prefix(engine, ref)


async def _event_at(engine: Engine, name: str, asked: str) -> Event:
    """The entry or model call of that id; of an effect, the entry that decided it."""
    place = place_of(name)
    assert place is not None
    if await engine.world.store.branch(place.ref) is None:
        raise _nothing(asked)
    if _EFFECT.fullmatch(name):
        async for event in all_events(engine, Query(ref=place.ref, kinds=("ledger.",))):
            if _order(event) == name:  # what was paid, rather than the call that paid it
                return event
        entry = (await Log(engine).decision(place, wait_key(name)[1])).entry  # type: ignore[arg-type]
        name = entry.id if entry is not None else name
    kind = "model.reply"
    if not name.endswith(".model"):  # the branch that wrote an entry may be an ancestor of the one that was named
        kind, place = "state.", place_of(name) or place
        entries = await Log(engine).entries(place.ref)
        name = entries[place.index].id if place.index < len(entries) else name
        place = place_of(name) or place
    async for event in all_events(engine, Query(ref=place.ref, kinds=(kind,))):
        if event.id == name:
            return event
    raise _nothing(asked)


async def _spending(engine: Engine, name: str) -> Event:
    """The model call of that effect or the verdict of that id, by which the ledger names what it cost."""
    place = place_of(name)
    async for event in all_events(engine, Query(ref=place.ref if place else None, kinds=COSTS)):
        if name == (event.id if event.kind == VERDICT else event.cause):
            return event
    raise _nothing(SPEND + name)


def _order(event: Event) -> str | None:
    """The ledger's own id of what the event tells; None where it tells nothing of a ledger."""
    return event.body.get("id") if event.kind.startswith("ledger.") else None


async def _branch_by_prefix(engine: Engine, prefix: str) -> Branch:
    found = [branch async for branch in _branches(engine) if is_beginning(prefix, branch.ref)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise _nothing(prefix)
    raise UsageError(
        f"ambiguous reference {prefix!r}: {', '.join(branch.ref for branch in found[:REFERENCES_LISTED_MAX])}"
    )


async def _branches(engine: Engine) -> AsyncIterator[Branch]:
    for record in await engine.conversations():
        for branch in await engine.world.store.branches(record.id, delegates=True):
            yield branch


async def _artifact(engine: Engine, ref: str) -> Event | None:
    """The newest artifact of that name: on the conversation's current branch, else on any."""
    splits = [(ref[:at], ref[at + 1 :]) for at, letter in enumerate(ref) if letter == "/"]
    missed = ""
    for name, artifact in reversed(splits):
        records = await engine.conversations(name) if name else ()
        if len(records) != 1:
            continue
        record = records[0]
        query = Query(conversation=record.id, kinds=(SAVED,))
        saved = [event async for event in all_events(engine, query) if event.body["name"] == artifact]
        if saved:
            branches = {each.ref: each for each in await engine.world.store.branches(record.id)}
            return ([event for event in saved if _is_seen(event, branches, record.current)] or saved)[-1]
        missed = missed or f"no artifact {artifact!r} in conversation {record.name!r}"
    if missed:
        raise UsageError(missed, hint="p2engine artifact show NAME --kind artifact lists what there is")
    return None


def _is_seen(event: Event, branches: dict[StackRef, Branch], current: StackRef) -> bool:
    ref, index = event.body["root"]
    return bool(index < path_of(branches[current], branches).get(ref, 0))


async def _by_prefix(engine: Engine, prefix: str) -> Event:
    """The one event whose id begins so."""
    found = [event.id async for event in all_events(engine, Query(kinds=FACTS)) if is_beginning(prefix, event.id)]
    if _HEX.fullmatch(prefix):
        found += [f"{branch.ref}:…" async for branch in _branches(engine) if is_beginning(prefix, branch.ref)]
    if not found or not prefix:
        raise _nothing(prefix)
    if len(found) > 1 or found[0].endswith(":…"):
        more = f", and {len(found) - REFERENCES_LISTED_MAX} more" if len(found) > REFERENCES_LISTED_MAX else ""
        raise UsageError(f"ambiguous reference {prefix!r}: {', '.join(found[:REFERENCES_LISTED_MAX])}{more}")
    async for event in all_events(engine, Query(kinds=FACTS)):
        if event.id == found[0]:
            return event
    raise _nothing(prefix)


def _nothing(ref: str) -> UsageError:
    return UsageError(
        f"nothing is called {ref[:80]!r}",
        hint="an event's id, as `p2engine artifact show NAME` prints them, or CONVERSATION/ARTIFACT",
    )


# Causes


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One thing on the way back. also: other things the same model call had heard since the one before it."""

    id: str
    kind: str
    at: float
    agent: str | None
    branch: str | None
    cause: str
    words: Event | Entry
    also: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What an effect was decided upon: its entry, None where the log has none, and what else was heard."""

    entry: Entry | None
    also: tuple[str, ...] = ()


class Log:
    """Stacks of one engine, read once each."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stacks: dict[StackRef, list[Entry]] = {}
        self._branches: dict[StackRef, Branch | None] = {}

    async def branch(self, ref: StackRef) -> Branch | None:
        if ref not in self._branches:
            self._branches[ref] = await self._engine.world.store.branch(ref)
        return self._branches[ref]

    async def entries(self, ref: StackRef) -> Sequence[Entry]:
        """The stack of a branch; empty where there is no such branch."""
        if ref not in self._stacks:
            known = await self.branch(ref)
            self._stacks[ref] = entries_of(await self._engine.world.store.load(ref)) if known else []
        return self._stacks[ref]

    async def decision(self, owed: Place, slot: int) -> Decision:
        """The entry that led to the effect owed there: the call, the last thing a model heard, or an answer."""
        entries = await self.entries(owed.ref)
        if owed.index >= len(entries):
            return Decision(None)
        before = entries[: owed.index]
        state = entries[owed.index].state
        if isinstance(state, Waiting):
            pending = next((each for each in state.on if each.slot == slot), None)
            if pending is not None and pending.what != "think":
                return Decision(_last(before, lambda e: getattr(e.state, "call_id", None) == pending.call_id, _CALLS))
            return _heard(before)
        return Decision(_last(before, lambda _: True, (AssistantMessage,)) or entries[owed.index])


_CALLS = (ToolCall, AgentCall, UserInputRequest)


def _last(entries: Sequence[Entry], fits: Any, kinds: tuple[type, ...]) -> Entry | None:
    return next((entry for entry in reversed(entries) if isinstance(entry.state, kinds) and fits(entry)), None)


def _heard(before: Sequence[Entry]) -> Decision:
    """What a model call was asked upon: everything since the model call before it, the last of it first."""
    heard: list[Entry] = []
    for entry in reversed(before):
        if isinstance(entry.state, Waiting) and any(pending.what == "think" for pending in entry.state.on):
            break
        if isinstance(entry.state, _HEARD):
            heard.append(entry)
    last = heard[0] if heard else _last(before, lambda _: True, _HEARD)
    return Decision(last, tuple(entry.id for entry in heard[1:]))


async def causes(engine: Engine, event: Event) -> list[Cause]:
    """The way from an event back to the message or command that started it, the event first."""
    log = Log(engine)
    walk = [_by_event(event)]
    seen = {event.id}
    while len(walk) < WALK_MAX:
        following = await _cause_of(engine, log, walk[-1].cause)
        if following is None or following.id in seen:
            return walk
        seen.add(following.id)
        walk.append(following)
    return walk


async def _cause_of(engine: Engine, log: Log, cause: str) -> Cause | None:
    """What a cause names; None where it is a person or the engine."""
    place = place_of(cause)
    if place is None:
        return await _fact(engine, cause)
    if _EFFECT.fullmatch(cause):
        decision = await log.decision(place, wait_key(cause)[1])  # type: ignore[arg-type]
    else:
        entries = await log.entries(place.ref)
        decision = Decision(entries[place.index] if place.index < len(entries) else None)
    entry = decision.entry
    if entry is None:
        return None
    branch = await log.branch(entry.ref)
    return Cause(
        id=entry.id,
        kind=f"state.{tag_of(entry.state)}",
        at=entry.at,
        agent=branch.agent if branch else None,
        branch=branch.name if branch else None,
        cause=entry.cause,
        words=entry,
        also=decision.also,
    )


async def _fact(engine: Engine, name: str) -> Cause | None:
    """The fact of that id; None for the name of a person, an agent or the engine."""
    if ":" in name or _FACT.fullmatch(name):
        async for event in all_events(engine, Query(kinds=FACTS)):
            if event.id == name:
                return _by_event(event)
    return None


def _by_event(event: Event) -> Cause:
    return Cause(
        id=event.id,
        kind=event.kind,
        at=event.at,
        agent=event.agent,
        branch=event.branch,
        cause=event.cause,
        words=event,
    )
