"""Builds everything from settings: the only module that knows every driver. Opens nothing until asked."""

import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from p2engine.agents.llm import LlmAgent, request_for
from p2engine.agents.roster import AgentFactory, Defaults, FileRoster, Tools
from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.effects import AnyEffect, CallTool, kind_of
from p2engine.domain.ids import ConversationId, EffectId, StackRef
from p2engine.domain.messages import ModelRequest
from p2engine.domain.records import Event
from p2engine.errors import ConfigError, NewerFormat, NotAvailable, SetupError, StoreError, UsageError
from p2engine.limits import HANDED_OUT_S, SWEEP_PERIOD_S, SWEEP_PERIOD_SHARED_S
from p2engine.models.catalogue import Models
from p2engine.models.limiter import LocalLimiter
from p2engine.plugins import ProjectTools, installed_agents, installed_tools
from p2engine.ports import BlobStore, Clock, Limiter
from p2engine.runtime.bus import Bus
from p2engine.runtime.deadlines import Deadlines
from p2engine.runtime.engine import Engine as Core
from p2engine.runtime.engine import OnError, Run
from p2engine.runtime.perform import view_of
from p2engine.runtime.world import World
from p2engine.settings import Settings
from p2engine.sinks.jsonl import JsonLinesSink
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.registry import NO_LEDGER, WITHHELD, Registry
from p2engine.tools.running import Runner
from p2engine.tools.weather import weather_tool

if TYPE_CHECKING:
    from p2engine.dispatch.celery import Broker, CeleryDispatcher, Routes
    from p2engine.ledgers.door import LedgerDoor
    from p2engine.runtime.sync import SyncEngine
    from p2engine.stores.redis import RedisStore

FORMAT = 1  # of the state folder
"""The layout of the state folder; a folder of a later one is refused."""


class SystemClock:
    """ports.Clock of this machine."""

    def now(self) -> float:
        return time.time()


class RandomIds:
    """ports.Ids from the system's randomness."""

    def branch(self) -> StackRef:
        return StackRef(uuid.uuid4().hex[:12])

    def conversation(self) -> ConversationId:
        return ConversationId(uuid.uuid4().hex[:12])

    def fact(self) -> str:
        return uuid.uuid4().hex[:16]


class Engine(Core):
    """An engine on a project's settings. `notes`: what a person should be told once."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        roster: FileRoster,
        tools: "Toolset",
        models: Models,
        elsewhere: "CeleryDispatcher | None" = None,
    ) -> None:
        events = settings.events_path
        super().__init__(
            world,
            self._made,
            [JsonLinesSink(events)] if events else [],
            elsewhere=elsewhere,
            sweep_period_s=SWEEP_PERIOD_S if elsewhere is None else SWEEP_PERIOD_SHARED_S,
        )
        self.elsewhere = elsewhere
        self.settings = settings
        self.roster = roster
        self.registry = tools.registry
        self.models = models
        self.notes: list[str] = []
        self._project_tools = tools.project
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
        part: "Part | None" = None,
    ) -> AsyncIterator["Engine"]:
        """An engine on a project folder (else the nearest one upwards); closed at the end of the `async with`.

        work: do what is owed; without it the engine only reads and writes. project_code: load `tools/*.py`. part: of
        the work, under `dispatch: celery`; nothing unless said, so that workers do it.
        Raises ConfigError, UsageError, StoreError.
        """
        settings = settings or Settings.load(project=project, home=home, config=config)
        async with AsyncExitStack() as closing:
            left = _Left(settings)
            closing.push_async_callback(left.hand_back)  # the last: by then nobody holds what was left
            part = part or (ALL if settings.dispatch == "inline" else Part())
            engine = await _build(settings, closing, part, project_code=project_code)
            left.engine = engine
            if work:
                await _reach(settings)
                await engine.start(sweeps=part.sweeps, feeds=part.feeds)
            yield engine

    @classmethod
    def open_sync(cls, project: Path | str | None = None, **options: object) -> "SyncEngine":
        """The same without `async`, inside a running loop (a notebook) too: a loop of its own in a thread."""
        from p2engine.runtime.sync import SyncEngine

        return SyncEngine(lambda: cls.open(project, **options))  # type: ignore[arg-type]

    def refresh(self) -> list[str]:
        """Take in what changed on disk: agents.yml, personas, tools. Returns what was reloaded or newly broke."""
        said: list[str] = []
        if self._project_tools is not None and self._project_tools.changed():
            loaded = self._project_tools.load()
            clashes = self.registry.exchange(loaded.tools)
            broken = {Path(problem.file).name for problem in loaded.problems if problem.file}
            said += [f"tools/{name}" for name in loaded.changed if name not in broken]
            said += [str(problem) for problem in (*loaded.problems, *clashes)]
        said += self.roster.refresh()
        problems = {str(problem) for problem in self.roster.problems}
        said += sorted(problems - self._said)
        self._said = problems
        return said

    async def request_of(self, event: Event) -> ModelRequest:
        """The exact request behind a `model.reply` event, rebuilt from the log. Raises UsageError for other events."""
        if event.kind != "model.reply" or event.ref is None:
            raise UsageError(f"event {event.id!r} is no model call")
        return request_for(await view_of(self.world, EffectId(event.cause)))


def _state_folder(home: Path) -> None:
    """Make the state folder, or check that we may use it. Raises StoreError, NewerFormat."""
    mark = home / "format"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if mark.exists() and (found := mark.read_text().strip()):  # empty: a start that a full disk or a kill cut short
            if not found.isdigit() or int(found) > FORMAT:
                raise NewerFormat(f"{home} has format {found!r}; this version knows {FORMAT}: use a later version")
            return
        (home / ".gitignore").write_text("*\n")
        mark.write_text(f"{FORMAT}\n")
    except OSError as error:
        hint = "mend its permissions or choose another folder with --home"
        raise StoreError(f"cannot use the state folder {home}: {error.strerror}", hint=hint) from error


class Toolset(NamedTuple):
    """The tools of a project: what may be called, where the project's own come from, and what is wrong with them."""

    registry: Registry
    project: ProjectTools | None
    problems: tuple[SetupError, ...]
    loaded: tuple[str, ...] = ()


