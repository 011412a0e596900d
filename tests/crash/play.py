"""What the distributed turn uses beside the cast: real tools, an agent of few words, and players that draw by lot.

Knows nothing of processes. The tools leave a line in a file each time they really ran.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from p2engine.domain.decisions import Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.ports import AgentView, ToolContext
from p2engine.testing.doubles import Decide
from p2engine.tools.function import FunctionTool, PostEffect, function_tool, raise_event, save_artifact
from tests.crash.cast import RAN, REPEATS, trace

SIMPLE: Final = 3  # tool calls of a simple agent, one after the other
TALK: Final = 9  # messages that a player has seen when it delegates no more


def told(result: Any) -> PostEffect:
    return raise_event(RAN, text=result)


def saved(result: Any) -> PostEffect:
    return save_artifact(f"{result}.txt", result)


def tools_of(home: Path, reach: Callable[[str], None], slow_s: float) -> Sequence[FunctionTool[..., Any]]:
    """A tool of each class: one on the loop, one on a queue of its own, one that blocks a thread."""

    def do(name: str, who: str, ctx: ToolContext) -> str:
        reach("in a tool, before its effect")
        trace(home, f"{name} {ctx.idempotency_key}")
        reach("in a tool, after its effect")
        return f"{name} for {who}"

    @function_tool(side_effect_free=True, post_effects=(told,), requires_context=True)
    async def look(who: str, ctx: ToolContext) -> str:
        """Look."""
        text = do("look", who, ctx)
        await asyncio.sleep(slow_s)
        return text

    @function_tool(idempotent=True, post_effects=(told, saved), requires_context=True)
    async def book(who: str, ctx: ToolContext) -> str:
        """Book."""
        text = do("book", who, ctx)
        await asyncio.sleep(slow_s)
        return text

    @function_tool(post_effects=(told,), requires_context=True)
    def pay(who: str, ctx: ToolContext) -> str:
        """Pay."""
        text = do("pay", who, ctx)
        time.sleep(slow_s)
        return text

    return look, book, pay


def simple(reach: Callable[[str], None]) -> Decide:
    """An agent that uses a tool SIMPLE times, one call after the other, then answers with what came of them."""

    async def decide(view: AgentView) -> Sequence[Move]:
        reach("in a model call")
        results = [f.message.text for f in view.fragments if f.message.role == "tool"]
        if len(results) < SIMPLE:
            return (UseTool(list(REPEATS)[len(results)], {"who": view.conversation}),)
        return (Say(" | ".join(results)),)

    return decide


def payer() -> Decide:
    """An agent that pays, and repeats what came of it."""

    async def decide(view: AgentView) -> Sequence[Move]:
        last = view.fragments[-1].message
        return (Say(last.text),) if last.role == "tool" else (UseTool("pay", {"who": "anybody"}),)

    return decide


def players(seed: str) -> dict[str, Decide]:
    """Agents that do one thing after another, drawn by lot from what they were told so far and the seed."""
    names = ("eve", "kim", "joe")

    def player(name: str) -> Decide:
        async def decide(view: AgentView) -> Sequence[Move]:
            heard = [f.message.text for f in view.fragments]
            lot = random.Random(f"{seed}/{name}/{heard}")
            others = [other for other in names if other != name]
            moves = ("use", "miss", "both", "say", *(("ask",) if len(heard) < TALK else ()))
            match lot.choices(moves, (4, 1, 1, 3, 1)[: len(moves)])[0]:
                case "use":
                    return (UseTool(lot.choice(list(REPEATS)), {"who": f"{name} {len(heard)}"}),)
                case "miss":
                    return (UseTool(lot.choice(("look", "nothing")), {"what": "nobody takes"}),)
                case "ask":
                    return (Delegate(AgentId(lot.choice(others)), f"help {name} with {len(heard)}"),)
                case "both":
                    return (Say("one moment"), UseTool("book", {"who": f"{name} {len(heard)}"}))
                case _:
                    return (Say(f"{name} has heard {len(heard)}"),)

        return decide

    return {name: player(name) for name in names}
