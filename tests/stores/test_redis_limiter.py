"""Turns, rates and pauses that several processes share through a Redis. Each limiter here stands for a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from p2engine.models.limiter import LocalLimiter
from p2engine.ports import Limiter
from p2engine.stores.redis_limiter import RedisLimiter
from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.servers import ValkeyServer

Open = Callable[..., RedisLimiter]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer("--save", "") as server:
        yield server


@pytest.fixture
async def client(valkey: ValkeyServer) -> AsyncIterator[Redis]:
    """A connection to an empty server."""
    client = Redis(port=valkey.port, protocol=2)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def process(valkey: ValkeyServer, client: Redis) -> AsyncIterator[Open]:
    """Opens a limiter with a connection of its own, as each process has."""
    opened: list[RedisLimiter] = []
    servers: list[RedisServer] = []

    def opens(**limits: Any) -> RedisLimiter:
        servers.append(RedisServer(RedisAddress(host="127.0.0.1", port=valkey.port, prefix="test")))
        opened.append(RedisLimiter(servers[-1], LocalLimiter(), **limits))
        return opened[-1]

    yield opens
    for limiter in opened:
        await limiter.aclose()
    for server in servers:
        await server.aclose()


async def until(true: Callable[[], Awaitable[object]]) -> None:
    """Returns when the server says so; the time-out of the test bounds it."""
    while not await true():
        await asyncio.sleep(0.01)  # the server tells nobody


def opens_at(limiter: RedisLimiter) -> float:
    """When this process lets calls of provider `a` through again, in its loop's time."""
    local = limiter._local
    assert isinstance(local, LocalLimiter)
    return local._lane("a").opens_at


async def waiting(client: Redis) -> int:
    return int(await client.zcard("test:limit:a:waiting"))


async def hear(client: Redis, processes: int) -> bool:
    """Whether so many hear what the others say."""
    ((_, count),) = await client.pubsub_numsub("test:limits")
    return int(count) == processes


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks again by itself: who waits must be told."""
    monkeypatch.setattr("p2engine.stores.redis_limiter.AGAIN_S", 3600.0)


async def commands(client: Redis) -> int:
    return int((await client.info("stats"))["total_commands_processed"])


async def test_it_is_a_limiter(process: Open) -> None:
    """It has the methods of the port."""
    limiter: Limiter = process()
    assert limiter


async def test_turns_are_shared(process: Open, client: Redis, told: None) -> None:
    """With two turns in all, the third call of any process waits until one is given back, by whichever process."""
    one, other = process(at_once={"a": 2}), process(at_once={"a": 2})
    await one.acquire("a")
    await other.acquire("a")
    third = asyncio.ensure_future(one.acquire("a"))
    await until(lambda: waiting(client))
    await until(lambda: hear(client, 2))
    assert not third.done()
    other.release("a")
    await third
    assert await waiting(client) == 0


async def test_no_more_run_at_once_than_allowed(process: Open) -> None:
    """Thirty calls of three processes, four at a time: never five, and all end."""
    running, most = 0, 0

    async def call(limiter: RedisLimiter) -> None:
        nonlocal running, most
        await limiter.acquire("a")
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        limiter.release("a")

    limiters = [process(at_once={"a": 4}) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for limiter in limiters * 10:
            group.create_task(call(limiter))
    assert 0 < most <= 4


async def test_who_came_first_goes_first(process: Open, client: Redis, told: None) -> None:
    """A process that gives a turn back and wants another stands behind one that waits already, which hears of it."""
    busy, patient = process(at_once={"a": 1}), process(at_once={"a": 1})
    await busy.acquire("a")
    order: list[str] = []

    async def call(limiter: RedisLimiter, name: str) -> None:
        await limiter.acquire("a")
        order.append(name)
        limiter.release("a")

    first = asyncio.ensure_future(call(patient, "patient"))
    await until(lambda: waiting(client))
    second = asyncio.ensure_future(call(busy, "busy"))
    await until(lambda: both_wait(client))
    await until(lambda: hear(client, 2))
    busy.release("a")
    await asyncio.gather(first, second)
    assert order == ["patient", "busy"]


async def both_wait(client: Redis) -> bool:
    return await waiting(client) == 2


async def test_turns_of_a_dead_process_come_back(process: Open, client: Redis) -> None:
    """A process that stopped renewing holds nothing: its turn goes to who waits, and its place in the queue too."""
    alive = process(at_once={"a": 1})
    soon = (await client.time())[0] * 1000 - 1
    await client.hset("test:limit:a:held", "dead", "1")
    await client.zadd("test:limit:a:waiting", {"dead": 1})
    await client.zadd("test:limit:a:alive", {"dead": soon})
    await alive.acquire("a")
    assert list(await client.hgetall("test:limit:a:held")) != [b"dead"]
    assert await waiting(client) == 0


async def test_a_living_process_keeps_its_turn(process: Open, client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes longer than a lease holds its turn all the while."""
    monkeypatch.setattr("p2engine.stores.redis_limiter.LEASE_S", 0.06)
    limiter = process(at_once={"a": 1})
    await limiter.acquire("a")
    first = await lease(client)

    async def renewed() -> bool:
        return await lease(client) > first + 60

    await until(renewed)
    limiter.release("a")
    await until(lambda: _is_empty(client, "test:limit:a:alive"))


