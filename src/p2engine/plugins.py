"""Code of others: a project's `tools/*.py`, and the entry points of installed packages. Loads it, names what is broken.

Knows modules and files. One broken file never keeps the others from loading.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from importlib.machinery import FileFinder, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, cast

from p2engine.errors import ConfigError, P2EngineError
from p2engine.limits import CONFIG_FILE_BYTES_MAX
from p2engine.tools.function import FunctionTool

TOOLS_GROUP = "p2engine.tools"
AGENTS_GROUP = "p2engine.agents"
FOLDER = "tools"

AnyFunctionTool = FunctionTool[..., Any]
Factory = Callable[..., Any]
Stamp = tuple[int, int]  # of a file: when it was changed (ns), and its bytes

_PUBLIC = "names for projects are in p2engine and p2engine.ports"
# What stands in files written for older layouts: the first part of the module's name, and what to write instead.
_OLD_PACKAGES = {
    "agents": "write: from p2engine import function_tool",
    "infra": _PUBLIC,
    "orchestrator": _PUBLIC,
    "runtime": _PUBLIC,
    "services": _PUBLIC,
}
_LINE_CHARS = 300  # of an error that somebody else's code raised


class Loaded(NamedTuple):
    """What was found, and a problem for each file or package that is broken.

    changed: the files that differ from last time, those that are gone included.
    """

    tools: tuple[AnyFunctionTool, ...] = ()
    problems: tuple[ConfigError, ...] = ()
    changed: tuple[str, ...] = ()


class AgentPlugins(NamedTuple):
    """The agent types that installed packages bring: the factory of each by its name."""

    factories: dict[str, Factory]
    problems: tuple[ConfigError, ...] = ()


class ProjectTools:
    """The tool files of one project folder. They import one another relatively: `from .prices import table`.

    A file whose name begins with `_` is loaded only when another imports it. After a change all files are loaded anew;
    one that is broken keeps the tools of its last good version.
    """

    def __init__(self, project: Path, *, enabled: bool = True) -> None:
        self._folder = project.absolute() / FOLDER
        self._enabled = enabled
        self._stamps: dict[str, Stamp] = {}
        self._good: dict[str, tuple[AnyFunctionTool, ...]] = {}

    def changed(self) -> bool:
        """Whether a file came, went or changed since `load`."""
        return self._enabled and self._look() != self._stamps

    def load(self) -> Loaded:
        """Run every tool file and gather its tools. Nothing that a file does wrong is raised; it is a problem."""
        if not self._enabled:
            return Loaded()
        before, self._stamps = self._stamps, self._look()
        names = sorted(name for name in self._stamps if not name.startswith(("_", ".")))
        package = _open_package(self._folder)
        good: dict[str, tuple[AnyFunctionTool, ...]] = {}
        problems = []
        for name in names:
            try:
                good[name] = tuple(_tools_in(self._run(package, name)))
            except ConfigError as problem:
                problems.append(problem)
                good[name] = self._good.get(name, ())
        self._good = good
        changed = {name for name, _ in before.items() ^ self._stamps.items()}
        return Loaded(_each_once(good.values()), tuple(problems), tuple(sorted(changed)))

    def _look(self) -> dict[str, Stamp]:
        stamps = {}
        for path in self._folder.glob("*.py"):
            with suppress(OSError):  # it went while we looked
                stat = path.stat()
                stamps[path.name] = (stat.st_mtime_ns, stat.st_size)
        return stamps

    def _run(self, package: str, name: str) -> Any:
        path = self._folder / name
        shown = f"{FOLDER}/{name}"
        if not path.is_file():
            raise ConfigError("is no file; a tool file is Python source", file=shown)
        if path.stat().st_size > CONFIG_FILE_BYTES_MAX:
            raise ConfigError(f"is larger than {CONFIG_FILE_BYTES_MAX} bytes; split it", file=shown)
        if "." in path.stem:
            raise ConfigError("a module's name has no dots; rename the file", file=shown)
        return _load(lambda: importlib.import_module(f"{package}.{path.stem}"), lambda error: _in_file(error, path))


def installed_tools() -> Loaded:
    """The tools of installed packages: each entry point names a tool, several, or a module with tools in it."""
    tools, problems = [], []
    for point in _entry_points(TOOLS_GROUP):
        try:
            tools.append(_tools_of(point))
        except ConfigError as problem:
            problems.append(problem)
    return Loaded(_each_once(tools), tuple(problems))


def installed_agents() -> AgentPlugins:
    """The agent types of installed packages. Of two with one name the first, by package, is taken."""
    factories: dict[str, Factory] = {}
    problems = []
    for point in _entry_points(AGENTS_GROUP):
        if point.name in factories:
            problems.append(ConfigError(f"agent type {point.name!r} is there already; {_shown(point)} is left out"))
            continue
        try:
            factories[point.name] = _factory_of(point)
        except ConfigError as problem:
            problems.append(problem)
    return AgentPlugins(factories, tuple(problems))


def _tools_of(point: EntryPoint) -> tuple[AnyFunctionTool, ...]:
    found = tuple(_tools_in(_load(point.load, lambda error: _in_package(error, point))))
    if not found:
        raise ConfigError(f"entry point {_shown(point)} holds no tool", hint="make it one with @function_tool")
    return found


def _factory_of(point: EntryPoint) -> Factory:
    factory = _load(point.load, lambda error: _in_package(error, point))
    if not callable(factory):
        raise ConfigError(f"entry point {_shown(point)} is no factory: it cannot be called")
    return cast(Factory, factory)


class _SourceOnly(SourceFileLoader):
    """Reads the source each time: compiled files are told apart by whole seconds, and edits come faster."""

    def path_stats(self, path: Any) -> Any:
        raise OSError("no compiled file is read or written")


def _open_package(folder: Path) -> str:
    """A new package whose modules are the files of `folder`, under a name of its own; nothing is put on sys.path.

    Packages of earlier loads stay: tools of theirs may still run, and import from them when they do.
    """
    digest, number = blake2b(str(folder).encode(), digest_size=4).hexdigest(), 1
    while (name := f"p2engine_project_{digest}_{number}") in sys.modules:
        number += 1
    package = ModuleType(name)
    package.__path__ = [str(folder / name)]
    sys.path_importer_cache[package.__path__[0]] = FileFinder(str(folder), (_SourceOnly, [".py"]))
    sys.modules[name] = package
    return name


def _load(load: Callable[[], Any], explain: Callable[[BaseException], ConfigError]) -> Any:
    """The one place where anything that somebody's module raises while it loads is caught."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        raise explain(error) from error


