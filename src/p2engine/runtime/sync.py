"""The engine without `async`: a loop of its own in a thread, so that it works in a script and in a notebook alike."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self, TypeVar

from p2engine.domain.records import Branch, Cursor, Event, Query
from p2engine.domain.records import Conversation as Record
from p2engine.domain.setup import Setup
from p2engine.domain.verdicts import Verdict
from p2engine.runtime.branches import Forked
from p2engine.runtime.conversation import Conversation, OnText, Reply
from p2engine.runtime.engine import Engine
from p2engine.runtime.pruning import Freed, Prunable

T = TypeVar("T")


class _Loop:
    """One event loop in one daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="p2engine", daemon=True)
        self._thread.start()

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine that runs over there. Interrupting the wait cancels it."""
        future = asyncio.run_coroutine_threadsafe(doing, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class SyncConversation:
    """A Conversation whose calls return their results. See Conversation for what each does and raises."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any], conversation: Conversation) -> None:
        self._run = run
        self._inner = conversation

    @property
    def name(self) -> str:
        return self._inner.name

    def say(self, text: str, *, branch: str | None = None, on_text: OnText | None = None) -> Reply:
        reply: Reply = self._run(self._inner.say(text, branch=branch, on_text=on_text))
        return reply

    def resume(self, *, branch: str | None = None, on_text: OnText | None = None) -> Reply | None:
        reply: Reply | None = self._run(self._inner.resume(branch=branch, on_text=on_text))
        return reply

    def cancel(self, *, branch: str | None = None) -> bool:
        return bool(self._run(self._inner.cancel(branch=branch)))

    def branches(self) -> Sequence[Branch]:
        found: Sequence[Branch] = self._run(self._inner.branches())
        return found

    def fork(self, at: int, name: str) -> Forked:
        forked: Forked = self._run(self._inner.fork(at, name))
        return forked

    def rewind(self, at: int, *, name: str | None = None, keep_running: bool = False) -> Forked:
        forked: Forked = self._run(self._inner.rewind(at, name=name, keep_running=keep_running))
        return forked

    def checkout(self, name: str, *, keep_running: bool = False) -> Branch:
        branch: Branch = self._run(self._inner.checkout(name, keep_running=keep_running))
        return branch

    def override(self, changes: Mapping[str, Any], *, lock: bool = False) -> Setup:
        setup: Setup = self._run(self._inner.override(changes, lock=lock))
        return setup

    def rate(self, score: float, *, turn: int | None = None, note: str = "") -> Verdict:
        verdict: Verdict = self._run(self._inner.rate(score, turn=turn, note=note))
        return verdict


class SyncEngine:
    """An Engine whose calls return their results; a context manager. See Engine for what each does and raises."""

    def __init__(self, opening: Callable[[], AbstractAsyncContextManager[Engine]]) -> None:
        self._opening = opening
        self._loop: _Loop | None = None
        self._open: AbstractAsyncContextManager[Engine] | None = None
        self._engine: Engine | None = None

    def __enter__(self) -> Self:
        self._loop = _Loop()
        self._open = self._opening()
        try:
            self._engine = self._loop.run(_entered(self._open))
        except BaseException:
            self._loop.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._open is not None:
            try:
                self._loop.run(_left(self._open))
            finally:
                self._loop.close()

    def conversation(self, name: str | None = None, *, agent: str | None = None) -> SyncConversation:
        return SyncConversation(self._run, self._run(self._inner.conversation(name, agent=agent)))

    def conversations(self, prefix: str = "") -> Sequence[Record]:
        found: Sequence[Record] = self._run(self._inner.conversations(prefix))
        return found

    def prunable(self, name: str, *, branches: bool = False) -> Prunable:
        plan: Prunable = self._run(self._inner.prunable(name, branches=branches))
        return plan

    def prune(self, plan: Prunable) -> None:
        self._run(self._inner.prune(plan))

    def collect(self) -> Freed:
        freed: Freed = self._run(self._inner.collect())
        return freed

    def query(self, query: Query) -> Sequence[Event]:
        found: Sequence[Event] = self._run(self._inner.query(query))
        return found

    def events(self, after: Cursor | int | None = None, *, conversation: str | None = None) -> Iterator[Event]:
        """Every event after a cursor, for ever; leaving the loop over it ends the tail."""
        tail = self._inner.events(after, conversation=conversation)
        try:
            while True:
                event: Event | None = self._run(anext(tail, None))
                if event is None:
                    return
                yield event
        finally:
            self._run(tail.aclose())  # type: ignore[attr-defined]

    @property
    def _inner(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("open the engine first: with Engine.open_sync() as engine")
        return self._engine

    def _run(self, doing: Coroutine[Any, Any, Any]) -> Any:
        if self._loop is None:
            raise RuntimeError("open the engine first: with Engine.open_sync() as engine")
        return self._loop.run(doing)


async def _entered(opening: AbstractAsyncContextManager[Engine]) -> Engine:
    return await opening.__aenter__()


async def _left(opening: AbstractAsyncContextManager[Engine]) -> None:
    await opening.__aexit__(None, None, None)
