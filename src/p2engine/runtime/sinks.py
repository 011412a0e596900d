"""Feeds the sinks from the log. A sink that fails or lags loses events of its own; it stops nobody."""

import asyncio
import logging
from collections.abc import Sequence

from p2engine.domain.records import Event
from p2engine.ports import EventSink, Store

log = logging.getLogger("p2engine.sinks")


class Fanout:
    """One tail for all sinks. dropped: events that a sink refused, by its name."""

    def __init__(self, store: Store, sinks: Sequence[EventSink]) -> None:
        self._store = store
        self._sinks = sinks
        self._task: asyncio.Task[None] | None = None
        self.dropped: dict[str, int] = {}

    def start(self) -> None:
        if self._sinks:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for sink in self._sinks:
            await sink.aclose()

    async def _run(self) -> None:
        async for event in self._store.tail(None):
            for sink in self._sinks:
                await self._emit(sink, event)

    async def _emit(self, sink: EventSink, event: Event) -> None:
        name = type(sink).__name__
        try:
            await sink.emit(event)
        except Exception as error:  # sinks watch; they may not stop what they watch
            self.dropped[name] = self.dropped.get(name, 0) + 1
            log.warning("sink %s failed on event %s: %r", name, event.cursor, error)
