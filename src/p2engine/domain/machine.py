"""How a stack moves. Pure: knows states and effects, never stores, clocks or models.

Something comes back or somebody speaks; the machine turns it into states (absorb) and says what is next (advance).
Both are one Step, which the runtime writes as one commit.
"""

from collections.abc import Sequence
from typing import assert_never

import msgspec

from p2engine.domain.budgets import carve, reply_tokens, spent_out, unpromised
from p2engine.domain.decisions import Answer, AskUser, Decision, Delegate, Failure, Finish, Say, ToolOutcome, UseTool
from p2engine.domain.effects import AnyEffect, Ask, CallAgent, CallTool, Cancel, Return, Think
from p2engine.domain.ids import AgentId, EffectId, child_ref, effect_id
from p2engine.domain.messages import Usage
from p2engine.domain.powers import bounded, delegation_refused, earlier_calls, tool_refused
from p2engine.domain.setup import Budget, Spent
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
from p2engine.limits import CALLS_PER_REPLY_MAX, FAN_OUT_MAX, ROUNDS_MAX

MACHINE = 2  # raise when the same outcome on the same stack moves it differently

_ENDS_OF_ITS_OWN = frozenset({"answered", "gave_up"})  # the others break a turn off, or report that it is broken

_FOR_THE_MODEL = Waiting(on=(Pending(0, "think"),))

Outcome = Decision | Failure | ToolOutcome | Answer | Return


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


def hear(stack: Stack, said: Sequence[AnyState], at: float) -> Step:
    """Somebody speaks, or configures: messages and overrides from outside. A configuration alone wakes nobody."""
    move = _Move(stack, at)
    for state in said:
        move.push(state)
    return move.advance() if any(isinstance(state, UserMessage) for state in said) else move.step()


def settle(stack: Stack, effect: AnyEffect, outcome: Outcome, at: float) -> Step:
    """An effect came back: absorb its outcome, then advance."""
    move = _Move(stack, at)
    match effect, outcome:
        case Think(), Decision():
            ending = _decided(move, outcome)
            return move.finish(ending.reason, ending.detail, is_outcome=True) if ending else move.advance()
        case Think(), Failure():
            move.usage = outcome.usage
            return move.finish("error", outcome.detail, is_outcome=True)
        case CallTool(), ToolOutcome():
            _ran(move, effect, outcome)
        case Ask(), Answer():
            _answered(move, effect, outcome)
        case CallAgent(), ToolOutcome():  # the child could not be opened
            why = outcome.content
            move.push(AgentResult(call_id=effect.call_id, agent=effect.agent, status="error", content=why))
        case Return(), Return():  # a child's answer reaches the stack that waits for it
            move.push(_returned(outcome))
        case _:
            raise IllegalTransition(f"{type(outcome).__name__} cannot come back from {type(effect).__name__}")
    return move.advance()


def wake(stack: Stack, at: float) -> Step:
    """Nothing came back: say what is next, if anything."""
    return _Move(stack, at).advance()


def end(stack: Stack, reason: Reason, detail: str, at: float) -> Step:
    """Stop the turn from outside. An empty step where there is no turn to stop."""
    move = _Move(stack, at)
    if stack.ground is None or isinstance(stack.ground, Finished):
        return move.step()
    return move.finish(reason, detail, is_outcome=True)


class _Move:
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
                    text=reply if answered else _with_end(reply, stack.agent, reason, detail),
                    child=(stack.ref, stack.head),
                    spent=stack.spent,
                )
            )
        return self.step()

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


def _decided(move: _Move, decision: Decision) -> Finish | None:
    """An agent's answer becomes states; what may not be done is answered at once, so that the model sees why."""
    move.usage = decision.usage
    text = "\n".join(say.text for say in decision.moves if type(say) is Say and say.text)
    calls = [call for call in decision.moves if type(call) is UseTool or type(call) is Delegate]
    asks = [ask for ask in decision.moves if type(ask) is AskUser]
    ending = next((finish for finish in decision.moves if type(finish) is Finish), None)
    if not (text or calls or asks or ending):
        ending = Finish("error", "the agent answered nothing")
    if calls or asks:
        ending = None
    if ending and ending.reason in _ENDS_OF_ITS_OWN and move.stack.late:  # somebody has spoken meanwhile
        if not text or ending.reason != "answered":
            text = _with_end(text, move.stack.agent, ending.reason, ending.detail)
        ending = None
    if text:
        move.push(AssistantMessage(text=text))
    if asks and not calls:
        ask = asks[0]
        call_id = _call_id(move, ask.call_id, f"call_{move.before.head}_0")
        move.push(UserInputRequest(call_id=call_id, question=ask.question, choices=ask.choices))
    elif calls:
        _call(move, calls, asks)
    return ending


