"""The contract suites are tests: their failures show values as tests' do. And stores as processes would open them."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.servers import ValkeyServer

Open = Callable[..., Any]


@pytest.fixture
def own() -> Iterator[ValkeyServer]:
    """A server that a test may stop and damage."""
    server = ValkeyServer().start()
    yield server
    server.remove()


@pytest.fixture
def prefix() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def opened(prefix: str) -> AsyncIterator[Open]:
    """Opens stores as processes would, under one prefix."""
    stores: list[RedisStore] = []
    servers: list[RedisServer] = []

    async def open_store(valkey: ValkeyServer, **options: Any) -> RedisStore:
        address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix=prefix)
        server = await RedisServer.open(address, durability="warn")
        servers.append(server)
        store = await RedisStore.open(server, **options)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.aclose()
    for server in servers:
        await server.aclose()