def models_of(settings: Settings, limiter: Limiter | None = None) -> Models:
    """The models these settings give; nothing is opened until one is asked. limiter: who counts their calls."""
    keys = {provider: key.get_secret_value() for provider, key in settings.provider_keys.items()}
    return Models(keys=keys, bases=settings.api_bases, offline=settings.llm.offline, limiter=limiter)


def tools_of(settings: Settings, *, project_code: bool) -> Toolset:
    """The built-in tools, those of installed packages, and the project's own. What is broken is among `problems`."""
    partial = "" if project_code or settings.project is None else "the project's own tools are not loaded"
    built_in = [*artifact_tools(), weather_tool(settings.weather.backend)]
    withheld = WITHHELD
    if settings.ledger.enabled:
        from p2engine.tools.payments import payment_tools

        built_in += payment_tools()
        withheld = {name: why for name, why in WITHHELD.items() if why != NO_LEDGER}
    registry = Registry(built_in, partial=partial, withheld=withheld)
    installed = installed_tools()
    problems: list[SetupError] = list(installed.problems)
    for tool in installed.tools:
        try:
            registry.add(tool)
        except ConfigError as clash:
            problems.append(clash)
    if settings.project is None:
        return Toolset(registry, None, tuple(problems))
    project = ProjectTools(settings.project, enabled=project_code)
    loaded = project.load()
    problems += [*loaded.problems, *registry.exchange(loaded.tools)]
    return Toolset(registry, project, tuple(problems), loaded.changed)


def roster_of(
    settings: Settings, registry: Registry, factories: Mapping[str, AgentFactory], blobs: BlobStore
) -> FileRoster:
    """The agents of a project. Raises ConfigError and NotAvailable for what its files say wrongly."""
    return FileRoster(
        project=settings.project,
        defaults=Defaults(
            settings.llm.models.default_model,
            settings.llm.models.supported_models,
            settings.turn_budget,
            settings.dedup,
            settings.budget.conversation_usd,
        ),
        tools=Tools(
            lambda name: tool.spec if (tool := registry.get(name)) else None,
            lambda: None if registry.partial else registry.known(),
            registry.withheld,
        ),
        factories=factories,
        blobs=blobs,
    )


class Part(NamedTuple):
    """What one process does for its project. consumes: the queues whose effects it runs, None: all effects.

    sweeps: finds what nobody does. feeds: hands events to the sinks, which one process of a project should.
    """

    consumes: frozenset[str] | None = frozenset()
    sweeps: bool = False
    feeds: bool = False


ALL = Part(consumes=None, sweeps=True, feeds=True)


def broker_of(settings: Settings) -> "Broker":
    """Where the messages of this project go."""
    from p2engine.dispatch.celery import Broker

    address = settings.redis_address
    return Broker(url=address.url(), shown=str(address), prefix=address.prefix)


def _routes(settings: Settings, registry: Registry) -> "Routes":
    from p2engine.dispatch.celery import Routes

    return Routes(settings.celery.queues, registry.on_loop)


def _elsewhere(settings: Settings, routes: "Routes") -> "CeleryDispatcher":
    from p2engine.dispatch.celery import CeleryDispatcher, celery_app, queues_of

    broker = broker_of(settings)
    return CeleryDispatcher(celery_app(broker, queues_of(settings.celery.queues)), routes.queue_of, broker)


def _keeps(routes: "Routes", consumes: frozenset[str], registry: Registry) -> Callable[[AnyEffect], bool]:
    def keeps(effect: AnyEffect) -> bool:
        if isinstance(effect, CallTool) and registry.get(effect.tool) is None:
            return False
        return routes.queue_of(kind_of(effect)) in consumes

    return keeps


