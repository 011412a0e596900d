"""The doors a turn may use, and what one process keeps between steps. Holds; does nothing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from p2engine.domain.effects import AnyEffect
from p2engine.domain.ids import BlobRef, EffectId, OwnerId, StackRef, effect_id
from p2engine.domain.machine import Outcome
from p2engine.domain.money import Caps
from p2engine.domain.records import Commit, Fact
from p2engine.domain.stack import Stack
from p2engine.errors import Rewound, StoreError
from p2engine.ports import (
    Archive,
    AuditableLedger,
    BlobStore,
    Clock,
    Dispatcher,
    Ids,
    Judges,
    OnText,
    Roster,
    ToolRunner,
)
from p2engine.runtime.bus import Bus
from p2engine.runtime.deadlines import Deadlines
from p2engine.runtime.stacks import Stacks


class Kept(NamedTuple):
    """What an effect came to, and what is recorded with it. A verdict comes to nothing but facts.

    bodies: that the facts rely on.
    """

    effect: AnyEffect
    outcome: Outcome | None
    facts: Sequence[Fact] = ()
    bodies: Mapping[BlobRef, bytes] = MappingProxyType({})


@dataclass(slots=True, kw_only=True)
class World:
    """One process's view: ports, caches, and the effects it owns.

    judges: the evaluators; None where there are none. ledger: opens it at the first use; None where it is off.
    caps: what agents may pay.
    keeps: which effects are born owned by this process and run here, None: all; whoever claims the others runs them.
    has_ledger: whether there is one yet, without opening it. moved: told when this process has made it write.
    wrote: told of every commit of this process.
    here: runs jobs in this process. dispatcher: gets them done, here or elsewhere.
    born: effects this process owns and has not begun. busy: those it does now. running: attempts that may be
    interrupted. dropped: those that were. released: how often an effect was handed back for want of its tool, where
    that has a limit.
    kept: outcomes that the store refused for the time being. stuck: effects that a fault of ours stopped, and what
    waits for them.
    followed: stacks that another process listens to. deadlines: of the decisions that are waited for.
    told: complaints in the log that a sweep would only repeat. doubts: a write failed and may have been done all the
    same, so this process may own effects that it does not know of. adopted: those that a sweep found.
    """

    store: Archive
    blobs: BlobStore
    roster: Roster
    tools: ToolRunner
    clock: Clock
    ids: Ids
    owner: OwnerId
    bus: Bus
    ledger: Callable[[], Awaitable[AuditableLedger]] | None = None
    has_ledger: Callable[[], bool] = lambda: True
    moved: Callable[[], None] = lambda: None
    judges: Judges | None = None
    caps: Caps = field(default_factory=Caps)
    keeps: Callable[[AnyEffect], bool] | None = None
    wrote: Callable[[Commit], None] | None = None
    here: Dispatcher = field(init=False)  # the engine's, since it runs what is dispatched
    dispatcher: Dispatcher = field(init=False)
    stacks: Stacks = field(init=False)
    deadlines: Deadlines = field(default_factory=Deadlines)
    born: dict[EffectId, AnyEffect] = field(default_factory=dict)
    busy: set[EffectId] = field(default_factory=set)
    running: dict[EffectId, "asyncio.Task[object]"] = field(default_factory=dict)
    dropped: set[EffectId] = field(default_factory=set)
    released: dict[EffectId, int] = field(default_factory=dict)
    kept: dict[EffectId, Kept] = field(default_factory=dict)
    stuck: dict[EffectId, BaseException] = field(default_factory=dict)
    followed: set[StackRef] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    doubts: bool = False
    adopted: set[EffectId] = field(default_factory=set)

    def doubt(self, error: StoreError) -> None:
        """What a failure of the store means for what this process remembers."""
        self.doubts = True
        if isinstance(error, Rewound):
            self.stacks.clear()

    def follows(self, ref: StackRef, *, followed: bool) -> None:
        """Whether another process listens to that stack, as the store has just said."""
        if followed:
            self.followed.add(ref)
        else:
            self.followed.discard(ref)

    def on_text(self, ref: StackRef) -> OnText | None:
        """Where a model call of that stack should stream to; None when nobody listens."""
        if ref not in self.followed:
            return self.bus.on_text(ref)
        here, store = self.bus.on_text(ref), self.store

        def tell(text: str) -> None:
            store.speak(ref, text)
            if here:
                here(text)

        return tell

    def check_moves(self, stack: Stack) -> None:
        """Raises the fault that stopped what this stack waits for, if one did."""
        for key in stack.open:
            if (fault := self.stuck.get(effect_id(stack.ref, *key))) is not None:
                raise fault

    def __post_init__(self) -> None:
        self.stacks = Stacks(self.store, seen=self.bus.offer)
