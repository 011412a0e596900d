"""One Redis as the drivers share it: where it is, its client, its clock, and whether a log is safe there.

Knows connections and server settings; nothing of keys or of what they mean. Works with Redis 7 and Valkey.
"""

import asyncio
import math
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeVar

import hiredis
from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ReadOnlyError, RedisError, ResponseError

from p2engine.errors import ConfigError, StoreError
from p2engine.limits import BUSY_WAIT_S
from p2engine.stores.redis_address import RedisAddress
from p2engine.stores.redis_checks import Config, Found, judge
from p2engine.stores.redis_errors import Failure, passing, store_error

CONNECTIONS_MAX: Final = 32  # of one process; the server does one thing at a time anyway
SOCKET_TIMEOUT_S: Final = 5.0  # for one answer and for one connect; a blocking read must block for less
RETRY_FIRST_S: Final = 0.05
RETRY_MAX_S: Final = 0.5
CLOCK_READINGS: Final = 3  # of the server's clock; the one that took the shortest way counts

Durability = Literal["refuse", "warn"]
Call = tuple[str | bytes | int, ...]
"""A command and its arguments."""

T = TypeVar("T")
_pack: Any = hiredis.pack_command  # its types say that a command is one word

__all__ = ["RETRY_FIRST_S", "RETRY_MAX_S", "SOCKET_TIMEOUT_S", "Durability", "RedisAddress", "RedisServer", "passing"]


class RedisServer:
    """An open Redis. `client` is shared by everything that speaks to it in this process and on this event loop.

    The client repeats nothing by itself: a command that was cut off may or may not have been done, and only the
    caller knows whether doing it twice is harmless. `patiently` is for those that are.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self.notes: list[str] = []
        self.info: dict[str, Any] = {}  # what the server said of itself when it was opened
        self.found = Found("", None, (), ())  # and how that was judged
        self.has_bodies = False  # whether bodies are kept there as well, which what is written may rely on
        self.client = _client(address)
        self.answer_s = float("inf")  # that the server took for its quickest answer to the last `sync`
        self._monotonic = time.monotonic
        self._offset_s = time.time() - self._monotonic()

    @classmethod
    async def open(cls, address: RedisAddress, *, durability: Durability, wait_s: float = 0.0) -> "RedisServer":
        """Connect, and look whether a log is safe there. `notes` then holds what a person should be told.

        durability: what to do about settings that can lose acknowledged writes. wait_s: how long to wait for a
        server that cannot be reached or still loads its data. Raises StoreError, StoreBusy, ConfigError.
        """
        if address.ca is not None:
            _look_at_certificates(address.ca)
        server = cls(address)
        try:
            await server.patiently(server.client.ping, wait_s=wait_s)
            await server._inspect(durability)
            await server.sync()
        except BaseException:
            await server.aclose()
            raise
        return server

    async def patiently(self, call: Callable[[], Awaitable[T]], *, wait_s: float = BUSY_WAIT_S) -> T:
        """What `call` gives; while the server cannot be reached it is made again, for about `wait_s` seconds.

        Only for calls that may be done twice. Raises StoreError, StoreBusy.
        """
        deadline, pause_s = time.monotonic() + wait_s, RETRY_FIRST_S
        while True:
            try:
                return await call()
            except (RedisError, OSError) as error:
                if not passing(error) or time.monotonic() + pause_s > deadline:
                    raise self.error(error) from error
                if isinstance(error, ReadOnlyError):  # after a fail-over, new connections may lead to the new primary
                    await self.client.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)

    async def together(self, calls: Sequence[Call]) -> list[Any]:
        """What the server answers to each, as it came, in one round trip; a refusal is an exception among them.

        Once, whatever happens. Raises what the client raises: each may have been done or not. It is the client's
        pipeline without what that does for every command, which is more than all the rest of a write.
        """
        if not calls:
            return []
        pool: Any = self.client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command([b"".join(map(_pack, calls))])
            async with asyncio.timeout(SOCKET_TIMEOUT_S):
                return [await _answer(connection) for _ in calls]
        finally:
            await pool.release(connection)

    def error(self, error: Failure) -> StoreError:
        """What Redis says, in words of what to do."""
        return store_error(error, str(self.address), self.address.password)

    def now(self) -> float:
        """Unix seconds by the server's clock, as far as the last `sync` could tell. Implements `ports.Clock`."""
        return self._monotonic() + self._offset_s

    async def sync(self) -> float:
        """Read the server's clock anew. Returns by how many seconds this host's clock is ahead of it."""
        self.answer_s = float("inf")
        for _ in range(CLOCK_READINGS):
            before = self._monotonic()
            seconds, micros = await self.patiently(self.client.time, wait_s=0)
            took_s = self._monotonic() - before
            if took_s < self.answer_s:
                self.answer_s, self._offset_s = took_s, seconds + micros / 1e6 - before - took_s / 2
        return time.time() - self.now()

    async def aclose(self) -> None:
        with suppress(RedisError, OSError):
            await self.client.aclose()

    async def _inspect(self, durability: Durability) -> None:
        """Raises StoreError for a server that cannot keep a log, or that may lose some of it."""
        self.info = await self.patiently(self.client.info, wait_s=0)
        self.found = found = judge(self.info, await self._config())
        if found.refused is not None:
            raise StoreError(f"{self.address} {found.refused.what}", hint=found.refused.mend)
        loses = f"{self.address} can lose what it acknowledged: "
        if found.unsafe and durability == "refuse":
            mend = "; ".join(fault.mend for fault in found.unsafe)
            raise StoreError(
                loses + ", ".join(fault.what for fault in found.unsafe),
                hint=f"{mend}; or accept the risk with redis.durability: warn",
            )
        self.notes = [f"{loses}{fault.what} (mend: {fault.mend})" for fault in found.unsafe]
        self.notes += [f"{self.address}: {note}" for note in found.notes]

    async def _config(self) -> Config:
        """Its settings; None where it forbids us to read them."""

        async def read() -> Config:
            try:
                found = await self.client.config_get("appendfsync", "maxmemory-policy")
                return {str(name): str(value) for name, value in found.items()}
            except (NoPermissionError, ResponseError):
                return None

        return await self.patiently(read, wait_s=0)


