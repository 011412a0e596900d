"""Bodies by content hash, in a Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from p2engine.domain.ids import blob_ref
from p2engine.errors import StoreError
from p2engine.stores.redis_blobs import RedisBlobs
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.contracts import BlobStoreContract
from tests.servers import ValkeyServer


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def server(valkey: ValkeyServer) -> AsyncIterator[RedisServer]:
    """An open one, empty."""
    address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix="test")
    server = await RedisServer.open(address, durability="refuse")
    await server.client.flushall()
    yield server
    await server.aclose()


@pytest.fixture(params=[None, 3], ids=["whole", "pieces"])
def blobs(server: RedisServer, request: pytest.FixtureRequest) -> RedisBlobs:
    """Bodies go over in one command, or in pieces of 3 bytes."""
    return RedisBlobs(server) if request.param is None else RedisBlobs(server, piece_bytes=request.param)


class TestRedisBlobs(BlobStoreContract):
    @pytest.fixture(params=[None, 1000], ids=["whole", "pieces"])
    def blobs(self, server: RedisServer, request: pytest.FixtureRequest) -> RedisBlobs:
        return RedisBlobs(server) if request.param is None else RedisBlobs(server, piece_bytes=request.param)


async def test_a_body_lies_under_its_hash_for_ever(server: RedisServer, blobs: RedisBlobs) -> None:
    """One key, named after the content, that does not expire; nothing else is left in the database."""
    ref = await blobs.put(b"a body of several pieces")
    assert await server.client.keys("*") == [f"test:blob:{ref[3:]}".encode()]
    assert await server.client.ttl(f"test:blob:{ref[3:]}") == -1


@pytest.mark.parametrize("found", [b"", b"a bodY", b"a body and more"])
async def test_failure_14_a_damaged_body_is_named(server: RedisServer, blobs: RedisBlobs, found: bytes) -> None:
    """Other bytes under its name are an error that names the key, and putting the body again mends it."""
    ref = await blobs.put(b"a body")
    await server.client.set(f"test:blob:{ref[3:]}", found)
    with pytest.raises(StoreError, match=f"test:blob:{ref[3:]}.* is damaged"):
        await blobs.get(ref)
    assert await blobs.put(b"a body") == ref
    assert await blobs.get(ref) == b"a body"


async def test_a_foreign_key_in_the_way_is_named(server: RedisServer, blobs: RedisBlobs) -> None:
    """Where another program keeps something else under the name, it stays, and the error says what to do."""
    key = f"test:blob:{blob_ref(b'a body')[3:]}"
    await server.client.lpush(key, "theirs")
    with pytest.raises(StoreError, match="somebody else's") as raised:
        await blobs.put(b"a body")
    assert "a body" not in raised.value.message
    assert "redis.prefix" in raised.value.hint
    assert await server.client.lrange(key, 0, -1) == [b"theirs"]


async def test_a_body_that_was_cut_off_goes_away_by_itself(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces whose sender died are under no body's name, and expire."""
    blobs = RedisBlobs(server, piece_bytes=3)
    pipeline, sent = server.client.pipeline, 0

    def failing(transaction: bool = True) -> object:  # a double of the sender's death, after two pieces
        nonlocal sent
        sent += 1
        if sent == 4:
            raise KeyboardInterrupt
        return pipeline(transaction)

    monkeypatch.setattr(server.client, "pipeline", failing)
    with pytest.raises(KeyboardInterrupt):
        await blobs.put(b"a body of several pieces")
    (left,) = await server.client.keys("*")
    assert isinstance(left, bytes)
    assert left.startswith(b"test:blob:part:")
    assert 0 < await server.client.ttl(left) <= 3600
    assert not await blobs.has(blob_ref(b"a body of several pieces"))


async def test_failure_35_a_full_server_keeps_no_half_body(server: RedisServer, blobs: RedisBlobs) -> None:
    """When the server takes no more, the error says that it is full, and later the body can be put."""
    body = bytes(range(256)) * 4
    await server.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreError, match="is full"):
            await blobs.put(body)
        assert not await blobs.has(blob_ref(body))
    finally:
        await server.client.config_set("maxmemory", 0)
    assert await blobs.get(await blobs.put(body)) == body


async def test_failure_35_bodies_come_through_a_restart(valkey: ValkeyServer, server: RedisServer) -> None:
    """What was put is there after the server was killed and started again, on connections that broke meanwhile."""
    blobs = RedisBlobs(server)
    ref = await blobs.put(b"kept")
    valkey.restart()
    assert await blobs.get(ref) == b"kept"
