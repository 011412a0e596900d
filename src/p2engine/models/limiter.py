"""How many model calls may be under way, and how many may start: per provider, for one process and one event loop."""

import asyncio
from collections import deque
from collections.abc import Mapping

from p2engine.limits import MODEL_CONCURRENCY_MAX

_MINUTE_S = 60.0


class LocalLimiter:
    """A Limiter that is kept in this process. Time is the event loop's.

    concurrency: calls of one provider at once; at_once: the same for single providers. per_minute: calls of a
    provider that may start within any 60 seconds; providers without an entry have no rate. Whoever asked first goes
    first.
    """

    def __init__(
        self,
        concurrency: int = MODEL_CONCURRENCY_MAX,
        *,
        at_once: Mapping[str, int] | None = None,
        per_minute: Mapping[str, int] | None = None,
    ) -> None:
        self._concurrency = concurrency
        self._at_once = dict(at_once or {})
        self._per_minute = dict(per_minute or {})
        self._lanes: dict[str, _Lane] = {}

    async def acquire(self, provider: str) -> None:
        """Wait for a turn. Each one that was had is given back with `release`."""
        await self._lane(provider).enter()

    def release(self, provider: str) -> None:
        """Give a turn back."""
        self._lane(provider).slots.release()

    def pause(self, provider: str, seconds: float) -> None:
        """Hold back the provider's new calls for `seconds` from now. The longest pause asked for counts."""
        lane = self._lane(provider)
        lane.opens_at = max(lane.opens_at, asyncio.get_running_loop().time() + seconds)

    def _lane(self, provider: str) -> "_Lane":
        lane = self._lanes.get(provider)
        if lane is None:
            lane = self._lanes[provider] = _Lane(
                self._at_once.get(provider, self._concurrency), self._per_minute.get(provider)
            )
        return lane


class _Lane:
    """The calls of one provider: slots for those under way, and a gate that they start through one by one."""

    def __init__(self, concurrency: int, per_minute: int | None) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.opens_at = 0.0
        self._gate = asyncio.Lock()
        self._starts: deque[float] | None = None if per_minute is None else deque(maxlen=per_minute)

    async def enter(self) -> None:
        await self.slots.acquire()
        started = False
        try:
            if self._gate.locked() or self._closed_s() > 0:
                async with self._gate:
                    await self._opening()
            started = True
        finally:
            if not started:
                self.slots.release()
        if self._starts is not None:
            self._starts.append(asyncio.get_running_loop().time())

    async def _opening(self) -> None:
        wait_s = self._closed_s()
        while wait_s > 0:
            await asyncio.sleep(wait_s)
            wait_s = self._closed_s()  # a pause may have grown meanwhile

    def _closed_s(self) -> float:
        """Seconds until the next call may start."""
        if not self.opens_at and self._starts is None:
            return 0.0
        opens_at = self.opens_at
        if self._starts is not None and len(self._starts) == self._starts.maxlen:
            opens_at = max(opens_at, self._starts[0] + _MINUTE_S)
        return opens_at - asyncio.get_running_loop().time()
