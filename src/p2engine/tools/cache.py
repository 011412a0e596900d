"""Results kept for a while, in this process. Knows when one may stand for another; never runs a tool."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from p2engine.domain.decisions import ToolOutcome
from p2engine.domain.ids import AgentId, ConversationId
from p2engine.limits import TOOL_CACHE_ENTRIES_MAX
from p2engine.ports import Tool, ToolContext


class Key(NamedTuple):
    """What makes two calls the same call. The last two are None for tools that do not know who calls."""

    tool: str
    version: str
    arguments: bytes
    conversation: ConversationId | None
    agent: AgentId | None


class Flight:
    """A call that runs and whose result may be kept. `is_stale`: something changed what it may have read."""

    __slots__ = ("is_stale", "key", "tool")

    def __init__(self, key: Key, tool: Tool) -> None:
        self.key = key
        self.tool = tool
        self.is_stale = False


class _Kept(NamedTuple):
    outcome: ToolOutcome
    tool: Tool
    until: float


class ResultCache:
    """Successful results of tools free of side effects, each for the tool's `cache_ttl_s`. The least used go first.

    Related results are dropped when a tool with side effects has run: those of tools from the same module, and those
    made in the same conversation by tools that know who calls.
    """

    def __init__(self, now: Callable[[], float], *, entries_max: int = TOOL_CACHE_ENTRIES_MAX) -> None:
        self._now = now
        self._entries_max = entries_max
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._flights: set[Flight] = set()

    def get(self, key: Key, tool: Tool) -> ToolOutcome | None:
        """What an equal call of this very tool gave, if it is still good."""
        found = self._kept.get(key)
        if found is None:
            return None
        # A reloaded tool may do something else under the same text: what it calls may have changed.
        if found.tool is not tool or found.until <= self._now():
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return found.outcome

    @contextmanager
    def flight(self, key: Key, tool: Tool) -> Iterator[Flight]:
        """Around a call whose result may be kept."""
        flight = Flight(key, tool)
        self._flights.add(flight)
        try:
            yield flight
        finally:
            self._flights.discard(flight)

    def keep(self, flight: Flight, outcome: ToolOutcome) -> None:
        """Keep a success, unless a related effect ran meanwhile."""
        ttl_s = flight.tool.spec.cache_ttl_s
        if flight.is_stale or ttl_s is None or outcome.status != "ok" or outcome.then or outcome.events:
            return
        self._kept[flight.key] = _Kept(outcome, flight.tool, self._now() + ttl_s)
        self._kept.move_to_end(flight.key)
        if len(self._kept) > self._entries_max:
            self._kept.popitem(last=False)

    def drop_related(self, tool: Tool, conversation: ConversationId) -> None:
        """A tool with side effects has run in this conversation."""
        group = group_of(tool)

        def is_related(key: Key, other: Tool) -> bool:
            return key.conversation == conversation or (bool(group) and group_of(other) == group)

        for key in [key for key, kept in self._kept.items() if is_related(key, kept.tool)]:
            del self._kept[key]
        for flight in self._flights:
            flight.is_stale = flight.is_stale or is_related(flight.key, flight.tool)


def key_of(tool: Tool, arguments: Mapping[str, Any], ctx: ToolContext) -> Key:
    """The key of a call; with who calls in it unless the tool cannot know."""
    spec = tool.spec
    digest = blake2b(msgspec.json.encode(arguments, order="sorted"), digest_size=16).digest()
    if getattr(tool, "needs_context", True):
        return Key(spec.name, spec.version, digest, ctx.conversation, ctx.agent)
    return Key(spec.name, spec.version, digest, None, None)


def group_of(tool: Tool) -> str:
    """The module a tool was written in; empty where it is not known."""
    return str(getattr(tool, "group", ""))
