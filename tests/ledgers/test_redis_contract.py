"""The ledger in Redis keeps the ledger's contract, on a real server."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2engine.ledgers.redis import RedisLedger
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.contracts import LedgerContract
from p2engine.testing.contracts.ledger import ClockByHand
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


class TestRedis(LedgerContract):
    """Whatever a test of the contract did, the ledger verifies after it."""

    @pytest.fixture
    def clock(self) -> ClockByHand:
        return ClockByHand()

    @pytest.fixture
    async def ledger(self, server: RedisServer, tmp_path: Path, clock: ClockByHand) -> AsyncIterator[RedisLedger]:
        ledger = await RedisLedger.open(server, tmp_path / "keys", now=clock)
        yield ledger
        audit = await ledger.verify()
        await ledger.aclose()
        assert audit.findings == ()

    @pytest.fixture
    async def second(
        self, ledger: RedisLedger, server: RedisServer, tmp_path: Path, clock: ClockByHand
    ) -> AsyncIterator[RedisLedger]:
        """Another connection; what one process knows the other does not."""
        other = await RedisServer.open(server.address, durability="warn")
        second = await RedisLedger.open(other, tmp_path / "keys", now=clock)
        yield second
        await second.aclose()
        await other.aclose()
