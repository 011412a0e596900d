"""How a stack moves. Pure: knows states and effects, never stores, clocks or models.

Something comes back or somebody speaks; the machine turns it into states (absorb) and says what is next (advance).
Both are one Step, which the runtime writes as one commit.
"""

from collections.abc import Sequence

from p2engine.domain.budgets import carve, unpromised
from p2engine.domain.decisions import Answer, AskUser, Decision, Delegate, Failure, Finish, Say, ToolOutcome, UseTool
from p2engine.domain.draft import Draft, Step, with_end
from p2engine.domain.effects import AnyEffect, Ask, CallAgent, CallTool, Return, Think
from p2engine.domain.powers import bounded, delegation_refused, earlier_calls, tool_refused
from p2engine.domain.setup import Budget
from p2engine.domain.stack import Stack
from p2engine.domain.states import (
    AgentCall,
    AgentResult,
    AnyState,
    AssistantMessage,
    Finished,
    Reason,
    ToolCall,
    ToolResult,
    UserInputRequest,
    UserMessage,
    UserResponse,
)
from p2engine.errors import IllegalTransition
from p2engine.limits import CALLS_PER_REPLY_MAX, FAN_OUT_MAX

MACHINE = 2  # raise when the same outcome on the same stack moves it differently

_ENDS_OF_ITS_OWN = frozenset({"answered", "gave_up"})  # the others break a turn off, or report that it is broken

Outcome = Decision | Failure | ToolOutcome | Answer | Return


def hear(stack: Stack, said: Sequence[AnyState], at: float) -> Step:
    """Somebody speaks, or configures: messages and overrides from outside. A configuration alone wakes nobody."""
    draft = Draft(stack, at)
    for state in said:
        draft.push(state)
    return draft.advance() if any(isinstance(state, UserMessage) for state in said) else draft.step()


def settle(stack: Stack, effect: AnyEffect, outcome: Outcome, at: float) -> Step:
    """An effect came back: absorb its outcome, then advance."""
    draft = Draft(stack, at)
    match effect, outcome:
        case Think(), Decision():
            ending = _decided(draft, outcome)
            if ending:
                return draft.finish(ending.reason, ending.detail, is_outcome=True)
        case Think(), Failure():
            draft.usage = outcome.usage
            return draft.finish("error", outcome.detail, is_outcome=True)
        case CallTool(), ToolOutcome():
            _ran(draft, effect, outcome)
            grant = stack.setup.grant(effect.tool)
            if outcome.status == "ok" and grant is not None and grant.milestone:
                draft.judge("milestone")
        case Ask(), Answer():
            _answered(draft, effect, outcome)
        case CallAgent(), ToolOutcome():  # the child could not be opened
            why = outcome.content
            draft.push(AgentResult(call_id=effect.call_id, agent=effect.agent, status="error", content=why))
        case Return(), Return():  # a child's answer reaches the stack that waits for it
            draft.push(_returned(outcome))
        case _:
            raise IllegalTransition(f"{type(outcome).__name__} cannot come back from {type(effect).__name__}")
    draft.judge("step")
    return draft.advance()


def wake(stack: Stack, at: float) -> Step:
    """Nothing came back: say what is next, if anything."""
    return Draft(stack, at).advance()


def end(stack: Stack, reason: Reason, detail: str, at: float) -> Step:
    """Stop the turn from outside. An empty step where there is no turn to stop."""
    draft = Draft(stack, at)
    if stack.ground is None or isinstance(stack.ground, Finished):
        return draft.step()
    return draft.finish(reason, detail, is_outcome=True)


def _decided(draft: Draft, decision: Decision) -> Finish | None:
    """An agent's answer becomes states; what may not be done is answered at once, so that the model sees why."""
    draft.usage = decision.usage
    text = "\n".join(say.text for say in decision.moves if type(say) is Say and say.text)
    calls = [call for call in decision.moves if type(call) is UseTool or type(call) is Delegate]
    asks = [ask for ask in decision.moves if type(ask) is AskUser]
    ending = next((finish for finish in decision.moves if type(finish) is Finish), None)
    if not (text or calls or asks or ending):
        ending = Finish("error", "the agent answered nothing")
    if calls or asks:
        ending = None
    if ending and ending.reason in _ENDS_OF_ITS_OWN and draft.stack.late:  # somebody has spoken meanwhile
        if not text or ending.reason != "answered":
            text = with_end(text, draft.stack.agent, ending.reason, ending.detail)
        ending = None
    if text:
        draft.push(AssistantMessage(text=text))
    if asks and not calls:
        ask = asks[0]
        call_id = _call_id(draft, ask.call_id, f"call_{draft.before.head}_0")
        draft.push(UserInputRequest(call_id=call_id, question=ask.question, choices=ask.choices))
    elif calls:
        _call(draft, calls, asks)
    return ending


