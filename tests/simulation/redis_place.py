"""A simulation's store on a real Redis: one call at a time, and virtual time stands still while it is away."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import redis

from p2engine.domain.ids import OwnerId, StackRef
from p2engine.domain.records import Placed
from p2engine.errors import HeadMoved
from p2engine.limits import FOLLOW_PERIOD_S
from p2engine.ports import Archive
from p2engine.stores.owners import Owners
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.virtual_time import VirtualTimeLoop
from tests.servers import ValkeyServer


class Outside:
    """A store whose calls take real time. One after the other, so that the same seed gives the same log.

    laconic: a conflict brings nothing along, so that the processes make the very calls that they make with SQLite.
    """

    def __init__(self, store: RedisStore, *, laconic: bool) -> None:
        self._store = store
        self._laconic = laconic
        self._turn = asyncio.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> Any:
            async with self._turn:
                try:
                    return await outside(method(*args, **options))
                except HeadMoved as moved:
                    if self._laconic:
                        moved.missing = None
                    raise

        return call

    async def follow(self, ref: StackRef, *, since: int, answers: bool = False) -> AsyncIterator[Sequence[Placed]]:
        """By looking: what is published comes when it comes, and a run has to repeat itself."""
        while True:
            if commits := await self.load(ref, since=since):
                since = commits[-1].seq + len(commits[-1].commit.states)
                yield commits
            await asyncio.sleep(FOLLOW_PERIOD_S)


async def outside(call: Any) -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    with loop.outside():
        return await call


class KeyOwners:
    """Who lives, as the store's scripts see it: a key each, which stays until its owner is killed."""

    def __init__(self, client: "redis.Redis", prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def add(self, owner: OwnerId) -> None:
        self._client.set(f"{self._prefix}:owner:{owner}", "a simulated process")

    def drop(self, owner: OwnerId) -> None:
        self._client.delete(f"{self._prefix}:owner:{owner}")

    def alive(self, owner: OwnerId) -> bool:
        return bool(self._client.exists(f"{self._prefix}:owner:{owner}"))

    def who(self, owner: OwnerId) -> str:
        return f"process {owner}"


def on(valkey: ValkeyServer, *, laconic: bool = False) -> Callable[[], Any]:
    """A `simulate.Place` with a prefix of its own on that server."""

    @asynccontextmanager
    async def place() -> AsyncIterator[tuple[Archive, Owners]]:
        address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix=f"s{uuid4().hex[:8]}")
        server = await outside(RedisServer.open(address, durability="warn"))
        store = await outside(RedisStore.open(server, handed_out_s=0, released_s=0, lease_s=1e6))
        with redis.Redis(port=valkey.port) as client:
            yield Outside(store, laconic=laconic), KeyOwners(client, address.prefix)
        await outside(store.aclose())
        await outside(server.aclose())

    return place
