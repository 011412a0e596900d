"""Where `def` tools run: one thread a call, a bounded number at a time. Knows threads; nothing of tools.

Threads are daemons, so that a call that never ends cannot keep the process from ending.
"""

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from p2engine.errors import ToolError
from p2engine.limits import BLOCKING_TOOLS_MAX

Ended = tuple[Any, BaseException | None]


class Threads:
    """At most `limit` calls at a time; the rest wait for a place, and that wait is no part of their time-out.

    A call that is given up goes on unseen and gives its place back. With `limit` of those about, new calls are refused.
    """

    def __init__(self, limit: int = BLOCKING_TOOLS_MAX) -> None:
        self._limit = limit
        self._places = asyncio.Semaphore(limit)
        self._stray: set[asyncio.Future[Ended]] = set()

    async def run(self, call: Callable[[], Any], *, within: Callable[[Awaitable[Ended]], Awaitable[Ended]]) -> Any:
        """What `call` returns or raises. `within` awaits its end from its start on, and may give up by raising."""
        async with self._places:
            if len(self._stray) >= self._limit:
                raise ToolError(f"{len(self._stray)} earlier calls of blocking tools never ended: no thread is free")
            ended = self._start(call)
            try:
                result, error = await within(asyncio.shield(ended))
            finally:
                if not ended.done():
                    self._stray.add(ended)
                    ended.add_done_callback(self._stray.discard)
        if error is not None:
            raise error
        return result

    def _start(self, call: Callable[[], Any]) -> asyncio.Future[Ended]:
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Ended] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            outcome = _ended(context, call)
            with suppress(RuntimeError):  # the loop may be gone before a stray call ends
                loop.call_soon_threadsafe(ended.set_result, outcome)

        threading.Thread(target=work, name="p2engine-tool", daemon=True).start()
        return ended


def _ended(context: contextvars.Context, call: Callable[[], Any]) -> Ended:
    # Raised again where the call is awaited. As a value, because a future takes no StopIteration as its exception.
    try:
        return context.run(call), None
    except BaseException as error:
        return None, error
