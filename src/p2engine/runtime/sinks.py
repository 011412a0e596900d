"""Feeds the sinks from the log. A sink that fails or lags loses events of its own; it stops nobody."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from p2engine.domain.records import Cursor, Event, Query
from p2engine.errors import Pruned, StoreError
from p2engine.limits import SHUTDOWN_GRACE_S, SWEEP_PERIOD_S
from p2engine.ports import EventSink, Store

log = logging.getLogger("p2engine.sinks")

_NO_MORE = Cursor(sys.maxsize)


class Fanout:
    """A tail for each sink, from its start on. dropped: events that a sink refused, by its name."""

    def __init__(self, store: Store, sinks: Sequence[EventSink]) -> None:
        self._store = store
        self._sinks = sinks
        self._feeds = [_Feed(store, sink, self._emit) for sink in sinks]
        self.dropped: dict[str, int] = {}

    async def start(self) -> None:
        """What is in the log by now is not for these sinks."""
        newest = await self._store.newest() if self._feeds else Cursor()
        for feed in self._feeds:
            feed.start(newest)

    async def aclose(self) -> None:
        """Let the sinks see what is in the log by now, within the grace period."""
        await asyncio.gather(*(feed.aclose() for feed in self._feeds))
        ends = await asyncio.gather(*(sink.aclose() for sink in self._sinks), return_exceptions=True)
        for sink, end in zip(self._sinks, ends, strict=True):
            if isinstance(end, Exception):
                log.warning("sink %s failed at its end: %r", type(sink).__name__, end)

    async def _emit(self, sink: EventSink, event: Event) -> None:
        name = type(sink).__name__
        try:
            await sink.emit(event)
        except Exception as error:  # sinks watch; they may not stop what they watch
            self.dropped[name] = self.dropped.get(name, 0) + 1
            log.warning("sink %s failed on event %s: %r", name, event.cursor, error)


class _Feed:
    """One sink, and how far it is."""

    def __init__(self, store: Store, sink: EventSink, emit: Callable[[EventSink, Event], Awaitable[None]]) -> None:
        self._store = store
        self._sink = sink
        self._emit = emit
        self._task: asyncio.Task[None] | None = None
        self._cursor = Cursor()
        self._is_emitting = False
        self._whole = True
        self._moved = asyncio.Event()

    def start(self, after: Cursor) -> None:
        self._cursor = after
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        if self._task is None:
            return
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(SHUTDOWN_GRACE_S):
                await self._catch_up()
        self._task.cancel()
        await asyncio.wait((self._task,), timeout=SHUTDOWN_GRACE_S)

    async def _catch_up(self) -> None:
        newest = await self._store.events(Query(limit=1, newest=True))
        while self._is_emitting or (newest and self._cursor < newest[-1].cursor):
            self._moved.clear()
            await self._moved.wait()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    if await self._follow(self._store.tail(self._cursor, whole=self._whole)):
                        return
                except Pruned as error:
                    log.warning("sink %s missed events: %s", type(self._sink).__name__, error)
                    self._whole = False  # it goes on with what is kept
                    continue
                await asyncio.sleep(SWEEP_PERIOD_S)
        finally:
            self._cursor, self._is_emitting = _NO_MORE, False
            self._moved.set()

    async def _follow(self, tail: AsyncIterator[Event]) -> bool:
        """Whether it came to the end of the store; else the store failed, and may be back later."""
        try:
            async for event in tail:
                self._is_emitting = True
                await self._emit(self._sink, event)
                self._cursor, self._is_emitting = event.cursor, False
                self._moved.set()
        except Pruned:
            raise
        except StoreError as error:
            log.warning("sink %s waits for the store: %s", type(self._sink).__name__, error)
            return False
        else:
            return True
