"""What the tests of the runtime start from: engines over one store, whose agents and tools are functions of the test.

Doubles stand at the edge only: agents, tools, clock and ids. The store is SQLite; the dispatcher is the one that ships,
or one that waits to be told.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
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

    def __init__(self, path: str | Path, store: SqliteStore, owners: MemoryOwners) -> None:
        self.path = path
        self.store = store
        self.owners = owners
        self.clock = ManualClock()
        self.ids = CountingIds()
        self.blobs = MemoryBlobs()
        self.engines: list[Engine] = []
        self._born = 0

    @classmethod
    async def open(cls, path: str | Path = ":memory:") -> "Stage":
        owners = MemoryOwners()
        return cls(path, await SqliteStore.open(path, sync="OFF", owners=owners), owners)

    async def another_store(self) -> SqliteStore:
        """The same file, as another process has it open. Closed with its engine."""
        return await SqliteStore.open(self.path, sync="OFF", owners=self.owners)

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
        takes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Engine:
        """A process of its own. `repeats`: the class of each tool an agent may use; `free` for all of `tools`.

        takes: the parameters of a tool as this process has it loaded; every setup says that there are none.
        """
        self._born += 1
        owner = OwnerId(f"p{self._born}")
        self.owners.add(owner)
        granted = repeats if repeats is not None else dict.fromkeys(tools or {}, "free")
        world = World(
            store=store or self.store,
            blobs=self.blobs,
            roster=FixedRoster(agents, granted, dedup=dedup, budget=budget, approval=approval),  # type: ignore[arg-type]
            tools=FunctionTools(tools, takes),
            clock=self.clock,
            ids=self.ids,
            owner=owner,
            bus=Bus(),
            keeps=None if is_local else lambda _effect: False,
        )
        engine = Engine(world, dispatch, sinks)
        self.engines.append(engine)
        return engine

    async def kill(self, engine: Engine) -> None:
        """The process is gone: nothing of it runs on, and everybody can see that it is dead."""
        await engine.sweeper.aclose()
        dispatcher = engine.world.dispatcher
        if isinstance(dispatcher, InlineDispatcher):
            dispatcher._closed = True
            running = list(dispatcher._tasks)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
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

    async def aclose(self) -> None: ...


class Queue:
    """A dispatcher double between processes: each job goes to the next of them, as a task."""

    def __init__(self) -> None:
        self._runs: list[Any] = []
        self._next = 0
        self.running: set[asyncio.Task[None]] = set()

    def join(self, run: Any, on_error: Any) -> "Queue":
        """One more process takes jobs from here."""
        self._runs.append(run)
        return self

    async def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self._next += 1
            task = asyncio.get_running_loop().create_task(self._do(self._runs[self._next % len(self._runs)], job))
            self.running.add(task)
            task.add_done_callback(self.running.discard)

    async def aclose(self) -> None:
        for task in list(self.running):
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)

    async def _do(self, run: Any, job: Job) -> None:
        await self.submit(*await run(job))


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


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds, which only something that runs beside can bring about; half a minute at most."""
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0)


@pytest.fixture
async def on_file(tmp_path: Path) -> AsyncIterator[Stage]:
    """A stage whose store is a file, so that each engine may have it open for itself."""
    stage = await Stage.open(tmp_path / "p2.db")
    yield stage
    await stage.aclose()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = await Stage.open()
    yield stage
    await stage.aclose()
