"""Looks over everything a project's files say, and names each thing that is wrong. Starts nothing and writes nothing.

What the engine refuses one thing at a time when it opens is gathered here.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from p2engine.agents.entries import AgentsFile
from p2engine.agents.listing import Listed, Listing, entry_model, read_agent, wrong_names
from p2engine.agents.personas import SHIPPED, Personas
from p2engine.agents.roster import FileRoster
from p2engine.cli.options import Options
from p2engine.configuration import Configuration
from p2engine.documents import Document, faults, read_json, read_yaml, shown, subject
from p2engine.domain.ids import AgentId
from p2engine.errors import ConfigError, NotAvailable, P2EngineError, SetupError
from p2engine.plugins import installed_agents
from p2engine.positions import Place
from p2engine.settings import Settings
from p2engine.stores.blobs import FileBlobs
from p2engine.tools.registry import Registry
from p2engine.wiring import evaluators_of, roster_of, tools_of

SHIPPED_CONFIG = SHIPPED / "config.json"
AGENTS_FILE = "config/agents.yml"


class Report(msgspec.Struct, kw_only=True):
    """What was looked at and what is wrong with it. settings: None where they cannot be read at all."""

    settings: Settings | None = None
    roster: FileRoster | None = None
    looked_at: list[str] = []
    problems: list[P2EngineError] = []
    warnings: list[str] = []

    def add(self, problem: P2EngineError) -> None:
        """Note a problem once."""
        if str(problem) not in [str(known) for known in self.problems]:
            self.problems.append(problem)


def check(options: Options) -> Report:
    """Look over the configuration, agents, personas and tools that these options mean."""
    report = Report()
    try:
        report.settings = Settings.load(project=options.project, home=options.home, config=options.config)
    except SetupError as error:
        _check_configuration(report, error, options)
    if report.settings is None:
        return report
    report.warnings += report.settings.notes
    if report.settings.config is not None and not report.problems:
        report.looked_at.append(shown(report.settings.config))
    registry = _check_tools(report, report.settings, enabled=not options.no_project_code)
    _check_evaluators(report, report.settings, enabled=not options.no_project_code)
    _check_agents(report, report.settings, registry)
    return report


def _check_configuration(report: Report, error: SetupError, options: Options) -> None:
    """The settings are wrong: every fault of the file, then the rest as if the file were the shipped one."""
    file = getattr(error, "file", None)
    if file is not None and Path(file).suffix == ".json" and Path(file).is_file():
        try:
            for fault in _faults(read_json(Path(file)), Configuration):
                report.add(fault)
        except ConfigError as unreadable:
            report.add(unreadable)
    report.add(error)
    try:
        report.settings = Settings.load(project=options.project, home=options.home, config=SHIPPED_CONFIG)
    except SetupError as still:
        report.add(still)


def _faults(document: Document, model: type[BaseModel], place: Place = ()) -> Iterator[SetupError]:
    """Everything that is wrong with the part of a document at `place`."""
    value = document.at(place)
    if not isinstance(value, dict):
        yield document.error(f"{subject(place)}expected a mapping", place)
        return
    try:
        model.model_validate(value)
    except ValidationError as error:
        for fault in faults(model, error):
            line = document.line(place + fault.place)
            if fault.later:
                yield NotAvailable(fault.later, hint=f"{document.file}:{line}: take it out")
            else:
                yield ConfigError(subject(place + fault.subject) + fault.text, file=document.file, line=line)


def _check_tools(report: Report, settings: Settings, *, enabled: bool) -> Registry:
    tools = tools_of(settings, project_code=enabled)
    report.looked_at += [f"tools/{name}" for name in tools.loaded]
    for problem in tools.problems:
        report.add(problem)
    return tools.registry


def _check_evaluators(report: Report, settings: Settings, *, enabled: bool) -> None:
    bench = evaluators_of(settings, project_code=enabled)
    report.looked_at += [f"evals/{name}" for name in bench.loaded]
    for problem in bench.problems:
        report.add(problem)


def _check_agents(report: Report, settings: Settings, registry: Registry) -> None:
    agents = installed_agents()
    for problem in agents.problems:
        report.add(problem)
    personas = Personas(
        [*([settings.project / "templates" / "personas"] if settings.project else []), SHIPPED / "personas"]
    )
    for fault in _persona_faults(personas):
        report.add(fault)
    kinds = {"llm", *agents.factories}
    if settings.project is not None:
        for fault in _agent_faults(settings.project / AGENTS_FILE, kinds, settings, registry, personas):
            report.add(fault)
    try:
        blobs = FileBlobs(settings.layout.blobs)
        roster = roster_of(settings, registry, dict.fromkeys(kinds, _nobody), blobs)
    except SetupError as error:
        report.add(error)
        return
    report.roster = roster
    report.warnings += roster.notes
    for agent in roster.agents():
        try:
            source = roster.describe(agent).source.rpartition(":")[0]
        except SetupError as error:
            report.add(error)
        else:
            report.looked_at += [source] if source not in report.looked_at else []


def _agent_faults(
    path: Path, kinds: set[str], settings: Settings, registry: Registry, personas: Personas
) -> Iterator[SetupError]:
    """Everything that is wrong with the agents in a file: their form, and names that mean nothing."""
    if not path.exists():
        return
    try:
        document = read_yaml(path)
    except ConfigError as unreadable:
        yield unreadable
        return
    yield from _faults(document, AgentsFile)
    written = document.value.get("agents") if isinstance(document.value, dict) else None
    sound: dict[AgentId, Listed] = {}
    others: set[str] = set()  # agents that are there, and wrong in their form: others may name them
    for index, value in enumerate(written if isinstance(written, list) else ()):
        place: Place = ("agents", index)
        try:
            listed = read_agent(document, index, kinds, sound)
        except SetupError as error:
            name = value.get("id") if isinstance(value, dict) else None
            others |= {name} if isinstance(name, str) else set()
            yield from _entry_faults(document, place, kinds)
            yield error
        else:
            sound[AgentId(listed.entry.id)] = listed
    yield from wrong_names(
        Listing(document, sound),
        tools=None if registry.partial else registry.known(),
        models=settings.llm.models.supported_models,
        check_persona=personas.get,
        others=others,
    )


def _entry_faults(document: Document, place: Place, kinds: set[str]) -> Iterator[SetupError]:
    """Everything that is wrong with the form of one agent."""
    with suppress(SetupError):  # of an unknown type: who found that has said so
        yield from _faults(document, entry_model(document, place, kinds), place)


def _persona_faults(personas: Personas) -> Iterator[SetupError]:
    """Personas that no agent uses may be broken as well."""
    for name in personas.names():
        try:
            personas.get(name)
        except SetupError as error:
            yield error


def _nobody(_: object) -> Any:
    raise AssertionError("nobody acts while a project is checked")


def summary(problems: Sequence[object]) -> str:
    """`no problems`, `1 problem`, `3 problems`."""
    return f"{len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}"
