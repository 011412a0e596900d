"""BFCL's methods as tools, and one that opens a scenario. Knows worlds and artifacts.

No instance outlives a call. What was called so far is an artifact of the conversation, settled with each result; every
call builds the world from it. So trials share nothing, any process can make the next call, and a fork or a rewind has
the world of its own past.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from bfcl_example.scenarios import Call, Scenario, classes, documents, scenarios
from bfcl_example.world import World
from p2engine import ToolContext, ToolError, function_tool
from p2engine.ports import Artifacts

OPEN: Final = "open_scenario"
_SCENARIO: Final = "scenario"
_CALLS: Final = "calls/"
_TYPES: Final = {"dict": "object", "float": "number", "tuple": "array"}  # BFCL's words for JSON Schema's


@function_tool(name=OPEN, idempotent=True)
async def open_scenario(scenario: str, ctx: ToolContext) -> str:
    """Open the world that all other tools act on. To be called once, first.

    Args:
        scenario: its id, such as multi_turn_base_0
    """
    if scenario not in scenarios():
        raise ToolError(f"no scenario {scenario!r}")
    if await ctx.artifacts.list(_SCENARIO):
        raise ToolError("a scenario is open already")
    await ctx.artifacts.save(_SCENARIO, scenario)
    return f"{scenario} is open"


def _method_tool(document: dict[str, Any]) -> Any:
    name = document["name"]

    @function_tool(
        name=name,
        description=document["description"],
        input_schema=_parameters(name, document),
        idempotent=True,  # what it does is settled with its result, or not at all
    )
    async def method(ctx: ToolContext, **arguments: Any) -> str:
        past = await _past(ctx.artifacts)
        call = Call(name, arguments)
        # On the loop, in one piece: BFCL's MathAPI sets a precision that all threads would share.
        result = World.after(await _opened(ctx.artifacts), [made for _, made in past]).call(call)
        place = _place(ctx.idempotency_key)
        await ctx.artifacts.save(_name(place), json.dumps([*past, (place, call)]))
        return result

    return method


async def _opened(artifacts: Artifacts) -> Scenario:
    if not await artifacts.list(_SCENARIO):
        raise ToolError(f"no scenario is open: call {OPEN} first")
    return scenarios()[(await artifacts.read(_SCENARIO)).decode()]


Place = tuple[int, int]
"""Of an effect on its stack, which its id ends with: `…:seq.slot`. Calls of one reply differ in the slot only."""


async def _past(artifacts: Artifacts) -> Sequence[tuple[Place, Call]]:
    """What was called before, in order. Each artifact holds all that its call saw: the newest ones hold everything."""
    names = [artifact.name for artifact in await artifacts.list(_CALLS)]
    newest = [name for name in names if name.split(".")[0] == names[-1].split(".")[0]]
    seen: dict[Place, Call] = {}
    for name in newest:
        for (seq, slot), (method, arguments) in json.loads(await artifacts.read(name)):
            seen[seq, slot] = Call(method, arguments)
    return sorted(seen.items(), key=lambda each: each[0])


def _place(effect: str) -> Place:
    seq, _, slot = effect.rpartition(":")[2].partition(".")
    return int(seq), int(slot)


def _name(place: Place) -> str:
    return f"{_CALLS}{place[0]:09}.{place[1]:03}"


def _parameters(method: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a method takes, as JSON Schema: what its description says, and what expected calls give beside that.

    BFCL checks no arguments, and one of its expected calls gives a text for an integer.
    """
    schema: dict[str, Any] = _schema(document["parameters"])
    for call in (call for scenario in scenarios().values() for call in scenario.expected if call.method == method):
        for name, value in call.arguments.items():
            described = schema["properties"][name]
            if isinstance(value, str) and described["type"] != "string":
                described["type"] = [described["type"], "string"]
    return schema


def _schema(value: Any) -> Any:
    """BFCL's words for types as JSON Schema's."""
    if isinstance(value, list):
        return [_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("type")  # a schema's type is a text; a property that is called `type` is none
    renamed = {"type": _TYPES.get(kind, kind)} if isinstance(kind, str) else {}
    return {key: _schema(each) for key, each in value.items()} | renamed


TOOLS = [open_scenario, *(_method_tool(document) for name in classes() for document in documents(name))]
