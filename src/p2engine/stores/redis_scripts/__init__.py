"""The scripts that read and write the keys of the Redis store, each one atomic. Knows how they are loaded and called.

What a script says is told apart by its first word; `epoch` is understood here, the rest by whoever calls.
"""

import asyncio
from importlib.resources import files
from typing import Any, Final, NamedTuple

from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisError

from p2engine.errors import Rewound
from p2engine.limits import CALLS_TOGETHER_MAX
from p2engine.stores.redis_server import Call, RedisServer

NAMES: Final = ("write", "load", "claim", "due", "renew", "holders", "leave", "backlog", "prune", "drain")
WITHOUT_ROOM: Final = ("renew", "leave", "prune")
"""Those that write and are done by a full server too: they free memory in the end, or say who lives in a few bytes."""


class Gathered:
    """Calls to one server: those that come while one is under way go together, in one round trip."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._waiting: list[tuple[Call, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def send(self, call: Call) -> Any:
        """What the server answers. Raises what the client raises: it may have been done all the same."""
        return await self.post(call)

    def post(self, call: Call) -> "asyncio.Future[Any]":
        """The same to come. It is sent before everything that is posted later."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((call, answer))
        if self._sending is None:
            self._sending = loop.create_task(self._send())
        return answer

    async def _send(self) -> None:
        try:
            while self._waiting:
                together = self._waiting[:CALLS_TOGETHER_MAX]
                del self._waiting[:CALLS_TOGETHER_MAX]
                try:
                    await self._have_answered(together)
                finally:
                    for _, answer in together:
                        answer.cancel()  # where this was cut short; what is answered stays so
        finally:
            self._sending = None  # here, not in a callback: a call may come before that runs

    async def _have_answered(self, together: list[tuple[Call, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._server.together([call for call, _ in together])
        except (RedisError, OSError) as error:
            answers = [error] * len(together)
        for (_, future), answer in zip(together, answers, strict=True):
            if future.done():  # whoever asked has gone
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


class Known(NamedTuple):
    """What a process knows of the server's past, by which the server sees that it has lost some of it.

    epoch: how often it went back in time. seen: the newest row known here. writer, wrote: who this is, and how many
    batches it has written in this epoch that were acknowledged.
    """

    epoch: int
    seen: int
    writer: str
    wrote: int = 0


class Scripts:
    """The scripts on one server, called by one process."""

    def __init__(self, server: RedisServer, writer: str) -> None:
        self._server = server
        folder = files(__package__)
        common = (folder / "common.lua").read_text()
        self._scripts: dict[str, AsyncScript] = {}
        for name in NAMES:
            flags = "#!lua flags=allow-oom\n" if name in WITHOUT_ROOM else ""  # must be the first line
            text = flags + common + (folder / f"{name}.lua").read_text()
            self._scripts[name] = server.client.register_script(text)
        self._calls = Gathered(server)
        self.known = Known(0, 0, writer)

    def saw(self, row: int, wrote: int) -> None:
        """A write was acknowledged; of several, the answers may come in any order."""
        known = self.known
        self.known = known._replace(seen=max(known.seen, row), wrote=max(known.wrote, wrote))

    async def once(self, name: str, *arguments: str | bytes | int) -> Any:
        """Call a script a single time. Raises what the client raises: it may have been done all the same."""
        script = self._scripts[name]
        call = ("EVALSHA", script.sha, 1, self._server.address.prefix, *arguments)
        try:
            answer = await self._calls.send(call)
        except NoScriptError:  # it has not run
            await self._server.client.script_load(script.script)
            answer = await self._calls.send(call)
        if answer and answer[0] == b"epoch":
            lost = self.known.seen
            self.known = Known(int(answer[1]), 0, self.known.writer)
            raise Rewound(
                f"{self._server.address} went back in time: writes up to row {lost} were acknowledged and are gone",
                hint="what they said is lost; work goes on from what is left",
            )
        return answer

    async def __call__(self, name: str, *arguments: str | bytes | int) -> Any:
        """Call a script that may be done twice; while the server is away, again. Raises StoreError, StoreBusy."""
        return await self._server.patiently(lambda: self.once(name, *arguments))

    async def ask(self, *call: str | bytes | int) -> Any:
        """A command that only reads, sent with the scripts that are called meanwhile. Raises what the client raises."""
        return await self._calls.send(call)

    def tell(self, channel: str, news: bytes) -> None:
        """Publish something that may be lost, before everything that is called later."""
        self._calls.post(("PUBLISH", channel, news)).add_done_callback(_leave)


def _leave(answer: "asyncio.Future[Any]") -> None:
    """Nobody asks what became of it, and asyncio is to know that."""
    if not answer.cancelled():
        answer.exception()
