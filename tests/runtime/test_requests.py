"""What a model was shown can be rebuilt from the log, for every call that was ever made."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from p2engine.domain.decisions import Delegate, UseTool
from p2engine.domain.ids import AgentId, EffectId
from p2engine.domain.setup import RenderPolicy
from p2engine.errors import UsageError
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.engine import Engine
from p2engine.runtime.perform import view_of
from tests.runtime.conftest import Gate, Script, Stage, until

ANN = AgentId("ann")


def same(rebuilt: AgentView, seen: AgentView) -> bool:
    return msgspec.structs.replace(rebuilt, on_text=None) == msgspec.structs.replace(seen, on_text=None)


async def all_same(engine: Engine, *scripts: Script) -> int:
    """How many calls there were; each is rebuilt as it was."""
    views = [view for script in scripts for view in script.views]
    for view in views:
        assert same(await view_of(engine.world, view.effect), view)
    return len(views)


async def test_every_request_can_be_rebuilt(stage: Stage) -> None:
    """Tools, delegates, messages that came late, overrides and a rewind: each call as it was asked."""
    gate = Gate()

    async def look(arguments: Mapping[str, Any], ctx: ToolContext) -> str:
        await gate.pass_through()
        return "seen"

    boss = Script([UseTool("look"), Delegate(ANN, "help")], "one", [Delegate(ANN, "again")], "two", "three", "four")
    ann = Script([UseTool("look")], "yes", "yes again")
    engine = stage.engine({"boss": boss, "ann": ann}, {"look": look})
    conversation = await engine.conversation("demo", agent="boss")
    saying = asyncio.create_task(conversation.say("go"))
    await gate.reached.wait()
    late = asyncio.create_task(conversation.say("and another thing"))

    async def heard() -> bool:
        return bool((await conversation.stack()).late)

    await until(heard)
    await conversation.override({"model": "new", "temperature": 0.5})
    gate.open.set()
    await asyncio.gather(saying, late)
    await conversation.say("once more")
    await conversation.rewind(6)
    await conversation.say("otherwise")
    await conversation.say("and on")

    cold = stage.engine({"boss": boss, "ann": ann}, {"look": look})
    for one in (engine, cold):
        assert await all_same(one, boss, ann) == len(boss.views) + len(ann.views) >= 9


async def test_a_request_is_rebuilt_under_its_own_policy(stage: Stage) -> None:
    """A call that was shown the last two messages is rebuilt with the last two."""
    boss = Script("hello")
    engine = stage.engine({"boss": boss})
    roster: Any = engine.world.roster
    short = msgspec.structs.replace(roster._setups["boss"], render=RenderPolicy("last_n", 2))
    conversation = await engine.conversation("demo", agent="boss")
    for number in range(4):
        await conversation.say(f"m{number}")
    roster._setups["boss"] = short
    await conversation.say("m4")
    assert [len(view.fragments) for view in boss.views] == [1, 3, 5, 7, 2]
    assert await all_same(engine, boss) == 5


async def test_what_was_no_model_call_has_no_request(stage: Stage) -> None:
    """Another effect, a place where nothing was asked: refused by name."""
    engine = stage.engine({"boss": Script("hello")})
    conversation = await engine.conversation("demo", agent="boss")
    await conversation.say("go")
    for effect in (f"{conversation.record.current}:3.0", "ghost:1.0"):
        with pytest.raises(UsageError):
            await view_of(engine.world, EffectId(effect))
