"""The engine: opens conversations, runs what they owe, and lets everyone watch the one log."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from p2engine.domain.effects import AnyEffect
from p2engine.domain.ids import AgentId, is_beginning, ref_of
from p2engine.domain.machine import wake
from p2engine.domain.records import Batch, Cursor, Event, Fact, Job, Perform, Query, Wake
from p2engine.domain.records import Conversation as Record
from p2engine.errors import NameTaken, StoreError, UsageError
from p2engine.limits import SWEEP_PERIOD_S
from p2engine.ports import Dispatcher, EventSink
from p2engine.runtime import branches, pruning
from p2engine.runtime.bookkeeper import Bookkeeper
from p2engine.runtime.conversation import Conversation
from p2engine.runtime.perform import perform
from p2engine.runtime.pruning import Freed, Prunable
from p2engine.runtime.sinks import Fanout
from p2engine.runtime.sweeper import Sweeper
from p2engine.runtime.turn import commit, divide, interrupt
from p2engine.runtime.world import World

log = logging.getLogger("p2engine.runtime")

NAMES_LOOKED_AT = 100  # of the newest conversations of an agent, for a name that is free


Run = Callable[[Job], Awaitable[Sequence[Job]]]
OnError = Callable[[Job, BaseException], None]
Dispatch = Callable[[Run, OnError], Dispatcher]
"""Makes a dispatcher that runs jobs by the first and tells the second of those that raised."""


class Engine:
    """One process's engine. Built by wiring; `start` makes it work, without that it only reads and writes."""

    def __init__(
        self,
        world: World,
        dispatch: Dispatch,
        sinks: Sequence[EventSink] = (),
        *,
        elsewhere: Dispatcher | None = None,
        sweep_period_s: float = SWEEP_PERIOD_S,
    ) -> None:
        """dispatch: runs jobs in this process. elsewhere: gets those done that this process leaves to others."""
        self.world = world
        world.here = dispatch(self.run, self.failed)
        world.dispatcher = elsewhere or world.here
        self.bookkeeper = Bookkeeper(world)
        world.moved = self.bookkeeper.nudge
        self.sweeper = Sweeper(world, period_s=sweep_period_s, bookkeeper=self.bookkeeper)
        self._fanout = Fanout(world.store, sinks)
        self._listening: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self, *, sweeps: bool = True, feeds: bool = True) -> None:
        """Do what is owed, by this process and by those that died; feed the sinks what is written from now on.

        sweeps: look for what others left as well; what this process itself could not write it always tries again.
        feeds: hand events to the sinks.
        """
        if feeds:
            await self._fanout.start()
        self.bookkeeper.books = sweeps
        self.sweeper.start(of_all=sweeps)
        if self.world.keeps is not None:
            self._listening = asyncio.get_running_loop().create_task(self._heed_drops())

    async def _heed_drops(self) -> None:
        """Stop attempts whose turn was ended by another process, where stopping them loses nothing."""
        while True:
            with suppress(StoreError):
                async for effects in self.world.store.drops():
                    interrupt(self.world, effects)
                return
            await asyncio.sleep(self.sweeper.period_s)

    async def aclose(self) -> None:
        """Let running effects end within the grace period; what is then still owed is done by whoever comes next."""
        if self._closed:
            return
        self._closed = True
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        await self.sweeper.aclose()
        await self.world.here.aclose()
        await self.world.dispatcher.aclose()
        await self.bookkeeper.aclose()
        await self._fanout.aclose()
        await self.world.store.aclose()

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many events each sink refused, by its name."""
        return self._fanout.dropped

    # Conversations

    async def conversation(
        self, name: str | None = None, *, agent: str | None = None, group: str | None = None
    ) -> Conversation:
        """The conversation of that name; made, with `agent`, where there is none. Without a name: `agent-1`, ….

        Raises UsageError where there is none and no agent is given.
        """
        if name is not None:
            branches.checked_name(name, "conversation")
            found = await self.conversations(name)
            for record in found:
                if name in (record.name, record.id):
                    return Conversation(self.world, record)
            if agent is None:
                if len(found) == 1:
                    return Conversation(self.world, found[0])
                known = ", ".join(repr(record.name) for record in found[:5]) + (", …" if len(found) > 5 else "")
                raise UsageError(
                    f"ambiguous conversation {name!r}: {known}" if found else f"no conversation {name!r}",
                    hint="" if found else "p2engine conversation list shows what there is",
                )
        if agent is None:
            raise UsageError("a new conversation needs an agent")
        return await self._open(name, AgentId(agent), group)

    async def conversations(self, prefix: str = "", *, limit: int = 1000, grouped: bool = True) -> Sequence[Record]:
        """The conversations whose name begins with `prefix`, or id, by `ids.is_beginning`; newest first.

        grouped: where no prefix is given, those that are trials of rollouts as well.
        """
        found = await self.world.store.conversations(prefix=prefix, limit=limit, grouped=grouped)
        return [each for each in found if each.name.startswith(prefix) or is_beginning(prefix, each.id)]

    async def _open(self, name: str | None, agent: AgentId, group: str | None) -> Conversation:
        branches.checked_name(agent, "agent")
        await self.world.roster.setup(agent, {}, stand_in=True)  # who cannot be set up gets no conversation
        number, refusals = 1, 0
        while True:
            tried = name or f"{agent}-{number}"
            record = Record(
                id=self.world.ids.conversation(),
                name=tried,
                agent=agent,
                current=self.world.ids.branch(),
                created_at=self.world.clock.now(),
                group=group,
            )
            branch = branches.main_branch(record)
            fact = Fact(
                id=record.id,
                kind="conversation.opened",
                cause="user",
                at=record.created_at,
                conversation=record.id,
                ref=branch.ref,
                body={"name": tried, "agent": agent},
            )
            try:
                await self.world.store.write(
                    Batch(conversation=record.id, opens=record, branches=(branch,), facts=(fact,))
                )
            except NameTaken:
                if name is not None:  # somebody made it a moment ago
                    return await self.conversation(name)
                refusals += 1
                number = await self._free_number(agent, refusals, record.id)
                continue
            self.world.stacks.know(branch)
            return Conversation(self.world, record)

    async def _free_number(self, agent: AgentId, refusals: int, uid: str) -> int:
        """After the newest `AGENT-N`; the more often somebody was faster, the wider apart those who try at once."""
        names = [
            record.name for record in await self.world.store.conversations(prefix=f"{agent}-", limit=NAMES_LOOKED_AT)
        ]
        taken = [int(found[1]) for name in names if (found := re.fullmatch(rf"{re.escape(agent)}-(\d{{1,15}})", name))]
        apart: int = int.from_bytes(uid.encode()[-4:]) % 2 ** min(refusals - 1, 12)
        return max(taken, default=0) + 1 + apart

    # The log

    async def query(self, query: Query) -> Sequence[Event]:
        """Events that match."""
        return await self.world.store.events(query)

    async def events(
        self, after: Cursor | int | None = None, *, conversation: str | None = None
    ) -> AsyncIterator[Event]:
        """Every event after a cursor (None: from now on; 0: from the beginning), for ever, without gaps.

        Raises Pruned where one of them is gone already. Those of one conversation: as far as they are kept, and until
        it is pruned.
        """
        cursor = Cursor(after) if isinstance(after, int) else after
        if cursor is None:
            cursor = await self.world.store.newest()
        async for event in self.world.store.tail(cursor, whole=conversation is None):
            if conversation is None or event.conversation == conversation:
                yield event
            elif event.kind == pruning.PRUNED and event.body["id"] == conversation:
                return

    # Pruning

    async def prunable(self, name: str, *, branches: bool = False) -> Prunable:
        """What pruning that conversation would take, or its side branches alone. Takes nothing; raises UsageError."""
        record = (await self.conversation(name)).record
        return await (pruning.side_branches if branches else pruning.whole)(self.world, record)

    async def prune(self, plan: Prunable) -> None:
        """Take it away, all or nothing, once what its models cost is booked. The ledger is never pruned.

        Raises UsageError where the conversation owes something, ConflictError where it has moved since it was looked
        at, and StoreError.
        """
        try:
            await self.bookkeeper.catch_up()
        except StoreError:  # a store that is full is to be pruned all the same, where nothing is lost by it
            await self.bookkeeper.book(plan.conversation.id)
        await pruning.take(self.world, plan)

    async def collect(self) -> Freed:
        """Forget the artifacts of what was pruned that nothing names any more and nobody has put for an hour."""
        return await pruning.collect(self.world)

    # Working

    async def run(self, job: Job) -> Sequence[Job]:
        """Do one job; returns those that follow from it and are this process's to do. What dispatchers call."""
        effects: Sequence[AnyEffect]
        if isinstance(job, Wake):
            effects = (await commit(self.world, job.ref, wake, cause="engine")).effects
        else:
            effects = await perform(job, self.world)
        return await divide(self.world, effects)

    def failed(self, job: Job, error: BaseException) -> None:
        """A job raised. What the disk did may pass, so it is tried again; a fault of ours is shown and kept owed."""
        ref = job.ref if isinstance(job, Wake) else ref_of(job.effect)
        complaint = f"job {job} failed: {error}"
        if complaint not in self.world.told:
            self.world.told.add(complaint)
            log.error("%s", complaint, exc_info=error)
        above = [ref]
        if isinstance(error, StoreError):
            self.world.doubt(error)
            self.sweeper.again(job)
        elif isinstance(job, Perform):
            self.world.stuck[job.effect] = error
        while (stack := self.world.stacks.peek(above[-1])) is not None and stack.caller is not None:
            above.append(ref_of(stack.caller.effect))
            if not isinstance(error, StoreError):
                self.world.stuck[stack.caller.effect] = error
        for waited_for in above:
            self.world.bus.fail(waited_for, error)
