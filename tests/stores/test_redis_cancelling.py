"""Who is cancelled while it speaks to the server is cancelled, whenever that comes, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from redis.asyncio import Connection

from p2engine.domain.records import Cursor
from p2engine.stores.redis_events import Log
from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.servers import ValkeyServer


async def test_cancelled_while_a_command_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment its bytes are out and nobody has been told yet, which `asyncio.wait_for` of Python 3.11 forgets.

    The client can be used afterwards.
    """
    sent = Connection._send_packed_command
    victims: list[asyncio.Future[Any]] = []

    async def cancelling(self: Connection, command: Any) -> None:
        await sent(self, command)
        if victims:
            asyncio.get_running_loop().call_soon(victims.pop().cancel)

    monkeypatch.setattr(Connection, "_send_packed_command", cancelling)
    with ValkeyServer() as valkey:
        server = await RedisServer.open(RedisAddress(host="127.0.0.1", port=valkey.port), durability="refuse")
        try:
            task = asyncio.ensure_future(server.client.set("key", "value"))
            victims.append(task)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await server.client.get("key") == b"value"
        finally:
            await server.aclose()


@pytest.mark.filterwarnings("error")
async def test_cancelled_before_a_tail_waits() -> None:
    """Nothing was begun that somebody would have to wait for."""
    with ValkeyServer() as valkey:
        server = await RedisServer.open(RedisAddress(host="127.0.0.1", port=valkey.port), durability="refuse")
        try:
            waiting = asyncio.ensure_future(Log(server)._more("log", Cursor()))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            del waiting
            gc.collect()
        finally:
            await server.aclose()
