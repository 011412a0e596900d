"""The doors a turn may use, and what one process keeps between steps. Holds; does nothing."""

import asyncio
from dataclasses import dataclass, field

from p2engine.domain.effects import AnyEffect
from p2engine.domain.ids import EffectId, OwnerId
from p2engine.ports import Archive, BlobStore, Clock, Dispatcher, Ids, Roster, ToolRunner
from p2engine.runtime.bus import Bus
from p2engine.runtime.stacks import Stacks


@dataclass(slots=True, kw_only=True)
class World:
    """One process's view: ports, caches, and the effects it owns.

    is_local: effects are born owned by this process and run here; otherwise whoever claims a job runs it.
    born: effects this process owns and has not begun. busy: those it does now. running: attempts that may be
    interrupted. dropped: those that were. released: how often an effect was handed back for want of its tool.
    told: complaints in the log that a sweep would only repeat.
    """

    store: Archive
    blobs: BlobStore
    roster: Roster
    tools: ToolRunner
    clock: Clock
    ids: Ids
    owner: OwnerId
    bus: Bus
    is_local: bool = True
    dispatcher: Dispatcher = field(init=False)  # the engine's, since it runs what is dispatched
    stacks: Stacks = field(init=False)
    born: dict[EffectId, AnyEffect] = field(default_factory=dict)
    busy: set[EffectId] = field(default_factory=set)
    running: dict[EffectId, "asyncio.Task[object]"] = field(default_factory=dict)
    dropped: set[EffectId] = field(default_factory=set)
    released: dict[EffectId, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.stacks = Stacks(self.store, seen=self.bus.offer)