def _with_end(said: str, agent: AgentId, reason: Reason, detail: str) -> str:
    """What was said, and how it ended: the form in which whoever has to go on from there reads it."""
    return f"{said}\n[{agent} ended: {reason}{': ' + detail if detail else ''}]".strip()


def _call(move: _Move, calls: Sequence[UseTool | Delegate], asks: Sequence[AskUser]) -> None:
    delegations = sum(type(call) is Delegate for call in calls[:CALLS_PER_REPLY_MAX])
    left = unpromised(move.stack, move.at, move.spent)
    grant = carve(left, len(calls), min(delegations, FAN_OUT_MAX)) if delegations else Budget()
    steps = left.steps or 0
    refused: list[AnyState] = []
    delegated = 0
    for slot, call in enumerate(calls):
        call_id = _call_id(move, call.call_id, f"call_{move.before.head}_{slot}")
        if isinstance(call, Delegate):
            delegated += 1
            move.push(AgentCall(call_id=call_id, agent=call.agent, message=call.message, grant=grant))
            why = delegation_refused(move.stack, call, slot, delegated, grant.steps)
            if why:
                refused.append(AgentResult(call_id=call_id, agent=call.agent, status="error", content=why))
            continue
        earlier = earlier_calls(move.stack, call.tool, call.arguments, move.at, before=move.stack.head)
        move.push(ToolCall(call_id=call_id, tool=call.tool, arguments=call.arguments, malformed=call.malformed))
        if result := tool_refused(move.stack, call, call_id, slot, earlier, steps - (slot - len(refused))):
            refused.append(result)
    for number, ask in enumerate(asks, len(calls)):
        call_id = _call_id(move, ask.call_id, f"call_{move.before.head}_{number}")
        move.push(ToolCall(call_id=call_id, tool="ask_human", arguments={"question": ask.question}))
        why = "ask a person alone, not beside other calls"
        refused.append(ToolResult(call_id=call_id, tool="ask_human", status="error", content=why))
    for state in refused:
        move.push(state)


def _ran(move: _Move, effect: CallTool, outcome: ToolOutcome) -> None:
    reward = outcome.reward
    is_worth = reward is not None or outcome.status == "ok"  # what failed and was given no reward has none to lower
    if effect.duplicate and is_worth and move.stack.setup.dedup == "penalty":
        reward = (1.0 if reward is None else reward) * 0.5**effect.duplicate
    move.push(
        ToolResult(
            call_id=effect.call_id,
            tool=effect.tool,
            status=outcome.status,
            content=bounded(outcome.content),
            reward=reward,
            duplicate=effect.duplicate,
        )
    )
    if outcome.status != "ok" or not outcome.then:
        return
    following = outcome.then[:FAN_OUT_MAX]
    grant = carve(unpromised(move.stack, move.at, move.spent), len(following), len(following))
    refused: list[AnyState] = []
    for number, then in enumerate(following):
        call_id = _call_id(move, "", f"{effect.call_id}+{number}")
        move.push(AgentCall(call_id=call_id, agent=then.agent, message=then.message, grant=grant, note=True))
        why = delegation_refused(move.stack, Delegate(then.agent, then.message), 0, 1, grant.steps)
        if why:
            refused.append(AgentResult(call_id=call_id, agent=then.agent, status="error", content=why))
    for state in refused:
        move.push(state)


def _answered(move: _Move, effect: Ask, answer: Answer) -> None:
    sent = move.stack.calls.get(effect.call_id)
    if effect.kind == "approval" and not answer.approved and sent and isinstance(sent[0], ToolCall):
        why = answer.text or "a person said no"
        move.push(ToolResult(call_id=effect.call_id, tool=sent[0].tool, status="denied", content=why))
    else:
        move.push(UserResponse(call_id=effect.call_id, text=answer.text))


def _returned(back: Return) -> AgentResult:
    return AgentResult(
        call_id=back.to.call_id,
        agent=back.agent,
        status=back.status,
        content=bounded(back.text),
        child=back.child,
        spent=back.spent,
    )


def _call_id(move: _Move, given: str, derived: str) -> str:
    """The provider's id, unless it is missing or still waited for; then one derived from the position."""
    if given and given not in move.stack.calls:
        return given
    while derived in move.stack.calls:  # a provider gave just this one to another call
        derived += "_"
    return derived
