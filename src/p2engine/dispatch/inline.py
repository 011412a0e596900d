"""Jobs as tasks of this process's loop: bounded in number, the first of a chain in the task that found it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from p2engine.domain.records import Job
from p2engine.limits import CONCURRENT_EFFECTS_MAX, SHUTDOWN_GRACE_S

Run = Callable[[Job], Awaitable[Sequence[Job]]]
"""Does one job and returns those that follow from it."""


class InlineDispatcher:
    """Runs jobs here. `on_error` is told of a job that raised; the job is not repeated by itself.

    left: jobs that closing kept from being done, or cut off.
    """

    def __init__(
        self,
        run: Run,
        on_error: Callable[[Job, BaseException], None],
        *,
        jobs_max: int = CONCURRENT_EFFECTS_MAX,
        grace_s: float = SHUTDOWN_GRACE_S,
    ) -> None:
        self._run = run
        self._on_error = on_error
        self._room = asyncio.Semaphore(jobs_max)
        self._grace_s = grace_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.left: list[Job] = []

    @property
    def running(self) -> int:
        """How many jobs, each with what follows from it, run or wait for room."""
        return len(self._tasks)

    async def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self._start(job)

    async def do(self, job: Job) -> None:
        """Run one job, and the chain that follows from it, until its end or until closing cuts it off."""
        task = self._start(job)
        if task is not None:
            await asyncio.wait((task,))

    async def aclose(self) -> None:
        """Take no more jobs; those that run may end by themselves within the grace period, then are cancelled."""
        self._closed = True
        running = {task for task in self._tasks if task is not asyncio.current_task()}
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=self._grace_s)
        for task in late:
            task.cancel()
        if late:  # one that will not be cancelled is left behind: what it owes is still owed in the store
            await asyncio.wait(late, timeout=self._grace_s)

    def _start(self, job: Job) -> "asyncio.Task[None] | None":
        if self._closed:  # still owed in the store: whoever comes next does it
            self.left.append(job)
            return None
        chain = [job]
        task = asyncio.get_running_loop().create_task(self._follow(chain))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, chain[-1]))
        return task

    def _ended(self, task: "asyncio.Task[None]", job: Job) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self.left.append(job)
        elif (error := task.exception()) is not None:
            self._on_error(job, error)

    async def _follow(self, chain: list[Job]) -> None:
        """Do the only job of `chain`, then the first that follows from it, and so on; the others start beside."""
        async with self._room:
            while following := await self._run(chain[-1]):
                if self._closed:
                    self.left += following
                    return
                chain[-1], *others = following
                for other in others:
                    self._start(other)
