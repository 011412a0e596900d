"""Who in this process listens to which channel: one connection for all of them, made when the first one listens.

A channel may miss messages while the connection is away, so whoever listens looks at the store now and then.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from p2engine.stores.redis_server import RedisServer

Messages = asyncio.Queue[bytes]

LINGER_S = 30.0  # how long a channel is kept that nobody listens to any more
AGAIN_S = 0.2  # between two tries to reach a server that is away


class Channels:
    """Channels of one server."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._pubsub: PubSub | None = None
        self._queues: dict[str, list[Messages]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[Messages]:
        """What is published there from now on. Raises StoreError."""
        messages: Messages = asyncio.Queue()
        if channel not in self._queues:
            await self._server.patiently(lambda: self._subscribe(channel))
        listening = self._queues.setdefault(channel, [])
        listening.append(messages)
        try:
            yield messages
        finally:
            listening.remove(messages)
            if not listening:  # whoever asked once may ask again soon
                asyncio.get_running_loop().call_later(LINGER_S, self._leave, channel)

    def _leave(self, channel: str) -> None:
        if self._queues.get(channel) == [] and not self._closed:
            del self._queues[channel]
            self._leaving = asyncio.get_running_loop().create_task(self._unsubscribe(channel))

    async def _unsubscribe(self, channel: str) -> None:
        if self._pubsub is not None and channel not in self._queues:
            with suppress(RedisError, OSError):
                await self._pubsub.unsubscribe(channel)

    def wake(self) -> None:
        """An empty message to everybody: look for yourselves."""
        for queues in self._queues.values():
            for messages in queues:
                messages.put_nowait(b"")

    async def aclose(self) -> None:
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._pubsub is not None:
            with suppress(RedisError, OSError):
                await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _subscribe(self, channel: str) -> None:
        if self._pubsub is None:
            self._pubsub = self._server.client.pubsub(ignore_subscribe_messages=True)
        await self._pubsub.subscribe(channel)
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(self._pubsub))

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            try:
                message = await pubsub.get_message(timeout=None)
            except (RedisError, OSError):
                await asyncio.sleep(AGAIN_S)  # the client subscribes again when it connects
                self.wake()
                continue
            if message is None:
                continue
            for messages in self._queues.get(message["channel"].decode(), ()):
                messages.put_nowait(message["data"])
