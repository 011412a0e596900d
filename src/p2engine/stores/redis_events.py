"""Reads the log of a Redis store as events: by queries, and from a cursor on. Short reads; the log holds references."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from p2engine.domain.ids import AgentId, ConversationId, StackRef
from p2engine.domain.records import LEDGER, Cursor, Event, Query
from p2engine.errors import Pruned, Rewound
from p2engine.limits import BRANCHES_KNOWN_MAX, QUERY_EVENTS_MAX, TAIL_ROWS_MAX
from p2engine.stores.redis_server import Call, RedisServer
from p2engine.stores.rows import AFTER_ALL, ALL_KINDS, Kinds, Row, check_horizon, events_of, matching

TAIL_BLOCK_MS = 4000  # a tail asks again after this; shorter than an answer may take

Entry = tuple[bytes, dict[bytes, bytes]]
Branch = tuple[str, AgentId, ConversationId]
"""Its name, agent and conversation: none of them ever changes."""
Known = Mapping[StackRef, Branch | None]
"""What is known of stacks; None of one that is not there."""


class Log:
    """The log under one prefix, and what this process remembers of branches and groups."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client: Any = server.client  # its types allow text, which this one never returns
        self._prefix = server.address.prefix
        self._branches: dict[StackRef, Branch] = {}
        self._groups: dict[ConversationId, str | None] = {}
        self._prunes: bytes | None = None  # how often something was pruned, as what is remembered is from

    async def search(self, query: Query) -> Sequence[Event]:
        """The events that match, oldest first. Raises Pruned, and Rewound where the server lost them meanwhile."""
        is_of_one = query.conversation is not None or query.ref is not None
        if query.after.row or not is_of_one:
            await self.check_kept(query.after, horizon=query.whole and not is_of_one)
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

    async def known(self, name: str) -> Event | None:
        """The fact that is known by this name; None where it was pruned."""
        row = await self._client.hget(f"{self._prefix}:known", name)
        if row is None:
            return None
        await self.check_kept(Cursor())
        log, place = f"{self._prefix}:log", int(row)
        page = await self._page(log, place, place, 1, newest=False)
        for found in await self._rows(log, page):
            if found.conversation is not None or not page[0][1].get(b"conversation"):
                return next(events_of(found, ALL_KINDS), None)
        return None

    async def newest(self) -> int:
        """The newest row's number; 0 in an empty log."""
        return int(await self._client.hget(f"{self._prefix}:meta", "cursor") or 0)

    async def tail(self, after: Cursor, closed: Callable[[], bool], *, whole: bool) -> AsyncIterator[Event]:
        """Every event after a cursor, without gaps: rows get their numbers in the scripts that add them, one by one.

        whole: raises Pruned where one of them is gone, unless all there is was asked for; else what is kept is enough.
        """
        whole = whole and after.row > 0
        key = f"{self._prefix}:log"
        while not closed():
            await self.check_kept(after, horizon=whole, epochs=whole)
            first = after.row + (after.item == AFTER_ALL)
            page = await self._page(key, first, None, TAIL_ROWS_MAX, newest=False)
            for row in await self._rows(key, page):
                for event in events_of(row, ALL_KINDS):
                    if event.cursor > after:
                        after = event.cursor
                        yield event
                after = Cursor(row.cursor, AFTER_ALL)
            if page:
                after = max(after, Cursor(_row_of(page[-1]), AFTER_ALL))
            else:
                await self._more(key, after)

    def forget(self) -> None:
        """Something was pruned: what is remembered may not be there any more."""
        self._branches.clear()
        self._groups.clear()

    async def check_kept(self, after: Cursor, *, horizon: bool = True, epochs: bool = True) -> None:
        """Raises Pruned when something after `after` was pruned, or lost by the server. (0, 0) is the oldest kept.

        horizon: whether what was pruned counts. epochs: whether what was lost does.
        """
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hmget(f"{self._prefix}:meta", "horizon", "prunes")
            pipe.hgetall(f"{self._prefix}:epochs")
            (pruned, prunes), lives = await pipe.execute()
        if prunes != self._prunes:
            self.forget()
            self._prunes = prunes
        if horizon:
            check_horizon(after, int(pruned or 0))
        for epoch, last in lives.items() if epochs and after.row else ():
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
            branch = (await self._know([query.ref]))[query.ref]
            if conversation is None:
                conversation = branch[2] if branch else ConversationId("")
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
        known = await self._know([StackRef(fields[b"ref"].decode()) for _, fields in page if fields.get(b"ref")])
        places = [self._place(entry, key) for entry in page]
        answers = iter(await self._server.together([place for place in places if place]))
        rows = []
        for entry, place in zip(page, places, strict=True):
            row = await self._row(entry, _inside(next(answers)) if place else entry[1], known)
            if row is not None:
                rows.append(row)
        return rows

    def _place(self, entry: Entry, key: str) -> Call | None:
        """How to ask for the body of an entry of that stream; None where it stands there."""
        row, fields = entry
        if b"seq" in fields:
            place = f"{int(fields[b'seq']) + 1}-0"
            return "XRANGE", f"{self._prefix}:stack:{fields[b'ref'].decode()}", place, place
        log = f"{self._prefix}:log"
        return None if key == log else ("XRANGE", log, row, row)

    async def _row(self, entry: Entry, inside: dict[bytes, bytes], known: Known) -> Row | None:
        """None for one that was pruned and is not yet out of the log."""
        fields = entry[1]
        ref = StackRef(fields[b"ref"].decode()) if fields.get(b"ref") else None
        branch = known[ref] if ref else None
        if not branch and fields.get(b"kind", b"").startswith(LEDGER.encode()):
            ref = None
        if b"body" not in inside or (ref and not branch):
            if _row_of(entry) <= int(await self._client.hget(f"{self._prefix}:meta", "horizon") or 0):
                return None
            raise Rewound(f"row {_row_of(entry)} was lost while it was read", hint="read again")
        name, agent, conversation = branch or (None, None, None)
        if b"seq" not in fields and inside.get(b"conversation"):
            conversation = await self._there(ConversationId(inside[b"conversation"].decode()))
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

    async def _there(self, conversation: ConversationId) -> ConversationId | None:
        """The conversation, None where it was pruned."""
        if conversation in self._groups or await self._client.exists(f"{self._prefix}:conversation:{conversation}"):
            return conversation
        return None

    async def _know(self, refs: Sequence[StackRef]) -> Known:
        """The branches of these stacks, as far as they are there; those not known yet in one round trip."""
        if len(self._branches) > BRANCHES_KNOWN_MAX:
            self.forget()
        known = {ref: self._branches.get(ref) for ref in refs}
        unknown = [ref for ref, branch in known.items() if branch is None]
        if not unknown:
            return known
        async with self._client.pipeline(transaction=False) as pipe:
            for ref in unknown:
                pipe.hmget(f"{self._prefix}:branch:{ref}", "name", "agent", "conversation")
            found: list[list[Any]] = await pipe.execute()
        for ref, (name, agent, conversation) in zip(unknown, found, strict=True):
            if name is not None:
                branch = name.decode(), AgentId(agent.decode()), ConversationId(conversation.decode())
                known[ref] = self._branches[ref] = branch
        return known


def _inside(found: Any) -> dict[bytes, bytes]:
    """The fields of the only entry that a server found. Raises what it refused."""
    if isinstance(found, RedisError):
        raise found
    if not found:
        return {}
    names_and_values = iter(found[0][1])
    return dict(zip(names_and_values, names_and_values, strict=True))


def _row_of(entry: Entry) -> int:
    return int(entry[0].partition(b"-")[0])


def _wanted(entry: Entry, kinds: Kinds, query: Query) -> bool:
    """Whether it may hold events that are asked for, as far as the reference tells."""
    fields = entry[1]
    if query.ref is not None and fields.get(b"ref") != query.ref.encode():
        return False
    if b"kind" in fields:
        return fields[b"kind"].decode() in kinds
    return kinds.of_states or (kinds.of_commits and fields.get(b"usage") != b"0")  # of old, it is not told there
