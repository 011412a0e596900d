"""Reads the log of a Redis store as events: by queries, and from a cursor on. Short reads; the log holds references."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.records import Cursor, Event, Query
from p2engine.errors import Pruned, Rewound
from p2engine.limits import QUERY_EVENTS_MAX, TAIL_ROWS_MAX
from p2engine.stores.redis_server import RedisServer
from p2engine.stores.rows import AFTER_ALL, ALL_KINDS, Kinds, Row, events_of, matching

TAIL_BLOCK_MS = 4000  # a tail asks again after this; shorter than an answer may take

Entry = tuple[bytes, dict[bytes, bytes]]
Branches = dict[StackRef, tuple[str, AgentId, ConversationId]]
"""Name, agent and conversation: none of them ever changes."""


class Log:
    """The log under one prefix, and what this process remembers of branches and groups."""

    def __init__(self, server: RedisServer) -> None:
        self._client: Any = server.client  # its types allow text, which this one never returns
        self._prefix = server.address.prefix
        self._branches: Branches = {}
        self._groups: dict[ConversationId, str | None] = {}

    async def search(self, query: Query) -> Sequence[Event]:
        """The events that match, oldest first. Raises Pruned, and Rewound where the server lost them meanwhile."""
        await self.check_kept(query.after)
        kinds = Kinds(query.kinds)
        limit = min(query.limit, QUERY_EVENTS_MAX)
        key, first, last = await self._bounds(query)
        found: list[Event] = []
        count = max(1, min(limit, TAIL_ROWS_MAX))
        while len(found) < limit:
            page = await self._page(key, first, last, count, newest=query.newest)
            for row in await self._rows(key, [entry for entry in page if _wanted(entry, kinds, query)]):
                if query.agent is None or row.agent == query.agent:
                    found += matching(row, kinds, query)
            if len(page) < count:
                break
            count = TAIL_ROWS_MAX
            edge = _row_of(page[-1])
            first, last = (first, edge - 1) if query.newest else (edge + 1, last)
        found = found[:limit]
        return found[::-1] if query.newest else found

    async def newest(self) -> int:
        """The newest row's number; 0 in an empty log."""
        return int(await self._client.hget(f"{self._prefix}:meta", "cursor") or 0)

    async def tail(self, after: Cursor, closed: Callable[[], bool]) -> AsyncIterator[Event]:
        """Every event after a cursor, without gaps: rows get their numbers in the scripts that add them, one by one."""
        key = f"{self._prefix}:log"
        while not closed():
            await self.check_kept(after)
            first = after.row + (after.item == AFTER_ALL)
            page = await self._page(key, first, None, TAIL_ROWS_MAX, newest=False)
            for row in await self._rows(key, page):
                for event in events_of(row, ALL_KINDS):
                    if event.cursor > after:
                        after = event.cursor
                        yield event
                after = Cursor(row.cursor, AFTER_ALL)
            if not page:
                await self._more(key, after)

    async def check_kept(self, after: Cursor) -> None:
        """Raises Pruned when something after `after` was pruned, or lost by the server. (0, 0) is the oldest kept."""
        if not after.row:
            return
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hget(f"{self._prefix}:meta", "horizon")
            pipe.hgetall(f"{self._prefix}:epochs")
            horizon, epochs = await pipe.execute()
        if after.row < int(horizon or 0):
            raise Pruned(
                f"events up to row {int(horizon)} were pruned, and {after} lies before that",
                hint=f"go on from {Cursor(int(horizon), 0)} to see all that is kept",
            )
        for epoch, last in epochs.items():
            start = int(epoch) << 40
            if int(last) < after.row < start:
                raise Pruned(
                    f"the server lost its rows after {int(last)}, and {after} is one of them",
                    hint=f"go on from {Cursor(start, 0)}; what was seen after row {int(last)} did not last",
                )

    async def _more(self, key: str, after: Cursor) -> None:
        """Wait for a row, or for a while."""
        # `xread` of the client begins a coroutine that it may then never wait for.
        words = ("XREAD", "COUNT", 1, "BLOCK", TAIL_BLOCK_MS, "STREAMS", key, f"{after.row}-0")
        await self._client.execute_command(*words)

    async def _bounds(self, query: Query) -> tuple[str, int, int | None]:
        """Which stream to read, and between which rows. That of a conversation has references to facts as well."""
        conversation = query.conversation
        if query.ref is not None:
            await self._know([query.ref])
            known = self._branches.get(query.ref)
            if conversation is None:
                conversation = known[2] if known else ConversationId("")
        key = f"{self._prefix}:log" if conversation is None else f"{self._prefix}:log:{conversation}"
        return key, query.after.row, query.before.row if query.before else None

    async def _page(self, key: str, first: int, last: int | None, count: int, *, newest: bool) -> list[Entry]:
        low, high = f"{max(0, first)}-0", "+" if last is None else f"{max(0, last)}-0"
        page: list[Entry] = await (
            self._client.xrevrange(key, high, low, count=count)
            if newest
            else self._client.xrange(key, low, high, count=count)
        )
        return page

    async def _rows(self, key: str, page: list[Entry]) -> list[Row]:
        """These entries with their bodies, which lie where they were written."""
        if not page:
            return []
        await self._know([StackRef(fields[b"ref"].decode()) for _, fields in page if fields.get(b"ref")])
        log = f"{self._prefix}:log"
        async with self._client.pipeline(transaction=False) as pipe:
            for entry in page:
                _, fields = entry
                if b"seq" in fields:
                    place = f"{int(fields[b'seq']) + 1}-0"
                    pipe.xrange(f"{self._prefix}:stack:{fields[b'ref'].decode()}", place, place)
                elif key != log:
                    pipe.xrange(log, entry[0], entry[0])
                else:
                    pipe.ping()
            bodies = await pipe.execute()
        rows = []
        for entry, there in zip(page, bodies, strict=True):
            inside = entry[1] if there is True or not there else there[0][1]
            rows.append(await self._row(entry, inside))
        return rows

    async def _row(self, entry: Entry, inside: dict[bytes, bytes]) -> Row:
        fields = entry[1]
        ref = StackRef(fields[b"ref"].decode()) if fields.get(b"ref") else None
        if b"body" not in inside or (ref and ref not in self._branches):
            raise Rewound(f"row {_row_of(entry)} was lost while it was read", hint="read again")
        name, agent, conversation = self._branches[ref] if ref else (None, None, None)
        if b"seq" not in fields and inside.get(b"conversation"):
            conversation = ConversationId(inside[b"conversation"].decode())
        return Row(
            cursor=_row_of(entry),
            seq=int(fields[b"seq"]) if b"seq" in fields else None,
            body=inside[b"body"],
            ref=ref,
            branch=name,
            agent=agent,
            conversation=conversation,
            group=await self._group(conversation) if conversation else None,
        )

    async def _group(self, conversation: ConversationId) -> str | None:
        if conversation not in self._groups:
            group = await self._client.hget(f"{self._prefix}:conversation:{conversation}", "group")
            self._groups[conversation] = group.decode()[1:] if group else None
        return self._groups[conversation]

    async def _know(self, refs: Sequence[StackRef]) -> None:
        """Look up the branches of these stacks that are not known yet, in one round trip."""
        unknown = [ref for ref in dict.fromkeys(refs) if ref not in self._branches]
        if not unknown:
            return
        async with self._client.pipeline(transaction=False) as pipe:
            for ref in unknown:
                pipe.hmget(f"{self._prefix}:branch:{ref}", "name", "agent", "conversation")
            found: list[list[Any]] = await pipe.execute()
        for ref, (name, agent, conversation) in zip(unknown, found, strict=True):
            if name is not None:
                self._branches[ref] = name.decode(), AgentId(agent.decode()), ConversationId(conversation.decode())


def _row_of(entry: Entry) -> int:
    return int(entry[0].partition(b"-")[0])


def _wanted(entry: Entry, kinds: Kinds, query: Query) -> bool:
    """Whether it may hold events that are asked for, as far as the reference tells."""
    fields = entry[1]
    if query.ref is not None and fields.get(b"ref") != query.ref.encode():
        return False
    return fields[b"kind"].decode() in kinds if b"kind" in fields else kinds.all or kinds.of_commits
