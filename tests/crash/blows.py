"""What may happen to a Redis: it is killed, stopped, replaced at another address, or lags behind and is lost."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable

import redis.asyncio

from tests.crash.proxy import Proxy
from tests.servers import ValkeyServer

Go = Callable[[], None]
Strike = Callable[[Go], Awaitable[None]]
"""Does something to the server, and says when the process that stopped may go on."""
Look = Callable[["redis.asyncio.Redis", "redis.asyncio.Redis"], Awaitable[None]]
"""At the server that goes and at the one that comes."""


def restarted(server: ValkeyServer, away_s: float = 0.0) -> Strike:
    """Killed, and started again on its files."""

    async def strike(go: Go) -> None:
        server.stop()
        go()
        await asyncio.sleep(away_s)
        await asyncio.to_thread(server.start, server.port)

    return strike


def frozen(server: ValkeyServer, away_s: float) -> Strike:
    """It answers nobody for a while; what was sent meanwhile it does afterwards."""

    async def strike(go: Go) -> None:
        os.kill(server.pid, signal.SIGSTOP)
        go()
        await asyncio.sleep(away_s)
        os.kill(server.pid, signal.SIGCONT)

    return strike


def replaced(server: ValkeyServer, other: ValkeyServer, proxy: Proxy) -> Strike:
    """Another server, with the first one's files, at another address."""

    async def strike(go: Go) -> None:
        server.stop()
        go()
        shutil.copytree(server.folder, other.folder, dirs_exist_ok=True)
        await asyncio.to_thread(other.start)
        proxy.lead_to(other.port)

    return strike


def left_behind(link: Proxy) -> Strike:
    """The replica gets nothing any more."""

    async def strike(go: Go) -> None:
        link.cut()
        go()

    return strike


def failed_over(server: ValkeyServer, replica: ValkeyServer, proxy: Proxy, look: Look) -> Strike:
    """The replica takes over, with what it has. A test may `look` at both before anybody works on it."""

    async def strike(go: Go) -> None:
        async with redis.asyncio.Redis(port=server.port) as old, redis.asyncio.Redis(port=replica.port) as new:
            await look(old, new)
            server.stop()
            await new.replicaof("NO", "ONE")
        go()
        proxy.lead_to(replica.port)

    return strike


async def in_step(server: ValkeyServer, replica: ValkeyServer, link: Proxy) -> None:
    """Make one server the other's replica, by that link; back when it has everything."""
    async with redis.asyncio.Redis(port=replica.port) as client, redis.asyncio.Redis(port=server.port) as primary:
        await primary.config_set("repl-diskless-sync-delay", 0)
        await client.replicaof("127.0.0.1", str(link.port))
        while (await client.info("replication"))["master_link_status"] != "up":
            await asyncio.sleep(0.02)  # a server tells nobody
