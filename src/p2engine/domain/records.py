"""What is written and what is read back: commits, facts, branches, batches, events. Values only.

A row of the log is either a Commit (a stack grew: the entries are the events) or a Fact (anything else that happened).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from p2engine.domain.effects import AnyEffect
from p2engine.domain.ids import AgentId, BlobRef, ConversationId, EffectId, OwnerId, StackRef
from p2engine.domain.messages import Usage
from p2engine.domain.states import AnyState, AssistantMessage, Finished, UserInputRequest
from p2engine.errors import UsageError


class Cursor(NamedTuple):
    """A place in the one log: a row, and an event within it. (0, 0) is before everything."""

    row: int = 0
    item: int = 0

    def __str__(self) -> str:
        return f"{self.row}.{self.item}"


class Commit(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One row: what one outcome put on a stack, and what the machine said next, written together.

    at: recorded time, Unix seconds. cause: the effect that came back, or who spoke (`user`, `engine`, …).
    states[:outcomes] came back; the rest is what the machine said. versions: (codec, machine, renderer).
    safe: lengths, relative to the row's seq, at which nothing is open; safe_before: the last such length before it.
    """

    at: float
    cause: str
    states: tuple[AnyState, ...]
    outcomes: int
    usage: Usage | None = None
    versions: tuple[int, int, int] = (1, 1, 1)
    safe: tuple[int, ...] = ()
    safe_before: int = 0

    @property
    def may_answer(self) -> bool:
        """Whether somebody who said something may have been waiting for it."""
        return any(type(state) in _ANSWERS for state in self.states)


_ANSWERS = frozenset({AssistantMessage, UserInputRequest, Finished})


class Placed(NamedTuple):
    """A commit where it stands: the branch that wrote it and the index of its first entry on the lineage.

    A commit that a fork cut in two is placed with only the states below the cut.
    """

    ref: StackRef
    seq: int
    commit: Commit


