"""Opening a child: its own branch of the called agent's stack, forked from what this caller last saw of it."""

from collections.abc import Sequence
from typing import Any

from p2engine.domain.decisions import ToolOutcome
from p2engine.domain.effects import AnyEffect, CallAgent
from p2engine.domain.ids import child_ref
from p2engine.domain.machine import hear, settle
from p2engine.domain.records import Branch
from p2engine.domain.stack import Stack
from p2engine.domain.states import AnyState, Override, UserMessage
from p2engine.errors import HeadMoved, UsageError
from p2engine.runtime.turn import commit
from p2engine.runtime.world import World

INHERITED = frozenset({"model", "llm_model", "temperature", "top_p", "max_tokens", "render_policy", "seed", "book"})
"""Overrides that a child takes over from its caller. Tools and persona are an agent's own: power is not inherited."""


async def open_child(effect: CallAgent, world: World) -> Sequence[AnyEffect]:
    """Open the child once; opening it again changes nothing. Refused (AlreadySettled) when the call was cancelled."""
    ref = child_ref(effect.id)
    known = await world.store.branch(ref)
    if known is not None and known.delegate == effect.id:
        return ()
    caller = await world.stacks.get(effect.ref)
    parent, at = effect.base or (None, 0)
    base = (await world.stacks.base(parent, at)).fork(ref) if parent else Stack(ref, effect.agent)
    try:
        said = [*await _setup(effect, caller, base, world), _message(effect, caller)]
    except UsageError as error:  # the agent is gone since the decision
        outcome = ToolOutcome(status="error", content=str(error))
        step = await commit(
            world,
            effect.ref,
            lambda stack, now: settle(stack, effect, outcome, now),
            cause=effect.id,
            settles=(effect.id,),
            awaited=effect.key,
        )
        return step.effects
    branch = Branch(
        ref=ref,
        conversation=(await world.stacks.branch(effect.ref)).conversation,
        agent=effect.agent,
        name=ref,
        parent=parent,
        at=at,
        created_at=world.clock.now(),
        delegate=effect.id,
    )
    world.stacks.know(branch)
    world.stacks.put(base)
    try:
        step = await commit(
            world,
            ref,
            lambda stack, now: hear(stack, said, now),
            cause=effect.id,
            needs=(effect.id,),
            branch=branch,
        )
    except HeadMoved:  # another process opened it
        await world.stacks.refresh(ref)
        return ()
    return step.effects


def _message(effect: CallAgent, caller: Stack) -> UserMessage:
    return UserMessage(text=effect.message, sender=caller.agent, caller=effect.caller, grant=effect.grant)


async def _setup(effect: CallAgent, caller: Stack, base: Stack, world: World) -> list[AnyState]:
    """The override that records what the child is, where that is new."""
    changes: dict[str, Any] = {k: v for k, v in caller.overrides.items() if k in INHERITED}
    setup = await world.roster.setup(effect.agent, {**base.overrides, **changes})  # the caller's are the newer ones
    new = {k: v for k, v in changes.items() if k not in base.overrides or base.overrides[k] != v}
    if setup == base.setup and not new:
        return []
    return [Override(changes=new, setup=setup, source="delegation")]
