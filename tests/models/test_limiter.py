"""Turns, rates and pauses of the limiter that is kept in one process. Time is virtual."""

from __future__ import annotations

import asyncio

import pytest

from p2engine.models.limiter import LocalLimiter
from p2engine.ports import Limiter
from p2engine.testing import virtual_time


async def starts(limiter: LocalLimiter, provider: str, calls: int, seconds: float) -> list[float]:
    """When each of `calls` calls, made together and each taking so long, began."""
    began: list[float] = []

    async def call() -> None:
        await limiter.acquire(provider)
        began.append(asyncio.get_running_loop().time())
        await asyncio.get_running_loop().create_task(passing(seconds))
        limiter.release(provider)

    async with asyncio.TaskGroup() as group:
        for _ in range(calls):
            group.create_task(call())
    return began


async def passing(seconds: float) -> None:
    """Ends when that much time of the loop has passed."""
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, passed.set)
    await passed.wait()


def test_it_is_a_limiter() -> None:
    """It has the methods of the port."""
    limiter: Limiter = LocalLimiter()
    assert limiter


def test_no_more_calls_run_at_once_than_allowed() -> None:
    """Ten calls of one second, four at a time, begin at 0, 1 and 2 seconds."""
    began = virtual_time.run(starts(LocalLimiter(4), "a", 10, 1.0))
    assert began == [0.0] * 4 + [1.0] * 4 + [2.0] * 2


def test_a_provider_may_have_a_bound_of_its_own() -> None:
    """`at_once` holds for the providers it names, `concurrency` for the others."""
    limiter = LocalLimiter(4, at_once={"a": 1})
    assert virtual_time.run(starts(limiter, "a", 3, 1.0)) == [0.0, 1.0, 2.0]
    assert virtual_time.run(starts(LocalLimiter(4, at_once={"a": 1}), "b", 4, 1.0)) == [0.0] * 4


def test_providers_do_not_wait_for_one_another() -> None:
    """A provider that is full or paused holds back nobody else."""

    async def scene() -> float:
        limiter = LocalLimiter(1)
        await limiter.acquire("a")
        limiter.pause("a", 100)
        await limiter.acquire("b")
        return asyncio.get_running_loop().time()

    assert virtual_time.run(scene()) == 0.0


def test_a_rate_holds_in_every_minute() -> None:
    """Seven calls at three a minute begin three at 0, three at 60 and one at 120 seconds."""
    began = virtual_time.run(starts(LocalLimiter(per_minute={"a": 3}), "a", 7, 0.1))
    assert began == pytest.approx([0, 0, 0, 60, 60, 60, 120])


def test_a_pause_holds_new_calls_back() -> None:
    """Calls that come after a pause wait for its end; the longest pause counts, also one that comes meanwhile."""

    async def scene() -> list[float]:
        limiter = LocalLimiter()
        limiter.pause("a", 10)
        limiter.pause("a", 4)
        asyncio.get_running_loop().call_later(5, limiter.pause, "a", 20)
        return await starts(limiter, "a", 3, 1.0)

    assert virtual_time.run(scene()) == pytest.approx([25, 25, 25])


def test_a_pause_that_is_over_costs_nothing() -> None:
    """After the pause calls begin at once."""

    async def scene() -> list[float]:
        limiter = LocalLimiter()
        limiter.pause("a", 10)
        await passing(11)
        return await starts(limiter, "a", 2, 1.0)

    assert virtual_time.run(scene()) == pytest.approx([11, 11])


def test_who_asked_first_goes_first() -> None:
    """Turns are given in the order they were asked for, after a pause too."""

    async def scene() -> list[int]:
        limiter, order = LocalLimiter(2), list[int]()
        limiter.pause("a", 5)

        async def call(number: int) -> None:
            await limiter.acquire("a")
            order.append(number)
            await passing(1)
            limiter.release("a")

        async with asyncio.TaskGroup() as group:
            for number in range(9):
                group.create_task(call(number))
        return order

    assert virtual_time.run(scene()) == list(range(9))


@pytest.mark.parametrize("paused", [False, True])
def test_a_cancelled_wait_gives_its_turn_back(paused: bool) -> None:
    """Whoever stops waiting, for a turn or for a pause, takes nothing with it."""

    async def scene() -> None:
        limiter = LocalLimiter(1)
        if paused:
            limiter.pause("a", 50)
        else:
            await limiter.acquire("a")
        waiting = [asyncio.create_task(limiter.acquire("a")) for _ in range(3)]
        await passing(1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if not paused:
            limiter.release("a")
        await limiter.acquire("a")

    virtual_time.run(scene())
