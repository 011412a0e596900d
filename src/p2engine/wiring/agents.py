"""Who decides, with what, and who judges: models, tools, agents, evaluators."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from p2engine.agents.patterns import compile_pattern
from p2engine.agents.roster import AgentFactory, Defaults, FileRoster, Tools
from p2engine.agents.templates import fill, template
from p2engine.errors import ConfigError, SetupError
from p2engine.evals.checks import built_in
from p2engine.evals.function import Declared
from p2engine.evals.registry import Registry as EvaluatorRegistry
from p2engine.models.catalogue import Models
from p2engine.plugins import (
    AnyFunctionTool,
    Loaded,
    ProjectCode,
    installed_evals,
    installed_tools,
    project_evals,
    project_tools,
)
from p2engine.ports import BlobStore, Limiter
from p2engine.settings import Settings
from p2engine.tools import json_types
from p2engine.tools.artifacts import artifact_tools
from p2engine.tools.registry import NO_LEDGER, WITHHELD, Registry
from p2engine.tools.weather import weather_tool

T = TypeVar("T")


class Toolset(NamedTuple):
    """The tools of a project: what may be called, where the project's own come from, and what is wrong with them."""

    registry: Registry
    project: ProjectCode[AnyFunctionTool] | None
    problems: tuple[SetupError, ...]
    loaded: tuple[str, ...] = ()


class Bench(NamedTuple):
    """The evaluators of a project: what may judge, where the project's own come from, and what is wrong with them."""

    registry: EvaluatorRegistry
    project: ProjectCode[Declared] | None
    problems: tuple[SetupError, ...]
    loaded: tuple[str, ...] = ()


def models_of(settings: Settings, limiter: Limiter | None = None) -> Models:
    """The models these settings give; nothing is opened until one is asked. limiter: who counts their calls."""
    keys = {provider: key.get_secret_value() for provider, key in settings.provider_keys.items()}
    return Models(keys=keys, bases=settings.api_bases, offline=settings.llm.offline, limiter=limiter)


def tools_of(settings: Settings, *, project_code: bool, elsewhere: bool = False) -> Toolset:
    """The built-in tools, those of installed packages, and the project's own. What is broken is among `problems`.

    elsewhere: other processes may have tools that are not loaded here.
    """
    partial = "" if project_code or settings.project is None else "the project's own tools are not loaded"
    built_in = [*artifact_tools(), weather_tool(settings.weather.backend)]
    withheld = WITHHELD
    if settings.ledger.enabled:
        from p2engine.tools.payments import payment_tools

        built_in += payment_tools()
        withheld = {name: why for name, why in WITHHELD.items() if why != NO_LEDGER}
    registry = Registry(built_in, partial=partial, elsewhere=elsewhere, withheld=withheld)
    project = project_tools(settings.project, enabled=project_code) if settings.project else None
    return Toolset(registry, project, *_taken_in(registry.add, registry.exchange, installed_tools(), project))


def evaluators_of(settings: Settings, *, project_code: bool) -> Bench:
    """The built-in evaluators, those of installed packages, and the project's own. What is broken is in `problems`."""
    partial = "" if project_code or settings.project is None else "the project's own evaluators are not loaded"
    registry = built_in(fill=_fill, compile_pattern=compile_pattern, validator=json_types.validator, partial=partial)
    project = project_evals(settings.project, enabled=project_code) if settings.project else None
    return Bench(registry, project, *_taken_in(registry.add, registry.exchange, installed_evals(), project))


def _taken_in(
    add: Callable[[T], None],
    exchange: Callable[[Iterable[T]], Iterable[SetupError]],
    installed: Loaded[T],
    project: ProjectCode[T] | None,
) -> tuple[tuple[SetupError, ...], tuple[str, ...]]:
    """Give a registry what packages and the project bring: what is broken, and which files were read."""
    problems: list[SetupError] = list(installed.problems)
    for one in installed.found:
        try:
            add(one)
        except ConfigError as clash:
            problems.append(clash)
    if project is None:
        return tuple(problems), ()
    loaded = project.load()
    return (*problems, *loaded.problems, *exchange(loaded.found)), loaded.changed


def _fill(text: str, values: Mapping[str, Any]) -> str:
    return fill(template(text), **values)


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
            lambda: None if registry.partial or registry.elsewhere else registry.known(),
            registry.withheld,
            registry.missing,
        ),
        factories=factories,
        blobs=blobs,
    )
