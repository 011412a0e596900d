"""The stacks this process has in hand: folded once, kept by size, refreshed when somebody else wrote.

A cached stack is a prefix of an append-only branch, so it is never wrong, only short. Where there are too many, those
that rest are put away: their messages packed, which takes a fraction of the room and is sooner undone than a fold.
"""

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from p2engine.domain.ids import StackRef
from p2engine.domain.messages import Fragment
from p2engine.domain.records import Branch, Placed
from p2engine.domain.stack import Stack
from p2engine.errors import UsageError
from p2engine.limits import STACK_CACHE_BYTES_MAX, STACKS_AT_WORK_BYTES_MAX
from p2engine.ports import Archive

_STACK_BYTES = 4096  # what a stack takes beside its messages

_PUT_AWAY_MAX = 64 * 1024  # of one stack: packing what is larger would keep the loop from its other work
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Fragment]).decode

Seen = Callable[[StackRef, Sequence[Placed]], None]


class Stacks:
    """Stacks by ref. `seen` is told of commits that another process wrote.

    bytes_max: in memory; above it stacks that rest are put away, and from at_work_max on any other is forgotten. Those
    that are put away have half as much room beside it, and are then forgotten too.
    """

    def __init__(
        self,
        store: Archive,
        *,
        seen: Seen,
        bytes_max: int = STACK_CACHE_BYTES_MAX,
        at_work_max: int = STACKS_AT_WORK_BYTES_MAX,
    ) -> None:
        self._store = store
        self._seen = seen
        self._bytes_max = bytes_max
        self._at_work_max = at_work_max
        self._bytes = 0  # without those that are put away
        self._away_bytes = 0
        self._stacks: OrderedDict[StackRef, Stack] = OrderedDict()  # the longest unused first
        self._resting: OrderedDict[StackRef, None] = OrderedDict()  # those of them on which nothing is open
        self._away: OrderedDict[StackRef, bytes] = OrderedDict()  # the messages of those that are put away
        self._locks: dict[StackRef, asyncio.Lock] = {}
        self._branches: dict[StackRef, Branch] = {}

    def lock(self, ref: StackRef) -> asyncio.Lock:
        """One writer a stack in this process: conflicts then come from other processes only."""
        found = self._locks.get(ref)
        if found is None:
            found = self._locks[ref] = asyncio.Lock()
        return found

    def peek(self, ref: StackRef) -> Stack | None:
        """The stack, where this process has it in hand."""
        if ref in self._away:
            self._fetch(ref)
        return self._stacks.get(ref)

    async def get(self, ref: StackRef, news: Sequence[Placed] | None = None) -> Stack:
        """The stack as far as this process knows it, loaded on first use. Raises UsageError for an unknown ref.

        news: as in `refresh`.
        """
        stack = self.peek(ref)
        if stack is None:
            branch = await self.branch(ref)
            stack = self._start(branch)
            commits = await self._gained(stack, news)
            stack.place_all(commits)
            self.put(stack)
            self._seen(ref, commits)  # it may have been forgotten while somebody waits for it to move
        else:
            self._stacks.move_to_end(ref)
            if ref in self._resting:
                self._resting.move_to_end(ref)
        return stack

    async def refresh(self, ref: StackRef, news: Sequence[Placed] | None = None) -> Stack:
        """The stack as the store has it now. news: commits that it is known to have gained; loaded where not given."""
        stack = self.peek(ref)
        if stack is None:
            return await self.get(ref, news)
        commits = await self._gained(stack, news)
        current = self.peek(ref)
        if current is not None and current.head > stack.head:  # somebody here was faster
            return current
        if commits:
            stack = stack.copy().place_all(commits)
            self.put(stack)
            self._seen(ref, commits)
        return stack

    async def _gained(self, stack: Stack, news: Sequence[Placed] | None) -> Sequence[Placed]:
        """The commits after those on `stack`: from the news, where they follow on it."""
        commits = [placed for placed in news or () if placed.seq >= stack.head]
        if news is None or (commits and commits[0].seq > stack.head):
            return await self._store.load(stack.ref, since=stack.head)
        return commits

    async def base(self, ref: StackRef, length: int) -> Stack:
        """The first `length` entries of a stack: from memory where it ends there, else folded."""
        stack = self.peek(ref)
        if stack is not None and stack.head == length:
            return stack
        branch = await self.branch(ref)
        stack = Stack(ref, branch.agent, base=min(branch.at, length))
        for placed in await self._store.load(ref):
            if placed.seq >= length:
                break
            keep = length - placed.seq
            for number, state in enumerate(placed.commit.states[:keep]):
                stack.push(state, at=placed.commit.at, usage=None if number else placed.commit.usage)
        return stack

    def put(self, stack: Stack) -> None:
        """Keep this version; put others away or forget them, longest unused first, when together they grow too large.

        One at work is needed again in a moment, and folding it anew at each step would cost more than the step.
        """
        ref = stack.ref
        before = self.peek(ref)
        self._stacks[ref] = stack
        if before is None:
            self._bytes += stack.bytes_n + _STACK_BYTES
        else:
            self._stacks.move_to_end(ref)
            self._bytes += stack.bytes_n - before.bytes_n
        self._resting.pop(ref, None)
        if stack.is_resting:
            self._resting[ref] = None
        while self._bytes > self._bytes_max and (oldest := next(iter(self._resting), ref)) != ref:
            self._put_away(oldest)
        while self._away_bytes > self._bytes_max // 2:
            self._forget(next(iter(self._away)))
        while self._bytes > self._at_work_max and (oldest := next(iter(self._stacks))) != ref:
            self._forget(oldest)

    def _put_away(self, ref: StackRef) -> None:
        stack = self._stacks[ref]
        if stack.shared_n or stack.bytes_n > _PUT_AWAY_MAX:  # shared ones would be there twice
            self._forget(ref)
            return
        twin = stack.copy()
        twin.messages = []
        self._stacks[ref] = twin
        self._away[ref] = zlib.compress(_encode(stack.fragments), zlib.Z_BEST_SPEED)
        self._bytes -= stack.bytes_n + _STACK_BYTES
        self._away_bytes += len(self._away[ref]) + _STACK_BYTES
        del self._resting[ref]

    def _fetch(self, ref: StackRef) -> None:
        """Have one in hand again that was put away."""
        twin, messages = self._stacks[ref].copy(), self._away.pop(ref)
        twin.messages = _decode(zlib.decompress(messages))
        self._stacks[ref] = twin
        self._bytes += twin.bytes_n + _STACK_BYTES
        self._away_bytes -= len(messages) + _STACK_BYTES
        self._resting[ref] = None

    def _forget(self, ref: StackRef) -> None:
        self._branches.pop(ref, None)
        self._resting.pop(ref, None)
        old = self._stacks.pop(ref, None)
        if (messages := self._away.pop(ref, None)) is not None:
            self._away_bytes -= len(messages) + _STACK_BYTES
        elif old is not None:
            self._bytes -= old.bytes_n + _STACK_BYTES
        if ref in self._locks and not self._locks[ref].locked():
            del self._locks[ref]

    def clear(self) -> None:
        """Forget everything: the store is not what it was."""
        self._stacks.clear()
        self._resting.clear()
        self._away.clear()
        self._branches.clear()
        self._bytes = self._away_bytes = 0

    def forget(self, refs: Sequence[StackRef]) -> None:
        """These stacks are gone, or shorter."""
        for ref in refs:
            self._forget(ref)

    def know(self, branch: Branch) -> None:
        """A branch this process has just made. One without a parent is empty, as far as anybody knows."""
        self._branches[branch.ref] = branch
        if branch.parent is None:
            self.put(self._start(branch))

    async def branch(self, ref: StackRef) -> Branch:
        """The branch of that ref. Raises UsageError when there is none."""
        found = self._branches.get(ref)
        if found is None:
            found = await self._store.branch(ref)
            if found is None:
                raise UsageError(f"no branch {ref!r}")
            self._branches[ref] = found
        return found

    def _start(self, branch: Branch) -> Stack:
        """A branch at its parent's tip shares the parent's messages; any other starts empty and is folded."""
        parent = self.peek(branch.parent) if branch.parent else None
        if parent is not None and parent.head == branch.at:
            return parent.fork(branch.ref)
        return Stack(branch.ref, branch.agent, base=branch.at)
