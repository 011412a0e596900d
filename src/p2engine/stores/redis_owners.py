"""A process's lease: a key that the server forgets unless it is renewed. Without its key it is dead to the others."""

import asyncio
import itertools
import logging
import os
import socket

from redis.exceptions import RedisError

from p2engine.domain.ids import OwnerId
from p2engine.errors import StoreError
from p2engine.limits import LEASE_RENEWALS, LEASE_S
from p2engine.stores.redis_scripts import Scripts
from p2engine.stores.redis_server import RedisServer

CLOCK_EVERY = 12  # renewals between two looks at the server's clock

log = logging.getLogger("p2engine.stores")


class Lease:
    """The life of `owner` on a server, from `begin` to `end`."""

    def __init__(self, server: RedisServer, scripts: Scripts, owner: OwnerId, *, lease_s: float = LEASE_S) -> None:
        self._server = server
        self._scripts = scripts
        self.owner = owner
        self._lease_s = lease_s
        self._who = f"process {os.getpid()} on {socket.gethostname()}"
        self._renewing: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        await self._server.patiently(self._set)
        self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def end(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def _set(self) -> None:
        await self._scripts.once("renew", self.owner, self._who, int(self._lease_s * 1e6))

    async def _renew(self) -> None:
        """A lease that lapsed is begun anew: what was taken over meanwhile is settled by whoever is first."""
        for number in itertools.count(1):
            await asyncio.sleep(self._lease_s / LEASE_RENEWALS)
            try:
                await self._set()
                if number % CLOCK_EVERY == 0:
                    await self._server.sync()
            except (RedisError, OSError) as error:
                log.warning("the lease of %s could not be renewed: %s", self.owner, self._server.error(error))
            except StoreError as error:
                log.warning("%s", error)
