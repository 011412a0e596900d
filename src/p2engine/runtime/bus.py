"""Who waits for a stack to move, in this process. Watching is never in the way of what is watched."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from p2engine.domain.ids import EffectId, StackRef, wait_key
from p2engine.domain.records import Placed
from p2engine.domain.states import AssistantMessage, Finished, Reason, UserInputRequest


class Answered(msgspec.Struct, frozen=True):
    """What a message came to. finished: why the turn ended; None while it goes on (a later message is open) or asks."""

    text: str
    finished: Reason | None
    detail: str = ""
    asks: bool = False


class Waiter:
    """Somebody who waits for the answer to the message at entry `since` of a stack.

    The answer is the first final reply of a model call that was asked with that message in sight, or the turn's end.
    head: how many entries were there when the wait began.
    """

    def __init__(self, ref: StackRef) -> None:
        self.ref = ref
        self.since = -1
        self.head = 0
        self.text = ""
        self.answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

    def offer(self, placed: Placed) -> None:
        """A commit on that stack, from whichever process, in order and once."""
        commit = placed.commit
        end = placed.seq + len(commit.states)
        if end <= self.head or self.answer.done():
            return
        self.head = end
        first = commit.states[0] if commit.states else None
        if type(first) is AssistantMessage and _horizon(commit.cause) > self.since:
            self.text = first.text
            if commit.outcomes == 1:
                last = commit.states[-1]
                ending = last if type(last) is Finished else None
                self.answer.set_result(
                    Answered(first.text, ending.reason, ending.detail) if ending else Answered(first.text, None)
                )
                return
        for state in commit.states[max(0, self.since + 1 - placed.seq) :]:
            if type(state) is UserInputRequest:
                self.answer.set_result(Answered(state.question, None, asks=True))
                return
            if type(state) is Finished:
                self.answer.set_result(Answered(self.text, state.reason, state.detail))
                return


class Bus:
    """Waiters by stack, and who listens to the text of a running model call."""

    def __init__(self) -> None:
        self._waiters: dict[StackRef, list[Waiter]] = {}
        self._listeners: dict[StackRef, list[Callable[[str], None]]] = {}

    def offer(self, ref: StackRef, commits: Sequence[Placed]) -> None:
        """These commits stand on that stack now."""
        for waiter in self._waiters.get(ref, ()):
            for placed in commits:
                waiter.offer(placed)

    def wait(self, waiter: Waiter, *, since: int, head: int) -> None:
        """From now on `waiter` is offered what comes after the first `head` entries."""
        waiter.since, waiter.head = since, head
        self._waiters.setdefault(waiter.ref, []).append(waiter)

    def fail(self, ref: StackRef, error: BaseException) -> None:
        """A job of that stack raised: whoever waits for it is told. The job stays owed."""
        for waiter in self._waiters.get(ref, ()):
            if not waiter.answer.done():
                waiter.answer.set_exception(error)

    def leave(self, waiter: Waiter) -> None:
        left = [other for other in self._waiters.get(waiter.ref, ()) if other is not waiter]
        if left:
            self._waiters[waiter.ref] = left
        else:
            self._waiters.pop(waiter.ref, None)

    def listen(self, ref: StackRef, on_text: Callable[[str], None]) -> Callable[[], None]:
        """Hear the text of that stack's model calls as it streams; call the result to stop."""
        self._listeners.setdefault(ref, []).append(on_text)

        def stop() -> None:
            self._listeners[ref].remove(on_text)
            if not self._listeners[ref]:
                del self._listeners[ref]

        return stop

    def hear(self, ref: StackRef, text: str) -> None:
        """Text of that stack that another process streams."""
        if (tell := self.on_text(ref)) is not None:
            tell(text)

    def on_text(self, ref: StackRef) -> Callable[[str], None] | None:
        """Where a model call of that stack should stream to; None when nobody listens."""
        listeners = self._listeners.get(ref)
        if not listeners:
            return None

        def tell(text: str) -> None:
            for listener in tuple(listeners):
                listener(text)

        return tell


def _horizon(cause: str) -> int:
    """The entry at which the model call that is the cause of a reply was asked; -1 where the cause is no effect."""
    return wait_key(EffectId(cause))[0] if ":" in cause else -1
