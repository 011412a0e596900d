"""The one door to the writing connection: when work is committed, with whom, and on which thread.

Direct (no flush per commit): each piece of work at once on the loop. Grouped (every commit flushed): what comes within
one tick of the loop is flushed together, on the loop while the disk is quick; what comes alone is not kept waiting for
company, unless the work before it had some, and whoever brings it goes on at once with the next. Whenever another
process holds the lock, or the disk is slow, the connection is lent to a thread, which waits, and all work goes through
it until the queue is empty. Either the loop or the thread has the connection, never both, so it needs no lock.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from p2engine.errors import P2EngineError, UsageError
from p2engine.limits import BUSY_WAIT_S, GROUP_COMMIT_MAX
from p2engine.stores.sqlite_file import busy, store_error

T = TypeVar("T")
Work = Callable[[sqlite3.Cursor], T]
"""Runs inside a transaction. When it raises a P2EngineError it must have written nothing: its neighbours go on."""

FLUSH_ON_LOOP_MAX_S = 0.003  # a disk that flushes slower than this gets a thread: the loop has others to serve


class Again(Exception):
    """Raised by work that has found its writing refused: all of its transaction is undone and done once more."""


class _Failed(NamedTuple):
    error: Exception


class _Waiting(NamedTuple):
    work: Work[Any]
    done: "asyncio.Future[Any]"


class Writer:
    """Commits work, in the order in which it comes.

    committed: called on the loop after each commit. undone: called where a transaction was, for nothing of it stands.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        path: str,
        *,
        grouped: bool,
        committed: Callable[[], None],
        undone: Callable[[], None] = lambda: None,
        busy_wait_s: float = BUSY_WAIT_S,
    ) -> None:
        self._db = db
        self._cursor = db.cursor()  # one for all: making one costs a quarter of a short statement
        self._path = path
        self._grouped = grouped
        self._committed = committed
        self._undone = undone
        self._busy_wait_ms = int(busy_wait_s * 1000)
        self._queue: deque[_Waiting] = deque()
        self._lent: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="p2engine-sqlite")
        self._due = False  # whether this tick's flush is on its way
        self._slow = False
        self._was_alone = False  # the last piece of work had no company
        self._alone: asyncio.Task[Any] | None = None  # whose work was committed alone within this tick of the loop
        self._alone_since = 0.0

    async def run(self, work: Work[T]) -> T:
        """Do `work` in a transaction; committed when this returns. Raises what it raises, StoreBusy and StoreError.

        When the wait for it is cancelled, it may be done or not.
        """
        if self._lent is None and (not self._grouped or self._is_alone()):
            try:
                outcome = self._commit([work])[0]
            except sqlite3.OperationalError:
                pass  # another process holds the lock: wait for it in the thread
            else:
                self._committed()
                if self._grouped and self._must_pass_on():
                    await asyncio.sleep(0)
                if isinstance(outcome, _Failed):
                    raise outcome.error
                result: T = outcome
                return result
        return await self._enqueue(work)

    async def aclose(self) -> None:
        """Commit what is queued; the connection is the caller's again."""
        while self._queue or self._lent is not None:
            if self._lent is None:
                self._flush()
            else:
                await asyncio.wait([self._lent])
        self._thread.shutdown()

    def _enqueue(self, work: Work[T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._queue.append(_Waiting(work, done))
        if self._lent is not None:
            pass
        elif not self._grouped:
            self._lend()
        elif len(self._queue) >= GROUP_COMMIT_MAX:
            self._flush()
        elif not self._due:
            self._due = True
            loop.call_soon(loop.call_soon, self._flush)  # twice, so that whatever this tick wakes can still join
        return done

    def _flush(self) -> None:
        self._due = False
        if self._lent is not None or not self._queue:
            return
        if self._slow:
            self._lend()
            return
        group = self._take()
        try:
            outcomes = self._commit([waiting.work for waiting in group])
        except sqlite3.OperationalError:
            self._queue.extendleft(reversed(group))
            self._lend()
        except BaseException as fault:
            _fail(group, fault)
            raise
        else:
            self._resolve(group, outcomes)

    def _is_alone(self) -> bool:
        """Whether the work has no company: nobody else brought any within this tick of the loop."""
        is_first = self._alone is None or self._alone is asyncio.current_task()
        return is_first and self._was_alone and not (self._queue or self._slow)

    def _must_pass_on(self) -> bool:
        """Whether others must have the loop before the task that has just brought work alone brings more."""
        if self._alone is None:
            self._alone, self._alone_since = asyncio.current_task(), time.perf_counter()
            asyncio.get_running_loop().call_soon(self._end_tick)
        return time.perf_counter() - self._alone_since > FLUSH_ON_LOOP_MAX_S

    def _end_tick(self) -> None:
        self._alone = None

    def _take(self) -> list[_Waiting]:
        self._was_alone = len(self._queue) == 1 and self._alone is None
        return [self._queue.popleft() for _ in range(min(len(self._queue), GROUP_COMMIT_MAX))]

    def _lend(self) -> None:
        self._lent = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        group: list[_Waiting] = []
        try:
            while self._queue:
                group = self._take()
                works = [waiting.work for waiting in group]
                outcomes = await loop.run_in_executor(self._thread, self._commit_waiting, works)
                self._resolve(group, outcomes)
        except BaseException as fault:
            _fail(group, fault)
            raise
        finally:
            self._lent = None

    def _resolve(self, group: Sequence[_Waiting], outcomes: Sequence[Any]) -> None:
        self._committed()
        for waiting, outcome in zip(group, outcomes, strict=True):
            if waiting.done.done():
                continue
            if isinstance(outcome, _Failed):
                waiting.done.set_exception(outcome.error)
            else:
                waiting.done.set_result(outcome)

    def _commit_waiting(self, works: Sequence[Work[Any]]) -> list[Any]:
        """In the thread, where waiting for a lock stalls nobody else."""
        self._db.execute(f"PRAGMA busy_timeout={self._busy_wait_ms}")
        try:
            return self._commit(works)
        except sqlite3.OperationalError as error:
            return [_Failed(store_error(error, self._path)) for _ in works]
        finally:
            self._db.execute("PRAGMA busy_timeout=0")

    def _commit(self, works: Sequence[Work[Any]]) -> list[Any]:
        """The result of each, or how it failed; notes whether it took too long for the loop.

        Raises OperationalError when the lock is another's.
        """
        started = time.perf_counter()
        try:
            return self._transaction(works)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            if isinstance(error, sqlite3.Error) and busy(error):
                raise
            if len(works) == 1:
                return [self._failed(error)]
            # One of them is at fault, or the disk is: each answers for itself.
            return [self._commit_alone(work) for work in works]
        finally:
            self._slow = time.perf_counter() - started > FLUSH_ON_LOOP_MAX_S

    def _commit_alone(self, work: Work[Any]) -> Any:
        try:
            return self._transaction([work])[0]
        except (sqlite3.Error, ValueError, OverflowError) as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> _Failed:
        if isinstance(error, sqlite3.Error):
            return _Failed(store_error(error, self._path))
        return _Failed(UsageError(f"this cannot be stored: {error}"))

    def _transaction(self, works: Sequence[Work[Any]]) -> list[Any]:
        cursor = self._cursor
        while True:
            outcomes: list[Any] = []
            cursor.execute("BEGIN IMMEDIATE")
            try:
                for work in works:
                    try:
                        outcomes.append(work(cursor))
                    except P2EngineError as refusal:
                        outcomes.append(_Failed(refusal))
                cursor.execute("COMMIT")
            except Again:
                self._undone()
                cursor.execute("ROLLBACK")
            except BaseException:
                self._undone()
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            else:
                return outcomes


def _fail(group: Sequence[_Waiting], fault: BaseException) -> None:
    """A fault of ours: nobody may wait for ever because of it."""
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(fault)