def _in_file(error: BaseException, path: Path) -> ConfigError:
    """What went wrong and its mend, on one line, with the line of `path` where it did."""
    shown = f"{FOLDER}/{path.name}"
    if isinstance(error, ConfigError) and error.file == str(path):
        return ConfigError(_with_hint(error.message, error), file=shown, line=error.line)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return ConfigError(f"SyntaxError: {error.msg}", file=shown, line=error.lineno)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    mend = _import_mend(error, path) if isinstance(error, ModuleNotFoundError) and error.name else ""
    return ConfigError(_first_line(error) + mend, file=shown, line=lines[-1] if lines else None)


def _in_package(error: BaseException, point: EntryPoint) -> ConfigError:
    return ConfigError(f"entry point {_shown(point)}: {_first_line(error)}", hint="mend or uninstall the package")


def _import_mend(error: ModuleNotFoundError, path: Path) -> str:
    first = str(error.name).split(".")[0]
    if first == FOLDER or (path.parent / f"{first}.py").is_file():
        return f"; for a file beside this one write: from .{'NAME' if first == FOLDER else first} import …"
    if first in _OLD_PACKAGES:
        return f"; {_OLD_PACKAGES[first]}"
    return f"; install it beside p2engine, or take the import of {error.name} out"


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).splitlines()), "")[:_LINE_CHARS]
    if isinstance(error, P2EngineError):
        return _with_hint(line, error)
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _with_hint(line: str, error: P2EngineError) -> str:
    return f"{line}; {error.hint}" if error.hint else line


def _tools_in(found: Any) -> Iterator[AnyFunctionTool]:
    if isinstance(found, FunctionTool):
        yield found
    elif isinstance(found, ModuleType):
        yield from (value for value in vars(found).values() if isinstance(value, FunctionTool))
    elif isinstance(found, Iterable):
        yield from (value for value in found if isinstance(value, FunctionTool))


def _each_once(groups: Iterable[Iterable[AnyFunctionTool]]) -> tuple[AnyFunctionTool, ...]:
    return tuple({id(tool): tool for group in groups for tool in group}.values())


def _entry_points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: (point.name, _shown(point)))


def _shown(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist is not None else ""
    return f"{point.name!r}{package} ({point.value})"
