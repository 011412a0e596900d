"""One step of one stack: fold, decide, commit, hand out what is owed. The only caller of the machine."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from p2engine.domain.codec import CODEC
from p2engine.domain.draft import Step
from p2engine.domain.effects import AnyEffect, kind_of
from p2engine.domain.ids import BlobRef, EffectId, StackRef, WaitKey, blob_ref
from p2engine.domain.machine import MACHINE
from p2engine.domain.messages import RENDERER
from p2engine.domain.records import Batch, Branch, Commit, Fact, Job, Perform, Placed, StackWrite
from p2engine.domain.setup import Setup
from p2engine.domain.stack import Stack
from p2engine.domain.states import Override
from p2engine.errors import AlreadySettled, BodiesLost, HeadMoved, Rewound, StoreError
from p2engine.runtime.world import World

_VERSIONS = (CODEC, MACHINE, RENDERER)

T = TypeVar("T")
Decide = Callable[[Stack, float], Step]


async def commit(
    world: World,
    ref: StackRef,
    decide: Decide,
    *,
    cause: str,
    settles: tuple[EffectId, ...] = (),
    needs: tuple[EffectId, ...] = (),
    awaited: WaitKey | None = None,
    facts: Sequence[Fact] = (),
    bodies: Mapping[BlobRef, bytes] = MappingProxyType({}),
    branch: Branch | None = None,
    current: StackRef | None = None,
) -> Step:
    """Write what `decide` makes of the stack, once. A conflict costs a fold, never a second effect.

    awaited: the wait this answers; AlreadySettled where the stack no longer waits for it. facts: what else happened.
    bodies: that the facts rely on; they are put again where the store has lost them.
    branch: made in the same write. current: the branch that people talk to from then on. Raises AlreadySettled,
    NameTaken, StoreError; HeadMoved only for a branch that this step opens.
    """
    async with world.stacks.lock(ref):
        stack = await world.stacks.get(ref)
        while True:
            if awaited is not None and awaited not in stack.open:
                stack = await world.stacks.refresh(ref)
                if awaited not in stack.open:
                    raise AlreadySettled(settles[0] if settles else f"{ref}:{awaited[0]}.{awaited[1]}")
            step = decide(stack, world.clock.now())
            row = row_of(stack, step, cause)
            batch = _batch(
                world,
                step,
                conversation=(await world.stacks.branch(ref)).conversation,
                writes=(StackWrite(ref, stack.head, row),) if step.states else (),
                settles=settles,
                needs=needs,
                branches=(branch,) if branch else (),
                current=current,
                facts=tuple(facts),
                bodies=(*bodies, *_bodies_of(step)),
            )
            try:
                written = await world.store.write(batch)
            except HeadMoved as moved:
                if branch is not None and branch.ref == ref:
                    raise
                known = stack.head
                stack = await world.stacks.refresh(ref, moved.missing)
                if stack.head <= known:  # the store has gained nothing: it is shorter than what is remembered here
                    lost = Rewound(f"stack {ref} lost entries that were acknowledged", hint="say it again")
                    world.doubt(lost)
                    raise lost from moved
                continue
            except BodiesLost as lost:
                await _put_again(world, lost, bodies, step)
                continue
            except StoreError as error:
                world.doubt(error)
                raise
            break
        world.stacks.put(step.stack)
    if written.followed or world.followed:
        world.follows(ref, followed=written.followed)
    if step.states:
        world.bus.offer(ref, (Placed(ref, stack.head, row),))
        if world.wrote is not None:
            world.wrote(row)
    interrupt(world, step.drops)
    return step


def _batch(world: World, step: Step, **said: Any) -> Batch:
    """What a step asks for, and whatever else is `said`."""
    keeps = world.keeps
    leaves = tuple(effect.id for effect in step.effects if not keeps(effect)) if keeps else ()
    return Batch(drops=step.drops, effects=step.effects, leaves=leaves, owner=world.owner, **said)


def _setups_of(step: Step) -> list[Setup]:
    return [state.setup for state in step.states if isinstance(state, Override) and state.setup is not None]


def _bodies_of(step: Step) -> list[BlobRef]:
    """What the setups rely on that the step records."""
    return [ref for setup in _setups_of(step) for ref in (setup.instructions, setup.specs) if ref is not None]


async def _put_again(world: World, lost: BodiesLost, bodies: Mapping[BlobRef, bytes], step: Step) -> None:
    """Put what the store has lost from what is in hand here. Raises `lost` where it is not."""
    found = dict(bodies)
    for setup in _setups_of(step):
        if {setup.instructions, setup.specs} & set(lost.refs):
            instructions, specs = await world.roster.bodies(setup)
            for body in (instructions.encode(), msgspec.json.encode(specs, order="sorted")):
                found[blob_ref(body)] = body
    for ref in lost.refs:
        if ref not in found:
            raise lost
        await world.blobs.put(found[BlobRef(ref)])


def row_of(stack: Stack, step: Step, cause: str) -> Commit:
    """The log row of a step that stands on `stack`."""
    return Commit(step.stack.at, cause, step.states, step.outcomes, step.usage, _VERSIONS, step.safe, stack.safe)


async def hand_out(world: World, effects: Sequence[AnyEffect]) -> None:
    """Get these effects done, here or elsewhere."""
    await world.here.submit(*await divide(world, effects))


async def divide(world: World, effects: Sequence[AnyEffect]) -> list[Job]:
    """Hand out what others shall do; returns the jobs that are this process's own, and nobody's but its."""
    keeps = world.keeps
    own = [e for e in effects if e.id not in world.adopted] if world.adopted else effects
    if keeps is not None:
        kept = {effect.id for effect in effects if keeps(effect)}
        own = [effect for effect in own if effect.id in kept]
        if len(kept) < len(effects):
            await world.dispatcher.submit(*(job_of(effect) for effect in effects if effect.id not in kept))
    jobs: list[Job] = []
    for effect in own:
        world.born[effect.id] = effect
        jobs.append(job_of(effect))
    return jobs


async def to_the_end(doing: Coroutine[Any, Any, T]) -> T:
    """Wait for `doing`, which goes on when the wait is cancelled.

    What a living process owes, nobody else does: between writing it and handing it out, nothing may be cut short.
    """
    task = asyncio.get_running_loop().create_task(doing)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


def job_of(effect: AnyEffect) -> Perform:
    return Perform(effect.id, kind_of(effect))


def interrupt(world: World, drops: Sequence[EffectId]) -> None:
    """Stop attempts that nobody waits for any more, where stopping them loses nothing."""
    for effect in drops:
        world.born.pop(effect, None)
        if task := world.running.get(effect):
            world.dropped.add(effect)
            task.cancel()