async def lease(client: Redis) -> float:
    """When the only process that is alive will be taken for dead, in milliseconds."""
    (only,) = await client.zrange("test:limit:a:alive", 0, -1, withscores=True)
    return float(only[1])


async def _is_empty(client: Redis, key: str) -> bool:
    return not await client.exists(key)


async def test_a_rate_is_shared(process: Open, client: Redis) -> None:
    """Three calls a minute in all: the fourth waits, whoever makes it, until the minute of the first is over."""
    limits = {"per_minute": {"a": 3}, "minute_s": 0.5}
    one, other = process(**limits), process(**limits)
    for limiter in (one, other, one):
        await limiter.acquire("a")
    times = [int(each) for each in await client.lrange("test:limit:a:starts", 0, -1)]
    await other.acquire("a")
    times += [int(each) for each in await client.lrange("test:limit:a:starts", -1, -1)]
    assert len(times) == 4
    assert times[3] - times[0] >= 500


async def test_who_gives_up_waits_no_longer(process: Open, client: Redis) -> None:
    """A cancelled call leaves the queue and takes no turn with it."""
    one, other = process(at_once={"a": 1}), process(at_once={"a": 1})
    await one.acquire("a")
    given_up = asyncio.ensure_future(other.acquire("a"))
    await until(lambda: waiting(client))
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)

    async def gone() -> bool:
        return not await waiting(client)

    await until(gone)
    one.release("a")
    await other.acquire("a")


async def test_a_provider_without_limits_asks_nobody(process: Open, client: Redis) -> None:
    """After the first call, acquiring and releasing costs no command, and nothing is kept in the Redis."""
    limiter = process(per_minute={"other": 5})
    await limiter.acquire("a")
    await until(lambda: hear(client, 1))
    await asyncio.gather(*limiter._tasks)
    before = await commands(client)
    for _ in range(50):
        await limiter.acquire("a")
        limiter.release("a")
    assert await commands(client) == before + 1
    assert await client.keys("test:*") == []


async def test_a_pause_reaches_every_process(process: Open, client: Redis) -> None:
    """What one provider asked one process for, another heeds, for as long, limits or none; other providers go on."""
    one, other = process(), process()
    for limiter in (one, other):
        for provider in ("a", "b"):
            await limiter.acquire(provider)
            limiter.release(provider)

    await until(lambda: hear(client, 2))
    one.pause("a", 0.6)
    await until(lambda: client.exists("test:limit:a:pause"))
    await other.acquire("b")
    loop = asyncio.get_running_loop()

    async def heard() -> bool:
        return opens_at(other) > loop.time()

    await until(heard)
    await other.acquire("a")
    assert loop.time() >= opens_at(other)


@pytest.mark.parametrize("listens", [False, True])
async def test_a_pause_is_learnt_by_who_comes_later(process: Open, client: Redis, listens: bool) -> None:
    """Who first calls a provider within its pause heeds it from a moment later; of two pauses the longer counts."""
    one, late = process(), process()
    if listens:
        await late.acquire("b")
        await until(lambda: hear(client, 1))
    one.pause("a", 60)
    one.pause("a", 5)
    await until(lambda: client.exists("test:limit:a:pause"))
    await late.acquire("a")

    async def heard() -> bool:
        return opens_at(late) > asyncio.get_running_loop().time() + 30

    await until(heard)


async def test_failure_35_calls_wait_while_the_server_is_away(process: Open, valkey: ValkeyServer) -> None:
    """With the server killed, a call that needs its word waits; when it is back, it goes on."""
    limiter = process(per_minute={"a": 100})
    await limiter.acquire("a")
    limiter.release("a")
    valkey.stop()
    call = asyncio.ensure_future(limiter.acquire("a"))
    await limiter.acquire("b")
    assert not call.done()
    valkey.start(valkey.port)
    await call
