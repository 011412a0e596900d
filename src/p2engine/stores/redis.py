"""The shared store: one Redis or Valkey primary. Puts its parts together.

Every write is one script, done wholly or not at all; rows get their numbers there, so that there is one order; and the
server's clock is the only one. What is lost when an answer does not come is found by asking again with the same bytes.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from redis.exceptions import NoScriptError, RedisError

from p2engine.domain.codec import decode_commit, decode_effect
from p2engine.domain.ids import ConversationId, EffectId, OwnerId, StackRef
from p2engine.domain.records import (
    Batch,
    Branch,
    Claimed,
    Conversation,
    Cursor,
    Event,
    Job,
    Perform,
    Placed,
    Pruning,
    Query,
    Weight,
    Written,
)
from p2engine.errors import NewerFormat, Rewound, StoreError, UsageError
from p2engine.limits import BUSY_WAIT_S, FOLLOW_FIRST_LOOK_S, FOLLOW_LOOK_S, HANDED_OUT_S, LEASE_S, RELEASED_S
from p2engine.stores.redis_batch import Plan, placed, refuse
from p2engine.stores.redis_channels import Channels, Messages
from p2engine.stores.redis_errors import passing
from p2engine.stores.redis_events import Log
from p2engine.stores.redis_keys import SCHEMA, recognise
from p2engine.stores.redis_owners import Lease
from p2engine.stores.redis_prune import Pruner
from p2engine.stores.redis_scripts import Known, Scripts
from p2engine.stores.redis_server import RETRY_FIRST_S, RETRY_MAX_S, RedisServer
from p2engine.stores.redis_stacks import Directory
from p2engine.stores.rows import AFTER_ALL, Where

T = TypeVar("T")

SPOKEN: Final = b"~"  # how news begin that are text; those that are commits begin with a number
SPEAK_S: Final = 0.03  # how long text is gathered before it is sent


class RedisStore:
    """Implements `ports.Archive`. Belongs to the event loop that opened it; the server is the caller's to close.

    handed_out_s: how long whoever was asked to do something is given before somebody else is asked.
    """

    def __init__(
        self,
        server: RedisServer,
        *,
        handed_out_s: float = HANDED_OUT_S,
        released_s: float = RELEASED_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self.server = server
        self._client: Any = server.client  # its types allow text, which this one never returns
        self._handed_out_us = int(handed_out_s * 1e6)
        self._released_us = int(released_s * 1e6)
        self._log = Log(server)
        self._channels = Channels(server)
        self.owner = OwnerId(uuid.uuid4().hex[:16])
        self._scripts = Scripts(server, self.owner)
        self._directory = Directory(server.client, server.address.prefix, self._scripts.ask)
        self._pruner = Pruner(server, self._scripts)
        self._lease_us = int(lease_s * 1e6)
        self._lease = Lease(server, self._scripts, self.owner, lease_s=lease_s)
        self._speech: dict[StackRef, list[str]] = {}
        self._closed = False

    @classmethod
    async def open(
        cls,
        server: RedisServer,
        *,
        handed_out_s: float = HANDED_OUT_S,
        released_s: float = RELEASED_S,
        lease_s: float = LEASE_S,
    ) -> "RedisStore":
        """The store under the server's prefix, made where there is none. Raises StoreError, NewerFormat."""
        store = cls(server, handed_out_s=handed_out_s, released_s=released_s, lease_s=lease_s)
        await server.patiently(store._recognise)
        await store._lease.begin()
        return store

    async def _recognise(self) -> None:
        """Where nothing is there yet it is begun; what is there may be read on a server that takes no writes."""
        meta = await recognise(self.server)
        if meta.is_new:
            await self._client.hsetnx(self._directory.key("meta"), "schema", str(SCHEMA))
            meta = await recognise(self.server)  # somebody else may have been first
        self._scripts.known = Known(meta.epoch, meta.cursor, self.owner)

    # Writing

    async def write(self, batch: Batch) -> Written:
        """All or nothing. Raises AlreadySettled, HeadMoved, NameTaken, UsageError and BodiesLost, in this order, and
        StoreError.

        StoreBusy: the server was away for too long, and may have done it all the same.
        """
        self._check_open()
        planned = Plan(
            batch,
            handed_out_us=self._handed_out_us,
            released_us=self._released_us,
            has_bodies=self.server.has_bodies,
        )
        self._speak()  # what is said comes before the answer that it became
        answer = await self._send(planned)
        if answer[0] != b"ok":
            refuse(answer)
        row, followers = int(answer[1]), int(answer[2])
        self._scripts.saw(row, int(answer[3]))
        return Written(row, followed=followers > 0)

    async def _send(self, planned: Plan) -> list[Any]:
        """Have it written. An attempt whose answer did not come may have been done, so the next one says so."""
        again, deadline, pause_s = False, time.monotonic() + BUSY_WAIT_S, RETRY_FIRST_S
        while True:
            try:
                answer: list[Any] = await self._scripts.once(
                    "write", *planned.arguments(known=self._scripts.known, again=again)
                )
                return answer
            except (RedisError, OSError) as error:
                if not passing(error) or time.monotonic() + pause_s > deadline:
                    raise self.server.error(error) from error
                again = again or not isinstance(error, NoScriptError)
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, 2 * pause_s)

    # What is owed

    async def claim(self, effect: EffectId, owner: OwnerId, *, since: int = 0) -> Claimed | None:
        self._check_open()
        answer = await self._scripts("claim", effect, owner, since, self._lease_us, *self._scripts.known)
        if answer is None:
            return None
        _, body, tries, started, rows, followers = answer
        try:
            owed = decode_effect(body, f"owed effect {effect}")
            return Claimed(owed, tries, bool(started), placed(rows), followed=followers > 0)
        except NewerFormat:
            await self._hand_back(effect, owner)
            raise

    async def _hand_back(self, effect: EffectId, owner: OwnerId) -> None:
        await self.write(Batch(conversation=ConversationId(""), releases=(effect,), owner=owner))

    async def due(self, *, limit: int) -> Sequence[Job]:
        scripts = self._scripts
        answer = await scripts("due", limit, self._handed_out_us, self._lease_us, *scripts.known)
        return [Perform(EffectId(effect.decode()), kind.decode()) for effect, kind in answer[1:]]

    async def owed(self, ref: StackRef) -> Sequence[EffectId]:
        key = self._directory.key("owed", ref)
        found = await self._read(lambda: self._client.zrange(key, 0, -1))
        return [EffectId(effect.decode()) for effect in found]

    async def held(self, owner: OwnerId) -> Sequence[EffectId]:
        key = self._directory.key("held", owner)
        found = await self._read(lambda: self._client.smembers(key))
        return sorted(EffectId(effect.decode()) for effect in found)

    async def drops(self) -> AsyncIterator[Sequence[EffectId]]:
        async with self._channels.listen(self._directory.key("dropped")) as told:
            while not self._closed:
                effects = (await told.get()).decode().split()
                if effects:
                    yield [EffectId(effect) for effect in effects]

    async def holders(self, ref: StackRef, *, besides: OwnerId | None = None) -> Sequence[str]:
        return [who.decode() for who in await self._scripts("holders", ref, besides or "")]

    async def lives(self, owner: OwnerId) -> bool:
        key = self._directory.key("owner", owner)
        return bool(await self._read(lambda: self._client.exists(key)))

    async def backlog(self) -> tuple[int, float | None]:
        """How many effects no living process holds, and since when the oldest is owed, in Unix seconds."""
        _, count, oldest_us = await self._scripts("backlog")
        return int(count), int(oldest_us) / 1e6 or None

    # Reading

    async def load(self, ref: StackRef, *, since: int = 0) -> Sequence[Placed]:
        self._check_open()
        rows = await self._scripts("load", ref, since)
        if rows is None:
            raise UsageError(f"there is no stack {ref!r}")
        return placed(rows)

    def speak(self, ref: StackRef, text: str) -> None:
        if not self._speech:
            asyncio.get_running_loop().call_later(SPEAK_S, self._speak)
        self._speech.setdefault(ref, []).append(text)

    def _speak(self) -> None:
        speech, self._speech = self._speech, {}
        for ref, texts in speech.items() if not self._closed else ():
            self._scripts.tell(self._directory.key("news", ref), SPOKEN + "".join(texts).encode())

    async def follow(
        self, ref: StackRef, *, since: int, answers: bool = False
    ) -> AsyncIterator[Sequence[Placed] | str]:
        """News that begin where `since` ends need no look; else, or where none come, what is missing is loaded.

        Answers have a channel of their own, so that nobody is woken for what he does not wait for.
        """
        async with self._channels.listen(self._directory.key("answers" if answers else "news", ref)) as news:
            wait_s = FOLLOW_FIRST_LOOK_S
            while not self._closed:
                told = await _told(news, ref, wait_s)
                if isinstance(told, str):
                    yield told
                elif told is None or (told.seq > since and not answers):
                    wait_s = FOLLOW_LOOK_S
                    commits = await self.load(ref, since=since) if not self._closed else ()
                    if commits:
                        since = commits[-1].seq + len(commits[-1].commit.states)
                        yield commits
                elif told.seq >= since:
                    since = told.seq + len(told.commit.states)
                    yield [told]

    async def events(self, query: Query) -> Sequence[Event]:
        return await self._read(lambda: self._log.search(query))

    async def known(self, name: str) -> Event | None:
        return await self._read(lambda: self._log.known(name))

    async def newest(self) -> Cursor:
        return Cursor(await self._read(self._log.newest), AFTER_ALL)

    async def tail(self, after: Cursor, *, whole: bool = True) -> AsyncIterator[Event]:
        while not self._closed:
            try:
                async for event in self._log.tail(after, lambda: self._closed, whole=whole):
                    after = event.cursor
                    yield event
            except (RedisError, OSError, Rewound) as error:
                if self._closed:
                    return
                if not isinstance(error, Rewound) and not passing(error):
                    raise self.server.error(error) from error
                await asyncio.sleep(RETRY_MAX_S)

    async def conversations(
        self, *, prefix: str = "", limit: int = 1000, grouped: bool = True
    ) -> Sequence[Conversation]:
        return await self._read(lambda: self._directory.conversations(prefix, limit, grouped=grouped))

    async def conversation(self, key: ConversationId) -> Conversation | None:
        return await self._read(lambda: self._directory.conversation(key))

    async def branch(self, ref: StackRef) -> Branch | None:
        return await self._read(lambda: self._directory.branch(ref))

    async def branches(self, conversation: ConversationId, *, delegates: bool = False) -> Sequence[Branch]:
        return await self._read(lambda: self._directory.branches(conversation, delegates=delegates))

    async def head(self, ref: StackRef) -> int:
        return await self._read(lambda: self._directory.head(ref))

    async def cut(self, ref: StackRef, length: int) -> int:
        return await self._read(lambda: self._directory.cut(ref, length))

    # Pruning

    async def weigh(self, conversation: ConversationId) -> Weight:
        self._check_open()
        return await self._pruner.weigh(conversation)

    async def prune(self, pruning: Pruning) -> None:
        """One script takes it out of sight; its rows then leave the log a piece at a time."""
        self._check_open()
        await self._pruner.prune(pruning)

    async def aclose(self) -> None:
        """Let go of what this process holds; it is due at once. What is followed ends."""
        if self._closed:
            return
        self._closed = True
        await self._lease.end()
        self._channels.wake()
        with suppress(RedisError, OSError, StoreError):  # else its lease runs out
            await self._scripts.once("leave", self.owner)
        await self._channels.aclose()

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        self._check_open()
        return await self.server.patiently(call)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the store {self.server.address} is closed")


async def _told(news: Messages, ref: StackRef, wait_s: float) -> Placed | str | None:
    """The next commit or text that was published; None when none came in that time, and at the end."""
    try:
        async with asyncio.timeout(wait_s):
            message = await news.get()
    except TimeoutError:
        return None
    if not message:
        return None
    if message.startswith(SPOKEN):
        return message[1:].decode(errors="replace")
    seq, _, body = message.partition(b" ")
    return Placed(ref, int(seq), decode_commit(body, Where(ref, int(seq), 0)))
