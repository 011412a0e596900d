"""What one agent has lived through on one branch: a fold over entries that keeps its derived facts.

Knows how an entry changes the facts, never what to do next. A step costs the same at entry 10 and at entry 10,000:
nothing here walks the history. Versions of a stack share one list of rendered messages; a version owns a prefix of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from hashlib import blake2b
from typing import Any

import msgspec

from p2engine.domain.ids import AgentId, StackRef, WaitKey
from p2engine.domain.messages import CUT_SHORT, Fragment, Message, ToolUse, Usage, fragment
from p2engine.domain.records import Placed
from p2engine.domain.setup import Budget, Setup, Spent
from p2engine.domain.states import (
    SUCCESSORS,
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Caller,
    Finished,
    Override,
    Pending,
    State,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
    name_of,
)
from p2engine.errors import IllegalTransition

Call = ToolCall | AgentCall | UserInputRequest
Sent = tuple[Call, int]  # a call and the entry that decided it
Times = tuple[tuple[int, float], ...]  # entries that decided equal calls, and when

_ONE_STEP = Spent(steps=1)
_MESSAGE_BYTES = 200  # of the objects about the bytes of a message
_NOT_DONE = frozenset({"error", "denied", "timeout", "interrupted", "skipped"})

_canonical = msgspec.json.Encoder(order="sorted").encode


def call_digest(name: str, arguments: dict[str, Any] | str) -> str:
    """A short digest of a call by what it does: equal calls have equal digests."""
    return blake2b(_canonical([name, arguments]), digest_size=8).hexdigest()


class Stack(msgspec.Struct, eq=False):
    """One version of a stack. `push` changes it: whoever decides works on a `copy`.

    Values that are dicts are replaced, never changed in place, but for `open` and `calls`, which every copy owns.
    """

    ref: StackRef
    agent: AgentId
    base: int = 0  # entries below this are inherited from the parent branch: their caller is not ours
    head: int = 0  # entries so far
    at: float = 0.0  # recorded time of the newest
    ground: AnyState | None = None  # the last state that counts for legality
    open: dict[WaitKey, Pending] = {}  # what is waited for, by position
    calls: dict[str, Sent] = {}  # calls without an answer, by call_id
    approved: frozenset[str] = frozenset()  # calls that a person approved and that are not sent yet
    unsent: tuple[Call, ...] = ()  # calls decided and not waited for yet
    late: tuple[UserMessage, ...] = ()  # messages that arrived inside an open wait
    draft: tuple[str, tuple[ToolUse, ...]] | None = None  # an assistant message that may still gain calls
    messages: list[Fragment] = []  # shared with other versions; this one's are the first messages_n
    messages_n: int = 0
    wire_n: int = 0  # bytes of the messages as they are sent
    shared_n: int = 0  # bytes in memory of those that belong to the stack this was forked from
    reply: str = ""  # the agent's last words in this turn
    caller: Caller | None = None
    granted: Budget | None = None  # what the caller lets this turn spend
    children: dict[AgentId, tuple[int, tuple[StackRef, int]]] = {}  # agent: its last call's entry, and that child
    seen: dict[str, dict[str, Times]] = {}  # calls that were not in vain, by digest, in parts that are cheap to replace
    setup: Setup = Setup(agent=AgentId(""))
    thinking: Setup = Setup(agent=AgentId(""))  # the setup the open model call was asked with
    overrides: dict[str, Any] = {}
    locks: frozenset[str] = frozenset()  # override keys that are not changed lightly
    turn: int = 0
    turn_at: float = 0.0
    rounds: int = 0  # model calls in this turn
    spent: Spent = Spent()  # in this turn
    total: Spent = Spent()  # in all turns of this lineage
    usage: Usage | None = None  # of the newest model call
    safe: int = 0  # the last length at which nothing was open

    def copy(self) -> "Stack":
        """A version of its own: sharing what is never changed in place, copying what is."""
        twin = copy(self)
        twin.open = self.open.copy()
        twin.calls = self.calls.copy()
        return twin

    # What is asked of a stack

    @property
    def is_resting(self) -> bool:
        """Nothing is owed here: empty, finished, or cut where nothing was open."""
        return not self.open and not self.unsent

    @property
    def fragments(self) -> Sequence[Fragment]:
        """The rendered messages, oldest first, without those that arrived inside an open wait."""
        return self.messages if len(self.messages) == self.messages_n else self.messages[: self.messages_n]

    @property
    def bytes_n(self) -> int:
        """Roughly what the messages take in memory, with what is remembered of the calls among them.

        Those that a fork shares with the stack it came from count there.
        """
        return self.wire_n + _MESSAGE_BYTES * self.messages_n - self.shared_n

    def equal_calls(self, digest: str) -> Times:
        """The calls of that digest on this lineage, without those that failed or were skipped."""
        return self.seen.get(digest[:2], {}).get(digest, ())

    # The fold

    def fork(self, ref: StackRef, agent: AgentId | None = None) -> "Stack":
        """This stack as the start of a branch: everything up to here is inherited, the caller is not."""
        twin = self.copy()
        twin.ref, twin.base, twin.caller, twin.granted = ref, self.head, None, None
        twin.agent = agent or self.agent
        twin.shared_n += self.bytes_n
        return twin

    def place(self, placed: Placed) -> None:
        """Fold one stored commit."""
        commit = placed.commit
        if placed.seq != self.head:
            raise IllegalTransition(
                f"commit at {placed.seq} of {placed.ref!r} folded onto a stack of {self.head} entries"
            )
        for number, state in enumerate(commit.states):
            self.push(state, at=commit.at, usage=commit.usage if number == 0 else None)

    def place_all(self, commits: Iterable[Placed]) -> "Stack":
        for placed in commits:
            self.place(placed)
        return self

    def push(self, state: AnyState, *, at: float, usage: Usage | None = None) -> None:
        """Add one entry. Raises IllegalTransition where the successor table does not allow it on this ground."""
        kind = type(state)
        inside = kind is UserMessage and bool(self.open)
        if not inside and kind is not Override:
            if kind not in SUCCESSORS[type(self.ground) if self.ground is not None else None]:
                raise IllegalTransition(
                    f"{name_of(state)} after {name_of(self.ground)} at entry {self.head} of {self.ref!r}"
                )
            self.ground = state
        if usage is not None:
            self._spend(usage)
        self.at = at
        _FOLDS[kind](self, state)
        self.head += 1
        if not self.open and not self.unsent and not self.calls:
            self.safe = self.head

    def render_held(self) -> None:
        """Render what is held back until it is known what follows: the newest reply, and messages that came late.

        Where nothing is waited for and no call is open, whatever follows renders them just so.
        """
        self._flush()
        self._hear_late()

    def _close(self, call_id: str) -> bool:
        """Whether the stack waited for that call; it does no longer, nor will it be sent."""
        if self.unsent:
            self.unsent = tuple(call for call in self.unsent if call.call_id != call_id)
        for key, pending in self.open.items():
            if pending.call_id == call_id:
                del self.open[key]
                return True
        return False

    def _result(self, call_id: str) -> Sent | None:
        """The call that has its result now: one step of the turn where it was waited for."""
        if self._close(call_id):
            self._pay(_ONE_STEP)
        return self.calls.pop(call_id, None)

    def _replied(self) -> None:
        """The model has answered: it is not waited for any more."""
        if self.open:
            self.open = {key: pending for key, pending in self.open.items() if pending.what != "think"}

    # One method for each kind of state: what it closes, and what it adds to the facts

    def _hear(self, state: UserMessage) -> None:
        if self.open:
            self.late += (state,)
            return
        self._flush()
        self._hear_late()
        self._say(Message(role="user", text=state.text))
        self._start_turn(state)

    def _start_turn(self, state: UserMessage) -> None:
        self.turn += 1
        self.turn_at = self.at
        self.rounds = 0
        self.spent = Spent()
        self.reply = ""
        if self.head >= self.base:
            self.caller = state.caller
            self.granted = state.grant

    def _speak(self, state: AssistantMessage) -> None:
        self._replied()
        self.reply = state.text
        self.draft = (state.text, ())

    def _decide(self, state: Call) -> None:
        self._replied()
        text, uses = self.draft or ("", ())
        self.calls[state.call_id] = (state, self.head)
        self.unsent += (state,)
        match state:
            case ToolCall():
                self.draft = (text, (*uses, ToolUse(state.call_id, state.tool, state.arguments)))
                if self.setup.dedup != "none":
                    digest = call_digest(state.tool, state.arguments)
                    self._note(digest, (*self.equal_calls(digest), (self.head, self.at)))
            case AgentCall() if state.note:
                pass
            case AgentCall():
                arguments = {"agent_id": state.agent, "message": state.message}
                self.draft = (text, (*uses, ToolUse(state.call_id, "delegate", arguments)))
            case UserInputRequest():
                self.draft = (text, (*uses, ToolUse(state.call_id, "ask_human", {"question": state.question})))

    def _note(self, digest: str, times: Times) -> None:
        part = {**self.seen.get(digest[:2], {}), digest: times}
        self.seen = {**self.seen, digest[:2]: part}

    def _hear_tool(self, state: ToolResult) -> None:
        sent = self._result(state.call_id)
        self._flush()
        self._say(Message(role="tool", text=state.content, call_id=state.call_id))
        if self.seen and sent and isinstance(sent[0], ToolCall) and state.status in _NOT_DONE:
            digest = call_digest(sent[0].tool, sent[0].arguments)
            self._note(digest, tuple(one for one in self.equal_calls(digest) if one[0] != sent[1]))

    def _hear_child(self, state: AgentResult) -> None:
        sent = self._result(state.call_id)
        self._flush()
        if sent and isinstance(sent[0], AgentCall) and sent[0].note:
            self._say(Message(role="user", text=f"[{state.agent}] {state.content}"))
        else:
            self._say(Message(role="tool", text=state.content, call_id=state.call_id))
        decided = sent[1] if sent else self.head
        if state.child is not None and decided >= self.children.get(state.agent, (-1, None))[0]:
            self.children = {**self.children, state.agent: (decided, state.child)}
        self._pay(state.spent)

    def _hear_person(self, state: UserResponse) -> None:
        self._close(state.call_id)
        sent = self.calls.get(state.call_id)
        if sent and isinstance(sent[0], ToolCall):  # an approval: the call may be sent now
            self.approved |= {state.call_id}
            self.unsent += (sent[0],)
        else:
            self.calls.pop(state.call_id, None)
            self._flush()
            self._say(Message(role="tool", text=state.text, call_id=state.call_id))

    def _wait(self, state: Waiting) -> None:
        self._flush()
        for pending in state.on:
            self.open[self.head, pending.slot] = pending
        self.unsent = ()
        if "think" in [pending.what for pending in state.on]:
            self._hear_late()
            self.rounds += 1
            self.thinking = self.setup
            self.approved = frozenset()

    def _hear_late(self) -> None:
        for message in self.late:
            self._say(Message(role="user", text=message.text))
        self.late = ()

    def _end(self, _ended: Finished) -> None:
        self.open = {}
        self._flush()
        for call, _ in self.calls.values():
            if not (isinstance(call, AgentCall) and call.note):
                grant = self.setup.grant(call.tool) if isinstance(call, ToolCall) else None
                unknown = "; outcome unknown" if grant and grant.repeat == "never" else ""
                self._say(Message(role="tool", text=f"{CUT_SHORT}{unknown}]", call_id=call.call_id))
        self._hear_late()
        self.calls = {}
        self.unsent = ()
        self.approved = frozenset()

    def _override(self, state: Override) -> None:
        self.overrides = {**self.overrides, **state.changes}
        self.locks |= set(state.locks)
        if state.setup is not None:
            self.setup = state.setup

    def _spend(self, usage: Usage) -> None:
        self.usage = usage
        self._pay(usage.spent)

    def _pay(self, spent: Spent) -> None:
        self.spent = self.spent.plus(spent)
        self.total = self.total.plus(spent)

    def _flush(self) -> None:
        """An assistant message is complete once something else follows: its text and its calls are one message."""
        if self.draft is not None:
            text, uses = self.draft
            self.draft = None
            self._say(Message(role="assistant", text=text, calls=uses))

    def _say(self, message: Message) -> None:
        if len(self.messages) != self.messages_n:  # another version extended the shared list: take a copy, once
            self.messages = self.messages[: self.messages_n]
        before = self.messages[-1].digest if self.messages else b""
        added = fragment(message, before)
        self.messages.append(added)
        self.wire_n += len(added.wire)
        self.messages_n += 1


_FOLDS: Mapping[type[State], Callable[[Stack, Any], None]] = {
    UserMessage: Stack._hear,
    AssistantMessage: Stack._speak,
    ToolCall: Stack._decide,
    AgentCall: Stack._decide,
    UserInputRequest: Stack._decide,
    ToolResult: Stack._hear_tool,
    AgentResult: Stack._hear_child,
    UserResponse: Stack._hear_person,
    Waiting: Stack._wait,
    Finished: Stack._end,
    Override: Stack._override,
}
"""How each kind of state changes a stack. A table, because a `match` asks each class in turn, and slowly."""


def legal(ground: State | None, state: State) -> bool:
    """Whether the successor table lets `state` stand on `ground`."""
    return isinstance(state, Override) or type(state) in SUCCESSORS[type(ground) if ground is not None else None]
