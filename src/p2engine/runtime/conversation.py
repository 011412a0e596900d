"""A conversation as its users hold it: speak, look, fork, rewind, configure, rate."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from p2engine.domain.decisions import Answer
from p2engine.domain.draft import Step
from p2engine.domain.effects import Ask
from p2engine.domain.ids import AgentId, StackRef, effect_id
from p2engine.domain.machine import hear, settle, wake
from p2engine.domain.records import Batch, Branch, Commit, Fact, Placed
from p2engine.domain.records import Conversation as Record
from p2engine.domain.setup import Setup
from p2engine.domain.stack import Stack
from p2engine.domain.states import (
    AnyState,
    AssistantMessage,
    Finished,
    Override,
    Reason,
    UserMessage,
    UserResponse,
)
from p2engine.domain.verdicts import Verdict
from p2engine.errors import AlreadySettled, StoreError, UsageError
from p2engine.limits import FOLLOW_PERIOD_S, MESSAGE_BYTES_MAX
from p2engine.runtime import branches
from p2engine.runtime.branches import Forked
from p2engine.runtime.bus import Answered, Waiter
from p2engine.runtime.turn import commit, hand_out, to_the_end
from p2engine.runtime.world import World

OnText = Callable[[str], None]


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a message came to. finished: why the turn ended, None while it goes on or asks. Costs are the turn's so
    far, delegates included; cost_usd is None where a price is not known."""

    conversation: str
    branch: str
    turn: int
    text: str
    finished: Reason | None
    detail: str = ""
    asks: bool = False
    model: str | None = None
    offline: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    duration_s: float = 0.0


