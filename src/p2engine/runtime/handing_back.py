"""What a process cannot do as it was decided, it gives back for one that can: a tool or an evaluator that it lacks.

Knows what was told of a tool when a call was decided, and how long to go on giving back. Runs nothing.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from p2engine.domain.effects import AnyEffect, CallTool
from p2engine.domain.messages import ToolSpec
from p2engine.domain.records import Batch
from p2engine.limits import MISFITS_MAX, RELEASED_KEPT_MAX, RELEASES_MAX
from p2engine.runtime.world import World

log = logging.getLogger("p2engine.runtime")

_PROSE: Final = frozenset({"description", "title", "examples"})
_BY_NAME: Final = frozenset({"properties", "$defs", "patternProperties"})  # their keys are names of somebody's choice


async def without(effect: AnyEffect, what: str, world: World) -> bool:
    """Give back what this process has not loaded. Where it does everything itself, False after a while: give up."""
    return await _give_back(effect, what, world, RELEASES_MAX if world.keeps is None else None)


async def misfit(effect: CallTool, loaded: ToolSpec, world: World) -> bool:
    """Whether this call was given back, since its model was told of other arguments than the tool takes here.

    Only among several processes, and False after a while: else a turn that was under way when the last of them was
    brought up to date would wait for ever.
    """
    if world.keeps is None:
        return False
    setup = (await world.stacks.get(effect.ref)).thinking
    if setup.specs is None and not setup.tools:
        return False
    _, specs = await world.roster.bodies(setup)
    told = next((spec for spec in specs if spec.name == effect.tool), None)
    if told is None or takes_the_same(told.parameters, loaded.parameters):
        return False
    what = f"tool {effect.tool!r} with other arguments than here, as its model was told"
    return await _give_back(effect, what, world, MISFITS_MAX)


def takes_the_same(told: Mapping[str, Any], loaded: Mapping[str, Any]) -> bool:
    """Whether two JSON schemas let the same be given, whatever they say of it."""
    return told == loaded or _without_prose(told) == _without_prose(loaded)


def _without_prose(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return [_without_prose(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: _without_prose(each) for name, each in value.items()}
        if key in _BY_NAME and isinstance(value, Mapping)
        else _without_prose(value)
        for key, value in schema.items()
        if key not in _PROSE
    }


async def _give_back(effect: AnyEffect, what: str, world: World, times_max: int | None) -> bool:
    """False once it has been done so often. Said once for each `what`, not for each effect."""
    if times_max is not None:
        times = world.released.pop(effect.id, 0) + 1
        if times > times_max:
            return False
        while len(world.released) >= RELEASED_KEPT_MAX:
            del world.released[next(iter(world.released))]
        world.released[effect.id] = times
    complaint = f"waits for a process that has {what}"
    if complaint not in world.told:
        world.told.add(complaint)
        log.warning("effect %s %s; said once", effect.id, complaint)
    conversation = (await world.stacks.branch(effect.ref)).conversation
    await world.store.write(Batch(conversation=conversation, releases=(effect.id,), owner=world.owner))
    return True
