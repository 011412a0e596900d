"""A whole tree of stacks moved by the machine alone: what is owed is kept in a dict, and a test says what comes back.

Knows the order in which a runtime writes, and checks every step it takes. No store, no clock, no loop.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from p2engine.domain import machine
from p2engine.domain.decisions import Decision, Move
from p2engine.domain.draft import Step
from p2engine.domain.effects import AnyEffect, CallAgent, CallTool, Cancel, Return, Think
from p2engine.domain.ids import AgentId, EffectId, StackRef, child_ref, effect_id, wait_key
from p2engine.domain.machine import Outcome
from p2engine.domain.records import Commit, Placed
from p2engine.domain.setup import Setup, ToolGrant
from p2engine.domain.stack import Stack
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Caller,
    Finished,
    Override,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
)

T = TypeVar("T")

NOON = 1_000_000.0
ROOT = StackRef("root")
BOSS = AgentId("boss")
AGENTS = ("boss", "ann", "bob")
GRANTS = (
    ToolGrant("look", "free"),
    ToolGrant("book", "idempotent", dedup_ttl_s=30.0),
    ToolGrant("pay", "never"),
    ToolGrant("gate", "never", approval=True),
)
WHATS: dict[type[AnyEffect], str] = {Think: "think", CallTool: "tool", CallAgent: "agent"}


def setup_of(agent: str, **changes: Any) -> Setup:
    """An agent that may use all of GRANTS and delegate to everybody, itself included."""
    plain = Setup(agent=AgentId(agent), model="m", tools=GRANTS, delegates=tuple(AgentId(name) for name in AGENTS))
    return msgspec.structs.replace(plain, **changes)


def facts(stack: Stack) -> dict[str, Any]:
    """Everything a stack derives from its entries, as plain values that can be compared."""
    found = {
        name: getattr(stack, name) for name in Stack.__struct_fields__ if name not in ("messages", "base", "shared_n")
    }
    return found | {"messages": [(one.wire, one.digest) for one in stack.fragments]}


class Tape:
    """Choices read off a list of numbers; at its end every choice is the first."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._read = 0

    def __repr__(self) -> str:
        return f"Tape({list(self._numbers)})"

    @property
    def left(self) -> bool:
        return self._read < len(self._numbers)

    def below(self, end: int) -> int:
        self._read += 1
        return self._numbers[self._read - 1] % end if self._read <= len(self._numbers) else 0

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]


