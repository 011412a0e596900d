"""Doing what is owed: claim, do, settle. Each effect is settled once, whatever crashes, repeats or comes late."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import assert_never

import msgspec

from p2engine.domain.decisions import Answer, Decision, Failure, ToolOutcome
from p2engine.domain.draft import Step
from p2engine.domain.effects import AnyEffect, Ask, CallAgent, CallTool, Cancel, Judge, Return, Think
from p2engine.domain.ids import BlobRef, EffectId, ref_of, wait_key
from p2engine.domain.machine import Outcome, end, settle, wake
from p2engine.domain.records import Batch, Claimed, Fact, Perform
from p2engine.domain.render import select
from p2engine.domain.stack import Stack
from p2engine.errors import AlreadySettled, EffectError, NewerFormat, NotLoaded, StoreError, UsageError
from p2engine.limits import DECISION_TIMEOUT_S, TRIES_MAX
from p2engine.ports import AgentView, OnText, ToolContext
from p2engine.runtime.artifacts import Saving
from p2engine.runtime.delegation import open_child
from p2engine.runtime.handing_back import misfit, without
from p2engine.runtime.judging import judged, settle_verdict
from p2engine.runtime.outcomes import plain_decision, plain_result, plain_text
from p2engine.runtime.purse import Purse
from p2engine.runtime.turn import commit
from p2engine.runtime.world import Kept, World

log = logging.getLogger("p2engine.runtime")

NOBODY = "a delegate cannot ask a person in this version; answer with what is known, or say what is missing"
NO_INBOX = "this needs a person's approval, and this version has no inbox; it was not run"


async def perform(job: Perform, world: World) -> Sequence[AnyEffect]:
    """Do one effect. Returns what is owed next, for whoever runs jobs to go on with."""
    if job.effect in world.busy:  # a queue may repeat a job
        return ()
    world.busy.add(job.effect)
    try:
        return await _perform(job.effect, world)
    except AlreadySettled:
        return ()
    finally:
        world.busy.discard(job.effect)


async def _perform(effect_id: EffectId, world: World) -> Sequence[AnyEffect]:
    kept = world.kept.get(effect_id)
    if kept is not None and kept.outcome is None:
        return await settle_verdict(kept.effect, world, kept.facts)
    if kept is not None and kept.outcome is not None:
        return await _settle(kept.effect, kept.outcome, world, kept.facts, kept.bodies)
    taken = await _take(effect_id, world)
    if taken is None:
        return ()
    effect, spoiled = taken
    if isinstance(effect, Judge):
        return await _judge(effect, world, spoiled)
    if spoiled is not None:
        return await _settle(effect, spoiled, world)
    match effect:
        case Think():
            return await _settle(effect, await _think(effect, world), world)
        case CallTool():
            return await _call_tool(effect, world)
        case CallAgent():
            return await _open_child(effect, world)
        case Return():
            return await _return(effect, world)
        case Ask():
            if effect.kind == "approval":  # without an inbox, approval fails closed
                return await _settle(effect, Answer(NO_INBOX, approved=False), world)
            if (await world.stacks.get(effect.ref)).caller is not None:  # whoever speaks, speaks to the root
                return await _settle(effect, Answer(NOBODY), world)
            return ()
        case Cancel():
            return await _cancel(effect, world)
        case unreachable:
            assert_never(unreachable)


async def _take(effect_id: EffectId, world: World) -> tuple[AnyEffect, Outcome | None] | None:
    """The effect, if it is ours to do; with an outcome where it may not be done (again)."""
    effect = world.born.pop(effect_id, None)
    if effect is not None:
        return effect, None
    known = world.stacks.peek(ref_of(effect_id))
    try:
        claimed = await world.store.claim(effect_id, world.owner, since=known.head if known else 0)
    except NewerFormat as newer:
        complaint = f"effect {effect_id} waits for a newer version: {newer}"
        if complaint not in world.told:
            world.told.add(complaint)
            log.warning("%s", complaint)
        return None
    if claimed is None:
        return None
    world.follows(ref_of(effect_id), followed=claimed.followed)
    await world.stacks.refresh(ref_of(effect_id), claimed.commits)
    return claimed.effect, _spoiled(claimed)


def _spoiled(claimed: Claimed) -> Outcome | None:
    """The outcome of an effect that may not be done again; None where it may. Opening a child harms nobody."""
    effect = claimed.effect
    why = f"given up: {claimed.tries} processes died or stalled on it"
    match effect:
        case Think() | Judge() if claimed.tries > TRIES_MAX:
            return Failure(why)
        case CallTool(repeat="never") if claimed.started:
            why = "interrupted: the process died while this ran; outcome unknown, not run again"
            return ToolOutcome(status="interrupted", content=why)
        case CallTool() if claimed.tries > TRIES_MAX:
            return ToolOutcome(status="error", content=why)
        case _:
            return None


async def _settle(
    effect: AnyEffect,
    outcome: Outcome,
    world: World,
    facts: Sequence[Fact] = (),
    bodies: Mapping[BlobRef, bytes] = MappingProxyType({}),
) -> Sequence[AnyEffect]:
    """Write the outcome and what comes next, in one commit. Refused: it is kept as a late event."""

    def decide(stack: Stack, at: float) -> Step:
        return settle(stack, effect, outcome, at)

    try:
        step = await commit(
            world,
            effect.ref,
            decide,
            cause=effect.id,
            settles=(effect.id,),
            awaited=effect.key,
            facts=facts,
            bodies=bodies,
        )
    except (AlreadySettled, UsageError) as refused:
        if isinstance(refused, UsageError) and await world.store.branch(effect.ref) is not None:
            raise  # else it was pruned, and so it was settled
        world.kept[effect.id] = Kept(effect, outcome, facts)  # until its event is written
        await _late(effect, outcome, world)
        world.kept.pop(effect.id, None)
        return ()
    except StoreError:  # a disk that refuses it now may take it later; what was done is not done again for that
        world.kept[effect.id] = Kept(effect, outcome, facts, bodies)
        raise
    world.kept.pop(effect.id, None)
    return step.effects


async def _late(effect: AnyEffect, outcome: Outcome, world: World) -> None:
    """The world did something that no stack will hold: say so once, as an event."""
    if not isinstance(outcome, Decision | Failure | ToolOutcome):
        return
    branch = await world.store.branch(effect.ref)
    conversation = branch.conversation if branch else None  # it may have been pruned
    fact = Fact(
        id=f"late:{effect.id}",
        kind="effect.late",
        cause=effect.id,
        at=world.clock.now(),
        conversation=conversation,
        ref=effect.ref,
        body={"effect": effect.id, "outcome": msgspec.to_builtins(outcome)},
    )
    await world.store.write(Batch(conversation=conversation, facts=(fact,)))


async def _think(effect: Think, world: World) -> Outcome:
    """Ask the agent, as its setup stood when the question was put."""
    ref, key = effect.ref, effect.key
    stack = await world.stacks.get(ref)
    if key not in stack.open:
        stack = await world.stacks.refresh(ref)
        if key not in stack.open:
            raise AlreadySettled(effect.id)
    view = await _view(world, stack, effect, world.on_text(ref))
    with _Interruptible(effect.id, world):
        try:
            async with world.deadlines.within(DECISION_TIMEOUT_S) as limit:
                return plain_decision(await world.roster.agent(view.setup).decide(view))
        except EffectError as error:
            return Failure(plain_text(str(error)))
        except TimeoutError as error:
            if not limit.expired():
                return _failed(stack, error)
            return Failure(f"{stack.agent} did not decide within {DECISION_TIMEOUT_S:g} s")
        except asyncio.CancelledError as error:
            # Whoever cancels this task means it; an agent that awaited something cancelled has merely failed.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            return _failed(stack, error)
        except Exception as error:  # effect boundary: a plugin agent's fault ends its turn, not the engine
            return _failed(stack, error)


def _failed(stack: Stack, error: BaseException) -> Failure:
    log.warning("agent %s failed", stack.agent, exc_info=error)
    return Failure(plain_text(f"{type(error).__name__}: {error}"))


async def view_of(world: World, effect: EffectId) -> AgentView:
    """What the agent saw when it was asked by this effect, rebuilt from the log. Raises UsageError for no such call."""
    stack = await world.stacks.base(ref_of(effect), wait_key(effect)[0])
    step = wake(stack, stack.at)
    think = next((owed for owed in step.effects if isinstance(owed, Think) and owed.id == effect), None)
    if think is None:
        raise UsageError(f"{effect!r} is no model call")
    return await _view(world, step.stack, think, None)


async def _view(world: World, stack: Stack, effect: Think, on_text: OnText | None) -> AgentView:
    setup = stack.thinking
    branch = await world.stacks.branch(stack.ref)
    instructions, tools = await world.roster.bodies(setup)
    return AgentView(
        agent=stack.agent,
        conversation=branch.conversation,
        ref=branch.ref,
        effect=effect.id,
        setup=setup,
        fragments=tuple(select(stack.fragments, setup.render)),  # a list of the stack would grow in the agent's hands
        instructions=instructions,
        tools=tools,
        max_tokens=effect.max_tokens,
        on_text=on_text,
    )


async def _call_tool(effect: CallTool, world: World) -> Sequence[AnyEffect]:
    branch = await world.stacks.branch(effect.ref)
    loaded = world.tools.spec(effect.tool)
    if loaded is None:
        return await _without_tool(effect, world)
    if await misfit(effect, loaded, world):
        return ()
    if effect.repeat == "never":  # from here on, a crash means that nobody knows whether it ran
        await world.store.write(Batch(conversation=branch.conversation, starts=(effect.id,), owner=world.owner))
    stack = await world.stacks.get(branch.ref)
    root = stack.caller.root if stack.caller else (branch.ref, effect.key[0])
    artifacts = Saving(world, branch, effect.id, root)
    ctx = ToolContext(
        conversation=branch.conversation,
        agent=branch.agent,
        branch=branch.ref,
        call_id=effect.call_id,
        idempotency_key=effect.id,
        artifacts=artifacts,
        wallet=Purse(world, stack, effect.id) if world.ledger else None,
    )
    if effect.repeat == "free":
        with _Interruptible(effect.id, world):
            outcome = plain_result(await world.tools(effect.tool, effect.arguments, ctx))
    else:  # what has begun to change the world is let finish, so that its outcome is at least an event
        outcome = plain_result(await world.tools(effect.tool, effect.arguments, ctx))
    facts = artifacts.facts if outcome.status == "ok" else ()
    events = tuple(
        Fact(
            id=f"{effect.id}/{number}",
            kind=kind,
            cause=effect.id,
            at=world.clock.now(),
            conversation=branch.conversation,
            ref=effect.ref,
            body=dict(body),
        )
        for number, (kind, body) in enumerate(outcome.events)
    )
    return await _settle(effect, outcome, world, (*facts, *events), artifacts.bodies if facts else {})


async def _without_tool(effect: CallTool, world: World) -> Sequence[AnyEffect]:
    """On the agent's list but not loaded here."""
    if await without(effect, f"tool {effect.tool!r}", world):
        return ()
    why = f"tool {effect.tool!r} is on the agent's list, but no process that runs here has it loaded"
    return await _settle(effect, ToolOutcome(status="error", content=why), world)


