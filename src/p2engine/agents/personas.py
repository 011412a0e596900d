"""Personas: the instructions of agents, written as templates in files. Knows files; nothing of models or setups.

A persona may name the tools it wants in a comment at its top: `{# tools: get_weather, delegate #}`.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from p2engine.agents.templates import TemplateFault, fill, template
from p2engine.documents import did_you_mean, read_text, shown
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import ToolSpec
from p2engine.errors import ConfigError

if TYPE_CHECKING:
    from jinja2 import Template

SHIPPED = Path(__file__).parent / "shipped"
PLAIN = "You are {agent}. Use your tools where they help. Answer briefly, and say so when you cannot do what is asked."

_WANTS = re.compile(r"\s*\{#-?\s*tools:([^#]*)-?#\}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

Stamp = tuple[int, int, int]  # of a file: when it was changed (ns), its bytes, and which file it is


def stamp(path: Path) -> Stamp | None:
    """Differs whenever the file does; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Persona(NamedTuple):
    """One file of instructions. wants: the tools it speaks of."""

    name: str
    file: str
    compiled: "Template"
    wants: tuple[str, ...]

    def render(self, agent: str, tools: Sequence[ToolSpec], delegates: Sequence[AgentId]) -> str:
        """The instructions of `agent`. Raises ConfigError with the line that cannot be filled in."""
        listed = [{"name": tool.name, "description": tool.description} for tool in tools]
        try:
            return fill(self.compiled, agent=agent, tools=listed, delegates=list(delegates))
        except TemplateFault as fault:
            raise ConfigError(str(fault), file=self.file, line=fault.line) from None


class Personas:
    """The personas in some folders; the first folder that has a name wins.

    A file is read when its persona is first asked for. One that breaks later keeps its last good version.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._good: dict[str, Persona] = {}
        self._stamps: dict[str, tuple[Path, Stamp | None]] = {}
        self.problems: dict[str, ConfigError] = {}

    def names(self) -> list[str]:
        """Every persona there is a file for, sorted."""
        return sorted({path.stem for folder in self._folders for path in folder.glob("*.j2")})

    def get(self, name: str) -> Persona:
        """Raises ConfigError for a name that has no file, and for a file that is no template."""
        if name not in self._good:
            path, looked = self._look(name)
            if path is None:
                raise ConfigError(f"no persona {name[:100]!r}{did_you_mean(name, self.names())}")
            self._good[name], self._stamps[name] = _read(name, path), (path, looked)
        return self._good[name]

    def refresh(self) -> list[str]:
        """Read again what changed. The files that are taken over; `problems` says which are not, and why."""
        taken = []
        for name in list(self._good):
            found, looked = self._look(name)
            path = found or self._stamps[name][0]  # one that is gone is missed where it was
            if (path, looked) == self._stamps[name]:
                continue
            self._stamps[name] = path, looked
            try:
                self._good[name] = _read(name, path)
            except ConfigError as problem:
                self.problems[name] = problem
            else:
                self.problems.pop(name, None)
                taken.append(self._good[name].file)
        return taken

    def _look(self, name: str) -> tuple[Path | None, Stamp | None]:
        """The file of a persona and its stamp. A name that is no plain name has none."""
        for folder in self._folders if _NAME.fullmatch(name) else ():
            path = folder / f"{name}.j2"
            looked = stamp(path)
            if looked:
                return path, looked
        return None, None


def _read(name: str, path: Path) -> Persona:
    """A persona that renders for an agent with everything and for one with nothing. Raises ConfigError."""
    file, text = shown(path), read_text(path)
    named = _WANTS.match(text)
    wants = tuple(word.strip() for word in named[1].split(",") if word.strip()) if named else ()
    try:
        persona = Persona(name, file, template(text), wants)
    except TemplateFault as fault:
        raise ConfigError(str(fault), file=file, line=fault.line) from None
    persona.render("agent", [ToolSpec(name="tool")], [AgentId("other")])
    persona.render("agent", [], [])
    return persona
