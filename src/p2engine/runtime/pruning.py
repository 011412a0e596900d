"""Pruning: what a conversation, or its side branches, would free; and taking that away. Nothing else ever deletes.

Looks first and takes after, so that a person may be asked between; what moved meanwhile is not taken.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from p2engine.domain.codec import encode
from p2engine.domain.ids import BlobRef, EffectId, StackRef
from p2engine.domain.pruning import entry_of, survivors
from p2engine.domain.records import LEDGER, NO_END, Branch, Conversation, Cursor, Event, Fact, Placed, Pruning, Query
from p2engine.limits import BODY_UNUSED_S, QUERY_EVENTS_MAX
from p2engine.runtime.artifacts import SAVED
from p2engine.runtime.world import World

PRUNED = "conversation.pruned"
"""A conversation is gone: it belongs to none, and its body says which it was."""
BRANCHES_PRUNED = "branch.pruned"
"""Branches of a conversation are gone, or the ends of some."""

PRUNINGS_PASSED = 20  # of a conversation, one after the other, beyond which it counts as new


class Prunable(msgspec.Struct, frozen=True, kw_only=True):
    """What could go of a conversation, and how much that is.

    branches: the names of those that go wholly, where the conversation stays. shortened: of those that lose their
    end. owed: what keeps it from being pruned. moved_at: when something happened in it last, Unix seconds. taken: what
    the store is told; None where nothing can go.
    """

    conversation: Conversation
    moved_at: float
    branches: tuple[str, ...] = ()
    shortened: tuple[str, ...] = ()
    entries: int = 0
    rows: int = 0
    bytes: int = 0
    owed: tuple[EffectId, ...] = ()
    taken: Pruning | None = None


class Freed(NamedTuple):
    """Bodies that were forgotten, and their bytes."""

    bodies: int = 0
    bytes: int = 0


async def whole(world: World, record: Conversation) -> Prunable:
    """A conversation with all there is of it. Raises UsageError where it is gone."""
    weight = await world.store.weigh(record.id)
    bodies = [event.body["blob"] async for event in _events(world, Query(conversation=record.id, kinds=(SAVED,)))]
    said = {"branches": weight.branches, "entries": weight.entries, "rows": weight.rows, "bytes": weight.bytes}
    fact = _fact(world, record, PRUNED, {**said, "bodies": sorted(set(bodies))})
    return Prunable(
        conversation=record,
        moved_at=await moved_at(world, record),
        entries=weight.entries,
        rows=weight.rows,
        bytes=weight.bytes,
        owed=weight.owed,
        taken=Pruning(conversation=record.id, fact=fact, row=weight.row, branches=weight.branches),
    )


async def side_branches(world: World, record: Conversation) -> Prunable:
    """What neither the current branch stands on nor its delegates remember. Raises UsageError where it is gone."""
    weight = await world.store.weigh(record.id)
    branches = await world.store.branches(record.id, delegates=True)
    found = await world.store.conversation(record.id)
    current = (found or record).current
    own = {branch.ref: await _own(world, branch) for branch in branches}
    keeps = survivors(branches, current, own)
    gone = [branch for branch in branches if branch.ref not in keeps]
    short = [branch for branch in branches if keeps.get(branch.ref, NO_END) < NO_END]
    facts = [fact for branch in (*gone, *short) for fact in await _facts(world, branch, keeps.get(branch.ref))]
    commits = [placed for branch in (*gone, *short) for placed in own[branch.ref] if _goes(placed, keeps)]
    plan = Prunable(
        conversation=record,
        moved_at=await moved_at(world, record),
        branches=tuple(branch.name for branch in gone if branch.delegate is None),
        shortened=tuple(branch.name for branch in short if branch.delegate is None),
        entries=sum(len(placed.commit.states) for placed in commits),
        rows=len(commits) + len(facts),
        bytes=sum(len(encode(placed.commit)) for placed in commits),
        owed=weight.owed,
    )
    if not gone and not short:
        return plan
    bodies = sorted({fact.body["blob"] for fact in facts if fact.kind == SAVED})
    names = {"branches": list(plan.branches), "shortened": list(plan.shortened)}
    sizes = {"entries": plan.entries, "rows": plan.rows, "bytes": plan.bytes}
    taken = Pruning(
        conversation=record.id,
        fact=_fact(world, record, BRANCHES_PRUNED, {**names, **sizes, "bodies": bodies}),
        row=weight.row,
        branches=weight.branches,
        keeps=keeps,
        rows=tuple(sorted(fact.cursor.row for fact in facts if fact.ref in keeps)),
    )
    return replace(plan, taken=taken)


async def take(world: World, plan: Prunable) -> None:
    """Take it away, all or nothing. Raises UsageError where something is owed, ConflictError where it has moved."""
    if plan.taken is None:
        return
    keeps = plan.taken.keeps or {}
    refs = [branch.ref for branch in await world.store.branches(plan.conversation.id, delegates=True)]
    await world.store.prune(replace(plan.taken, fact=replace(plan.taken.fact, at=world.clock.now())))
    world.stacks.forget([ref for ref in refs if keeps.get(ref, 0) < NO_END])


async def collect(world: World) -> Freed:
    """Forget the artifacts of what was ever pruned that nothing names any more and nobody has put for an hour."""
    doomed: set[str] = set()
    async for event in _events(world, Query(kinds=(PRUNED, BRANCHES_PRUNED), whole=False)):
        doomed.update(event.body["bodies"])
    if not doomed:
        return Freed()
    async for event in _events(world, Query(kinds=(SAVED, "state.override", "rollout."), whole=False)):
        doomed -= _named(event)
    sizes = [await world.blobs.drop(BlobRef(ref), unused_s=BODY_UNUSED_S) for ref in sorted(doomed)]
    return Freed(sum(size > 0 for size in sizes), sum(sizes))


def _named(event: Event) -> set[str]:
    """The bodies that an event names."""
    body = event.body
    setup = body.get("setup") or {}
    return {
        str(ref) for ref in (body.get("blob"), body.get("spec"), setup.get("instructions"), setup.get("specs")) if ref
    }


async def _own(world: World, branch: Branch) -> Sequence[Placed]:
    """The commits that a branch wrote itself."""
    return [placed for placed in await world.store.load(branch.ref, since=branch.at) if placed.ref == branch.ref]


def _goes(placed: Placed, keeps: dict[StackRef, int]) -> bool:
    return placed.seq >= keeps.get(placed.ref, 0)


async def _facts(world: World, branch: Branch, length: int | None) -> list[Event]:
    """The facts of a branch that go when it ends at that length; None: it goes wholly. The ledger's stay."""
    found = []
    async for event in _events(world, Query(ref=branch.ref)):
        if event.index is not None or event.kind == "model.reply" or event.kind.startswith(LEDGER):
            continue
        about = entry_of(event.cause)
        if length is None or (about is not None and about[0] == branch.ref and about[1] >= length):
            found.append(event)
    return found


async def moved_at(world: World, record: Conversation) -> float:
    """When something happened in a conversation last, Unix seconds; that it was pruned is nothing that happened."""
    newest = await world.store.events(Query(conversation=record.id, newest=True, limit=PRUNINGS_PASSED))
    return max((event.at for event in newest if event.kind != BRANCHES_PRUNED), default=record.created_at)


async def _events(world: World, query: Query) -> AsyncIterator[Event]:
    after = Cursor()
    while True:
        events = await world.store.events(replace(query, after=after, limit=QUERY_EVENTS_MAX))
        for event in events:
            yield event
        if len(events) < QUERY_EVENTS_MAX:
            return
        after = events[-1].cursor


def _fact(world: World, record: Conversation, kind: str, body: dict[str, Any]) -> Fact:
    return Fact(
        id=world.ids.fact(),
        kind=kind,
        cause="user",
        at=world.clock.now(),
        conversation=record.id if kind == BRANCHES_PRUNED else None,
        body={"id": record.id, "name": record.name, "agent": record.agent, **body},
    )
