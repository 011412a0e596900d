"""The engine of a project: everything put together."""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from p2engine.agents.llm import LlmAgent, request_for
from p2engine.agents.roster import FileRoster
from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.ids import EffectId
from p2engine.domain.messages import ModelRequest
from p2engine.domain.records import Event
from p2engine.domain.verdicts import Subject
from p2engine.errors import ConfigError, UsageError
from p2engine.evals.pairwise import Preference
from p2engine.evals.running import Evaluators
from p2engine.limits import SWEEP_PERIOD_S, SWEEP_PERIOD_SHARED_S
from p2engine.models.catalogue import Models
from p2engine.plugins import ProjectCode, installed_agents
from p2engine.runtime.bus import Bus
from p2engine.runtime.deadlines import Deadlines
from p2engine.runtime.engine import Engine as Core
from p2engine.runtime.engine import OnError, Run
from p2engine.runtime.perform import view_of
from p2engine.runtime.world import World
from p2engine.settings import Settings
from p2engine.sinks.jsonl import JsonLinesSink
from p2engine.tools.running import Runner
from p2engine.tools.threads import Threads
from p2engine.wiring.agents import Bench, Toolset, evaluators_of, models_of, roster_of, tools_of
from p2engine.wiring.keeping import RandomIds, has_ledger, keep, ledger_door, state_folder
from p2engine.wiring.workers import ALL, Left, Part, elsewhere_of, keeps_of, reach, routes_of

if TYPE_CHECKING:
    from p2engine.dispatch.celery import CeleryDispatcher
    from p2engine.rollouts.report import Report
    from p2engine.stores.redis_server import RedisServer
    from p2engine.wiring.sync import SyncEngine

T = TypeVar("T")


class Engine(Core):
    """An engine on a project's settings. `notes`: what a person should be told once."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        roster: FileRoster,
        tools: Toolset,
        bench: Bench,
        models: Models,
        elsewhere: "CeleryDispatcher | None" = None,
        server: "RedisServer | None" = None,
    ) -> None:
        """server: that the store is in, where it is in one."""
        events = settings.events_path
        super().__init__(
            world,
            self._made,
            [JsonLinesSink(events)] if events else [],
            elsewhere=elsewhere,
            sweep_period_s=SWEEP_PERIOD_S if elsewhere is None else SWEEP_PERIOD_SHARED_S,
        )
        self.elsewhere = elsewhere
        self._server = server
        self.settings = settings
        self.roster = roster
        self.registry = tools.registry
        self.evaluators = bench.registry
        self.models = models
        self.notes: list[str] = []
        self.broken_evaluators = [str(problem) for problem in bench.problems]
        self._project_tools = tools.project
        self._project_evals = bench.project
        self._said: set[str] = set()  # problems that stand and were told

    def _made(self, run: Run, on_error: OnError) -> InlineDispatcher:
        self.inline = InlineDispatcher(run, on_error)
        return self.inline

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        project: Path | str | None = None,
        *,
        home: Path | str | None = None,
        config: Path | str | None = None,
        work: bool = True,
        project_code: bool = True,
        settings: Settings | None = None,
        part: Part | None = None,
    ) -> AsyncIterator["Engine"]:
        """An engine on a project folder (else the nearest one upwards); closed at the end of the `async with`.

        work: do what is owed; without it the engine only reads and writes. project_code: load `tools/*.py` and
        `evals/*.py`. part: of the work, under `dispatch: celery`; nothing unless said, so that workers do it.
        Raises ConfigError, UsageError, StoreError.
        """
        settings = settings or Settings.load(project=project, home=home, config=config)
        async with AsyncExitStack() as closing:
            left = Left(settings)
            closing.push_async_callback(left.hand_back)  # the last: by then nobody holds what was left
            part = part or (ALL if settings.dispatch == "inline" else Part())
            engine = await _build(settings, closing, part, project_code=project_code)
            left.engine = engine
            if work:
                await reach(settings, engine._server)
                await engine.start(sweeps=part.sweeps, feeds=part.feeds)
            yield engine

    @classmethod
    def open_sync(cls, project: Path | str | None = None, **options: object) -> "SyncEngine":
        """The same without `async`, inside a running loop (a notebook) too: a loop of its own in a thread."""
        from p2engine.wiring.sync import SyncEngine

        return SyncEngine(lambda: cls.open(project, **options))  # type: ignore[arg-type]

    def refresh(self) -> list[str]:
        """Take in what changed on disk: agents.yml, personas, tools, evaluators. Returns what was reloaded or newly
        broke."""
        said = [*_reloaded("tools", self._project_tools, self.registry.exchange)]
        said += _reloaded("evals", self._project_evals, self.evaluators.exchange, self.broken_evaluators)
        said += self.roster.refresh()
        problems = {str(problem) for problem in self.roster.problems}
        said += sorted(problems - self._said)
        self._said = problems
        return said

    async def prefer(self, first: Subject, second: Subject, params: Mapping[str, Any]) -> Preference:
        """Which of two subjects is better, by a judge that is asked in both orders. params: as of `gpt4_judge`.

        Raises UsageError.
        """
        assert isinstance(self.world.judges, Evaluators)
        return await self.world.judges.prefer(first, second, params)

    async def rollout(
        self,
        file: Path | str,
        *,
        repeats: int | None = None,
        limit: int | None = None,
        seed: int | None = None,
        parallel: int | None = None,
        budget_usd: float | None = None,
    ) -> "Report":
        """Run the rollout of a file to its end, and report on it. It asks nobody: its budget is what bounds its cost.

        repeats: of each task. limit: trials of each variant at most. parallel: trials at once. budget_usd: in US
        dollars; else what the file says, else `budget.rollout_usd`. A trial that fails is a row of the report.
        Raises ConfigError, UsageError, StoreError.
        """
        from p2engine.rollouts.journal import Options
        from p2engine.wiring import experiments

        options = Options(seed=seed, repeats=repeats, limit=limit, budget_usd=budget_usd, parallel=parallel)
        return await experiments.run_file(self, Path(file), options)

    async def request_of(self, event: Event) -> ModelRequest:
        """The exact request behind a `model.reply` event, rebuilt from the log. Raises UsageError for other events."""
        if event.kind != "model.reply" or event.ref is None:
            raise UsageError(f"event {event.id!r} is no model call")
        return request_for(await view_of(self.world, EffectId(event.cause)))


def _reloaded(
    folder: str,
    project: ProjectCode[T] | None,
    exchange: Callable[[Iterable[T]], Iterable[ConfigError]],
    broken: list[str] | None = None,
) -> Iterator[str]:
    """Load the project's files anew, if one of them changed; what was taken in, and what is wrong, `broken` as well."""
    if project is None or not project.changed():
        return
    loaded = project.load()
    clashes = exchange(loaded.found)
    files = {Path(problem.file).name for problem in loaded.problems if problem.file}
    problems = [str(problem) for problem in (*loaded.problems, *clashes)]
    if broken is not None:
        broken[:] = problems
    yield from (f"{folder}/{name}" for name in loaded.changed if name not in files)
    yield from problems


