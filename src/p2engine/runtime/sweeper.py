"""Finds what nobody does: effects of dead processes, and jobs of ours that failed. The only clockwork here."""

import asyncio
import logging

from p2engine.domain.records import Job
from p2engine.errors import StoreError
from p2engine.limits import SWEEP_JOBS_MAX, SWEEP_PERIOD_S
from p2engine.runtime.world import World

log = logging.getLogger("p2engine.runtime")


class Sweeper:
    """Submits again what is due. Safe to run in many processes at once: claiming decides."""

    def __init__(self, world: World, *, period_s: float = SWEEP_PERIOD_S) -> None:
        self._world = world
        self._period_s = period_s
        self._failed: dict[str, Job] = {}
        self._task: asyncio.Task[None] | None = None

    def again(self, job: Job) -> None:
        """This job of ours failed for a reason that may pass: try it at the next sweep."""
        self._failed[str(job)] = job

    async def sweep(self) -> int:
        """One look. Returns how many jobs were handed out."""
        due = await self._world.store.due(limit=SWEEP_JOBS_MAX)  # may raise: what failed before is then kept
        failed, self._failed = self._failed, {}
        jobs = [*failed.values(), *due]
        await self._world.dispatcher.submit(*jobs)
        return len(jobs)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                log.warning("sweep failed: %s", error)
            await asyncio.sleep(self._period_s)
