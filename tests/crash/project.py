"""A distributed project as a test holds it: its processes, and what must be true of it when they have done their work.

Knows the keys of the Redis store; the store's own tests say what they mean.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import redis.asyncio

from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_address import RedisAddress
from p2engine.stores.redis_blobs import RedisBlobs
from p2engine.stores.redis_server import RedisServer
from tests.crash.cast import TASK, traces
from tests.crash.crew import Crew, Hand
from tests.crash.judging import fact_problems, look_at, trace_problems
from tests.crash.nursery import Point

END_S = 60.0  # for a turn, whatever was killed
EPOCH = 2**40  # rows; the first of an epoch has the next number
REST_S = 10.0  # after the last turn, until nothing is owed


class Case(NamedTuple):
    """One course of events. seconds: from the last blow to the end of the turn.

    blows: processes killed and servers stopped. unknown: calls whose outcome is unknown. again: calls that really ran
    more than once, as they may. late: outcomes that came when their call was over. told: errors that callers got.
    """

    what: str
    point: Point
    blows: int
    seconds: float
    unknown: int = 0
    again: int = 0
    late: int = 0
    told: int = 0
    problems: tuple[str, ...] = ()


class Project:
    """One project: a folder, a prefix on a server, and its processes.

    begun: calls that processes had marked as begun when they were killed; None where the living are taken for dead.
    held: how often each call was in the hands of a process that was killed.
    lost: calls that had begun or run, of which the server knew nothing when it went back in time.
    """

    def __init__(self, crew: Crew, port: int, home: Path, *, host: str = "127.0.0.1", **orders: Any) -> None:
        self._crew = crew
        self.port = port
        self.host = host
        self.home = home
        self.prefix = uuid4().hex[:8]
        self.orders = {"home": str(home), "port": port, "prefix": self.prefix, "host": host, **orders}
        self.hands: list[Hand] = []
        self.begun: set[str] | None = set()
        self.held: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.killed = 0
        self.struck = 0
        self.told = 0
        home.mkdir()

    async def worker(self, death: Point | None = None, **orders: Any) -> Hand:
        return await self._bear("worker", death=death, **orders)

    async def sweeper(self, death: Point | None = None, **orders: Any) -> Hand:
        return await self._bear("sweeper", death=death, **orders)

    async def client(self, death: Point | None = None, **orders: Any) -> Hand:
        return await self._bear("client", death=death, **{"tasks": (TASK,), **orders})

    async def _bear(self, role: str, **orders: Any) -> Hand:
        hand = await self._crew.bear(role, **{**self.orders, **orders})
        self.hands.append(hand)
        return hand

    async def first(self, doomed: Hand, client: Hand) -> bool:
        """Wait for a death, or for the end of the turn without one. Whether it died."""
        await self.either(doomed.dies(END_S), over(client))
        if not doomed.ended.is_set():
            return False
        await self.buried(doomed)
        return True

    @staticmethod
    async def either(*waits: Coroutine[Any, Any, None]) -> None:
        """Wait for the first of these. Raises what it raises."""
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def keeps_up(self, worker: Hand) -> None:
        """As a supervisor does: where a worker ends by itself, another comes, until one stays."""
        while True:
            await worker.ended.wait()
            worker = await self.worker()
            await worker.ready()

    async def buried(self, dead: Hand) -> None:
        """Remember what it had in hand, and which of that it had marked as begun."""
        self.killed += 1
        async with self.reading() as client:
            for effect in await client.smembers(f"{self.prefix}:held:{dead.owner}"):
                key = effect.decode()
                self.held[key] += 1
                if self.begun is not None and await client.hget(f"{self.prefix}:effect:{key}", "started") == b"1":
                    self.begun.add(key)

    async def marked(self, there: Any) -> set[str]:
        """The calls that are marked as begun on that server."""
        begins = f"{self.prefix}:effect:"
        keys = [key.decode() async for key in there.scan_iter(f"{begins}*", count=1000)]
        return {key.removeprefix(begins) for key in keys if await there.hget(key, "started") == b"1"}

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        async with redis.asyncio.Redis(host=self.host, port=self.port) as client:
            yield client

    async def rests(self) -> None:
        """Come back when nothing is owed any more, or after a while."""
        end = time.monotonic() + REST_S
        async with self.reading() as client:
            while time.monotonic() < end:
                if not [key async for key in client.scan_iter(f"{self.prefix}:effect:*", count=1000)]:
                    return
                await asyncio.sleep(0.02)  # a server tells nobody

    async def end(self) -> None:
        """Kill everybody."""
        for hand in self.hands:
            await self._crew.signal(hand, 9)
        for hand in self.hands:
            await hand.dies()


async def over(client: Hand) -> None:
    await client.until(lambda hand: hand.is_over, END_S)


async def judged(project: Project, what: str, point: Point, seconds: float) -> Case:
    """What is left of a project, against what must be."""
    await project.rests()
    address = RedisAddress(host=project.host, port=project.port, prefix=project.prefix)
    server = await RedisServer.open(address, durability="warn", wait_s=5.0)
    try:
        store = await RedisStore.open(server)
        problems = [f"due at rest: {job}" for job in await store.due(limit=10)]
        found = {each.name: await look_at(store, RedisBlobs(server), each) for each in await store.conversations()}
        await store.aclose()
    finally:
        await server.aclose()
    problems += [f"{hand.key} failed: {hand.failed}" for hand in project.hands if hand.failed and hand.is_ready]
    problems += [f"{name}: {problem}" for name, each in found.items() for problem in each.problems]
    wrong = [(name, text) for name, text in _said(project.hands) if text != found[name].answer]
    if not project.lost:  # else it may have been told what was lost
        problems += [f"the caller of {name} was told {text!r}" for name, text in wrong]
    gone = {effect: problem for each in found.values() for effect, problem in each.gone.items()}
    problems += [problem for effect, problem in gone.items() if effect not in project.lost]
    results = {effect: result for each in found.values() for effect, result in each.results.items()}
    facts = [fact for each in found.values() for fact in each.facts]
    ran, blows = traces(project.home), project.killed + project.struck
    again = project.held if project.begun is not None else blows
    problems += trace_problems(ran, results, project.begun, again, project.lost)
    problems += fact_problems(facts, results)
    problems += await _key_problems(project)
    return Case(
        what,
        point,
        blows,
        seconds,
        unknown=sum(each.interrupted for each in found.values()),
        again=sum(times > 1 for key, times in Counter(key for _, key in ran).items() if key in results),
        late=await _late(project),
        told=project.told,
        problems=tuple(problems) if found else ("no conversation",),
    )


def _said(hands: Sequence[Hand]) -> list[tuple[str, str]]:
    return [(name, text) for hand in hands for name, text in hand.said.items() if text is not None]


async def _late(project: Project) -> int:
    """How many outcomes came when their call was over."""
    async with project.reading() as client:
        return sum(fact.startswith(b"late:") for fact in await client.smembers(f"{project.prefix}:facts"))


async def _key_problems(project: Project) -> list[str]:
    """Nothing is owed, held or free at rest; the log has every number once, but for the starts of epochs."""
    problems = []
    async with project.reading() as client:
        for kind in ("effect", "owed", "held"):
            found = client.scan_iter(f"{project.prefix}:{kind}:*", count=1000)
            problems += [f"{key.decode()} at rest" async for key in found]
        if free := await client.zcard(f"{project.prefix}:free"):
            problems.append(f"{free} effects are free at rest")
        log = [int(row.partition(b"-")[0]) for row, _ in await client.xrange(f"{project.prefix}:log")]
    gaps = [(before, row) for before, row in itertools.pairwise([0, *log]) if row != before + 1]
    problems += [f"row {row} follows {before}" for before, row in gaps if row % EPOCH != 1]
    return problems