class _Left:
    """What an engine that closes could not do any more: others are asked to, once it holds nothing."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.engine: Engine | None = None

    async def hand_back(self) -> None:
        engine = self.engine
        if engine is None or engine.elsewhere is None or not engine.inline.left:
            return
        dispatcher = _elsewhere(self._settings, _routes(self._settings, engine.registry))
        await dispatcher.submit(*engine.inline.left)
        await dispatcher.aclose()


async def _reach(settings: Settings) -> None:
    """Raises StoreError where the broker that these settings need cannot be used; the store has been tried already."""
    if settings.dispatch == "inline" or settings.store == "redis":
        return
    from p2engine.stores.redis_server import RedisServer

    server = RedisServer(settings.redis_address)
    try:
        await server.patiently(server.client.ping, wait_s=0)
    finally:
        await server.aclose()


class Kept(NamedTuple):
    """Where things are kept, whose clock says when, and who counts the calls of models."""

    store: "SqliteStore | RedisStore"
    blobs: BlobStore
    clock: Clock
    limiter: Limiter
    notes: Sequence[str] = ()


async def _keep(settings: Settings, closing: AsyncExitStack) -> Kept:
    files, limits = FileBlobs(settings.layout.blobs), settings.limits
    local = LocalLimiter(at_once=limits.concurrency, per_minute=limits.per_minute)
    if "redis" not in (settings.store, settings.blobs):
        return Kept(await _sqlite(settings, closing), files, SystemClock(), local)
    from p2engine.stores.redis import RedisStore
    from p2engine.stores.redis_blobs import RedisBlobs
    from p2engine.stores.redis_limiter import RedisLimiter
    from p2engine.stores.redis_server import RedisServer

    server = await RedisServer.open(settings.redis_address, durability=settings.redis.durability)
    closing.push_async_callback(server.aclose)
    blobs = RedisBlobs(server) if settings.blobs == "redis" else files
    if settings.store == "sqlite":
        return Kept(await _sqlite(settings, closing), blobs, SystemClock(), local, server.notes)
    store = await RedisStore.open(server)
    closing.push_async_callback(store.aclose)
    alone = LocalLimiter(at_once=limits.concurrency)
    shared = RedisLimiter(server, alone, at_once=limits.concurrency, per_minute=limits.per_minute)
    closing.push_async_callback(shared.aclose)
    return Kept(store, blobs, server, shared, server.notes)


async def _sqlite(settings: Settings, closing: AsyncExitStack) -> SqliteStore:
    sync: Literal["FULL", "NORMAL"] = "FULL" if settings.sqlite.synchronous == "full" else "NORMAL"
    handed_out_s = HANDED_OUT_S if settings.dispatch == "celery" else 0.0
    store = await SqliteStore.open(settings.layout.store, sync=sync, handed_out_s=handed_out_s)
    closing.push_async_callback(store.aclose)
    return store


def _ledger_door(settings: Settings) -> "LedgerDoor | None":
    if not settings.ledger.enabled:
        return None
    if settings.store == "redis":  # its processes may be on several machines, and a file is on one
        raise NotAvailable("ledger.enabled with store: redis", hint="switch one of them off")
    from p2engine.ledgers.door import LedgerDoor

    return LedgerDoor(settings.layout.ledger, settings.layout.keys)


async def _build(settings: Settings, closing: AsyncExitStack, part: Part, *, project_code: bool) -> Engine:
    _state_folder(settings.home)
    kept = await _keep(settings, closing)
    models = models_of(settings, kept.limiter)
    closing.push_async_callback(models.aclose)
    tools = tools_of(settings, project_code=project_code)
    ledger = _ledger_door(settings)
    if ledger is not None:
        closing.push_async_callback(ledger.aclose)
    agents = installed_agents()
    llm = LlmAgent(models)
    roster = roster_of(settings, tools.registry, {"llm": lambda _: llm, **agents.factories}, kept.blobs)
    deadlines = Deadlines()
    world = World(
        store=kept.store,
        blobs=kept.blobs,
        roster=roster,
        tools=Runner(tools.registry, now=time.time, limit=deadlines.within),
        deadlines=deadlines,
        clock=kept.clock,
        ids=RandomIds(),
        owner=kept.store.owner,
        bus=Bus(),
        ledger=ledger,
        caps=settings.ledger.caps.amounts,
    )
    elsewhere = None
    if settings.dispatch == "celery":
        routes = _routes(settings, tools.registry)
        elsewhere = _elsewhere(settings, routes)
        world.keeps = _keeps(routes, part.consumes or frozenset(), tools.registry)
    engine = Engine(world, settings, roster, tools, models, elsewhere)
    problems = (*tools.problems, *agents.problems)
    engine.notes = [*settings.notes, *kept.notes, *(str(problem) for problem in problems), *roster.notes]
    closing.push_async_callback(engine.aclose)
    return engine