def _look_at_certificates(file: str) -> None:
    try:
        ssl.create_default_context(cafile=file)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "holds no certificates" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", str(error))
        raise ConfigError(f"redis.ca: {file}: {reason}", hint="name a file of certificates in PEM") from None


async def _answer(connection: Any) -> Any:
    """The next answer. Raises one that cuts the connection off."""
    try:
        return await connection.read_response(timeout=math.inf)  # whoever asked has a limit for all of them
    except ResponseError as refusal:
        return refusal


class _Connection(Connection):
    """`asyncio.wait_for`, by which a command is sent, forgets a cancellation on Python 3.11 where both come at once."""

    def pack_command(self, *words: Any) -> list[bytes]:
        """By hiredis: in Python, which is what the client has here, it takes ten times as long."""
        name = words[0].encode() if isinstance(words[0], str) else words[0]
        return [_pack((*name.split(), *words[1:]))]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        await super().send_packed_command(command, check_health)
        if task and task.cancelling() > before:
            await self.disconnect(nowait=True)  # nobody will read the answer
            raise asyncio.CancelledError


class _SecureConnection(_Connection, SSLConnection):
    pass


def _client(address: RedisAddress) -> "Redis":
    tls: dict[str, Any] = {"ssl_ca_certs": address.ca} if address.tls else {}
    pool = BlockingConnectionPool(
        max_connections=CONNECTIONS_MAX,
        timeout=SOCKET_TIMEOUT_S,
        connection_class=_SecureConnection if address.tls else _Connection,
        host=address.host,
        port=address.port,
        db=address.db,
        username=address.username,
        password=address.password,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        driver_info=None,
        **tls,
    )
    return Redis.from_pool(pool)
