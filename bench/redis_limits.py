"""What server and Celery can do by themselves: a script that does nothing, our write alone, jobs that do nothing."""

import asyncio
import time
from typing import Self

import redis.asyncio

from bench.processes import DONE, NOTHING, NOTHINGS, nothings
from p2engine.dispatch.celery import Broker, CeleryDispatcher, celery_app, queues_of
from p2engine.domain.ids import EffectId
from p2engine.domain.records import Perform
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_address import RedisAddress
from p2engine.stores.redis_server import RedisServer
from p2engine.testing.histories import answering, asking, opening
from tests.servers import ValkeyServer

AT_ONCE = 50


async def round_trip_ms(port: int, times: int) -> float:
    """Wall milliseconds of one EVALSHA of a script that does nothing, one at a time, by redis-py on asyncio."""
    async with redis.asyncio.Redis(port=port) as client:
        script = client.register_script("return 1")
        await script()
        began = time.perf_counter()
        for _ in range(times):
            await script()
        return (time.perf_counter() - began) * 1e3 / times


class Writes:
    """Our writing script through our store, and nothing else: a question and its answer, again and again."""

    def __init__(self, port: int) -> None:
        self._address = RedisAddress(host="127.0.0.1", port=port, prefix="bench-writes")
        self._heads: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._server = await RedisServer.open(self._address, durability="warn")
        self._store = await RedisStore.open(self._server)
        for number in range(AT_ONCE):
            await self._store.write(opening(f"w{number}"))
            self._heads[f"w{number}"] = 2
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._store.aclose()
        await self._server.aclose()

    async def one_ms(self, times: int) -> float:
        """Wall milliseconds of a write, one at a time."""
        began = time.perf_counter()
        for _ in range(times // 2):
            await self._exchange("w0")
        return (time.perf_counter() - began) * 1e3 / times

    async def rate(self, times: int) -> float:
        """Writes a second, 50 at once."""

        async def again(name: str) -> None:
            for _ in range(times // 2 // AT_ONCE):
                await self._exchange(name)

        began = time.perf_counter()
        await asyncio.gather(*map(again, self._heads))
        return times / (time.perf_counter() - began)

    async def _exchange(self, name: str) -> None:
        head = self._heads[name]
        await self._store.write(answering(name, head=head))
        await self._store.write(asking(name, head=head + 2))
        self._heads[name] = head + 4


async def empty_jobs(made: ValkeyServer, rounds: int) -> list[float]:
    """Jobs a second that go through our queues to a worker that does nothing with them; a figure a round."""
    broker = Broker(url=made.url, shown=made.url, prefix=NOTHING)
    submitting = CeleryDispatcher(celery_app(broker, queues_of({})), lambda _: "ticks", broker)
    jobs = [Perform(EffectId(f"nobody:{number}.0"), "think") for number in range(2 * NOTHINGS)]
    found = []
    async with redis.asyncio.Redis(port=made.port, socket_timeout=60) as client:
        with nothings(made):
            for number in range(rounds + 1):  # the first starts the worker
                began = time.perf_counter()
                await submitting.submit(*jobs)
                for _ in range(len(jobs) // NOTHINGS):
                    if await client.blpop(DONE, timeout=20) is None:
                        raise RuntimeError("the worker of nothing does not do its jobs")
                if number:
                    found.append(len(jobs) / (time.perf_counter() - began))
    await submitting.aclose()
    return found
