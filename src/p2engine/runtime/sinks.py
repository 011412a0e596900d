"""Feeds the sinks from the log. A sink that fails or lags loses events of its own; it stops nobody."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from p2engine.domain.records import Cursor, Event, Query
from p2engine.errors import StoreError
from p2engine.limits import SHUTDOWN_GRACE_S, SWEEP_PERIOD_S
from p2engine.ports import EventSink, Store

log = logging.getLogger("p2engine.sinks")

_NO_MORE = Cursor(sys.maxsize)


class Fanout:
    """A tail for each sink, from its start on. dropped: events that a sink refused, by its name."""

    def __init__(self, store: Store, sinks: Sequence[EventSink]) -> None:
        self.dropped: dict[str, int] = {}
        self._feeds = [_Feed(store, sink, self.dropped) for sink in sinks]

    def start(self) -> None:
        for feed in self._feeds:
            feed.start()

    async def aclose(self) -> None:
        """Let the sinks see what is in the log by now, within the grace period."""
        await asyncio.gather(*(feed.aclose() for feed in self._feeds))


class _Feed:
    """One sink and how far it is."""

    def __init__(self, store: Store, sink: EventSink, dropped: dict[str, int]) -> None:
        self._store = store
        self._sink = sink
        self._name = type(sink).__name__
        self._dropped = dropped
        self._task: asyncio.Task[None] | None = None
        self._cursor = Cursor()
        self._is_emitting = False
        self._moved = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(self._store.tail(None)))

    async def aclose(self) -> None:
        if self._task is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_GRACE_S):
                    await self._catch_up()
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=SHUTDOWN_GRACE_S)
        try:
            await self._sink.aclose()
        except Exception as error:  # sinks watch; they may not stop what they watch, nor that it ends
            log.warning("sink %s failed at its end: %r", self._name, error)

    async def _catch_up(self) -> None:
        newest = await self._newest()
        while self._is_emitting or self._cursor < newest:
            self._moved.clear()
            await self._moved.wait()

    async def _newest(self) -> Cursor:
        found = await self._store.events(Query(limit=1, newest=True))
        return found[-1].cursor if found else Cursor()

    async def _run(self, tail: AsyncIterator[Event]) -> None:
        try:
            self._cursor = await self._newest()  # what was there before is not for this sink
            while True:
                try:
                    await self._follow(tail)
                    return
                except StoreError as error:
                    log.warning("sink %s waits for the store: %s", self._name, error)
                    await asyncio.sleep(SWEEP_PERIOD_S)
                    tail = self._store.tail(self._cursor)
        finally:
            self._cursor, self._is_emitting = _NO_MORE, False
            self._moved.set()

    async def _follow(self, tail: AsyncIterator[Event]) -> None:
        async for event in tail:
            self._is_emitting = True
            await self._emit(event)
            self._cursor, self._is_emitting = event.cursor, False
            self._moved.set()

    async def _emit(self, event: Event) -> None:
        try:
            await self._sink.emit(event)
        except Exception as error:  # sinks watch; they may not stop what they watch
            self._dropped[self._name] = self._dropped.get(self._name, 0) + 1
            log.warning("sink %s failed on event %s: %r", self._name, event.cursor, error)
