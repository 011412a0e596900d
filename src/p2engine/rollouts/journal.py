"""How a rollout is remembered: facts in the one log, its specification by content hash. Nothing else is kept of it.

`rollout.started`, `rollout.extended`, `rollout.taken` by whoever runs it, `rollout.trial` for each finished trial,
`rollout.finished`, `rollout.cancelled`.
"""

import gc
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec

from p2engine.domain.ids import BlobRef, OwnerId
from p2engine.domain.records import Batch, Cursor, Event, Fact, Query
from p2engine.errors import UsageError
from p2engine.limits import QUERY_EVENTS_MAX
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.spec import Spec
from p2engine.runtime.world import World

STARTED = "rollout.started"
EXTENDED = "rollout.extended"
TAKEN = "rollout.taken"
TRIAL = "rollout.trial"
FINISHED = "rollout.finished"
CANCELLED = "rollout.cancelled"

Status = Literal["running", "finished", "stopped", "cancelled"]
"""running: until it is said to have ended, also where whoever ran it died. stopped: by a budget."""


class Options(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What was said when it was started. limit: trials of each variant at most; None where nothing was said."""

    seed: int | None = None
    repeats: int | None = None
    limit: int | None = None
    budget_usd: float | None = None
    parallel: int | None = None


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as the log has it. provenance: of the program and the project when it was started.

    cursor: where in the log it begins: nothing of it lies before. place: where it was run last; empty where nobody ran
    it. is_left: whoever did lives no more, and it has not ended.
    """

    id: str
    spec: Spec
    options: Options
    started_at: float
    status: Status = "running"
    why: str = ""
    ended_at: float | None = None
    provenance: Mapping[str, Any] = {}
    cursor: Cursor = Cursor()
    place: str = ""
    is_left: bool = False


async def start(world: World, spec: Spec, options: Options, provenance: Mapping[str, Any]) -> Rollout:
    """Write down that a rollout begins. It has the name of its file, and six digits of its own."""
    rollout = Rollout(
        id=f"{spec.name}-{world.ids.branch()[-6:]}",
        spec=spec,
        options=options,
        started_at=world.clock.now(),
        provenance=provenance,
    )
    body = {
        "rollout": rollout.id,
        "name": spec.name,
        "spec": await _put(world, spec),
        "hash": spec.hash,
        "options": msgspec.to_builtins(options),
        "provenance": dict(provenance),
    }
    fact = Fact(id=rollout.id, kind=STARTED, cause="user", at=rollout.started_at, body=body)
    row = await _write(world, fact)
    return msgspec.structs.replace(rollout, cursor=Cursor(row))


async def extend(
    world: World, rollout: Rollout, spec: Spec, options: Options, provenance: Mapping[str, Any] | None = None
) -> Rollout:
    """Write down what is to be run from now on. What ran stays as it is."""
    known = dict(rollout.provenance if provenance is None else provenance)
    body = {
        "rollout": rollout.id,
        "spec": await _put(world, spec),
        "hash": spec.hash,
        "options": msgspec.to_builtins(options),
        "provenance": known,
    }
    key = f"{rollout.id}+{world.ids.fact()}"
    await _write(world, Fact(id=key, kind=EXTENDED, cause="user", at=world.clock.now(), body=body))
    return msgspec.structs.replace(
        rollout, spec=spec, options=options, status="running", why="", ended_at=None, provenance=known
    )


async def take(world: World, rollout: Rollout, place: str) -> None:
    """Write down that this process runs it from now on. place: which state folder of which machine has it."""
    body = {"rollout": rollout.id, "owner": world.owner, "place": place}
    key = f"{rollout.id}*{world.ids.fact()}"
    await _write(world, Fact(id=key, kind=TAKEN, cause="user", at=world.clock.now(), body=body))


async def record(world: World, rollout: Rollout, result: TrialResult) -> None:
    """Write down what came of a trial, once."""
    fact = Fact(
        id=f"{rollout.id}/{result.key}",
        kind=TRIAL,
        cause=rollout.id,
        at=world.clock.now(),
        body={"rollout": rollout.id, "result": msgspec.to_builtins(result)},
    )
    await _write(world, fact)


async def end(world: World, rollout: Rollout, status: Status, why: str = "") -> Rollout:
    """Write down that it has ended, or that it shall."""
    kind = CANCELLED if status == "cancelled" else FINISHED
    body = {"rollout": rollout.id, "status": status, "why": why}
    at = world.clock.now()
    await _write(world, Fact(id=f"{rollout.id}!{world.ids.fact()}", kind=kind, cause="user", at=at, body=body))
    return msgspec.structs.replace(rollout, status=status, why=why, ended_at=at)


async def rollouts(world: World, prefix: str = "") -> Sequence[Rollout]:
    """Every rollout whose id begins with `prefix`, oldest first."""
    found: dict[str, Rollout] = {}
    owners: dict[str, OwnerId] = {}
    async for event in _events(world, (STARTED, EXTENDED, TAKEN, FINISHED, CANCELLED)):
        id_ = str(event.body["rollout"])
        if not id_.startswith(prefix):
            continue
        if event.kind == STARTED:
            found[id_] = Rollout(
                id=id_,
                spec=await _get(world, event.body["spec"]),
                options=msgspec.convert(event.body["options"], Options),
                started_at=event.at,
                provenance=event.body["provenance"],
                cursor=event.cursor,
            )
        elif id_ in found and event.kind == TAKEN:
            owners[id_] = OwnerId(event.body["owner"])
            taken = msgspec.structs.replace(found[id_], status="running", why="", ended_at=None)
            found[id_] = msgspec.structs.replace(taken, place=event.body["place"])
        elif id_ in found:
            found[id_] = await _later(world, found[id_], event)
    for id_, owner in owners.items():
        if found[id_].status == "running" and not await world.store.lives(owner):
            found[id_] = msgspec.structs.replace(found[id_], is_left=True)
    return list(found.values())


async def _later(world: World, rollout: Rollout, event: Event) -> Rollout:
    replace = msgspec.structs.replace
    if event.kind == EXTENDED:
        spec, options = await _get(world, event.body["spec"]), msgspec.convert(event.body["options"], Options)
        known = event.body["provenance"]
        return replace(rollout, spec=spec, options=options, status="running", why="", ended_at=None, provenance=known)
    return replace(rollout, status=event.body["status"], why=event.body["why"], ended_at=event.at)


async def find(world: World, key: str) -> Rollout:
    """The rollout of that id, or the only one whose id begins so. Raises UsageError."""
    found = await rollouts(world, key)
    exact = [each for each in found if each.id == key] or found
    if len(exact) == 1:
        return exact[0]
    if not exact:
        raise UsageError(f"no rollout {key!r}", hint="p2engine rollout list shows what there is")
    raise UsageError(f"ambiguous rollout {key!r}: {', '.join(each.id for each in exact[:5])}")


async def results(world: World, rollout: Rollout) -> Sequence[TrialResult]:
    """What came of its trials so far, in the order in which they ended."""
    with _uncollected():
        return [
            msgspec.convert(event.body["result"], TrialResult)
            async for event in _events(world, (TRIAL,), after=rollout.cursor)
            if event.body["rollout"] == rollout.id
        ]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector: of a hundred thousand rows nothing is in a cycle, and its looks take as long as
    reading them.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


async def _events(world: World, kinds: tuple[str, ...], after: Cursor = Cursor()) -> AsyncIterator[Event]:  # noqa: B008
    while True:
        query = Query(kinds=kinds, after=after, limit=QUERY_EVENTS_MAX, whole=False)
        events = await world.store.events(query)
        for event in events:
            yield event
        if len(events) < QUERY_EVENTS_MAX:
            return
        after = events[-1].cursor


async def _write(world: World, fact: Fact) -> int:
    """The row of the log that it made."""
    return (await world.store.write(Batch(conversation=None, facts=(fact,)))).row


async def _put(world: World, spec: Spec) -> BlobRef:
    return await world.blobs.put(msgspec.json.encode(spec, order="deterministic"))


async def _get(world: World, ref: str) -> Spec:
    return msgspec.json.decode(await world.blobs.get(BlobRef(ref)), type=Spec)
