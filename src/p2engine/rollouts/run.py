"""Running a rollout: its trials in their order, so many at once, within its budget, until the end or a word to stop.

Whoever runs it may die: what was begun goes on by itself, and the next one takes up what is not written down yet.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import groupby
from typing import Any

import msgspec

from p2engine.domain.setup import Spent
from p2engine.limits import TRIALS_AT_ONCE
from p2engine.rollouts import journal
from p2engine.rollouts.earlier import Result, told
from p2engine.rollouts.journal import Rollout, Status
from p2engine.rollouts.news import News, following
from p2engine.rollouts.plan import plan, waves
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.spec import Team, Trial, Variant
from p2engine.rollouts.trial import OpenBook, Scene, cut_off, is_cut_off, play, trial_name
from p2engine.runtime.engine import Engine

OnResult = Callable[[TrialResult], None]


class Runner:
    """Runs what is left of one rollout. on_result: told every trial as it ends, and first those that had ended before.

    trials: all of it. results: by key. running: the conversations of trials that go on now. spent: by all so far.
    """

    def __init__(
        self, engine: Engine, rollout: Rollout, *, open_book: OpenBook | None = None, on_result: OnResult | None = None
    ) -> None:
        options, spec = rollout.options, rollout.spec
        self.rollout = rollout
        self.trials = plan(spec, limit=options.limit, repeats=options.repeats, seed=options.seed)
        self.results: dict[str, TrialResult] = {}
        self.running: set[str] = set()
        self.spent = Spent()
        self._engine = engine
        self._world = engine.world
        self._open_book = open_book
        self._on_result = on_result
        self._parallel = options.parallel or spec.concurrency or TRIALS_AT_ONCE
        self._providers = {name: asyncio.Semaphore(count) for name, count in spec.providers.items()}
        self._ended: tuple[Status, str] | None = None
        self._deadline: float | None = None

    async def run(self) -> Rollout:
        """Run to the end, a budget, or until somebody cancels it. Raises StoreError; it can be gone on with then."""
        for result in await journal.results(self._world, self.rollout):
            self._note(result)
        spec = self.rollout.spec
        if spec.budget.seconds is not None:
            self._deadline = self._world.clock.now() + spec.budget.seconds
        wave_of = {team.id: number for number, wave in enumerate(waves(spec)) for team in wave}
        async with following(self._world) as news:
            heeding = asyncio.ensure_future(self._heed(news))
            scene = Scene(self._engine, self.rollout.id, news, self._open_book)
            try:
                for _, trials in groupby(self.trials, key=lambda trial: wave_of[trial.team]):
                    await self._wave([trial for trial in trials if trial.key not in self.results], scene)
            finally:
                heeding.cancel()
                await asyncio.gather(heeding, return_exceptions=True)
        status, why = self._ended or ("finished", "")
        if status == "cancelled":  # written down by whoever cancelled it
            return msgspec.structs.replace(self.rollout, status=status, why=why)
        return await journal.end(self._world, self.rollout, status, why)

    def _note(self, result: TrialResult) -> None:
        self.results[result.key] = result
        self.spent = self.spent.plus(result.cost).plus(result.lost)
        if self._on_result is not None:
            self._on_result(result)

    async def _wave(self, trials: Sequence[Trial], scene: Scene) -> None:
        """Run these, so many at once, in their order."""
        left = deque(trials)

        async def work() -> None:
            while left and not self._is_over() and not self._is_promised():
                await self._one(left.popleft(), scene)

        workers = [asyncio.ensure_future(work()) for _ in range(min(self._parallel, len(trials)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    def _is_over(self) -> bool:
        """Whether no further trial may begin."""
        if self._ended is None:
            budget, usd = self.rollout.spec.budget, self._usd_left()
            if usd == 0:
                self._ended = "stopped", f"the money is spent: ${self.spent.usd:.4f}"
            elif budget.tokens is not None and self.spent.tokens >= budget.tokens:
                self._ended = "stopped", f"{self.spent.tokens} of {budget.tokens} tokens are spent"
            elif self._deadline is not None and self._world.clock.now() >= self._deadline:
                self._ended = "stopped", f"{budget.seconds:g} s are over"
        return self._ended is not None

    def _is_promised(self) -> bool:
        """Whether the trials that run will probably spend what is left of the money."""
        usd, done = self._usd_left(), len(self.results)
        return bool(usd is not None and self.running and done and self.spent.usd / done * len(self.running) >= usd)

    def _usd_left(self) -> float | None:
        """What may still be spent; None where there is no bound."""
        whole, said = self.rollout.spec.budget.usd, self.rollout.options.budget_usd
        usd = whole if said is None else said
        return None if usd is None else max(0.0, usd - self.spent.usd)

    async def _heed(self, news: News) -> None:
        """Stop where somebody cancels the rollout."""
        await news.cancelled(self.rollout.id)
        self._ended = "cancelled", "cancelled by the user"
        for name in tuple(self.running):
            await cut_off(self._engine, name)

    async def _one(self, trial: Trial, scene: Scene) -> None:
        team = self.rollout.spec.team(trial.team)
        variant = team.variant(trial.variant)
        name = trial_name(self.rollout.id, trial)
        async with await self._provider(variant):
            self.running.add(name)
            try:
                result = await play(scene, trial, team, self._earlier(team), usd=self._usd_left())
            finally:
                self.running.discard(name)
        if is_cut_off(result):
            return  # whoever goes on runs it again
        await journal.record(self._world, self.rollout, result)
        self._note(result)

    async def _provider(self, variant: Variant) -> AbstractAsyncContextManager[Any]:
        """A place among the trials that ask this variant's provider, also where its agent names it."""
        if not self._providers:
            return nullcontext()
        model = variant.changes.get("model")
        if model is None:
            model = (await self._world.roster.setup(variant.agent, variant.changes)).model
        return self._providers.get(str(model).partition("/")[0]) or nullcontext()

    def _earlier(self, team: Team) -> Mapping[str, Any]:
        """What the teams that this one depends on came to, for its messages."""
        rows: dict[str, list[Result]] = defaultdict(list)
        for result in self.results.values() if team.depends_on else ():
            rows[result.team].append(
                Result(
                    variant=result.variant,
                    number=result.number,
                    agent=result.agent,
                    reply=result.reply,
                    task=result.task,
                    scores=dict(result.metrics),
                )
            )
        return told({name: rows[name] for name in team.depends_on})
