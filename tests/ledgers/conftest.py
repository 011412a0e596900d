"""The contract suites are tests: their failures show values as tests' do. And where a test's ledger is kept."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.ledgers.places import FilePlace, Place, RedisPlace
from tests.servers import ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "no", "--save", "") as server:
        yield server


@pytest.fixture
async def redis_place(valkey: ValkeyServer, tmp_path: Path) -> AsyncIterator[RedisPlace]:
    """A prefix of its own on the module's server."""
    address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix=f"t{uuid.uuid4().hex[:8]}")
    server = await RedisServer.open(address, durability="warn")
    yield RedisPlace(server, tmp_path)
    await server.aclose()


@pytest.fixture
def file_place(tmp_path: Path) -> FilePlace:
    return FilePlace(tmp_path)


@pytest.fixture(params=["file", "redis"])
def place(request: pytest.FixtureRequest) -> Place:
    """Where a ledger is kept, one kind after the other."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found
