"""Code of others: a project's `tools/*.py` and `evals/*.py`, and the entry points of installed packages.

Loads it, and names what is broken. Knows modules and files. One broken file never keeps the others from loading.
"""

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.machinery import FileFinder, SourceFileLoader
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, cast

from p2engine.errors import ConfigError, P2EngineError
from p2engine.evals.function import Declared, declared_by, declared_in
from p2engine.limits import CONFIG_FILE_BYTES_MAX
from p2engine.tools.function import FunctionTool

TOOLS_GROUP = "p2engine.tools"
EVALS_GROUP = "p2engine.evals"
AGENTS_GROUP = "p2engine.agents"

AnyFunctionTool = FunctionTool[..., Any]
Factory = Callable[..., Any]
Stamp = tuple[int, int]  # of a file: when it was changed (ns), and its bytes
T = TypeVar("T")

_PUBLIC = "names for projects are in p2engine and p2engine.ports"
# What stands in files written for older layouts: the first part of the module's name, and what to write instead.
_OLD_PACKAGES = {
    "agents": "write: from p2engine import function_tool",
    "infra": _PUBLIC,
    "orchestrator": _PUBLIC,
    "runtime": _PUBLIC,
    "services": _PUBLIC,
}


class Kind(NamedTuple, Generic[T]):
    """One kind of things that files hold. gather: those in a module, or in whatever an entry point names.

    old: beside _OLD_PACKAGES, and before it.
    """

    folder: str
    noun: str
    decorator: str
    gather: Callable[[Any], Iterable[T]]
    old: Mapping[str, str] = MappingProxyType({})


_LINE_CHARS = 300  # of an error that somebody else's code raised


class Loaded(NamedTuple, Generic[T]):
    """What was found, and a problem for each file or package that is broken.

    changed: the files that differ from last time, those that are gone included.
    """

    found: tuple[T, ...] = ()
    problems: tuple[ConfigError, ...] = ()
    changed: tuple[str, ...] = ()


class AgentPlugins(NamedTuple):
    """The agent types that installed packages bring: the factory of each by its name."""

    factories: dict[str, Factory]
    problems: tuple[ConfigError, ...] = ()


class ProjectCode(Generic[T]):
    """The files of one folder of a project. They import one another relatively: `from .prices import table`.

    A file whose name begins with `_` is loaded only when another imports it. After a change all files are loaded anew;
    one that is broken keeps what its last good version held.
    """

    def __init__(self, kind: Kind[T], project: Path, *, enabled: bool = True) -> None:
        self._kind = kind
        self._folder = project.absolute() / kind.folder
        self._enabled = enabled
        self._stamps: dict[str, Stamp] = {}
        self._good: dict[str, tuple[T, ...]] = {}

    def changed(self) -> bool:
        """Whether a file came, went or changed since `load`."""
        return self._enabled and self._look() != self._stamps

    def load(self) -> Loaded[T]:
        """Run every file and gather what it holds. Nothing that a file does wrong is raised; it is a problem."""
        if not self._enabled:
            return Loaded()
        before, self._stamps = self._stamps, self._look()
        names = sorted(name for name in self._stamps if not name.startswith(("_", ".")))
        package = _open_package(self._folder)
        good: dict[str, tuple[T, ...]] = {}
        problems = []
        for name in names:
            try:
                good[name] = tuple(self._kind.gather(self._run(package, name)))
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
        shown = f"{self._kind.folder}/{name}"
        if not path.is_file():
            raise ConfigError(f"is no file; {self._kind.noun} file is Python source", file=shown)
        if path.stat().st_size > CONFIG_FILE_BYTES_MAX:
            raise ConfigError(f"is larger than {CONFIG_FILE_BYTES_MAX} bytes; split it", file=shown)
        if "." in path.stem:
            raise ConfigError("a module's name has no dots; rename the file", file=shown)
        return _load(
            lambda: importlib.import_module(f"{package}.{path.stem}"), lambda error: self._in_file(error, path)
        )

    def _in_file(self, error: BaseException, path: Path) -> ConfigError:
        """What went wrong and its mend, on one line, with the line of `path` where it did."""
        shown = f"{self._kind.folder}/{path.name}"
        if isinstance(error, ConfigError) and error.file == str(path):
            return ConfigError(_with_hint(error.message, error), file=shown, line=error.line)
        if isinstance(error, SyntaxError) and error.filename == str(path):
            return ConfigError(f"SyntaxError: {error.msg}", file=shown, line=error.lineno)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        mend = self._import_mend(error, path) if isinstance(error, ModuleNotFoundError) and error.name else ""
        return ConfigError(_first_line(error) + mend, file=shown, line=lines[-1] if lines else None)

    def _import_mend(self, error: ModuleNotFoundError, path: Path) -> str:
        first = str(error.name).split(".")[0]
        folder = self._kind.folder
        if first == folder or (path.parent / f"{first}.py").is_file():
            return f"; for a file beside this one write: from .{'NAME' if first == folder else first} import …"
        if instead := self._kind.old.get(first) or _OLD_PACKAGES.get(first):
            return f"; {instead}"
        return f"; install it beside p2engine, or take the import of {error.name} out"


