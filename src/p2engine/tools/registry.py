"""The tools that are loaded here, by name. Knows names and where they come from; loads and runs nothing."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from p2engine.domain.messages import ToolSpec
from p2engine.errors import ConfigError
from p2engine.ports import Tool
from p2engine.tools.function import FunctionTool

NO_LEDGER = "the ledger is off (ledger.enabled)"

WITHHELD: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ask_human": "questions to people are not available in this version",
        "check_balance": NO_LEDGER,
        "reward_agent": NO_LEDGER,
        "transaction_history": NO_LEDGER,
        "transfer_funds": NO_LEDGER,
    }
)
"""Names that may stand in a configuration and are kept from models, each with the reason: without a ledger, all."""

MOVES: Final = frozenset({"delegate"})
"""Names that a model calls like tools and that are moves of the agent: no body here answers to them."""

AnyTool = Tool | FunctionTool[..., Any]


class Registry:
    """The port `Toolbox`. Built-in tools are added once; those of a project may be exchanged while it runs.

    withheld: the reasons for names that are kept from models.
    partial: why there may be tools that are not loaded; then a name that means nothing here is withheld for it.
    elsewhere: other processes may have more of them; then such a name is missing here, and not withheld.
    """

    def __init__(
        self,
        tools: Iterable[AnyTool] = (),
        *,
        partial: str = "",
        elsewhere: bool = False,
        withheld: Mapping[str, str] = WITHHELD,
    ) -> None:
        self.partial = "" if elsewhere else partial
        self.elsewhere = elsewhere
        self._withheld = withheld
        self._built_in: dict[str, Tool] = {}
        self._project: dict[str, Tool] = {}
        for tool in tools:
            self.add(tool)

    def add(self, tool: AnyTool) -> None:
        """Add a tool for good. Raises ConfigError, naming both places, when its name is taken."""
        body = _body(tool)
        if self._check(body, self._project):
            self._built_in[body.spec.name] = body

    def exchange(self, tools: Iterable[AnyTool]) -> tuple[ConfigError, ...]:
        """Take these in place of all that came before by this way. Those refused are named; the others are in."""
        project: dict[str, Tool] = {}
        refused = []
        for tool in tools:
            body = _body(tool)
            try:
                if self._check(body, project):
                    project[body.spec.name] = body
            except ConfigError as error:
                refused.append(error)
        self._project = project
        return tuple(refused)

    def get(self, name: str) -> Tool | None:
        """The tool of that name, or None."""
        return self._built_in.get(name) or self._project.get(name)

    def on_loop(self, name: str) -> bool:
        """Whether the tool of that name is loaded and never blocks the loop it is called on."""
        tool = self.get(name)
        return tool is not None and not getattr(tool, "is_blocking", False)

    def names(self) -> list[str]:
        """The names of all tools that are loaded, sorted."""
        return sorted({*self._built_in, *self._project})

    def known(self) -> list[str]:
        """The names that mean something in a configuration, sorted: loaded, withheld, and moves."""
        return sorted({*self.names(), *self._withheld, *MOVES})

    def missing(self, name: str) -> bool:
        """Whether that name means nothing here and may mean a tool in another process."""
        return self.elsewhere and self.get(name) is None and name not in self._withheld and name not in MOVES

    def withheld(self, name: str) -> str | None:
        """Why no model gets the tool of that name; None where one may, or where there is no such tool."""
        if name in self._withheld:
            return self._withheld[name]
        return (self.partial or None) if name not in MOVES and self.get(name) is None else None

    def specs(self) -> dict[str, ToolSpec]:
        """What models are told of the loaded tools, by name."""
        return {name: tool.spec for name in self.names() if (tool := self.get(name)) is not None}

    def source(self, name: str) -> str:
        """Where a loaded tool is written, `file:line` or a class; empty when there is none."""
        tool = self.get(name)
        return "" if tool is None else _source(tool)

    def _check(self, tool: Tool, project: Mapping[str, Tool]) -> bool:
        """Whether it is new. Raises ConfigError when another thing has its name."""
        name = tool.spec.name
        file, _, line = _source(tool).rpartition(":")
        if name in self._withheld or name in MOVES:
            raise ConfigError(
                f"tool {name!r}: the name belongs to P2Engine; choose another",
                file=file or None,
                line=int(line) if line.isdigit() else None,
            )
        other = self._built_in.get(name) or project.get(name)
        if other is None or other is tool:
            return other is None
        raise ConfigError(
            f"two tools are named {name!r}: {_source(other)} and {_source(tool)}; rename one",
            file=file or None,
            line=int(line) if line.isdigit() else None,
        )


def _body(tool: AnyTool) -> Tool:
    return tool.tool if isinstance(tool, FunctionTool) else tool


def _source(tool: Tool) -> str:
    return str(getattr(tool, "source", "") or f"{type(tool).__module__}.{type(tool).__qualname__}")
