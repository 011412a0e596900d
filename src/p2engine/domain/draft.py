"""One step in the making: states are pushed on a stack, and what follows is owed. The machine's half that advances.

Pure, as all of the machine; reads no clock.
"""

from typing import assert_never

import msgspec

from p2engine.domain.budgets import reply_tokens, spent_out
from p2engine.domain.effects import AnyEffect, Ask, CallAgent, CallTool, Cancel, Judge, Return, Think
from p2engine.domain.evaluation import When
from p2engine.domain.ids import AgentId, EffectId, child_ref, effect_id
from p2engine.domain.messages import Usage
from p2engine.domain.powers import earlier_calls
from p2engine.domain.setup import Spent
from p2engine.domain.stack import Call, Stack, call_digest
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Caller,
    Finished,
    Override,
    Pending,
    Reason,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
    Waiting,
    What,
)
from p2engine.errors import IllegalTransition
from p2engine.limits import ROUNDS_MAX

_FOR_THE_MODEL = Waiting(on=(Pending(0, "think"),))


class Step(msgspec.Struct, frozen=True):
    """What one outcome comes to: the states to add, what is owed from now on, and the stack as it then stands.

    states[:outcomes] came back; the rest is what the machine said. drops: effects nobody waits for any more.
    safe: offsets from the old head at which nothing is open.
    """

    stack: Stack
    states: tuple[AnyState, ...]
    outcomes: int
    effects: tuple[AnyEffect, ...] = ()
    drops: tuple[EffectId, ...] = ()
    safe: tuple[int, ...] = ()
    usage: Usage | None = None


