"""Feeds the sinks from the log. A sink that fails or lags loses events of its own; it stops nobody."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from p2engine.domain.records import Cursor, Event, Query
from p2engine.limits import SHUTDOWN_GRACE_S
from p2engine.ports import EventSink, Store

log = logging.getLogger("p2engine.sinks")


class Fanout:
    """One tail for all sinks, from its start on. dropped: events that a sink refused, by its name."""

    def __init__(self, store: Store, sinks: Sequence[EventSink]) -> None:
        self._store = store
        self._sinks = sinks
        self._task: asyncio.Task[None] | None = None
        self._cursor = Cursor()
        self._moved = asyncio.Event()
        self.dropped: dict[str, int] = {}

    def start(self) -> None:
        if self._sinks:
            self._task = asyncio.get_running_loop().create_task(self._run(self._store.tail(None)))

    async def aclose(self) -> None:
        """Let the sinks see what is in the log by now, within the grace period."""
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_GRACE_S):
                    await self._catch_up()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for sink in self._sinks:
            await sink.aclose()

    async def _catch_up(self) -> None:
        newest = await self._store.events(Query(limit=1, newest=True))
        while newest and self._cursor < newest[-1].cursor:
            self._moved.clear()
            await self._moved.wait()

    async def _run(self, tail: AsyncIterator[Event]) -> None:
        async for event in tail:
            for sink in self._sinks:
                await self._emit(sink, event)
            self._cursor = event.cursor
            self._moved.set()

    async def _emit(self, sink: EventSink, event: Event) -> None:
        name = type(sink).__name__
        try:
            await sink.emit(event)
        except Exception as error:  # sinks watch; they may not stop what they watch
            self.dropped[name] = self.dropped.get(name, 0) + 1
            log.warning("sink %s failed on event %s: %r", name, event.cursor, error)