class Conversation:
    """One conversation of an engine. Every call looks at the record anew: another terminal may have moved it."""

    def __init__(self, world: World, record: Record) -> None:
        self._world = world
        self.record = record

    @property
    def name(self) -> str:
        return self.record.name

    # Speaking

    async def say(
        self, text: str, *, sender: str = "user", branch: str | None = None, on_text: OnText | None = None
    ) -> Reply:
        """Say something on the current branch (or `branch`) and wait for the answer.

        on_text hears the agent's text as it streams. Raises UsageError for a message that is empty or larger than
        MESSAGE_BYTES_MAX, and StoreError; a model or tool that fails is a reply whose `finished` says so.
        """
        _check(text)
        _check(sender)
        ref = (await self.branch(branch)).ref
        started = self._world.clock.now()
        waiter = Waiter(ref)
        return await self._follow(waiter, self._tell(waiter, text, sender), started, on_text)

    async def _tell(self, waiter: Waiter, text: str, sender: str) -> None:
        """Commit what is said: the answer where the agent has asked, else a message. Then wait for what comes of it."""
        step = None
        while step is None:
            stack = await self._world.stacks.get(waiter.ref)
            step = await self._answer(stack, text) if _asked(stack) else await self._hear(stack, text, sender)
        own = next(n for n, state in enumerate(step.states, 1) if isinstance(state, UserMessage | UserResponse))
        before = step.stack.head - len(step.states)
        self._world.bus.wait(waiter, since=before + own - 1, head=before + own)
        # The step itself holds the answer where the budget is spent.
        waiter.offer(Placed(waiter.ref, before, Commit(step.stack.at, sender, step.states, step.outcomes)))
        await hand_out(self._world, step.effects)

    async def _hear(self, stack: Stack, text: str, sender: str) -> Step | None:
        """The message, with the agent's setup where that is new; None where the stack turned out to be another."""
        setup = await self._world.roster.setup(stack.agent, stack.overrides, stand_in=True)

        def decide(current: Stack, at: float) -> Step:
            if _asked(current):
                raise _Stale
            said: list[AnyState] = [UserMessage(text=text, sender=sender)]
            if not current.open and setup != current.setup:  # a running turn keeps the setup it began with
                if current.overrides != stack.overrides:
                    raise _Stale
                said.insert(0, Override(setup=setup, source="roster"))
            return hear(current, said, at)

        try:
            return await commit(self._world, stack.ref, decide, cause=sender)
        except _Stale:
            return None

    async def resume(self, *, branch: str | None = None, on_text: OnText | None = None) -> Reply | None:
        """Wait for the turn that is running, or set a cut one going; None where there is nothing to resume."""
        ref = (await self.branch(branch)).ref
        started = self._world.clock.now()
        stack = await self._world.stacks.refresh(ref)
        if stack.ground is None or isinstance(stack.ground, Finished):
            return None
        if stack.is_resting and isinstance(stack.ground, AssistantMessage):  # a fork, cut right after an answer
            return None
        if _asked(stack):
            return None
        waiter = Waiter(ref)
        self._world.bus.wait(waiter, since=-1, head=stack.head)  # at once: the turn may end before `_wake` begins
        return await self._follow(waiter, self._wake(waiter), started, on_text)

    async def _wake(self, waiter: Waiter) -> None:
        step = await commit(self._world, waiter.ref, wake, cause="user")
        await hand_out(self._world, step.effects)

    async def cancel(self, *, branch: str | None = None, why: str = "cancelled by the user") -> bool:
        """End the running turn and its delegates. False where nothing ran."""
        return await branches.cancel(self._world, (await self.branch(branch)).ref, why)

    async def _answer(self, stack: Stack, text: str) -> Step | None:
        """What is said answers the agent's question; None where somebody else answered it first."""
        key, pending = next((k, p) for k, p in stack.open.items() if p.what == "human")
        ask = Ask(id=effect_id(stack.ref, *key), call_id=pending.call_id, question="")
        try:
            return await commit(
                self._world,
                stack.ref,
                lambda s, at: settle(s, ask, Answer(text), at),
                cause=ask.id,
                settles=(ask.id,),
                awaited=key,
            )
        except AlreadySettled:
            await self._world.stacks.refresh(stack.ref)
            return None

    async def _follow(
        self, waiter: Waiter, begin: Coroutine[Any, Any, None], started: float, on_text: OnText | None
    ) -> Reply:
        world, ref = self._world, waiter.ref
        stop = world.bus.listen(ref, on_text) if on_text else None
        try:
            if world.keeps is None:  # most answers come from this process, and soon
                await to_the_end(begin)
                world.check_moves(await world.stacks.get(ref))
                await asyncio.wait((waiter.answer,), timeout=FOLLOW_PERIOD_S)
                if not waiter.answer.done():
                    await self._watch(waiter)
            else:
                await self._watch(waiter, begin)
            return await self._reply(ref, waiter.answer.result(), started)
        finally:
            world.bus.leave(waiter)
            if stop:
                stop()

    async def _watch(self, waiter: Waiter, begin: Coroutine[Any, Any, None] | None = None) -> None:
        """Take in what other processes write to the stack until the answer is there.

        begin: what they are to answer. Done once this listens, so that nothing they say is missed; and what they
        write is taken in once it is done, so that the waiter is there to be told.
        """
        stacks, begun = self._world.stacks, asyncio.Event()
        since, text = (await stacks.get(waiter.ref)).head, self._world.bus.on_text(waiter.ref)
        news = self._world.store.follow(waiter.ref, since=since, answers=text is None)

        async def follow() -> None:
            async for commits in news:
                await begun.wait()
                if isinstance(commits, str):
                    self._world.bus.hear(waiter.ref, commits)
                else:
                    await stacks.refresh(waiter.ref, commits)

        following = asyncio.ensure_future(follow())
        try:
            if begin is not None:
                await asyncio.sleep(0)
                await to_the_end(begin)
            begun.set()
            await asyncio.wait((waiter.answer, following), return_when=asyncio.FIRST_COMPLETED)
            if not waiter.answer.done():
                following.result()
                raise StoreError("the store was closed while an answer was awaited")
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _reply(self, ref: StackRef, answered: Answered, started: float) -> Reply:
        stack = await self._world.stacks.get(ref)
        return Reply(
            conversation=self.name,
            branch=(await self._world.stacks.branch(ref)).name,
            turn=stack.turn,
            text=answered.text,
            finished=answered.finished,
            detail=answered.detail,
            asks=answered.asks,
            model=stack.usage.model if stack.usage else None,
            offline=stack.usage.offline if stack.usage else False,
            tokens_in=stack.spent.tokens_in,
            tokens_out=stack.spent.tokens_out,
            cost_usd=stack.spent.cost_usd,
            duration_s=round(max(0.0, self._world.clock.now() - started), 3),
        )

    # Looking

    async def branch(self, name: str | None = None) -> Branch:
        """The current branch, or the one of that name. Raises UsageError."""
        await self.reload()
        if name is None:
            return await self._world.stacks.branch(self.record.current)
        return await branches.find(self._world, self.record, name)

    async def branches(self, *, delegates: bool = False) -> Sequence[Branch]:
        """The branches, oldest first; those of delegations only when asked for."""
        return await self._world.store.branches(self.record.id, delegates=delegates)

    async def commits(self, *, branch: str | None = None, since: int = 0) -> Sequence[Placed]:
        """The stack of a branch as it was written, from entry `since` on."""
        return await self._world.store.load((await self.branch(branch)).ref, since=since)

    async def stack(self, *, branch: str | None = None) -> Stack:
        """The folded stack of a branch. Read it; never push onto it."""
        return await self._world.stacks.refresh((await self.branch(branch)).ref)

    async def reload(self) -> None:
        """Look at the record anew."""
        found = await self._world.store.conversation(self.record.id)
        if found is None:
            raise UsageError(f"conversation {self.name!r} is gone")
        self.record = found

    # Time travel

    async def fork(self, at: int, name: str, *, branch: str | None = None) -> Forked:
        """A new branch on which entries 0…at stay (negative: from the end); the current branch stays current."""
        source = await self.branch(branch)
        length = await branches.length_at(self._world, source.ref, at, self.name)
        return await branches.fork(self._world, self.record, source, length, name)

    async def rewind(self, at: int, *, name: str | None = None, keep_running: bool = False) -> Forked:
        """Fork the current branch so that 0…at stay, and go on there. The old path keeps its name and its entries.

        What runs on the old path is cancelled unless keep_running.
        """
        source = await self.branch()
        length = await branches.length_at(self._world, source.ref, at, self.name)
        named = name or await branches.free_name(self._world, self.record, source, length - 1)
        return await branches.rewind(self._world, self.record, source, length, named, keep_running=keep_running)

    async def checkout(self, name: str, *, keep_running: bool = False) -> Branch:
        """Make another branch the current one; what runs on the one left is cancelled unless keep_running."""
        source = await self.branch()
        target = await self.branch(name)
        if target.delegate is not None:
            raise UsageError(f"branch {name!r} belongs to a delegation; people talk to branches of {self.record.agent}")
        if target.ref != source.ref:
            await branches.checkout(self._world, self.record, source, target, keep_running=keep_running)
        return target

    # Configuring and judging

    async def override(self, changes: Mapping[str, Any], *, lock: bool = False) -> Setup:
        """Change the configuration of the current branch from its next step on; recorded on its stack.

        lock: later changes of these keys need `lock` too. Raises UsageError for unknown keys, values, or a locked key.
        """
        ref = (await self.branch()).ref
        setup = None
        while setup is None:
            stack = await self._world.stacks.refresh(ref)
            held = sorted(set(changes) & stack.locks)
            if held and not lock:
                raise UsageError(f"{held[0]!r} is locked on {self.name!r}", hint="say --lock to change it all the same")
            setup = await self._override(ref, stack, changes, tuple(sorted(changes)) if lock else ())
        return setup

    async def _override(
        self, ref: StackRef, stack: Stack, changes: Mapping[str, Any], locks: tuple[str, ...]
    ) -> Setup | None:
        """Commit the change to what `stack` says; None where another change came first."""
        setup = await self._world.roster.setup(stack.agent, {**stack.overrides, **changes}, stand_in=True)
        said = Override(changes=dict(changes), locks=locks, setup=setup, source="user")

        def decide(current: Stack, at: float) -> Step:
            if (current.overrides, current.locks) != (stack.overrides, stack.locks):
                raise _Stale
            return hear(current, (said,), at)

        try:
            await commit(self._world, ref, decide, cause="user")
        except _Stale:
            return None
        return setup

    async def rate(self, score: float, *, turn: int | None = None, note: str = "", label: str = "") -> Verdict:
        """A person's verdict (0..1) on the last turn's answer, or on turn K's (1-based). Raises UsageError."""
        if not 0 <= score <= 1:
            raise UsageError(f"a rating is 0..1, good or bad, not {score!r}")
        branch = await self.branch()
        subject = await self._answer_of(branch.ref, turn)
        verdict = Verdict(evaluator="human", version="1", subject=subject, score=score, label=label, comment=note)
        fact = Fact(
            id=self._world.ids.fact(),
            kind="eval.verdict",
            cause=subject,
            at=self._world.clock.now(),
            conversation=self.record.id,
            ref=branch.ref,
            body=msgspec.to_builtins(verdict),
        )
        await self._world.store.write(Batch(conversation=self.record.id, facts=(fact,)))
        return verdict

    async def _answer_of(self, ref: StackRef, turn: int | None) -> str:
        """The event id of the last answer of a turn."""
        answers: dict[int, str] = {}
        stack = Stack(ref, AgentId(self.record.agent))
        for placed in await self._world.store.load(ref):
            for offset, state in enumerate(placed.commit.states):
                stack.push(state, at=placed.commit.at)
                if isinstance(state, AssistantMessage):
                    answers[stack.turn] = f"{placed.ref}:{placed.seq + offset}"
        wanted = turn if turn is not None else stack.turn
        if wanted not in answers:
            has = f"turns 1…{stack.turn}" if stack.turn else "no turns"
            raise UsageError(f"no answer to rate in turn {wanted} of {self.name!r}: it has {has}")
        return answers[wanted]


