"""A message is held until its job is done, by no thread; what was not done goes back to its queue."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from celery.exceptions import Reject

from p2engine.dispatch.celery_pool import pool_of

DONE = (0, "None", 0.1)  # what Celery's tracing gives for a task that returned


class Held:
    """A pool with one message in it. said: what Celery was told of it, and when it was accepted."""

    def __init__(self, begun: Future[bool] | None) -> None:
        self.said: list[Any] = []
        self.pool = pool_of(lambda: begun)(limit=1)
        self.pool.start()
        accepted: Callable[..., None] = lambda pid, at: self.said.append("accepted")  # noqa: E731
        self.pool.apply_async(lambda: DONE, callback=self.said.append, accept_callback=accepted)


def test_a_message_is_over_when_its_job_is() -> None:
    """Celery hears of its end, and may acknowledge it, only then; nobody waits for it meanwhile."""
    begun: Future[bool] = Future()
    threads = threading.active_count()
    held = Held(begun)
    assert held.said == ["accepted"]
    assert threading.active_count() == threads
    begun.set_result(True)
    assert held.said == ["accepted", DONE]
    held.pool.stop()


@pytest.mark.parametrize("how", ["not done", "cancelled"])
def test_what_was_not_done_goes_back_to_its_queue(how: str) -> None:
    """The process ends: the message is rejected, for others to take."""
    begun: Future[bool] = Future()
    held = Held(begun)
    if how == "cancelled":
        begun.cancel()
    else:
        begun.set_result(False)
    _, (failed, why, _) = held.said
    assert failed
    assert isinstance(why.exception.exc, Reject)
    assert why.exception.exc.requeue


def test_a_message_whose_job_failed_is_over(caplog: pytest.LogCaptureFixture) -> None:
    """Told in the log; the store knows what is owed, so the message need not come again."""
    begun: Future[bool] = Future()
    held = Held(begun)
    with caplog.at_level(logging.ERROR):
        begun.set_exception(ValueError("a fault"))
    assert held.said == ["accepted", DONE]
    assert "a message failed" in caplog.text


def test_a_task_that_begins_nothing_is_over_at_once() -> None:
    """As one whose arguments no task takes."""
    assert Held(None).said == ["accepted", DONE]


def test_a_pool_that_ends_waits_for_what_it_holds() -> None:
    """Celery goes on when everybody was told."""
    begun: Future[bool] = Future()
    held = Held(begun)
    ending = threading.Thread(target=held.pool.stop)
    ending.start()
    begun.set_result(True)
    ending.join(10)
    assert not ending.is_alive()
    assert held.said[-1] == DONE
