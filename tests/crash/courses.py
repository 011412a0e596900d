"""Courses of events: which processes there are, who dies when, and who comes after. Each ends in a judgement."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from tests.crash.blows import Strike, failed_over, left_behind
from tests.crash.cast import traces
from tests.crash.crew import Hand
from tests.crash.nursery import Point
from tests.crash.project import Case, Project, judged, over
from tests.crash.proxy import Proxy
from tests.servers import ValkeyServer

FIRST_DEATH = Point("in a tool, after its effect", 2)  # what gives sweepers work
TOLD_MAX = 100  # how often a caller may be told of an error until its turn ends


async def whole(project: Project) -> tuple[Case, Hand, Hand]:
    """A turn that nobody kills; the worker and the client it had."""
    began = time.monotonic()
    worker, client = await project.worker(), await project.client()
    await over(client)
    seconds = time.monotonic() - began
    await project.rests()
    return await judged(project, "nobody", Point("", 0), seconds), worker, client


async def worker_killed(project: Project, point: Point, *, standing_by: bool) -> Case:
    """A worker dies at a point; another stands by, or comes afterwards."""
    client = await project.client()
    doomed = await project.worker(point)
    if standing_by:
        await project.worker()
    died = await project.first(doomed, client)
    blow = time.monotonic()
    if died and not standing_by:
        await project.worker()
    await over(client)
    what = "a worker, another stands by" if standing_by else "the only worker, another comes"
    return await judged(project, what, point, time.monotonic() - blow)


async def parted_worker_killed(project: Project, point: Point, *, takes: tuple[str, ...]) -> Case:
    """Each queue has a worker of its own; one of them dies, and another of its kind comes."""
    client = await project.client()
    doomed = await project.worker(point, queues=takes)
    for queues in (("ticks",), ("tools",), ("desk",)):
        if queues != takes:
            await project.worker(queues=queues)
    died = await project.first(doomed, client)
    blow = time.monotonic()
    if died:
        await project.worker(queues=takes)
    await over(client)
    what = f"the worker of {', '.join(takes)}, another comes"
    return await judged(project, what, point, time.monotonic() - blow)


async def sweeper_killed(project: Project, point: Point) -> Case:
    """A worker dies, and then the sweeper that finds what it left; another sweeper comes."""
    client = await project.client()
    worker = await project.worker(FIRST_DEATH, sweeps=False)
    await project.first(worker, client)
    await project.worker(sweeps=False)
    sweeper = await project.sweeper(point)
    died = await project.first(sweeper, client)
    blow = time.monotonic()
    if died:
        await project.sweeper()
    await over(client)
    return await judged(project, "the sweeper, another comes", point, time.monotonic() - blow)


async def client_killed(project: Project, point: Point) -> Case:
    """Who asked dies; somebody else asks what came of it."""
    await project.worker()
    doomed = await project.client(point)
    died = await project.first(doomed, doomed)
    blow = time.monotonic()
    if died:
        await over(await project.client())
    return await judged(project, "who asked, another asks", point, time.monotonic() - blow)


async def struck(project: Project, what: str, stop: Point, blow: Strike, *, by: str = "worker") -> Case:
    """One process stops at a point, something happens to the server, and the process goes on."""
    worker = await project.worker(stops=(stop,) if by == "worker" else ())
    if by == "client":
        await worker.ready()
    client = await project.client(stops=(stop,) if by == "client" else ())
    await strike(project, worker if by == "worker" else client, client, blow)
    keeping = asyncio.ensure_future(project.keeps_up(worker))
    try:
        return await judged(project, what, stop, await _answered(project, client))
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def gone_back(
    project: Project, behind: Point, over_at: Point, link: Proxy, server: ValkeyServer, replica: ValkeyServer, to: Proxy
) -> Case:
    """From `behind` on the replica gets nothing any more, and at `over_at` it takes over."""

    async def look(old: Any, new: Any) -> None:
        marked = [await project.marked(there) for there in (old, new)]
        project.lost |= ({key for _, key in traces(project.home)} | marked[0]) - marked[1]

    worker = await project.worker(stops=(behind, over_at))
    client = await project.client()
    await strike(project, worker, client, left_behind(link))
    await strike(project, worker, client, failed_over(server, replica, to, look))
    return await judged(project, "gone back in time", over_at, await _answered(project, client))


async def loaded(project: Project, names: Sequence[str], death: Point, stop: Point, blow: Strike | None) -> Case:
    """Many turns at once, each message delivered three times and late; a worker dies, and the server may be struck."""
    late: dict[str, Any] = {"doubles": 3, "late_s": 0.2, "slow_s": 0.5}
    half = len(names) // 2
    doomed = await project.worker(death, **late)
    other = await project.worker(stops=(stop,) if blow else (), **late)
    clients = [await project.client(names=part, **late) for part in (names[:half], names[half:])]
    dying = asyncio.ensure_future(_replaced(project, doomed, clients[0]))
    if blow:
        await strike(project, other, clients[0], blow)
    seconds = max(await asyncio.gather(*(_answered(project, client) for client in clients)))
    await dying
    return await judged(project, f"{len(names)} turns, deliveries doubled and late", death, seconds)


async def _replaced(project: Project, doomed: Hand, client: Hand) -> None:
    if await project.first(doomed, client):
        await project.worker()


async def strike(project: Project, who: Hand, client: Hand, blow: Strike) -> bool:
    """Wait until it stops, and strike. False where the turn is over first."""
    project.begun = None
    await project.either(who.until(lambda hand: hand.stops_at), over(client))
    if who.stops_at is None:
        return False
    project.struck += 1
    await blow(who.go)
    return True


async def _answered(project: Project, client: Hand) -> float:
    """Wait until all have their answers; who is told of an error asks again. Returns the seconds it took."""
    began = time.monotonic()
    await over(client)
    while (client.errors or client.failed) and project.told < TOLD_MAX:
        names = tuple(client.errors) or client.names
        project.told += len(names)
        client = await project.client(names=names)
        await over(client)
    return time.monotonic() - began