async def begin(conversation: Conversation, said: Sequence[AnyState], *, cause: str) -> Reply | None:
    """Put the first entries on its empty stack, in one commit, and wait for the answer; `resume` where it has begun."""
    world, ref = conversation._world, (await conversation.branch()).ref
    if (await world.stacks.refresh(ref)).head:
        return await conversation.resume()

    def decide(stack: Stack, at: float) -> Step:
        return wake(stack, at) if stack.head else hear(stack, said, at)  # another process may have been faster

    async def tell() -> None:
        step = await commit(world, ref, decide, cause=cause)
        await hand_out(world, step.effects)

    waiter = Waiter(ref)
    world.bus.wait(waiter, since=-1, head=0)
    return await conversation._follow(waiter, tell(), world.clock.now(), None)


def _asked(stack: Stack) -> bool:
    """Whether the agent waits for a person's answer."""
    return any(pending.what == "human" for pending in stack.open.values())


def _check(text: str) -> None:
    """Raises UsageError for what is no message."""
    if not text.strip():
        raise UsageError("a message needs some text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"a message is text that UTF-8 can hold: {error.reason}") from error
    if size > MESSAGE_BYTES_MAX:
        raise UsageError(f"a message has at most {MESSAGE_BYTES_MAX} bytes; this one has {size}")


class _Stale(Exception):
    """The overrides changed between reading the setup and writing it."""
