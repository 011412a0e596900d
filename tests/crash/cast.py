"""The turn that is killed: its agents are doubles, its tools leave a line in a file for each time they really ran.

Builds an engine on a real file with every commit flushed. Knows where a process may die, never whether it should.
"""

import asyncio
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.decisions import Delegate, Move, Say, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.setup import Repeat
from p2engine.limits import BUSY_WAIT_S, SHUTDOWN_GRACE_S
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.bus import Bus
from p2engine.runtime.engine import Engine
from p2engine.runtime.world import World
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.doubles import Decide, FixedRoster, FunctionTools, ToolBody

TASK = "look, book and pay; ann and bob do their part"
REPEATS: Mapping[str, Repeat] = {"look": "free", "book": "idempotent", "pay": "never"}

RAN = "tool.ran"  # the event that each tool raises, beside its result; `book` saves what it says as well

OPENING: Final = "in opening the store"
Place = Literal[
    "in opening the store",
    "before a write",
    "inside a commit",
    "after a write",
    "after a take-over",
    "in a tool, before its effect",
    "in a tool, after its effect",
    "in a model call",
]
"""Where a process may die. Inside a commit: all rows are written, COMMIT has not begun."""

Reach = Callable[[Place], None]
"""Told of each place as it is reached."""


class Clock:
    """This machine's."""

    def now(self) -> float:
        return time.time()


class Ids:
    """Random ones."""

    def branch(self) -> StackRef:
        return StackRef(uuid.uuid4().hex[:12])

    def conversation(self) -> ConversationId:
        return ConversationId(uuid.uuid4().hex[:12])

    def fact(self) -> str:
        return uuid.uuid4().hex[:16]


async def open_engine(
    home: Path,
    agents: Mapping[str, Decide],
    tools: Mapping[str, ToolBody],
    repeats: Mapping[str, Repeat],
    *,
    reach: Reach = lambda _: None,
    grace_s: float = SHUTDOWN_GRACE_S,
    busy_wait_s: float = BUSY_WAIT_S,
) -> Engine:
    """An engine on the files in `home`, as wiring would build it, but with doubles for its agents."""
    with _watched_opening(reach):
        store = await SqliteStore.open(home / "store.db", sync="FULL", busy_wait_s=busy_wait_s)
    store._db.set_trace_callback(lambda sql: reach("inside a commit") if sql == "COMMIT" else None)
    world = World(
        store=_Watched(store, reach),
        blobs=FileBlobs(home / "blobs"),
        roster=FixedRoster(agents, repeats),
        tools=FunctionTools(tools),
        clock=Clock(),
        ids=Ids(),
        owner=store.owner,
        bus=Bus(),
    )
    return Engine(world, lambda run, failed: InlineDispatcher(run, failed, grace_s=grace_s))


@contextmanager
def _watched_opening(reach: Reach) -> Iterator[None]:
    """While inside, every statement on a new connection is a place: the file is being made, migrated or recovered."""
    connect = sqlite3.connect

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*args, **options)
        db.set_trace_callback(lambda _: reach(OPENING))
        return db

    sqlite3.connect = connected  # type: ignore[assignment]
    try:
        yield
    finally:
        sqlite3.connect = connect


class _Watched:
    """A store that says when it is written to."""

    def __init__(self, store: SqliteStore, reach: Reach) -> None:
        self._store = store
        self._reach = reach

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, batch: Any) -> Any:
        self._reach("before a write")
        written = await self._store.write(batch)
        self._reach("after a write")
        return written

    async def claim(self, *args: Any, **options: Any) -> Any:
        claimed = await self._store.claim(*args, **options)
        if claimed is not None:
            self._reach("after a take-over")
        return claimed


def trace(home: Path, line: str) -> None:
    """One line in the file that outlives every process."""
    descriptor = os.open(home / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def traces(home: Path) -> list[tuple[str, str]]:
    """What really ran, in order: `think` or the tool, and the id of the effect."""
    path = home / "trace"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(kind, key) for kind, _, key in (line.partition(" ") for line in lines)]


async def one_turn(home: Path, reach: Reach) -> Engine:
    """The engine of the matrix: boss uses one tool of each class beside two delegates, who each use one."""

    def tool(name: str) -> ToolBody:
        async def body(arguments: Mapping[str, Any], ctx: ToolContext) -> ToolOutcome:
            await asyncio.sleep(0)
            reach("in a tool, before its effect")
            trace(home, f"{name} {ctx.idempotency_key}")
            reach("in a tool, after its effect")
            text = f"{name} for {arguments['who']}"
            if name == "book":
                await ctx.artifacts.save(f"{text}.txt", text)
            return ToolOutcome(content=text, events=((RAN, {"text": text}),))

        return body

    tools = {name: tool(name) for name in REPEATS}
    return await open_engine(home, agents_of(home, reach), tools, REPEATS, reach=reach)


def agents_of(home: Path, reach: Reach) -> dict[str, Decide]:
    """Who takes part in the turn."""

    def agent(name: str) -> Decide:
        async def decide(view: AgentView) -> Sequence[Move]:
            trace(home, f"think {view.effect}")
            await asyncio.sleep(0)
            reach("in a model call")
            results = [f.message.text for f in view.fragments if f.message.role == "tool"]
            return (Say(answer(name, results)),) if results else FIRST_MOVES[name]

        return decide

    return {name: agent(name) for name in FIRST_MOVES}


FIRST_MOVES: Mapping[str, tuple[Move, ...]] = {
    "boss": (
        Say("let me see"),
        UseTool("look", {"who": "boss"}),
        UseTool("book", {"who": "boss"}),
        UseTool("pay", {"who": "boss"}),
        Delegate(AgentId("ann"), "book your part"),
        Delegate(AgentId("bob"), "pay your part"),
    ),
    "ann": (UseTool("book", {"who": "ann"}),),
    "bob": (UseTool("pay", {"who": "bob"}),),
}


def answer(agent: str, results: Sequence[str]) -> str:
    """What an agent of the turn says when it has these results, in the order in which they came."""
    return f"{agent}: " + " | ".join(results)