async def _build(settings: Settings, closing: AsyncExitStack, part: Part, *, project_code: bool) -> Engine:
    state_folder(settings.home)
    kept = await keep(settings, closing)
    models = models_of(settings, kept.limiter)
    closing.push_async_callback(models.aclose)
    tools = tools_of(settings, project_code=project_code, elsewhere=bool(part.consumes))
    bench = evaluators_of(settings, project_code=project_code)
    ledger = ledger_door(settings, kept.server)
    if ledger is not None:
        closing.push_async_callback(ledger.aclose)
    agents = installed_agents()
    llm = LlmAgent(models)
    roster = roster_of(settings, tools.registry, {"llm": lambda _: llm, **agents.factories}, kept.blobs)
    deadlines, threads = Deadlines(), Threads()
    world = World(
        store=kept.store,
        blobs=kept.blobs,
        roster=roster,
        tools=Runner(tools.registry, now=time.time, threads=threads, limit=deadlines.within),
        judges=Evaluators(bench.registry, models, threads, limit=deadlines.within),
        deadlines=deadlines,
        clock=kept.clock,
        ids=RandomIds(),
        owner=kept.store.owner,
        bus=Bus(),
        ledger=ledger,
        has_ledger=lambda: has_ledger(settings),
        caps=settings.ledger.caps.amounts,
    )
    elsewhere = None
    if settings.dispatch == "celery":
        routes = routes_of(settings, tools.registry)
        elsewhere = elsewhere_of(settings, routes)
        world.keeps = keeps_of(routes, part.consumes or frozenset(), tools.registry, bench.registry)
    engine = Engine(world, settings, roster, tools, bench, models, elsewhere, kept.server)
    problems = (*tools.problems, *bench.problems, *agents.problems)
    engine.notes = [*settings.notes, *kept.notes, *(str(problem) for problem in problems), *roster.notes]
    closing.push_async_callback(engine.aclose)
    return engine