async def _open_child(effect: CallAgent, world: World) -> Sequence[AnyEffect]:
    try:
        return await open_child(effect, world)
    except NotLoaded as lacks:  # who has the tool can say what a model is told of it
        if await without(effect, f"tool {lacks.tool!r}", world):
            return ()
        raise


async def _judge(effect: Judge, world: World, spoiled: Outcome | None) -> Sequence[AnyEffect]:
    evaluation, why = effect.evaluation, ""
    if isinstance(spoiled, Failure):
        why = spoiled.detail
    elif world.judges is None or not world.judges.has(evaluation):
        if await without(effect, f"evaluator {evaluation.evaluator!r}", world):
            return ()
        why = f"no process that runs here has evaluator {evaluation.evaluator!r} loaded"
    return await settle_verdict(effect, world, (await judged(effect, world, why),))


async def _return(effect: Return, world: World) -> Sequence[AnyEffect]:
    """Carry a child's answer to its caller: one commit on the caller's stack settles the call and the errand."""
    parent = ref_of(effect.to.effect)
    try:
        step = await commit(
            world,
            parent,
            lambda stack, at: settle(stack, effect, effect, at),
            cause=effect.id,
            settles=(effect.to.effect, effect.id),
            awaited=wait_key(effect.to.effect),
        )
    except AlreadySettled:  # nobody waits any more: the errand alone is over
        conversation = (await world.stacks.branch(effect.ref)).conversation
        await world.store.write(Batch(conversation=conversation, settles=(effect.id,)))
        return ()
    return step.effects


async def _cancel(effect: Cancel, world: World) -> Sequence[AnyEffect]:
    """End a child. A child that was never opened cannot be any more: its call is settled."""
    conversation = (await world.stacks.branch(effect.ref)).conversation
    if await world.store.branch(effect.child) is None:
        await world.store.write(Batch(conversation=conversation, settles=(effect.id,)))
        return ()
    step = await commit(
        world,
        effect.child,
        lambda stack, at: end(stack, "cancelled", "the caller was cancelled", at),
        cause=effect.id,
        settles=(effect.id,),
    )
    return step.effects


class _Interruptible:
    """While inside, dropping the effect cancels this task; the cancellation ends as AlreadySettled."""

    def __init__(self, effect: EffectId, world: World) -> None:
        self._effect = effect
        self._world = world

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._world.running[self._effect] = task

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._world.running.pop(self._effect, None)
        if self._effect in self._world.dropped:
            self._world.dropped.discard(self._effect)
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            if isinstance(error, asyncio.CancelledError):
                raise AlreadySettled(self._effect) from None
