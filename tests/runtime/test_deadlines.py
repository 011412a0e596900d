"""Limits on waits do what `asyncio.timeout` does, with one timer for all of them."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import pytest

from p2engine.runtime.deadlines import Deadlines
from p2engine.testing.virtual_time import run

Within = Callable[[float], AbstractAsyncContextManager[Any]]
Case = Callable[[Within], Coroutine[Any, Any, None]]


async def _news_after(seconds: float) -> None:
    """Something that comes in so many seconds of virtual time."""
    news = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, news.set)
    await news.wait()


async def _expires(within: Within) -> None:
    """What takes longer is cut off at its limit."""
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with within(5) as limit:
            await _news_after(60)
    assert loop.time() == 5
    assert limit.expired()
    await _news_after(1)  # and nothing of it is left in the task


async def _is_in_time(within: Within) -> None:
    """What is done earlier is not touched, then or later."""
    async with within(5) as limit:
        await _news_after(4)
    await _news_after(60)
    assert not limit.expired()


async def _counts_each_for_itself(within: Within) -> None:
    """Limits that began in any order end in the order of their own times."""
    ended: list[tuple[float, float]] = []

    async def wait(after: float, seconds: float) -> None:
        await _news_after(after)
        try:
            async with within(seconds):
                await _news_after(1000)
        except TimeoutError:
            ended.append((seconds, asyncio.get_running_loop().time()))

    await asyncio.gather(wait(0, 50), wait(1, 3), wait(2, 30), wait(3, 1), wait(3, 1))
    assert ended == [(3, 4), (1, 4), (1, 4), (30, 32), (50, 50)]


async def _leaves_other_cancellations_alone(within: Within) -> None:
    """A task that somebody cancels is cancelled, not late."""

    async def wait() -> None:
        async with within(5):
            await _news_after(60)

    task = asyncio.ensure_future(wait())
    await _news_after(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _leaves_a_cancellation_at_the_same_moment(within: Within) -> None:
    """A task that somebody cancels just when its time is over is cancelled."""

    async def wait() -> None:
        async with within(5):
            await _news_after(60)

    task = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(5, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def _lets_what_is_inside_finish(within: Within) -> None:
    """Who catches the cancellation and ends by itself is no error, and the task goes on uncancelled."""
    async with within(5) as limit:
        with suppress(asyncio.CancelledError):
            await _news_after(60)
        await _news_after(60)  # it is told once
    assert limit.expired()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def _passes_errors_on(within: Within) -> None:
    """An error of what is inside, a TimeoutError of its own too, comes through as it is."""
    with pytest.raises(ZeroDivisionError):
        async with within(5):
            raise ZeroDivisionError
    with pytest.raises(TimeoutError, match="its own"):
        async with within(5):
            raise TimeoutError("its own")


async def _nests(within: Within) -> None:
    """The outer limit cuts through the inner one."""
    expired: list[bool] = []

    async def wait() -> None:
        async with within(2) as outer:
            try:
                async with within(9) as inner:
                    await _news_after(60)
            finally:
                expired.extend((outer.expired(), inner.expired()))

    with pytest.raises(TimeoutError):
        await wait()
    assert expired == [True, False]


@pytest.mark.parametrize(
    "case",
    [
        _expires,
        _is_in_time,
        _counts_each_for_itself,
        _leaves_other_cancellations_alone,
        _leaves_a_cancellation_at_the_same_moment,
        _lets_what_is_inside_finish,
        _passes_errors_on,
        _nests,
    ],
)
@pytest.mark.parametrize("ours", [True, False])
def test_a_limit_is_a_timeout(case: Case, ours: bool) -> None:
    """What is said of our limits holds of asyncio's: one may stand for the other."""
    run(case(Deadlines().within if ours else asyncio.timeout))


def test_one_timer_serves_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many limits begin and end, the loop holds one timer for them; once they are over, none."""

    async def main() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        timers: list[float] = []
        call_at = loop.call_at

        def counting(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            timers.append(when)
            return call_at(when, *args, **kwargs)

        monkeypatch.setattr(loop, "call_at", counting)
        for _ in range(100):
            async with deadlines.within(5):
                pass
        assert timers == [5]
        async with deadlines.within(9):
            await _news_after(8)
        assert timers == [5, 8, 9]  # of them the news' is one
        await _news_after(100)
        assert timers == [5, 8, 9, 108]

    run(main())


def test_a_limit_needs_a_task() -> None:
    """There is nothing to cancel where no task waits."""

    async def main() -> None:
        limit = Deadlines().within(1)
        entering = limit.__aenter__()
        done = asyncio.get_running_loop().create_future()

        def enter() -> None:
            try:
                entering.send(None)
            except RuntimeError as error:
                done.set_result(str(error))

        asyncio.get_running_loop().call_soon(enter)
        assert "task" in await done

    run(main())