class Walk:
    """All stacks of one conversation. `commits` are a stack's own rows; `owed` is what nobody has done yet."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.at = NOON
        self.stacks: dict[StackRef, Stack] = {}
        self.commits: dict[StackRef, list[Placed]] = {}
        self.lineage: dict[StackRef, tuple[StackRef, int] | None] = {}
        self.lives: dict[StackRef, list[dict[str, Any]]] = {}
        self.effects: dict[EffectId, AnyEffect] = {}
        self.owed: dict[EffectId, AnyEffect] = {}
        self.settled: list[EffectId] = []
        self.steps: list[tuple[Stack, Step, Commit]] = []
        self._begin(Stack(ROOT, BOSS), None)

    # What may happen

    def say(self, text: str, ref: StackRef = ROOT) -> Step:
        stack = self.stacks[ref]
        said: list[AnyState] = [UserMessage(text=text)]
        if not stack.open and stack.setup != self._setup(stack.agent):
            said.insert(0, Override(setup=self._setup(stack.agent), source="roster"))
        return self._write(ref, machine.hear(stack, said, self.at), "user")

    def override(self, setup: Setup, ref: StackRef = ROOT) -> Step:
        """Configure a stack, whatever it is doing."""
        agent = self.stacks[ref].agent
        said = Override(changes={"model": setup.model}, setup=msgspec.structs.replace(setup, agent=agent))
        return self._write(ref, machine.hear(self.stacks[ref], (said,), self.at), "user")

    def cancel(self, ref: StackRef = ROOT) -> Step:
        return self._write(ref, machine.end(self.stacks[ref], "cancelled", "enough", self.at), "user")

    def wake(self, ref: StackRef = ROOT) -> Step:
        return self._write(ref, machine.wake(self.stacks[ref], self.at), "engine")

    def settle(self, effect: AnyEffect, outcome: Outcome) -> Step:
        """An effect comes back with this outcome."""
        return self._write(effect.ref, machine.settle(self.stacks[effect.ref], effect, outcome, self.at), effect.id)

    def open_child(self, effect: CallAgent) -> Step:
        """The delegation's branch, forked from what its caller last saw of that agent, and its first message."""
        ref = child_ref(effect.id)
        base = self.fold(*effect.base).fork(ref) if effect.base else Stack(ref, effect.agent)
        self._begin(base, effect.base)
        said: list[AnyState] = [Override(setup=self._setup(effect.agent), source="delegation")]
        said = [] if base.setup == self._setup(effect.agent) else said
        said.append(UserMessage(text=effect.message, sender=BOSS, caller=effect.caller, grant=effect.grant))
        return self._write(ref, machine.hear(self.stacks[ref], said, self.at), effect.id, keeps=True)

    def deliver(self, effect: Return) -> Step | None:
        """A child's answer reaches its caller; None where nobody waits any more."""
        self.owed.pop(effect.id)
        call = effect.to.effect
        parent = self.stacks[StackRef(call.partition(":")[0])]
        if call not in self.owed:
            assert wait_key(call) not in parent.open
            return None
        self.owed.pop(call)
        self.settled.append(call)
        return self._write(parent.ref, machine.settle(parent, effect, effect, self.at), effect.id)

    def end_child(self, effect: Cancel) -> Step | None:
        """A caller that ended ends its child; None where it was never opened."""
        self.owed.pop(effect.id)
        if effect.child not in self.stacks:
            return None
        step = machine.end(self.stacks[effect.child], "cancelled", "the caller was cancelled", self.at)
        return self._write(effect.child, step, effect.id)

    # Short words for what tests do most

    def think(self, ref: StackRef, *moves: Move) -> Step:
        """The model call of that stack comes back with these moves."""
        think = next(effect for effect in self.owed.values() if isinstance(effect, Think) and effect.ref == ref)
        return self.settle(think, Decision(moves))

    def decide(self, *moves: Move) -> Step:
        """The root's model call comes back with these moves."""
        return self.think(ROOT, *moves)

    def open(self) -> CallAgent:
        """The first delegation that is not open yet is opened."""
        call = next(effect for effect in self.due() if isinstance(effect, CallAgent))
        self.open_child(call)
        return call

    def deliver_all(self) -> None:
        """Every answer and every cancellation arrives, and those that follow from them."""
        while errands := [effect for effect in self.due() if isinstance(effect, Return | Cancel)]:
            for errand in errands:
                if isinstance(errand, Return):
                    self.deliver(errand)
                else:
                    self.end_child(errand)

    # What is asked of it

    def due(self) -> list[AnyEffect]:
        """What somebody could do now: a delegation whose child is open waits for that child."""
        opened = [e for e in self.owed.values() if not (isinstance(e, CallAgent) and child_ref(e.id) in self.stacks)]
        return sorted(opened, key=lambda effect: (effect.ref != ROOT, effect.ref, effect.key))

    def placed(self, ref: StackRef) -> list[Placed]:
        """The commits of a stack, lineage included, as a store would give them."""
        base = self.lineage[ref]
        inherited: list[Placed] = []
        for one in self.placed(base[0]) if base else ():
            assert base is not None
            if one.seq < base[1]:
                kept = msgspec.structs.replace(one.commit, states=one.commit.states[: base[1] - one.seq])
                inherited.append(Placed(one.ref, one.seq, kept))
        return inherited + self.commits[ref]

    def fold(self, ref: StackRef, length: int | None = None) -> Stack:
        """The first `length` entries of a stack, folded from its rows."""
        base = self.lineage[ref]
        agent = self.stacks[ref].agent
        stack = Stack(ref, agent, base=min(base[1], length or base[1]) if base else 0)
        for placed in self.placed(ref):
            for number, state in enumerate(placed.commit.states):
                if length is None or stack.head < length:
                    stack.push(state, at=placed.commit.at, usage=None if number else placed.commit.usage)
        return stack

    def states(self, ref: StackRef) -> list[AnyState]:
        return [state for placed in self.placed(ref) for state in placed.commit.states]

    # Writing, with every rule that can be judged at the moment of a commit

    def _setup(self, agent: str) -> Setup:
        return msgspec.structs.replace(self.setup, agent=AgentId(agent))

    def _begin(self, stack: Stack, base: tuple[StackRef, int] | None) -> None:
        self.stacks[stack.ref] = stack
        self.commits[stack.ref] = []
        self.lives[stack.ref] = []
        self.lineage[stack.ref] = base

    def _write(self, ref: StackRef, step: Step, cause: str, *, keeps: bool = False) -> Step:
        before = self.stacks[ref]
        if cause in self.owed and not keeps:
            self.settled.append(EffectId(cause))
            del self.owed[EffectId(cause)]
        for dropped in step.drops:
            self.owed.pop(dropped, None)  # the one that just came back is among them
        commit = Commit(
            step.stack.at, cause, step.states, step.outcomes, step.usage, safe=step.safe, safe_before=before.safe
        )
        assert bool(step.states) == (step.stack.head > before.head)
        if step.states:
            self.commits[ref].append(Placed(ref, before.head, commit))
            self.lives[ref].append(facts(step.stack))
        self.stacks[ref] = step.stack
        self.steps.append((before, step, commit))
        for effect in step.effects:
            assert effect.id not in self.effects, f"{effect.id} was owed before"
            self.effects[effect.id] = self.owed[effect.id] = effect
        self._check(before, step)
        return step

    def _check(self, before: Stack, step: Step) -> None:
        stack = step.stack
        assert stack.open or stack.ground is None or isinstance(stack.ground, Finished), "neither ends nor waits"
        assert not stack.unsent, "a call was decided and not sent"
        owed = {e.id: e for e in self.owed.values() if e.ref == stack.ref and not isinstance(e, Return | Cancel)}
        assert set(owed) == {effect_id(stack.ref, *key) for key in stack.open}, "waits and debts differ"
        for key, pending in stack.open.items():
            effect = owed[effect_id(stack.ref, *key)]
            what = WHATS.get(type(effect)) or ("approval" if effect.kind == "approval" else "human")  # type: ignore[union-attr]
            assert pending.what == what
            assert pending.call_id == getattr(effect, "call_id", "")
        ends = [state for state in step.states if isinstance(state, Finished)]
        returns = [effect for effect in step.effects if isinstance(effect, Return)]
        assert len(returns) == (len(ends) if stack.caller else 0), "an end that does not return"
        cancels = {effect.child for effect in step.effects if isinstance(effect, Cancel)}
        answered = {state.call_id for state in step.states if isinstance(state, AgentResult)}
        left = {
            child_ref(effect_id(stack.ref, *key))
            for key, pending in before.open.items()
            if pending.what == "agent" and pending.call_id not in answered
        }
        assert cancels == (left if ends else set()), "an end that leaves a child running"


