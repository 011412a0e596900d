"""Finds what nobody does: effects of dead processes, and jobs of ours that failed. The only clockwork here."""

import asyncio
import logging

from p2engine.domain.ids import EffectId
from p2engine.domain.records import Job, Perform
from p2engine.errors import StoreError
from p2engine.limits import SWEEP_JOBS_MAX, SWEEP_PERIOD_S
from p2engine.runtime.bookkeeper import Bookkeeper
from p2engine.runtime.world import World

log = logging.getLogger("p2engine.runtime")


class Sweeper:
    """Submits again what is due. Safe to run in many processes at once: claiming decides."""

    def __init__(self, world: World, *, period_s: float = SWEEP_PERIOD_S, bookkeeper: Bookkeeper | None = None) -> None:
        """bookkeeper: looks after the books between two sweeps of all."""
        self._world = world
        self._bookkeeper = bookkeeper
        self.period_s = period_s
        self._failed: dict[str, Job] = {}
        self._unknown: set[EffectId] = set()
        self._task: asyncio.Task[None] | None = None

    def again(self, job: Job) -> None:
        """This job of ours failed for a reason that may pass: try it at the next sweep."""
        self._failed[str(job)] = job

    async def sweep(self, *, of_all: bool = True) -> int:
        """One look. Returns how many jobs were handed out. of_all: what nobody does, beside what failed here."""
        # may raise: what failed before is then kept
        due = await self._world.store.due(limit=SWEEP_JOBS_MAX) if of_all else ()
        orphans = await self._orphans() if self._world.doubts else []
        failed, self._failed = self._failed, {}
        await self._world.here.submit(*failed.values(), *orphans)
        await self._world.dispatcher.submit(*due)
        return len(due) + len(failed) + len(orphans)

    async def _orphans(self) -> list[Job]:
        """Effects that the store says are ours and we know nothing of: a write that failed had been done after all.

        They are taken up when two sweeps find them, since the answer to a write may still be on its way; one that
        comes later yet changes nothing, for what is adopted is not begun again.
        """
        world = self._world
        known = {*world.born, *world.busy, *world.kept, *world.stuck}
        unknown = set(await world.store.held(world.owner)) - known
        orphans, self._unknown = unknown & self._unknown, unknown
        if orphans or not unknown:
            world.doubts = False
            self._unknown = set()
        world.adopted |= orphans
        return [Perform(effect) for effect in orphans]

    def start(self, *, of_all: bool = True) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(of_all))

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, of_all: bool) -> None:
        while True:
            try:
                await self.sweep(of_all=of_all)
            except StoreError as error:
                self._world.doubt(error)
                log.warning("sweep failed: %s", error)
            await asyncio.sleep(self.period_s)
            if of_all and self._bookkeeper is not None:
                await self._bookkeeper.sweep()
