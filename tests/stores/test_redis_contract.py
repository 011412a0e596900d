"""The Redis store keeps the store's contract, on a real server."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from p2engine.domain.ids import OwnerId
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.contracts import ArchiveContract
from tests.servers import ValkeyServer


@pytest.fixture(scope="module", params=[None, pytest.param("redis-server", marks=pytest.mark.redis)])
def valkey(request: pytest.FixtureRequest) -> Iterator[ValkeyServer]:
    """The server that all tests use, and Redis proper."""
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "no", "--save", "", program=request.param) as server:
        yield server


@pytest.fixture
async def server(valkey: ValkeyServer) -> AsyncIterator[RedisServer]:
    """A prefix of its own on the module's server."""
    address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix=f"t{uuid.uuid4().hex[:8]}")
    server = await RedisServer.open(address, durability="warn")
    yield server
    await server.aclose()


class TestRedis(ArchiveContract):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RedisStore]:
        store = await RedisStore.open(server, handed_out_s=0, released_s=0)
        yield store
        await store.aclose()

    @pytest.fixture
    def owner(self, store: RedisStore) -> OwnerId:
        return store.owner

    @pytest.fixture
    async def other(self, server: RedisServer) -> AsyncIterator[OwnerId]:
        store = await RedisStore.open(server)
        yield store.owner
        await store.aclose()