class Draft:
    """One step in the making: a stack of its own, and what was pushed on it."""

    def __init__(self, stack: Stack, at: float) -> None:
        self.at = max(at, stack.at)
        self.before = stack
        self.stack = stack.copy()
        self.states: list[AnyState] = []
        self.outcomes: int | None = None
        self.effects: list[AnyEffect] = []
        self.drops: list[EffectId] = []
        self.safe: list[int] = []
        self.usage: Usage | None = None

    def push(self, state: AnyState) -> None:
        first = not self.states
        self.stack.push(state, at=self.at, usage=self.usage if first else None)
        self.states.append(state)
        if self.stack.safe == self.stack.head:
            self.safe.append(self.stack.head - self.before.head)

    @property
    def spent(self) -> Spent:
        """What the turn has spent, the reply in the making included."""
        told = self.stack.spent
        return told if self.states or self.usage is None else told.plus(self.usage.spent)

    def owe(self, effect: AnyEffect) -> None:
        self.effects.append(effect)

    def step(self) -> Step:
        outcomes = len(self.states) if self.outcomes is None else self.outcomes
        return Step(
            self.stack,
            tuple(self.states),
            outcomes,
            tuple(self.effects),
            tuple(self.drops),
            tuple(self.safe),
            self.usage,
        )

    def advance(self) -> Step:
        """Say what this stack does next."""
        self.outcomes = len(self.states)
        stack = self.stack
        if stack.unsent and not isinstance(stack.ground, UserInputRequest):
            return self._send()
        if stack.open:
            return self.step()
        match stack.ground:
            case None | Finished():
                return self.step()
            case UserMessage() | ToolResult() | AgentResult() | UserResponse():
                return self._think()
            case AssistantMessage():
                return self._think() if stack.late else self.finish("answered")
            case UserInputRequest():
                return self._ask(stack.ground)
            case ToolCall() | AgentCall() | Waiting() | Override():
                raise IllegalTransition(f"{stack.ref!r} stands on {type(stack.ground).__name__} and waits for nothing")
            case unreachable:
                assert_never(unreachable)

    def finish(self, reason: Reason, detail: str = "", *, is_outcome: bool = False) -> Step:
        """The one way a turn ends: closes every wait, cancels open children, returns to whoever waits."""
        self.outcomes = len(self.states) + is_outcome
        stack = self.stack
        seq, caller, reply = stack.head, stack.caller, stack.reply
        for key, pending in stack.open.items():
            owed = effect_id(stack.ref, *key)
            self.drops.append(owed)
            if pending.what == "agent":
                slot = len(self.effects) + 1
                self.owe(Cancel(id=effect_id(stack.ref, seq, slot), child=child_ref(owed)))
        self.push(Finished(reason=reason, detail=detail))
        if caller is not None:
            answered = reason == "answered"
            self.owe(
                Return(
                    id=effect_id(stack.ref, seq, 0),
                    to=caller,
                    agent=stack.agent,
                    status="ok" if answered else "error",
                    text=reply if answered else with_end(reply, stack.agent, reason, detail),
                    child=(stack.ref, stack.head),
                    spent=stack.spent,
                )
            )
        if reason != "cancelled":
            self.judge("finish")
        return self.step()

    def judge(self, when: When) -> None:
        """Owe the verdicts that the setup asks for on the entry that was added last. Nobody waits for them."""
        stack = self.stack
        for place, evaluation in enumerate(stack.setup.evaluations):
            if evaluation.when == when:
                slot = len(self.effects) + 1  # 0 is the return's
                self.owe(Judge(id=effect_id(stack.ref, stack.head - 1, slot), evaluation=evaluation, place=place))

    def _think(self) -> Step:
        stack = self.stack
        if stack.rounds >= ROUNDS_MAX:
            return self.finish("budget", f"{ROUNDS_MAX} model calls in one turn")
        stack.render_held()
        if reached := spent_out(stack, self.at):
            return self.finish("budget", reached)
        seq = stack.head
        self.push(_FOR_THE_MODEL)
        self.owe(Think(id=effect_id(stack.ref, seq, 0), max_tokens=reply_tokens(stack)))
        return self.step()

    def _ask(self, request: UserInputRequest) -> Step:
        seq = self.stack.head
        self.push(Waiting(on=(Pending(0, "human", request.call_id),)))
        self.owe(
            Ask(
                id=effect_id(self.stack.ref, seq, 0),
                call_id=request.call_id,
                question=request.question,
                choices=request.choices,
            )
        )
        return self.step()

    def _send(self) -> Step:
        seq, unsent = self.stack.head, self.stack.unsent
        pending: list[Pending] = []
        for slot, call in enumerate(unsent):
            what, effect = self._effect_of(call, effect_id(self.stack.ref, seq, slot))
            pending.append(Pending(slot, what, call.call_id))
            self.owe(effect)
        self.push(Waiting(on=tuple(pending)))
        return self.step()

    def _effect_of(self, call: Call, owed: EffectId) -> tuple[What, AnyEffect]:
        stack = self.stack
        match call:
            case ToolCall():
                grant = stack.setup.grant(call.tool)
                if grant and grant.approval and call.call_id not in stack.approved:
                    question = f"{stack.agent} wants to run {call.tool}"
                    return "approval", Ask(id=owed, call_id=call.call_id, question=question, kind="approval")
                decided = stack.calls[call.call_id][1]
                return "tool", CallTool(
                    id=owed,
                    call_id=call.call_id,
                    tool=call.tool,
                    arguments=call.arguments,
                    repeat=grant.repeat if grant else "never",
                    duplicate=earlier_calls(stack, call.tool, call.arguments, self.at, before=decided),
                )
            case AgentCall():
                above = stack.caller
                known = stack.children.get(call.agent)
                return "agent", CallAgent(
                    id=owed,
                    call_id=call.call_id,
                    agent=call.agent,
                    message=call.message,
                    grant=call.grant,
                    base=known[1] if known else None,
                    caller=Caller(
                        effect=owed,
                        call_id=call.call_id,
                        root=above.root if above else (stack.ref, stack.head),
                        depth=above.depth + 1 if above else 1,
                        path=(*(above.path if above else ()), call_digest(call.agent, call.message)),
                    ),
                )
            case UserInputRequest():
                raise IllegalTransition("a question stands alone")
            case unreachable:
                assert_never(unreachable)


def with_end(said: str, agent: AgentId, reason: Reason, detail: str) -> str:
    """What was said, and how it ended: the form in which whoever has to go on from there reads it."""
    return f"{said}\n[{agent} ended: {reason}{': ' + detail if detail else ''}]".strip()
