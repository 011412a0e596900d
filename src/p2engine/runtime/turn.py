"""One step of one stack: fold, decide, commit, hand out what is owed. The only caller of the machine."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from p2engine.domain.codec import CODEC
from p2engine.domain.effects import AnyEffect, kind_of
from p2engine.domain.ids import EffectId, StackRef, WaitKey
from p2engine.domain.machine import MACHINE, Step
from p2engine.domain.messages import RENDERER
from p2engine.domain.records import Batch, Branch, Commit, Fact, Job, Perform, Placed, StackWrite
from p2engine.domain.stack import Stack
from p2engine.errors import AlreadySettled, HeadMoved, Rewound, StoreError
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
    branch: Branch | None = None,
    current: StackRef | None = None,
) -> Step:
    """Write what `decide` makes of the stack, once. A conflict costs a fold, never a second effect.

    awaited: the wait this answers; AlreadySettled where the stack no longer waits for it. facts: what else happened.
    branch: made in the same write. current: the branch that people talk to from then on. Raises AlreadySettled,
    NameTaken, StoreError; HeadMoved only for a branch that this step opens.
    """
    async with world.stacks.lock(ref):
        stack = await world.stacks.get(ref)
        conversation = (await world.stacks.branch(ref)).conversation
        while True:
            if awaited is not None and awaited not in stack.open:
                stack = await world.stacks.refresh(ref)
                if awaited not in stack.open:
                    raise AlreadySettled(settles[0] if settles else f"{ref}:{awaited[0]}.{awaited[1]}")
            step = decide(stack, world.clock.now())
            keeps = world.keeps
            row = row_of(stack, step, cause)
            batch = Batch(
                conversation=conversation,
                writes=(StackWrite(ref, stack.head, row),) if step.states else (),
                settles=settles,
                needs=needs,
                drops=step.drops,
                effects=step.effects,
                leaves=tuple(effect.id for effect in step.effects if not keeps(effect)) if keeps else (),
                owner=world.owner,
                branches=(branch,) if branch else (),
                current=current,
                facts=tuple(facts),
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
        others = [job_of(effect) for effect in effects if not keeps(effect)]
        own = [effect for effect in own if keeps(effect)]
        if others:
            await world.dispatcher.submit(*others)
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
