"""The kill matrix of several processes on one Redis: every course of events with every point, and the table of them.

As a program it prints the table: `python -m tests.crash.distributed [--seed N] [--some N] [--away SECONDS]`.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from p2engine.errors import P2EngineError
from tests.crash.blows import frozen, in_step, replaced, restarted
from tests.crash.courses import (
    client_killed,
    gone_back,
    loaded,
    parted_worker_killed,
    struck,
    sweeper_killed,
    whole,
    worker_killed,
)
from tests.crash.crew import Crew, Hand
from tests.crash.nursery import Point
from tests.crash.project import Case, Project
from tests.crash.proxy import Proxy
from tests.servers import ValkeyServer

AT_ONCE = 5  # courses of events; most of each is waiting
TURNS = 20  # at once, under load
LOADS = 10
LEASE_LOADED_S = 4.0  # under load a process may be kept from renewing its lease for as long as one lasts elsewhere
AWAY_S = 10.0  # that a server answers nobody
HEADS = (
    "killed or struck",
    "cases",
    "blows",
    "turns ended",
    "outcome unknown",
    "ran again",
    "late outcomes",
    "callers told",
    "end of turn after the blow, median / worst s",
)
SWEEP = ("before a sweep looks", "when a sweep found work", "before messages are sent", "after messages were sent")


class Planned(NamedTuple):
    """A course of events to come. kind: one of the rows of the table."""

    kind: str
    point: Point
    run: Callable[[], Awaitable[Case]]


class Theatre:
    """Where the courses of events happen: a crew, a server that is never struck, and folders."""

    def __init__(self, crew: Crew, server: ValkeyServer, homes: Path) -> None:
        self._crew, self._server, self._homes = crew, server, homes
        self._numbers = count()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> "AsyncIterator[Theatre]":
        with tempfile.TemporaryDirectory() as folder, ValkeyServer() as server:
            async with Crew() as crew:
                yield cls(crew, server, Path(folder))

    @asynccontextmanager
    async def project(self, port: int | None = None, **orders: Any) -> AsyncIterator[Project]:
        """A project on the common server, or on another. orders: to all its processes."""
        project = Project(self._crew, port or self._server.port, self._homes / str(next(self._numbers)), **orders)
        try:
            yield project
        finally:
            await project.end()

    async def points(self) -> tuple[list[Point], list[Point]]:
        """Every point that a worker comes to that does the whole turn, and those of a client. Raises AssertionError."""
        async with self.project() as project:
            case, worker, client = await whole(project)
            assert not case.problems, case.problems
        return _points(worker), _points(client)

    # What is done at one point

    async def worker(self, point: Point) -> Case:
        async with self.project() as project:
            return await worker_killed(project, point, standing_by=False)

    async def worker_with_another(self, point: Point) -> Case:
        async with self.project() as project:
            return await worker_killed(project, point, standing_by=True)

    async def worker_of_ticks(self, point: Point) -> Case:
        async with self.project() as project:
            return await parted_worker_killed(project, point, takes=("ticks",))

    async def worker_of_tools(self, point: Point) -> Case:
        async with self.project() as project:
            return await parted_worker_killed(project, point, takes=("tools",))

    async def sweeper(self, point: Point) -> Case:
        async with self.project() as project:
            return await sweeper_killed(project, point)

    async def client(self, point: Point) -> Case:
        async with self.project() as project:
            return await client_killed(project, point)

    async def restart(self, point: Point, *, by: str = "worker") -> Case:
        with ValkeyServer() as server:
            async with self.project(server.port) as project:
                return await struck(project, "Redis, started again", point, restarted(server), by=by)

    async def freeze(self, point: Point, *, away_s: float, by: str = "worker") -> Case:
        with ValkeyServer() as server:
            async with self.project(server.port) as project:
                return await struck(project, "Redis, silent", point, frozen(server, away_s), by=by)

    async def move(self, point: Point, *, by: str = "worker") -> Case:
        with ValkeyServer() as server, ValkeyServer() as other:
            other.stop()
            async with Proxy(server.port) as proxy, self.project(proxy.port) as project:
                return await struck(project, "Redis, at another address", point, replaced(server, other, proxy), by=by)

    async def lose(self, point: Point, later: int) -> Case:
        with ValkeyServer() as server, ValkeyServer() as replica:
            async with Proxy(server.port) as proxy, Proxy(server.port) as link, self.project(proxy.port) as project:
                await in_step(server, replica, link)
                over_at = Point(point.place, point.nth + later)
                return await gone_back(project, point, over_at, link, server, replica, proxy)

    async def load(self, lot: random.Random, *, strikes: bool) -> Case:
        names = tuple(f"turn {number}" for number in range(TURNS))
        deep = [Point(lot.choice(("before a write", "after a write")), lot.randrange(20, 120)) for _ in range(2)]
        with ValkeyServer() as server:
            async with self.project(server.port, timing={"lease_s": LEASE_LOADED_S}) as project:
                return await loaded(project, names, deep[0], deep[1], restarted(server) if strikes else None)


def _points(hand: Hand) -> list[Point]:
    """But for its sweeps, which are a matter of time."""
    places = [(place, times) for place, times in hand.reached.items() if "sweep" not in place]
    return [Point(place, nth + 1) for place, times in places for nth in range(times)]


def plan(
    theatre: Theatre, worker: Sequence[Point], client: Sequence[Point], lot: random.Random, away_s: float
) -> Iterator[Planned]:
    """Every course of events."""

    def each(kind: str, points: Sequence[Point], run: Callable[[Point], Awaitable[Case]]) -> Iterator[Planned]:
        return (Planned(kind, point, partial(run, point)) for point in points)

    sweeps = [Point(place, nth) for place in SWEEP for nth in (1, 2)]
    tools = [Point(place, nth) for place, times in _of_tools(worker) for nth in range(1, times + 1)]
    yield from each("the only worker, another comes after", worker, theatre.worker)
    yield from each("one of two workers", worker, theatre.worker_with_another)
    yield from each("the worker of `ticks`", worker, theatre.worker_of_ticks)
    yield from each("the worker of `tools`", tools, theatre.worker_of_tools)
    yield from each("the sweeper, after a worker", sweeps, theatre.sweeper)
    yield from each("who asked", client, theatre.client)
    for who, points in (("worker", worker), ("client", client)):
        at = f", at a {who}'s"
        yield from each(f"Redis: killed and started again{at}", points, partial(theatre.restart, by=who))
        yield from each(f"Redis: silent for {away_s:g} s{at}", points, partial(theatre.freeze, away_s=away_s, by=who))
        yield from each(f"Redis: at another address{at}", points, partial(theatre.move, by=who))
    writes = [point for point in worker if point.place == "after a write"]
    for later in (1, 2, 4):
        short = writes[: len(writes) - later]
        yield from each(f"Redis: a replica without the last {later} writes", short, _losing(theatre, later))
    for strikes, what in ((False, "a worker"), (True, "a worker, and Redis started again")):
        kind = f"{TURNS} turns at once, messages doubled and late: {what}"
        for number in range(LOADS):
            yield Planned(kind, Point("", number), partial(theatre.load, lot, strikes=strikes))


def sample(planned: Sequence[Planned], lot: random.Random, times: int = 1) -> list[Planned]:
    """Some of every kind, drawn by lot, and three times as many of the first."""
    kinds = list(dict.fromkeys(each.kind for each in planned))
    drawn: list[Planned] = []
    for kind in kinds:
        there = [each for each in planned if each.kind == kind]
        drawn += lot.sample(there, min(len(there), 3 * times if kind == kinds[0] else times))
    return drawn


def _losing(theatre: Theatre, later: int) -> Callable[[Point], Awaitable[Case]]:
    return lambda point: theatre.lose(point, later)


def _of_tools(worker: Sequence[Point]) -> list[tuple[str, int]]:
    """Places of a worker that only runs `pay`, twice."""
    places = {point.place for point in worker if "model" not in point.place and "messages" not in point.place}
    return [(place, 4 if "write" in place else 2) for place in sorted(places)]


async def run(planned: Sequence[Planned], at_once: int = AT_ONCE) -> list[tuple[Planned, Case]]:
    """All of these, some at a time. One that does not come to its end is a case with that problem."""
    room = asyncio.Semaphore(at_once)

    async def one(each: Planned) -> tuple[Planned, Case]:
        async with room:
            try:
                return each, await each.run()
            except (TimeoutError, P2EngineError, AssertionError) as error:
                return each, Case(each.kind, each.point, 0, 0.0, problems=(f"{type(error).__name__}: {error}",))

    return list(await asyncio.gather(*(one(each) for each in planned)))


def wrong(done: Sequence[tuple[Planned, Case]]) -> list[str]:
    """What is not as it must be, a line each."""
    return [f"{each.kind}, {each.point}: {problem}" for each, case in done for problem in case.problems]


def table(done: Sequence[tuple[Planned, Case]]) -> str:
    """By kind."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    kinds = dict.fromkeys(each.kind for each, _ in done)
    lines += [_row(kind, [case for each, case in done if each.kind == kind]) for kind in kinds]
    return "\n".join((*lines, _row("**all**", [case for _, case in done])))


