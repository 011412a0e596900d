"""What a process needs beside: jobs, limits, time, names, and somebody who watches."""

from typing import Protocol

from p2engine.domain.ids import ConversationId, StackRef
from p2engine.domain.records import (
    Event,
    Job,
)


class Dispatcher(Protocol):
    """Gets jobs run, at least once, somewhere, soon. May lose, repeat and reorder them."""

    async def submit(self, *jobs: Job) -> None: ...

    async def aclose(self) -> None:
        """Stop taking jobs, let those that run end within the grace period, then cancel them."""
        ...


class Limiter(Protocol):
    """Concurrency and rate per provider."""

    async def acquire(self, provider: str) -> None: ...

    def release(self, provider: str) -> None: ...

    def pause(self, provider: str, seconds: float) -> None:
        """The provider asked for a rest: hold new calls back for that long."""
        ...


class EventSink(Protocol):
    """Watches. Can neither slow nor stop what it watches."""

    async def emit(self, event: Event) -> None: ...

    async def aclose(self) -> None: ...


class Clock(Protocol):
    def now(self) -> float:
        """Unix seconds."""
        ...


class Ids(Protocol):
    """A source of random names, so that a simulation can repeat itself."""

    def branch(self) -> StackRef: ...

    def conversation(self) -> ConversationId: ...

    def fact(self) -> str: ...