def project_tools(project: Path, *, enabled: bool = True) -> ProjectCode[AnyFunctionTool]:
    """The tool files of a project: `tools/*.py`."""
    return ProjectCode(TOOLS, project, enabled=enabled)


def project_evals(project: Path, *, enabled: bool = True) -> ProjectCode[Declared]:
    """The evaluator files of a project: `evals/*.py`."""
    return ProjectCode(EVALS, project, enabled=enabled)


def installed_tools() -> Loaded[AnyFunctionTool]:
    """The tools of installed packages: each entry point names a tool, several, or a module with tools in it."""
    return _installed(TOOLS, TOOLS_GROUP)


def installed_evals() -> Loaded[Declared]:
    """The evaluators of installed packages: each entry point names one, several, or a module with some in it."""
    return _installed(EVALS, EVALS_GROUP)


def _installed(kind: Kind[T], group: str) -> Loaded[T]:
    found, problems = [], []
    for point in _entry_points(group):
        try:
            found.append(_held_by(point, kind))
        except ConfigError as problem:
            problems.append(problem)
    return Loaded(_each_once(found), tuple(problems))


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


def _held_by(point: EntryPoint, kind: Kind[T]) -> tuple[T, ...]:
    found = tuple(kind.gather(_load(point.load, lambda error: _in_package(error, point))))
    if not found:
        words = f"entry point {_shown(point)} holds no {kind.noun.split()[-1]}"
        raise ConfigError(words, hint=f"make it one with @{kind.decorator}")
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


def _in_package(error: BaseException, point: EntryPoint) -> ConfigError:
    return ConfigError(f"entry point {_shown(point)}: {_first_line(error)}", hint="mend or uninstall the package")


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


def _evals_in(found: Any) -> Iterator[Declared]:
    if isinstance(found, ModuleType):
        yield from declared_in(found)
    elif (declared := declared_by(found)) is not None:
        yield declared
    elif isinstance(found, Iterable) and not isinstance(found, type):
        yield from (declared for value in found if (declared := declared_by(value)) is not None)


def _each_once(groups: Iterable[Iterable[T]]) -> tuple[T, ...]:
    return tuple({id(each): each for group in groups for each in group}.values())


def _entry_points(group: str) -> list[EntryPoint]:
    return sorted(entry_points(group=group), key=lambda point: (point.name, _shown(point)))


def _shown(point: EntryPoint) -> str:
    package = f" of {point.dist.name}" if point.dist is not None else ""
    return f"{point.name!r}{package} ({point.value})"


TOOLS: Kind[AnyFunctionTool] = Kind("tools", "a tool", "function_tool", _tools_in)
EVALS: Kind[Declared] = Kind(
    "evals",
    "an evaluator",
    "evaluator",
    _evals_in,
    MappingProxyType({"infra": "write: from p2engine import evaluator, LLMEvaluator"}),
)
