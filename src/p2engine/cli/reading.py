"""Reads a conversation from the log for the commands that show it: page by page, by branch, by agent.

Knows the engine's store and its queries. Decides nothing about how things look.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from p2engine.cli.conversation_view import Entry, entries_of
from p2engine.domain.ids import StackRef
from p2engine.domain.records import Branch, Event, Query
from p2engine.errors import UsageError
from p2engine.limits import QUERY_EVENTS_MAX
from p2engine.runtime.branches import named
from p2engine.runtime.conversation import Conversation
from p2engine.wiring import Engine

PAGE = 1000  # events read at a time where few may be wanted


async def all_events(engine: Engine, query: Query) -> AsyncIterator[Event]:
    """Every event that matches, oldest first, whatever its limit says."""
    query = replace(query, limit=QUERY_EVENTS_MAX, newest=False, whole=False)
    while True:
        events = await engine.query(query)
        for event in events:
            yield event
        if len(events) < QUERY_EVENTS_MAX:
            return
        query = replace(query, after=events[-1].cursor)


async def newest_events(engine: Engine, query: Query, wanted: Callable[[Event], bool], limit: int) -> list[Event]:
    """The last `limit` matching events that are wanted, oldest first."""
    query = replace(query, limit=min(max(limit, PAGE), QUERY_EVENTS_MAX), newest=True)
    found: list[Event] = []
    while len(found) < limit:
        events = await engine.query(query)
        found = [event for event in events if wanted(event)] + found
        if len(events) < query.limit:
            break
        query = replace(query, before=events[0].cursor)
    return found[-limit:] if limit else []


async def branches_of(conversation: Conversation) -> dict[StackRef, Branch]:
    """Every branch of a conversation, those of delegations included, by ref."""
    return {branch.ref: branch for branch in await conversation.branches(delegates=True)}


class Stretch(NamedTuple):
    """Part of one stack: its branch and some of its entries."""

    branch: Branch
    entries: Sequence[Entry]


async def stretch_of(engine: Engine, branch: Branch, *, last: int | None = None, own: bool = False) -> Stretch:
    """The entries of a branch. last: only so many of the last. own: only those that it wrote itself."""
    since = branch.at if own else 0
    if last is not None:
        since = max(since, await engine.world.store.head(branch.ref) - last)
    return Stretch(branch, entries_of(await engine.world.store.load(branch.ref, since=since), since=since))


def stacks_of(
    agent: str, branches: Mapping[StackRef, Branch], conversation: Conversation, name: str | None
) -> list[Branch]:
    """The stacks of an agent in a conversation, newest first, or the one of that name. Raises UsageError."""
    found = [branch for branch in branches.values() if branch.agent == agent][::-1]
    if not found:
        there = ", ".join(sorted({branch.agent for branch in branches.values()}))
        raise UsageError(f"no agent {agent[:40]!r} in {conversation.name!r}; there is {there}")
    if name is None:
        return found
    return [named(found, name, conversation.name)]