def _row(name: str, cases: Sequence[Case]) -> str:
    sums = [sum(getattr(case, field) for case in cases) for field in ("unknown", "again", "late", "told")]
    ended = sum(not case.problems for case in cases)
    times = [case.seconds for case in cases]
    spread = f"{statistics.median(times):.1f} / {max(times):.1f}"
    counts = [len(cases), sum(case.blows for case in cases), ended, *sums]
    return f"| {name} | {' | '.join(map(str, counts))} | {spread} |"


async def _main(seed: int, some: int, away_s: float, only: str) -> int:
    lot = random.Random(seed)
    async with Theatre.open() as theatre:
        planned = [p for p in plan(theatre, *await theatre.points(), lot, away_s) if only in p.kind]
        if some:
            planned = sorted(lot.sample(planned, min(some, len(planned))), key=planned.index)
        done = await run(planned)
    print(f"seed {seed}\n\n{table(done)}")
    for line in wrong(done):
        print(line)
    return 1 if wrong(done) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.distributed", description=__doc__)
    parser.add_argument("--some", type=int, default=0, help="how many courses of events, drawn by lot; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="which")
    parser.add_argument("--away", type=float, default=AWAY_S, help="how long a silent server is silent, in seconds")
    parser.add_argument("--only", default="", help="only rows with these words")
    chosen = parser.parse_args(arguments)
    return asyncio.run(_main(chosen.seed, chosen.some, chosen.away, chosen.only))


if __name__ == "__main__":
    sys.exit(main())
