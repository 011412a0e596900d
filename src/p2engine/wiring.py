"""Builds everything from settings: the only module that knows every driver. Opens nothing until asked."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from p2engine.agents.llm import LlmAgent, request_for
from p2engine.agents.roster import AgentFactory, Defaults, FileRoster, Tools
from p2engine.dispatch.inline import InlineDispatcher
from p2engine.domain.ids import ConversationId, EffectId, StackRef
from p2engine.domain.messages import ModelRequest
from p2engine.domain.records import Event
from p2engine.errors import ConfigError, NewerFormat, SetupError, StoreError, UsageError
from p2engine.models.catalogue import Models
from p2engine.plugins import ProjectTools, installed_agents, installed_tools
from p2engine.ports import BlobStore
from p2engine.runtime.bus import Bus
from p2engine.runtime.engine import Engine as Core
from p2engine.runtime.perform import view_of
from p2engine.runtime.world import World
from p2engine.settings import Settings
from p2engine.sinks.jsonl import JsonLinesSink
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.registry import WITHHELD, Registry
from p2engine.tools.running import Runner
from p2engine.tools.weather import weather_tool

if TYPE_CHECKING:
    from p2engine.runtime.sync import SyncEngine

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

    def __init__(self, world: World, settings: Settings, roster: FileRoster, tools: "Toolset", models: Models) -> None:
        events = settings.events_path
        super().__init__(world, InlineDispatcher, [JsonLinesSink(events)] if events else [])
        self.settings = settings
        self.roster = roster
        self.registry = tools.registry
        self.models = models
        self.notes: list[str] = []
        self._project_tools = tools.project
        self._said: set[str] = set()  # problems that stand and were told

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
    ) -> AsyncIterator["Engine"]:
        """An engine on a project folder (else the nearest one upwards); closed at the end of the `async with`.

        work: do what is owed; without it the engine only reads and writes. project_code: load `tools/*.py`.
        Raises ConfigError, UsageError, StoreError.
        """
        settings = settings or Settings.load(project=project, home=home, config=config)
        async with AsyncExitStack() as closing:
            engine = await _build(settings, closing, project_code=project_code)
            if work:
                engine.start()
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


def models_of(settings: Settings) -> Models:
    """The models these settings give; nothing is opened until one is asked."""
    keys = {provider: key.get_secret_value() for provider, key in settings.provider_keys.items()}
    return Models(keys=keys, bases=settings.api_bases, offline=settings.llm.offline)


def tools_of(settings: Settings, *, project_code: bool) -> Toolset:
    """The built-in tools, those of installed packages, and the project's own. What is broken is among `problems`."""
    registry = Registry([*artifact_tools(), weather_tool(settings.weather.backend)])
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
        tools=Tools(lambda name: tool.spec if (tool := registry.get(name)) else None, registry.known, WITHHELD),
        factories=factories,
        blobs=blobs,
    )


async def _build(settings: Settings, closing: AsyncExitStack, *, project_code: bool) -> Engine:
    layout = settings.layout
    _state_folder(settings.home)
    store = await SqliteStore.open(layout.store, sync="FULL" if settings.sqlite.synchronous == "full" else "NORMAL")
    closing.push_async_callback(store.aclose)
    blobs = FileBlobs(layout.blobs)
    models = models_of(settings)
    closing.push_async_callback(models.aclose)
    tools = tools_of(settings, project_code=project_code)
    agents = installed_agents()
    llm = LlmAgent(models)
    roster = roster_of(settings, tools.registry, {"llm": lambda _: llm, **agents.factories}, blobs)
    world = World(
        store=store,
        blobs=blobs,
        roster=roster,
        tools=Runner(tools.registry, now=time.time),
        clock=SystemClock(),
        ids=RandomIds(),
        owner=store.owner,
        bus=Bus(),
    )
    engine = Engine(world, settings, roster, tools, models)
    problems = (*tools.problems, *agents.problems)
    engine.notes = [*settings.notes, *(str(problem) for problem in problems), *roster.notes]
    closing.push_async_callback(engine.aclose)
    return engine