class Fact(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Something that happened beside the stacks. Written once by `id`; a second one of that id is dropped.

    ref: the stack it is about, if any. known_as: names that it is found by, unless one that is kept
    has the name already; see `known`.
    """

    id: str
    kind: str
    cause: str
    at: float
    conversation: ConversationId | None = None
    ref: StackRef | None = None
    body: dict[str, Any] = {}
    known_as: tuple[str, ...] = ()


class Conversation(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tree of stacks. `agent` owns the root stack; `current` is the branch of it that people talk to."""

    id: ConversationId
    name: str
    agent: AgentId
    current: StackRef
    created_at: float
    group: str | None = None


class Branch(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A path through the tree: the first `at` entries of `parent`, then its own.

    delegate: opened by an AgentCall (effect id), so not one that people chose.
    """

    ref: StackRef
    conversation: ConversationId
    agent: AgentId
    name: str
    parent: StackRef | None = None
    at: int = 0
    created_at: float = 0.0
    delegate: EffectId | None = None


class StackWrite(msgspec.Struct, frozen=True):
    """Grow one stack: refused with HeadMoved unless it is `head` entries long."""

    ref: StackRef
    head: int
    commit: Commit


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one decision writes in one conversation, all or nothing. Without one: facts alone.

    settles: effects whose outcome this is; AlreadySettled unless all are still owed.
    needs: effects that must still be owed, and stay so. starts: never-repeat effects that begin to run now.
    drops: effects to forget if they are still owed. owner: who writes, and will run `effects` (born owned), but for
    those it `leaves` to whoever claims them; None leaves all. releases: effects given back to whoever claims them; the
    take-over is not counted. current: make this branch the one people talk to. bodies: what `writes` and `facts` rely
    on; a store that keeps bodies itself raises BodiesLost unless it has them all.
    """

    conversation: ConversationId | None
    writes: tuple[StackWrite, ...] = ()
    settles: tuple[EffectId, ...] = ()
    needs: tuple[EffectId, ...] = ()
    drops: tuple[EffectId, ...] = ()
    starts: tuple[EffectId, ...] = ()
    effects: tuple[AnyEffect, ...] = ()
    leaves: tuple[EffectId, ...] = ()
    releases: tuple[EffectId, ...] = ()
    owner: OwnerId | None = None
    opens: Conversation | None = None
    branches: tuple[Branch, ...] = ()
    current: StackRef | None = None
    facts: tuple[Fact, ...] = ()
    bodies: tuple[BlobRef, ...] = ()


def check_whole(batch: Batch) -> None:
    """Raises UsageError for a batch that no store could write."""
    if any(not write.commit.states for write in batch.writes):
        raise UsageError("a commit needs at least one entry")
    if batch.conversation is None and batch != Batch(conversation=None, facts=batch.facts):
        raise UsageError("a batch of no conversation has facts alone")
    foreign = any(branch.conversation != batch.conversation for branch in batch.branches)
    if foreign or (batch.opens and batch.opens.id != batch.conversation):
        raise UsageError(f"a batch is of one conversation, {batch.conversation!r}")


class Written(NamedTuple):
    """A batch is durable (as durable as the store was told to be). row: the last row of the log it made, or 0.

    followed: whether another process follows its first stack, and would hear what the agent says as it comes.
    """

    row: int
    followed: bool = False


class Claimed(NamedTuple):
    """An effect taken over. tries: take-overs so far, this one included. started: a never-repeat effect had begun.

    commits: what the stack gained since the length the claimer knew. followed: as in Written.
    """

    effect: AnyEffect
    tries: int
    started: bool
    commits: Sequence[Placed]
    followed: bool = False


class Wake(NamedTuple):
    """Job: let this stack take its next step."""

    ref: StackRef


class Perform(NamedTuple):
    """Job: do this effect. `kind` is `kind_of(effect)`; it only picks a queue."""

    effect: EffectId
    kind: str = ""


Job = Wake | Perform


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which events. kinds: exact names or prefixes ending in `.`; before/after bound the cursor (exclusive).

    newest: the last `limit` that match rather than the first; either way they come oldest first.
    whole: an `after` below what was pruned is an error, unless the query is of one conversation or stack; False: what
    is kept is enough.
    """

    conversation: ConversationId | None = None
    ref: StackRef | None = None
    agent: AgentId | None = None
    kinds: tuple[str, ...] = ()
    after: Cursor = Cursor()
    before: Cursor | None = None
    since: float | None = None
    limit: int = 100
    newest: bool = False
    whole: bool = True


class Weight(NamedTuple):
    """What a store keeps of a conversation. entries: those of all its branches, each counted once.

    row: its newest row of the log; 0 where it has none. bytes: about what it takes there, bodies of artifacts aside.
    """

    branches: int = 0
    entries: int = 0
    rows: int = 0
    bytes: int = 0
    row: int = 0
    owed: tuple[EffectId, ...] = ()


class Pruning(msgspec.Struct, frozen=True, kw_only=True):
    """What of one conversation shall go, all or nothing, as it was when it was looked at: see Weight.

    keeps: the branches that stay, each with the length from which its own entries go; it ends where a row does, and
    is NO_END for one that stays as it is. None: nothing stays. rows: facts that go besides, of branches that stay.
    fact: says in the log that it was done. What the ledger is the source of stays in any case, and then belongs to no
    conversation.
    """

    conversation: ConversationId
    fact: Fact
    row: int
    branches: int
    keeps: Mapping[StackRef, int] | None = None
    rows: tuple[int, ...] = ()


NO_END = 2**52
"""Longer than any stack."""

LEDGER = "ledger."
"""How the kinds begin of events that the ledger is the source of."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. For an entry, `id` is `ref:index` and body its state; else the fact's id and body."""

    cursor: Cursor
    id: str
    kind: str
    cause: str
    at: float
    conversation: ConversationId | None = None
    agent: AgentId | None = None
    branch: str | None = None
    ref: StackRef | None = None
    index: int | None = None
    group: str | None = None
    body: Mapping[str, Any] = {}


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A named body saved by a tool or an agent, by content hash."""

    name: str
    blob: BlobRef
    bytes: int
    media: str = "text/plain"


def body_of(value: msgspec.Struct) -> dict[str, Any]:
    """A state or usage as an event's body: every field, also one that has its default, which the log leaves out."""
    return {name: msgspec.to_builtins(getattr(value, name)) for name in value.__struct_fields__}
