"""The work that every bench does: conversations with one agent, one tool, and a model that answers at once.

An engine of real parts as a project has them (agents.yml, an `llm` agent, a decorated tool, the SQLite store, the
sweeper); only the model is scripted. A step is one model reply or one tool result.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, Self

from p2engine.agents.llm import LlmAgent
from p2engine.agents.roster import Defaults, FileRoster, Tools
from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.messages import ModelReply, ModelRequest, ToolUse, Usage
from p2engine.models.catalogue import Models
from p2engine.ports import OnText
from p2engine.runtime.bus import Bus
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.deadlines import Deadlines
from p2engine.runtime.engine import Engine
from p2engine.runtime.world import World
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from p2engine.tools.function import function_tool
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from p2engine.wiring import RandomIds, SystemClock

Sync = Literal["FULL", "NORMAL"]

MEMORY = ":memory:"
TOOLS = 5  # tool calls in a conversation of work 1
STEPS = 2 * TOOLS + 1
QUESTION = "What is the weather in Paris this week?"
ANSWER = "It is sunny in Paris, twenty degrees, and it will stay so."
WEATHER = '{"city":"Paris","temp_c":20,"sky":"sunny"}'
AGENTS = """\
agents:
  - id: alpha
    type: llm
    llm_model: "{model}"
    tools: ["weather"]
"""


@function_tool(side_effect_free=True)
async def weather(city: str, day: int) -> str:
    """The weather of a city on a day.

    Args:
        city: the name of the city
        day: days from today
    """
    return WEATHER


class AtOnce:
    """The port `Model`: calls the tool `tools` times in each turn, then answers. Waits `latency_s` each time."""

    def __init__(self, tools: int, latency_s: float) -> None:
        self._tools = tools
        self._latency_s = latency_s

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """The next reply of the turn."""
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        done = 0
        for fragment in reversed(request.fragments):
            if fragment.role == "user":
                break
            done += fragment.role == "tool"
        usage = Usage(model="bench/at-once", tokens_in=100, tokens_out=20, cost_usd=0.0001, latency_s=0.0015)
        if done < self._tools:
            call = ToolUse(f"c{done}", "weather", {"city": "Paris", "day": done})
            return ModelReply(calls=(call,), usage=usage)
        return ModelReply(text=ANSWER, usage=usage)


@asynccontextmanager
async def engine(
    folder: Path,
    *,
    sync: Sync = "NORMAL",
    memory: bool = False,
    tools: int = TOOLS,
    latency_s: float = 0.0,
    base_url: str | None = None,
) -> AsyncIterator[Engine]:
    """An engine in `folder`, working. base_url: ask a server there instead of the model of this process."""
    (folder / "config").mkdir(parents=True, exist_ok=True)
    model = "bench/at-once" if base_url is None else "openai/at-once"
    (folder / "config" / "agents.yml").write_text(AGENTS.format(model=model))
    store = await SqliteStore.open(MEMORY if memory else folder / "store.db", sync=sync)
    blobs = FileBlobs(folder / "blobs")
    models = Models(
        drivers={"bench": AtOnce(tools, latency_s)},
        bases={} if base_url is None else {"openai": base_url},
        keys={"openai": "none"},
    )
    registry = Registry([weather])
    llm = LlmAgent(models)
    roster = FileRoster(
        project=folder,
        defaults=Defaults(model),
        tools=Tools(
            lambda name: tool.spec if (tool := registry.get(name)) else None, registry.known, registry.withheld
        ),
        factories={"llm": lambda _: llm},
        blobs=blobs,
    )
    deadlines = Deadlines()
    world = World(
        store=store,
        blobs=blobs,
        roster=roster,
        tools=Runner(registry, now=time.time, limit=deadlines.within),
        deadlines=deadlines,
        clock=SystemClock(),
        ids=RandomIds(),
        owner=store.owner,
        bus=Bus(),
    )
    made = Engine(world, InlineDispatcher)
    await made.start()
    try:
        yield made
    finally:
        await made.aclose()
        await models.aclose()


async def converse(made: Engine, name: str) -> Conversation:
    """Open a conversation and have one turn in it."""
    conversation = await made.conversation(name, agent="alpha")
    reply = await conversation.say(QUESTION)
    if reply.text != ANSWER:
        raise RuntimeError(f"{name} ended {reply.finished}: {reply.detail or reply.text}")
    return conversation


async def converse_all(made: Engine, names: Iterable[str], *, at_once: int = 1) -> None:
    """A turn in each of these conversations, `at_once` of them at any time."""
    left = iter(names)

    async def one_after_another() -> None:
        for name in left:
            await converse(made, name)

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))


class Spent:
    """CPU and wall time from the start of a `with` to its end, in seconds. CPU is that of all threads."""

    def __enter__(self) -> Self:
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self.cpu_s = self.wall_s = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.cpu_s, self.wall_s = time.process_time() - self._cpu, time.perf_counter() - self._wall
