"""Two hosts, one of which is cut off in the middle of a turn: what it had in hand is ended by the other."""

import asyncio
from pathlib import Path

import pytest

from p2engine.domain.records import Query
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_address import RedisAddress
from p2engine.stores.redis_server import RedisServer
from tests.crash.cast import traces
from tests.crash.crew import Crew
from tests.crash.hosts import Hosts
from tests.crash.nursery import Point
from tests.crash.project import END_S, Project, judged, over


@pytest.mark.netns
@pytest.mark.parametrize(
    ("lease_s", "away_s"), [(2.0, 4.0), pytest.param(15.0, 20.0, marks=[pytest.mark.full, pytest.mark.timeout(300)])]
)
async def test_a_host_that_is_cut_off_in_the_middle_of_a_turn(tmp_path: Path, lease_s: float, away_s: float) -> None:
    """The turn ends on the other host, and the outcome that comes too late is an event; nothing runs twice."""
    timing = {"lease_s": lease_s}
    with Hosts() as hosts:
        async with Crew() as crew:
            home = tmp_path / "home"
            project = Project(crew, hosts.port, home, host=hosts.address, timing=timing, netns=hosts.first)
            await project.worker(queues=("ticks", "desk"))
            far = await project.worker(
                queues=("tools",), netns=hosts.second, stops=(Point("in a tool, after its effect", 1),)
            )
            await far.ready()
            client = await project.client()
            await far.until(lambda hand: hand.stops_at, END_S)
            await project.buried(far)  # as good as dead
            hosts.cut()
            far.go()
            near = await project.worker()
            await near.ready()
            await asyncio.sleep(away_s)
            hosts.mend()
            await over(client)
            late = await _late(project)
            case = await judged(project, "a host, cut off", Point("", 0), 0.0)
            await project.end()
    assert near.reached["in a tool, after its effect"]
    assert case.problems == ()
    assert case.unknown == 1
    assert late == ["pay for boss"] or late == ["pay for bob"]
    pays = [key for kind, key in traces(home) if kind == "pay"]
    assert len(pays) == len(set(pays)) == 2


async def _late(project: Project) -> list[str]:
    """What came too late, as soon as it comes."""
    address = RedisAddress(host=project.host, port=project.port, prefix=project.prefix)
    server = await RedisServer.open(address, durability="warn")
    store = await RedisStore.open(server)
    try:
        async with asyncio.timeout(END_S):
            while not (found := await store.events(Query(kinds=("effect.late",)))):
                await asyncio.sleep(0.05)
    finally:
        await store.aclose()
        await server.aclose()
    return [event.body["outcome"]["content"] for event in found]
