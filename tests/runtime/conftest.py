"""What the tests of the runtime start from: engines over one store, whose agents and tools are functions of the test.

Doubles stand at the edge only: agents, tools, clock and ids. The store is SQLite, the dispatcher the one that is shipped
or one that waits to be told.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.decisions import Decision, Move
from p2engine.domain.ids import EffectId, OwnerId, StackRef
from p2engine.domain.records import Event, Job, Perform, Query
from p2engine.domain.setup import Budget, DedupPolicy, Repeat
from p2engine.domain.states import AnyState
from p2engine.ports import AgentView, Archive, EventSink
from p2engine.runtime.bus import Bus
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.engine import Dispatch, Engine
from p2engine.runtime.world import World
from p2engine.stores.owners import MemoryOwners
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.doubles import CountingIds, Decide, FixedRoster, FunctionTools, ManualClock, ToolBody
from p2engine.testing.memory import MemoryBlobs

Answer = Sequence[Move] | Decision | str


class Stage:
    """One store, and the processes that work on it: each engine has an owner, caches and a dispatcher of its own."""

    def __init__(self, store: SqliteStore, owners: MemoryOwners) -> None:
        self.store = store
        self.owners = owners
        self.clock = ManualClock()
        self.ids = CountingIds()
        self.blobs = MemoryBlobs()
        self.engines: list[Engine] = []

    @classmethod
    async def open(cls, path: str | Path = ":memory:") -> "Stage":
        owners = MemoryOwners()
        return cls(await SqliteStore.open(path, sync="OFF", owners=owners), owners)

    def engine(
        self,
        agents: Mapping[str, Decide],
        tools: Mapping[str, ToolBody] | None = None,
        repeats: Mapping[str, Repeat] | None = None,
        *,
        dedup: DedupPolicy = "none",
        budget: Budget | None = None,
        approval: Sequence[str] = (),
        dispatch: Dispatch = InlineDispatcher,
        sinks: Sequence[EventSink] = (),
        store: Archive | None = None,
        is_local: bool = True,
    ) -> Engine:
        """A process of its own. `repeats`: the class of each tool an agent may use; `free` for all of `tools`."""
        owner = OwnerId(f"p{len(self.engines)}")
        self.owners.add(owner)
        granted = repeats if repeats is not None else dict.fromkeys(tools or {}, "free")
        world = World(
            store=store or self.store,
            blobs=self.blobs,
            roster=FixedRoster(agents, granted, dedup=dedup, budget=budget, approval=approval),  # type: ignore[arg-type]
            tools=FunctionTools(tools),
            clock=self.clock,
            ids=self.ids,
            owner=owner,
            bus=Bus(),
            is_local=is_local,
        )
        engine = Engine(world, dispatch, sinks)
        self.engines.append(engine)
        return engine

    async def kill(self, engine: Engine) -> None:
        """The process is gone: nothing of it runs on, and everybody can see that it is dead."""
        dispatcher = engine.world.dispatcher
        assert isinstance(dispatcher, InlineDispatcher | Waiting)
        await dispatcher.stop()
        self.owners.drop(engine.world.owner)
        self.engines.remove(engine)

    async def owed(self, conversation: Conversation) -> list[EffectId]:
        """What any stack of the conversation owes."""
        found: list[EffectId] = []
        for branch in await self.store.branches(conversation.record.id, delegates=True):
            found += await self.store.owed(branch.ref)
        return found

    async def events(self, *kinds: str) -> list[Event]:
        return list(await self.store.events(Query(kinds=kinds, limit=10_000)))

    async def aclose(self) -> None:
        for engine in self.engines:
            await engine.aclose()
        await self.store.aclose()


class Waiting:
    """A dispatcher double: jobs lie in `jobs` until the test does them."""

    def __init__(self, run: Any, on_error: Any) -> None:
        self._run = run
        self._on_error = on_error
        self.jobs: list[Job] = []

    async def submit(self, *jobs: Job) -> None:
        self.jobs += jobs

    async def do(self, kind: str = "") -> None:
        """Do the first job that waits; of that kind, if one is named."""
        job = next(job for job in self.jobs if not kind or (isinstance(job, Perform) and job.kind == kind))
        self.jobs.remove(job)
        self.jobs += await self._run(job)

    async def do_all(self) -> None:
        while self.jobs:
            await self.do()

    async def stop(self) -> None:
        self.jobs.clear()

    async def aclose(self) -> None: ...


class Script:
    """An agent double that answers with one thing after the other, and keeps what it was shown."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.views: list[AgentView] = []

    async def __call__(self, view: AgentView) -> Answer:
        self.views.append(view)
        return self.answers[min(len(self.views), len(self.answers)) - 1]

    @property
    def seen(self) -> list[list[str]]:
        """The texts of each view, oldest first."""
        return [[fragment.message.text for fragment in view.fragments] for view in self.views]


class Gate:
    """A place in the test where something waits to be let through. `reached` tells that it is there."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def pass_through(self) -> None:
        self.reached.set()
        await self.open.wait()


async def states_of(conversation: Conversation, *, branch: str | None = None) -> list[AnyState]:
    return [state for placed in await conversation.commits(branch=branch) for state in placed.commit.states]


async def ref_of(conversation: Conversation) -> StackRef:
    return (await conversation.branch()).ref


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = await Stage.open()
    yield stage
    await stage.aclose()
