"""What every Dispatcher does: jobs are run at least once, not too many at a time, until it is closed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from p2engine.domain.ids import EffectId
from p2engine.domain.records import Job, Perform
from p2engine.ports import Dispatcher

Run = Callable[[Job], Awaitable[Sequence[Job]]]
OnError = Callable[[Job, BaseException], None]
Dispatch = Callable[[Run, OnError], Dispatcher]

PATIENCE_S = 30.0
MANY = 300


def job(name: str) -> Perform:
    return Perform(EffectId(f"{name}:0.0"), "think")


class Work:
    """What the jobs of a test do: each is noted, some wait to be let go, some raise, some are followed by others."""

    def __init__(self) -> None:
        self.begun: list[Job] = []
        self.done: list[Job] = []
        self.failed: list[tuple[Job, BaseException]] = []
        self.cancelled: list[Job] = []
        self.following: dict[Job, Sequence[Job]] = {}
        self.raising: dict[Job, Exception] = {}
        self.held: dict[Job, asyncio.Event] = {}
        self.at_once = 0
        self.most = 0
        self._changed = asyncio.Event()

    async def run(self, job: Job) -> Sequence[Job]:
        self.begun.append(job)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self._changed.set()
        try:
            await asyncio.sleep(0)
            if job in self.held:
                await self.held[job].wait()
            if job in self.raising:
                raise self.raising[job]
        except asyncio.CancelledError:
            self.cancelled.append(job)
            raise
        finally:
            self.at_once -= 1
            self._changed.set()
        self.done.append(job)
        return self.following.get(job, ())

    def on_error(self, job: Job, error: BaseException) -> None:
        self.failed.append((job, error))
        self._changed.set()

    def hold(self, *jobs: Job) -> None:
        """These wait, once they have begun, until they are let go."""
        self.held |= {job: asyncio.Event() for job in jobs}

    def let_go(self) -> None:
        for event in self.held.values():
            event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class DispatcherContract:
    """A subclass gives the fixture `dispatch`: how a dispatcher is made that runs jobs in this process, at most four
    at a time, with a grace period of no more than a few milliseconds."""

    AT_ONCE = 4

    async def test_every_job_is_run(self, dispatch: Dispatch) -> None:
        """What is submitted is run, at least once, without anybody waiting for it."""
        work = Work()
        dispatcher = dispatch(work.run, work.on_error)
        jobs = [job(str(number)) for number in range(MANY)]
        await dispatcher.submit(*jobs[:200])
        await dispatcher.submit(*jobs[200:])
        await work.until(lambda: len(set(work.done)) == MANY)
        await dispatcher.aclose()

    async def test_what_follows_is_run(self, dispatch: Dispatch) -> None:
        """Jobs that a job returns are run too, and those that follow from them."""
        work = Work()
        work.following = {job("a"): (job("b"), job("c")), job("b"): (job("d"),), job("c"): (job("e"), job("f"))}
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("a"))
        await work.until(lambda: set(work.done) == {job(name) for name in "abcdef"})
        await dispatcher.aclose()

    async def test_a_long_chain_is_run_to_its_end(self, dispatch: Dispatch) -> None:
        """However many jobs follow one another."""
        work = Work()
        work.following = {job(str(number)): (job(str(number + 1)),) for number in range(MANY)}
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("0"))
        await work.until(lambda: job(str(MANY)) in work.done)
        await dispatcher.aclose()

    async def test_not_too_many_at_a_time(self, dispatch: Dispatch) -> None:
        """Jobs beyond the bound wait for room; submitting them does not."""
        work = Work()
        jobs = [job(str(number)) for number in range(3 * self.AT_ONCE)]
        work.hold(*jobs)
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(*jobs)
        await work.until(lambda: work.at_once == self.AT_ONCE)
        work.let_go()
        await work.until(lambda: len(set(work.done)) == len(jobs))
        assert work.most == self.AT_ONCE
        await dispatcher.aclose()

    async def test_one_that_waits_holds_up_nobody(self, dispatch: Dispatch) -> None:
        """As long as there is room, jobs run beside one that takes long."""
        work = Work()
        work.hold(job("slow"))
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("slow"), *(job(str(number)) for number in range(20)))
        await work.until(lambda: len(set(work.done)) == 20)
        assert job("slow") not in work.done
        work.let_go()
        await work.until(lambda: job("slow") in work.done)
        await dispatcher.aclose()

    async def test_an_error_is_told_with_its_job(self, dispatch: Dispatch) -> None:
        """The job that raised is named, also in the middle of a chain; the others go on."""
        work = Work()
        error = RuntimeError("broken")
        work.following = {job("a"): (job("b"), job("c")), job("b"): (job("d"),)}
        work.raising = {job("b"): error}
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("a"))
        await work.until(lambda: bool(work.failed) and job("c") in work.done)
        assert work.failed == [(job("b"), error)]
        assert job("d") not in work.begun
        await dispatcher.aclose()

    async def test_closing_lets_what_runs_end(self, dispatch: Dispatch) -> None:
        """A job that is about to end, ends; what would follow from it is left for whoever comes next."""
        work = Work()
        work.hold(job("a"))
        work.following = {job("a"): (job("b"),)}
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("a"))
        await work.until(lambda: job("a") in work.begun)
        closing = asyncio.ensure_future(dispatcher.aclose())
        await asyncio.sleep(0)
        work.let_go()
        await closing
        assert work.done == [job("a")]
        assert work.begun == [job("a")]

    async def test_closing_cancels_what_does_not_end(self, dispatch: Dispatch) -> None:
        """After the grace period a job is cancelled; that is no error, and closing returns."""
        work = Work()
        work.hold(job("a"), job("b"))
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("a"), job("b"))
        await work.until(lambda: work.at_once == 2)
        async with asyncio.timeout(PATIENCE_S):
            await dispatcher.aclose()
        assert set(work.cancelled) == {job("a"), job("b")}
        assert work.failed == []
        assert work.done == []

    async def test_what_is_submitted_after_closing_is_left(self, dispatch: Dispatch) -> None:
        """It is not run, and that is no error: it is owed in the store."""
        work = Work()
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.aclose()
        await dispatcher.submit(job("a"))
        for _ in range(10):
            await asyncio.sleep(0)
        assert work.begun == []

    async def test_closing_twice_is_closing(self, dispatch: Dispatch) -> None:
        """With jobs running, with none, and a second time."""
        work = Work()
        dispatcher = dispatch(work.run, work.on_error)
        await dispatcher.submit(job("a"))
        await dispatcher.aclose()
        await dispatcher.aclose()