def _call(draft: Draft, calls: Sequence[UseTool | Delegate], asks: Sequence[AskUser]) -> None:
    delegations = sum(type(call) is Delegate for call in calls[:CALLS_PER_REPLY_MAX])
    left = unpromised(draft.stack, draft.at, draft.spent)
    grant = carve(left, len(calls), min(delegations, FAN_OUT_MAX)) if delegations else Budget()
    steps = left.steps or 0
    refused: list[AnyState] = []
    delegated = 0
    for slot, call in enumerate(calls):
        call_id = _call_id(draft, call.call_id, f"call_{draft.before.head}_{slot}")
        if isinstance(call, Delegate):
            delegated += 1
            draft.push(AgentCall(call_id=call_id, agent=call.agent, message=call.message, grant=grant))
            why = delegation_refused(draft.stack, call, slot, delegated, grant.steps)
            if why:
                refused.append(AgentResult(call_id=call_id, agent=call.agent, status="error", content=why))
            continue
        earlier = earlier_calls(draft.stack, call.tool, call.arguments, draft.at, before=draft.stack.head)
        draft.push(ToolCall(call_id=call_id, tool=call.tool, arguments=call.arguments, malformed=call.malformed))
        if result := tool_refused(draft.stack, call, call_id, slot, earlier, steps - (slot - len(refused))):
            refused.append(result)
    for number, ask in enumerate(asks, len(calls)):
        call_id = _call_id(draft, ask.call_id, f"call_{draft.before.head}_{number}")
        draft.push(ToolCall(call_id=call_id, tool="ask_human", arguments={"question": ask.question}))
        why = "ask a person alone, not beside other calls"
        refused.append(ToolResult(call_id=call_id, tool="ask_human", status="error", content=why))
    for state in refused:
        draft.push(state)


def _ran(draft: Draft, effect: CallTool, outcome: ToolOutcome) -> None:
    reward = outcome.reward
    is_worth = reward is not None or outcome.status == "ok"  # what failed and was given no reward has none to lower
    if effect.duplicate and is_worth and draft.stack.setup.dedup == "penalty":
        reward = (1.0 if reward is None else reward) * 0.5**effect.duplicate
    draft.push(
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
    grant = carve(unpromised(draft.stack, draft.at, draft.spent), len(following), len(following))
    refused: list[AnyState] = []
    for number, then in enumerate(following):
        call_id = _call_id(draft, "", f"{effect.call_id}+{number}")
        draft.push(AgentCall(call_id=call_id, agent=then.agent, message=then.message, grant=grant, note=True))
        why = delegation_refused(draft.stack, Delegate(then.agent, then.message), 0, 1, grant.steps)
        if why:
            refused.append(AgentResult(call_id=call_id, agent=then.agent, status="error", content=why))
    for state in refused:
        draft.push(state)


def _answered(draft: Draft, effect: Ask, answer: Answer) -> None:
    sent = draft.stack.calls.get(effect.call_id)
    if effect.kind == "approval" and not answer.approved and sent and isinstance(sent[0], ToolCall):
        why = answer.text or "a person said no"
        draft.push(ToolResult(call_id=effect.call_id, tool=sent[0].tool, status="denied", content=why))
    else:
        draft.push(UserResponse(call_id=effect.call_id, text=answer.text))


def _returned(back: Return) -> AgentResult:
    return AgentResult(
        call_id=back.to.call_id,
        agent=back.agent,
        status=back.status,
        content=bounded(back.text),
        child=back.child,
        spent=back.spent,
    )


def _call_id(draft: Draft, given: str, derived: str) -> str:
    """The provider's id, unless it is missing or still waited for; then one derived from the position."""
    if given and given not in draft.stack.calls:
        return given
    while derived in draft.stack.calls:  # a provider gave just this one to another call
        derived += "_"
    return derived
