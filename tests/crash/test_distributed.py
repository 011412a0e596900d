"""kill −9 of the processes of a distributed project, and blows at its Redis, at points of a turn drawn by lot.

`python -m tests.crash.distributed` runs every one and prints the table; docs/reliability.md explains it.
"""

import random
from collections.abc import AsyncIterator

import pytest

from tests.crash.blows import failed_over, in_step, left_behind
from tests.crash.cast import REPEATS, trace, traces
from tests.crash.courses import strike, whole
from tests.crash.crew import Hand
from tests.crash.distributed import AWAY_S, Theatre, plan, run, sample, table, wrong
from tests.crash.nursery import Point
from tests.crash.project import Project, judged, over
from tests.crash.proxy import Proxy
from tests.servers import ValkeyServer

SHARES = 2  # so that workers divide it
AWAY_QUICK_S = 2.5  # longer than a lease, in the tests' timing
TRIALS = 30

shares = pytest.mark.parametrize("share", range(SHARES))


@pytest.fixture
async def theatre() -> AsyncIterator[Theatre]:
    async with Theatre.open() as theatre:
        yield theatre


def lots(share: int) -> random.Random:
    """What is drawn by lot in this share. The seed comes from pytest's `--randomly-seed`, so that gives it again."""
    seed = f"{random.getrandbits(32)}/{share}"
    print(f"seed {seed}")
    return random.Random(seed)


async def test_failure_06_a_worker_is_killed_inside_a_tool(theatre: Theatre) -> None:
    """Another worker ends the turn: what may not run twice is called interrupted, and the model is told."""
    async with theatre.project() as project:
        client = await project.client(agent="payer", tasks=("pay",))
        doomed = await project.worker(Point("in a tool, after its effect", 1))
        assert await project.first(doomed, client)
        await project.worker()
        await over(client)
        assert "outcome unknown" in str(client.said["demo"])
        assert [kind for kind, _ in traces(project.home)] == ["pay"]


async def test_what_a_tool_saved_outlasts_a_fail_over_to_the_past(theatre: Theatre) -> None:
    """A body that only the lost server had is kept again, with the result that names it."""
    with ValkeyServer() as server, ValkeyServer() as replica:
        async with Proxy(server.port) as proxy, Proxy(server.port) as link, theatre.project(proxy.port) as project:
            await in_step(server, replica, link)
            worker = await project.worker(
                stops=(Point("in a tool, after its effect", 1), Point("before a write", 2)), sweeps=True
            )
            client = await project.client(agent="ann", tasks=("book your part",))
            assert await strike(project, worker, client, left_behind(link))
            assert await strike(project, worker, client, failed_over(server, replica, proxy, _nothing))
            await over(client)
            assert client.said == {"demo": "ann: book for ann"}
            async with project.reading() as redis:
                assert [await redis.get(key) async for key in redis.scan_iter(f"{project.prefix}:blob:*")] == [
                    b"book for ann"
                ]


async def _nothing(_old: object, _new: object) -> None:
    """No look."""


@shares
async def test_failure_06_a_sample_of_the_matrix(theatre: Theatre, share: int) -> None:
    """Some of each kind: nothing is lost, nothing is done twice that must not be, and every turn ends."""
    lot = lots(share)
    planned = list(plan(theatre, *await theatre.points(), lot, AWAY_QUICK_S))
    done = await run(sample(planned, lot))
    print(table(done))
    assert not wrong(done), "\n".join(wrong(done))


@pytest.mark.full
@pytest.mark.timeout(1800)
@shares
async def test_failure_06_the_whole_matrix(theatre: Theatre, share: int) -> None:
    """Every process at every point, and every blow at the server."""
    done = await run(list(plan(theatre, *await theatre.points(), lots(share), AWAY_S))[share::SHARES])
    print(table(done))
    assert not wrong(done), "\n".join(wrong(done))


@pytest.mark.parametrize("trials", [TRIALS, pytest.param(200, marks=pytest.mark.full)])
async def test_failure_07_trials_through_one_worker(theatre: Theatre, trials: int) -> None:
    """Conversations of several steps, all at once: each ends with what its tools gave, and every tool ran once."""
    names = tuple(f"trial {number}" for number in range(trials))
    async with theatre.project(timing={"lease_s": 15.0, "handed_out_s": 30.0}) as project:
        await project.worker()
        client = await project.client(names=names, agent="simple")
        await over(client)
        assert not client.errors
        assert [name for name in names if str(client.said.get(name)).count(" for ") != len(REPEATS)] == []
        await project.rests()
        ran = traces(project.home)
        assert len(ran) == len(set(ran)) == len(REPEATS) * trials


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("a payment made twice", "is ok and ran 2 times"),
        ("a call that nobody knows", "no stack knows"),
        ("an effect that is owed", "at rest"),
        ("a row that is gone", "follows"),
        ("an answer to nobody's question", "was told"),
    ],
)
async def test_the_judge_of_the_distributed_sees_what_is_wrong(theatre: Theatre, fault: str, problem: str) -> None:
    """Faults put in by hand after a good run are found, each by its name."""
    async with theatre.project() as project:
        case, _, client = await whole(project)
        assert case.problems == ()
        await _put_in(project, client, fault)
        case = await judged(project, fault, Point("", 0), 0.0)
        assert any(problem in found for found in case.problems), case.problems


async def _put_in(project: Project, client: Hand, fault: str) -> None:
    async with project.reading() as redis:
        match fault:
            case "a payment made twice":
                trace(project.home, next(f"{kind} {key}" for kind, key in traces(project.home) if kind == "pay"))
            case "a call that nobody knows":
                trace(project.home, "pay 000000000000:1.0")
            case "an effect that is owed":
                await redis.zadd(f"{project.prefix}:owed:000000000000", {"000000000000:1.0": 0})
            case "a row that is gone":
                await redis.xdel(f"{project.prefix}:log", "3-0")
            case _:
                client.said["demo"] = "no such thing"
