"""Reads the directory of a Redis store: conversations, branches, lengths, cuts. Knows keys; writes none."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from p2engine.domain.codec import decode_commit
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.records import Branch, Conversation
from p2engine.errors import UsageError
from p2engine.stores.rows import Where

Fields = dict[bytes, bytes]


class Directory:
    """The conversations and branches under one prefix. ask: sends a command together with what else is asked."""

    def __init__(self, client: "Redis", prefix: str, ask: Callable[..., Awaitable[Any]]) -> None:
        self._client: Any = client  # its types allow text, which this one never returns
        self._prefix = prefix
        self._ask = ask

    def key(self, kind: str, name: str = "") -> str:
        return f"{self._prefix}:{kind}:{name}" if name else f"{self._prefix}:{kind}"

    async def conversations(self, prefix: str, limit: int, *, grouped: bool) -> list[Conversation]:
        exact = await self._client.hget(self.key("names"), prefix) if prefix else None
        if exact is not None:
            ids = [exact]
        elif not prefix:
            ids = await self._client.zrevrange(self.key("conversations" if grouped else "ungrouped"), 0, limit - 1)
        else:
            word = prefix.encode()
            words = await self._client.zrangebylex(self.key("words"), b"[" + word, b"[" + word + b"\xff")
            ids = list({entry.rpartition(b"\0")[2] for entry in words})
        found = await self._all("conversation", ids)
        there = [(uid, fields) for uid, fields in zip(ids, found, strict=True) if fields]  # some may be pruned by now
        numbered = sorted(there, key=lambda each: -int(each[1][b"number"]))
        return [_conversation(uid.decode(), fields) for uid, fields in numbered[:limit]]

    async def conversation(self, uid: ConversationId) -> Conversation | None:
        fields = await self._hash("conversation", uid)
        return _conversation(uid, fields) if fields else None

    async def branch(self, ref: StackRef) -> Branch | None:
        fields = await self._hash("branch", ref)
        return _branch(ref, fields) if fields else None

    async def branches(self, conversation: ConversationId, *, delegates: bool) -> list[Branch]:
        refs = await self._client.lrange(self.key("branches", conversation), 0, -1)
        found = await self._all("branch", refs)
        branches = [_branch(ref.decode(), fields) for ref, fields in zip(refs, found, strict=True) if fields]
        return [branch for branch in branches if delegates or branch.delegate is None]

    async def head(self, ref: StackRef) -> int:
        head = await self._client.hget(self.key("branch", ref), "head")
        if head is None:
            raise UsageError(f"there is no stack {ref!r}")
        return int(head)

    async def cut(self, ref: StackRef, length: int) -> int:
        """The greatest length ≤ `length` at which nothing is open: one row says so."""
        length = min(length, await self.head(ref))
        if length <= 0:
            return 0
        while True:  # up to the branch that wrote the last of these entries
            parent, at = await self._client.hmget(self.key("branch", ref), "parent", "at")
            if not parent or int(at) < length:
                break
            ref = StackRef(parent.decode())
        ((entry, fields),) = await self._client.xrevrange(self.key("stack", ref), f"{length}-0", "-", count=1)
        seq = int(entry.partition(b"-")[0]) - 1
        commit = decode_commit(fields[b"body"], Where(ref, seq, int(fields[b"row"])))
        safe = [offset for offset in commit.safe if offset <= length - seq]
        return seq + max(safe) if safe else commit.safe_before

    async def _hash(self, kind: str, name: str) -> Fields:
        names_and_values = iter(await self._ask("HGETALL", self.key(kind, name)))
        return dict(zip(names_and_values, names_and_values, strict=True))

    async def _all(self, kind: str, names: Sequence[bytes]) -> list[Fields]:
        """The hashes of these names, in one round trip."""
        if not names:
            return []
        async with self._client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hgetall(self.key(kind, name.decode()))
            found: list[Fields] = await pipe.execute()
        return found


def _conversation(uid: str, fields: Fields) -> Conversation:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return Conversation(
        id=ConversationId(uid),
        name=text["name"],
        agent=AgentId(text["agent"]),
        current=StackRef(text["current"]),
        created_at=float(text["created_at"]),
        group=text["group"][1:] if text["group"] else None,
    )


def _branch(ref: str, fields: Fields) -> Branch:
    text: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    return Branch(
        ref=StackRef(ref),
        conversation=ConversationId(text["conversation"]),
        agent=AgentId(text["agent"]),
        name=text["name"],
        parent=StackRef(text["parent"]) if text["parent"] else None,
        at=int(text["at"]),
        created_at=float(text["created_at"]),
        delegate=EffectId(text["delegate"]) if text["delegate"] else None,
    )
