"""Celery's pool for tasks that only hand their job to an event loop: a message is held without a thread of its own.

Knows Celery's pools and futures; nothing of jobs. A task is over when its future is, and acknowledged then.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from celery.concurrency.base import BasePool, ExceptionInfo, apply_target
from celery.exceptions import Reject

log = logging.getLogger("p2engine.dispatch")

Taken = Callable[[], "Future[bool] | None"]
"""What the task has begun that was just called. False: it was not done here, and goes back to its queue."""


def pool_of(taken: Taken) -> type[BasePool]:
    """The pool of one worker; Celery makes it."""

    class HandingPool(BasePool):  # type: ignore[misc]
        body_can_be_buffer = True
        signal_safe = False

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._held = 0
            self._changed = threading.Condition()

        def on_apply(
            self,
            target: Callable[..., Any],
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
            callback: Callable[[Any], None] = lambda _: None,
            accept_callback: Callable[..., None] | None = None,
            **_: Any,
        ) -> None:
            apply_target(target, args, kwargs, lambda result: self._hold(result, callback), accept_callback)

        def on_stop(self) -> None:
            """Wait for what runs: whoever ends this process sees to its end."""
            with self._changed:
                self._changed.wait_for(lambda: not self._held)

        def _hold(self, result: Any, callback: Callable[[Any], None]) -> None:
            doing = taken()
            if doing is None:  # the task did not get so far
                callback(result)
                return
            with self._changed:
                self._held += 1
            doing.add_done_callback(lambda done: self._let_go(done, result, callback))

        def _let_go(self, done: "Future[bool]", result: Any, callback: Callable[[Any], None]) -> None:
            try:
                callback(result if _is_done(done) else _handed_back())
            finally:
                with self._changed:
                    self._held -= 1
                    self._changed.notify_all()

    return HandingPool


def _is_done(done: "Future[bool]") -> bool:
    if done.cancelled():
        return False
    if (error := done.exception()) is not None:  # what it was for is still owed, and a sweep finds it
        log.error("a message failed", exc_info=error)
        return True
    return done.result()


def _handed_back() -> tuple[int, ExceptionInfo, float]:
    """What Celery takes for a task that wants its message back on the queue."""
    try:
        raise Reject("this worker has ended", requeue=True)  # noqa: TRY301 — where it was raised, Celery reads it
    except Reject:
        return 1, ExceptionInfo(internal=True), 0.0
