"""The inline dispatcher keeps the dispatcher's contract, and what it promises beyond it."""

import asyncio

import pytest

from p2engine.dispatch.inline import InlineDispatcher
from p2engine.testing.contracts.dispatcher import Dispatch, DispatcherContract, Work, job
from p2engine.testing.virtual_time import run as run_virtually


class TestInline(DispatcherContract):
    @pytest.fixture
    def dispatch(self) -> Dispatch:
        return lambda run, on_error: InlineDispatcher(run, on_error, jobs_max=self.AT_ONCE, grace_s=0.005)


def test_the_first_of_a_chain_goes_on_in_its_task() -> None:
    """A chain of effects costs one task, not one for each."""

    async def main() -> None:
        tasks: set[asyncio.Task[object] | None] = set()
        work = Work()

        async def run(one: object) -> object:
            tasks.add(asyncio.current_task())
            return await work.run(one)  # type: ignore[arg-type]

        work.following = {job(str(n)): (job(str(n + 1)),) for n in range(50)}
        dispatcher = InlineDispatcher(run, work.on_error)  # type: ignore[arg-type]
        await dispatcher.submit(job("0"))
        await work.until(lambda: job("50") in work.done)
        assert len(tasks) == 1
        await dispatcher.aclose()

    run_virtually(main())


@pytest.mark.parametrize(("needs_s", "ends"), [(4.0, "done"), (6.0, "cancelled")])
def test_the_grace_period_is_what_it_says(needs_s: float, ends: str) -> None:
    """What ends within it ends by itself; what takes longer is cancelled when it is over."""

    async def main() -> None:
        work = Work()
        work.hold(job("a"))
        loop = asyncio.get_running_loop()
        dispatcher = InlineDispatcher(work.run, work.on_error, grace_s=5.0)
        await dispatcher.submit(job("a"))
        await work.until(lambda: job("a") in work.begun)
        loop.call_later(needs_s, work.let_go)
        began = loop.time()
        await dispatcher.aclose()
        assert (work.done == [job("a")]) == (ends == "done")
        assert (work.cancelled == [job("a")]) == (ends == "cancelled")
        assert loop.time() - began == pytest.approx(min(needs_s, 5.0))

    run_virtually(main())


def test_a_job_that_will_not_be_cancelled_holds_up_nobody() -> None:
    """Closing waits for it once more and then leaves it: what it owes is still owed."""

    async def main() -> None:
        reached = asyncio.Event()

        async def run(one: object) -> tuple[()]:
            reached.set()
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if stop.is_set():
                        raise

        stop = asyncio.Event()
        dispatcher = InlineDispatcher(run, lambda _job, _error: None, grace_s=5.0)
        await dispatcher.submit(job("a"))
        await reached.wait()
        began = asyncio.get_running_loop().time()
        await dispatcher.aclose()
        assert asyncio.get_running_loop().time() - began == pytest.approx(10.0)
        stop.set()

    run_virtually(main())


async def test_a_job_may_close_its_dispatcher() -> None:
    """It does not wait for itself."""
    closed = asyncio.Event()

    async def run(one: object) -> tuple[()]:
        await dispatcher.aclose()
        closed.set()
        return ()

    dispatcher = InlineDispatcher(run, lambda _job, _error: None)
    await dispatcher.submit(job("a"))
    async with asyncio.timeout(30):
        await closed.wait()


async def test_what_closing_kept_from_being_done_is_left() -> None:
    """The job after the one that ended, one that was cancelled, and one that came too late: each is named."""
    work = Work()
    work.hold(job("a"), job("slow"))
    work.following = {job("a"): (job("b"), job("c"))}
    dispatcher = InlineDispatcher(work.run, work.on_error, grace_s=0.005)
    ends, never = (asyncio.ensure_future(dispatcher.do(job(name))) for name in ("a", "slow"))
    await work.until(lambda: work.at_once == 2)
    assert dispatcher.running == 2
    closing = asyncio.ensure_future(dispatcher.aclose())
    await asyncio.sleep(0)
    work.held[job("a")].set()
    await closing
    await dispatcher.do(job("late"))
    await asyncio.gather(ends, never)
    assert (work.done, work.failed, dispatcher.running) == ([job("a")], [], 0)
    assert sorted(dispatcher.left) == sorted([job("b"), job("c"), job("slow"), job("late")])
