"""Two hosts, one of which is cut off in the middle of a turn: what it had in hand is ended by the other."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
            await _first(project, "state.tool_result", lambda result: result["status"] == "interrupted")
            hosts.mend()
            await over(client)
            late = [outcome["outcome"]["content"] for outcome in await _first(project, "effect.late", lambda _: True)]
            case = await judged(project, "a host, cut off", Point("", 0), 0.0)
            await project.end()
    assert case.problems == ()
    assert case.unknown in (1, 2)  # the host may have begun the one or both
    assert set(late) <= {"pay for boss", "pay for bob"}
    pays = [key for kind, key in traces(home) if kind == "pay"]
    assert len(pays) == len(set(pays)) == 2


async def _first(project: Project, kind: str, wanted: Callable[[Mapping[str, Any]], bool]) -> list[Mapping[str, Any]]:
    """The bodies of such events, as soon as there are some."""
    address = RedisAddress(host=project.host, port=project.port, prefix=project.prefix)
    server = await RedisServer.open(address, durability="warn")
    store = await RedisStore.open(server)
    try:
        async with asyncio.timeout(END_S):
            while True:
                events = await store.events(Query(kinds=(kind,)))
                if found := [event.body for event in events if wanted(event.body)]:
                    return found
                await asyncio.sleep(0.05)
    finally:
        await store.aclose()
        await server.aclose()
