"""What is remembered: stacks, what is owed, events, bodies."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from p2engine.domain.ids import BlobRef, ConversationId, EffectId, OwnerId, StackRef
from p2engine.domain.records import (
    Batch,
    Branch,
    Claimed,
    Conversation,
    Cursor,
    Event,
    Job,
    Placed,
    Pruning,
    Query,
    Weight,
    Written,
)


class Store(Protocol):
    """Remembers stacks and events. One write door."""

    async def load(self, ref: StackRef, *, since: int = 0) -> Sequence[Placed]:
        """The commits of a stack from entry `since` on, lineage included, oldest first. Unknown ref: UsageError."""
        ...

    async def write(self, batch: Batch) -> Written:
        """All or nothing. Raises HeadMoved, AlreadySettled, NameTaken, StoreBusy."""
        ...

    def follow(self, ref: StackRef, *, since: int, answers: bool = False) -> AsyncIterator[Sequence[Placed] | str]:
        """The commits of a stack from entry `since` on, as they come, whoever writes them, until the store closes.

        Between them, where the store can carry it, the text that is spoken there before its commit.
        answers: only commits that `may_answer` are asked for; others, and text, may be left out.
        """
        ...

    def speak(self, ref: StackRef, text: str) -> None:
        """Let those who follow the stack hear what no entry holds yet. May be lost."""
        ...

    async def events(self, query: Query) -> Sequence[Event]:
        """The events that match, oldest first. Raises Pruned for a cursor below what is kept, unless told otherwise."""
        ...

    async def known(self, name: str) -> Event | None:
        """The fact that took this name, wherever in the log it stands; None where it is not kept. O(1)."""
        ...

    async def newest(self) -> Cursor:
        """The place in the log after all that is written by now."""
        ...

    def tail(self, after: Cursor, *, whole: bool = True) -> AsyncIterator[Event]:
        """Every event after the cursor, without gaps, until the store closes. Raises Pruned where one is gone already.

        whole: as in Query; False: what is kept is enough. Whoever begins at the beginning gets what is kept.
        """
        ...

    async def aclose(self) -> None: ...


class Owing(Protocol):
    """The same driver seen as a list of what is owed, and by whom it is held."""

    async def claim(self, effect: EffectId, owner: OwnerId, *, since: int = 0) -> Claimed | None:
        """Take an owed effect that no living owner but `owner` holds; None when there is nothing to take.

        Raises NewerFormat, and leaves it to others, where it or its stack was written by a later version.
        """
        ...

    async def due(self, *, limit: int) -> Sequence[Job]:
        """Owed effects that no living process holds, oldest first; none that somebody was asked to do a moment ago."""
        ...

    async def backlog(self) -> tuple[int, float | None]:
        """How many effects no living process holds, and since when the oldest is owed (Unix s). Hands nothing out."""
        ...

    async def owed(self, ref: StackRef) -> Sequence[EffectId]:
        """What this stack still owes."""
        ...

    async def held(self, owner: OwnerId) -> Sequence[EffectId]:
        """What `owner` holds."""
        ...

    def drops(self) -> AsyncIterator[Sequence[EffectId]]:
        """Effects that somebody else holds and that are dropped, as it happens. May miss some; may end at once."""
        ...

    async def holders(self, ref: StackRef, *, besides: OwnerId | None = None) -> Sequence[str]:
        """Who lives and holds what this stack owes, in words: `process 4711 on HOST`."""
        ...

    async def lives(self, owner: OwnerId) -> bool:
        """Whether that owner lives. One that died without a word may be taken for living until its lease is over."""
        ...


class Catalogue(Protocol):
    """The same driver seen as a directory: which conversations and branches there are."""

    async def conversations(
        self, *, prefix: str = "", limit: int = 1000, grouped: bool = True
    ) -> Sequence[Conversation]:
        """Conversations whose name or id starts with `prefix`, newest first; an exact name comes alone.

        grouped: those that belong to a group as well, where no prefix is given.
        """
        ...

    async def conversation(self, key: ConversationId) -> Conversation | None: ...

    async def branch(self, ref: StackRef) -> Branch | None: ...

    async def branches(self, conversation: ConversationId, *, delegates: bool = False) -> Sequence[Branch]:
        """The branches of a conversation, oldest first; those that delegations opened only when asked for."""
        ...

    async def head(self, ref: StackRef) -> int:
        """How many entries the stack has, lineage included."""
        ...

    async def cut(self, ref: StackRef, length: int) -> int:
        """The greatest length ≤ `length` at which nothing is open on this stack. O(1)."""
        ...


class Retention(Protocol):
    """The same driver seen as something that fills up. Nothing goes by itself."""

    async def weigh(self, conversation: ConversationId) -> Weight:
        """What is kept of a conversation. Raises UsageError for one there is not."""
        ...

    async def prune(self, pruning: Pruning) -> None:
        """Take it away, all or nothing; from then on nobody finds it. Asked twice with one fact, it is done once.

        Raises UsageError where there is no such conversation or something of it is owed, and ConflictError where it is
        not as it was looked at.
        """
        ...


class Archive(Store, Owing, Catalogue, Retention, Protocol):
    """What a store driver implements, and what the engine holds."""


class BlobStore(Protocol):
    """Bodies by content hash."""

    async def put(self, body: bytes) -> BlobRef:
        """Store once; the same body again is the same ref. Raises UsageError above ARTIFACT_BYTES_MAX."""
        ...

    async def get(self, ref: BlobRef) -> bytes:
        """Raises StoreError when it is missing or its bytes do not match its name."""
        ...

    async def has(self, ref: BlobRef) -> bool: ...

    async def drop(self, ref: BlobRef, *, unused_s: float) -> int:
        """Forget a body that nobody has put for so long; how many bytes it had, 0 where it stays or is not there."""
        ...