# Naive models: everything from the states alone, by reading all of them


def answered_once(states: Sequence[AnyState]) -> None:
    """Each call has exactly one answer, or the end of its turn has closed it; each answer has a call."""
    asked: dict[str, AnyState] = {}
    for state in states:
        match state:
            case ToolCall() | AgentCall() | UserInputRequest():
                assert state.call_id not in asked, f"two open calls {state.call_id!r}"
                asked[state.call_id] = state
            case ToolResult() | AgentResult():
                assert state.call_id in asked, f"an answer without a call: {state.call_id!r}"
                del asked[state.call_id]
            case UserResponse():
                assert state.call_id in asked
                if isinstance(asked[state.call_id], UserInputRequest):
                    del asked[state.call_id]
            case Finished():
                asked.clear()
            case _:
                pass


def safe_lengths(states: Sequence[AnyState]) -> list[int]:
    """Every length at which nothing is waited for and no call is without an answer, by a scan of all states."""
    safe = []
    thinking = False
    calls: dict[str, AnyState] = {}
    for length, state in enumerate(states, 1):
        match state:
            case Waiting():
                thinking = any(pending.what == "think" for pending in state.on)
            case ToolCall() | AgentCall() | UserInputRequest():
                calls[state.call_id] = state
                thinking = False
            case ToolResult() | AgentResult():
                del calls[state.call_id]
            case UserResponse() if isinstance(calls[state.call_id], UserInputRequest):
                del calls[state.call_id]
            case Finished():
                calls.clear()
                thinking = False
            case AssistantMessage():
                thinking = False
            case _:
                pass
        if not thinking and not calls:
            safe.append(length)
    return safe


def texts(stack: Stack) -> list[str]:
    """What the model would be shown, as bare texts."""
    return [one.message.text for one in stack.fragments]


def shown(walk: Walk, ref: StackRef = ROOT) -> list[tuple[str, str]]:
    """What the model would be shown: roles and texts."""
    return [(one.message.role, one.message.text) for one in walk.stacks[ref].fragments]


def caller_of(effect: EffectId, call_id: str = "c", **more: Any) -> Caller:
    return Caller(effect=effect, call_id=call_id, root=(ROOT, 0), **more)
