"""An event loop whose time passes at once: code that waits for minutes is tested in milliseconds.

For code that waits for time and for itself. What takes real time, a socket say, has to be awaited inside
`loop.outside()`: meanwhile virtual time stands still.
"""

import asyncio
import selectors
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, on a VirtualTimeLoop."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """When nothing is ready, it jumps to the next timer. Starts at 0 seconds; `time()` says how far it came."""

    def __init__(self) -> None:
        self._now = 0.0
        self.outsiders = 0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now

    @contextmanager
    def outside(self) -> Iterator[None]:
        """While something is awaited that takes real time."""
        self.outsiders += 1
        try:
            yield
        finally:
            self.outsiders -= 1

    def jump(self, seconds: float) -> None:
        """Let that much time have passed."""
        self._now += seconds


class _Jumping(selectors.BaseSelector):
    """A real selector that never waits: it has the loop jump instead."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or (timeout > 0 and self._loop.outsiders):
            return self._real.select(None)
        ready = self._real.select(0)
        if not ready:
            self._loop.jump(max(0.0, timeout))
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()
