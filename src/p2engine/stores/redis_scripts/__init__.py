"""The scripts that read and write the keys of the Redis store, each one atomic. Knows how they are loaded and called.

What a script says is told apart by its first word; `epoch` is understood here, the rest by whoever calls.
"""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, Final

from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from p2engine.errors import Rewound
from p2engine.stores.redis_server import RedisServer

NAMES: Final = ("write", "load", "claim", "due", "holders", "leave", "backlog")


class Scripts:
    """The scripts on one server. epoch, seen: how often the server went back in time, and the newest row known here."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        folder = files(__package__)
        common = (folder / "common.lua").read_text()
        self._scripts: dict[str, AsyncScript] = {
            name: server.client.register_script(common + (folder / f"{name}.lua").read_text()) for name in NAMES
        }
        self.epoch = 0
        self.seen = 0

    async def once(self, name: str, *arguments: str | bytes | int) -> Any:
        """Call a script a single time. Raises what the client raises: it may have been done all the same."""
        answer = await self._scripts[name](keys=[self._server.address.prefix], args=list(arguments))
        if answer and answer[0] == b"epoch":
            lost, self.seen, self.epoch = self.seen, 0, int(answer[1])
            raise Rewound(
                f"{self._server.address} went back in time: writes up to row {lost} were acknowledged and are gone",
                hint="what they said is lost; work goes on from what is left",
            )
        return answer

    async def __call__(self, name: str, *arguments: str | bytes | int) -> Any:
        """Call a script that may be done twice; while the server is away, again. Raises StoreError, StoreBusy."""
        return await self._server.patiently(lambda: self.once(name, *arguments))

    async def run(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """A plain command, likewise."""
        return await self._server.patiently(call)


__all__ = ["NAMES", "RedisError", "Scripts"]
