"""The states a stack is made of, and which may follow which. The table is data; nothing here acts."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from p2engine.domain.ids import AgentId, EffectId, StackRef
from p2engine.domain.setup import Budget, Setup, Spent

Status = Literal["ok", "error", "timeout", "skipped", "denied", "interrupted"]
Reason = Literal["answered", "gave_up", "cancelled", "budget", "error"]
What = Literal["think", "tool", "agent", "human", "approval"]


class State(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="k", gc=False):
    """What one entry holds. Immutable; fields are only ever added, with a default."""


class Caller(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, gc=False):
    """Who waits for this stack's answer.

    root is the position on the conversation's root stack under which all this happens; path holds a digest of every
    (agent, message) above, so that a delegation cycle is seen without loading anything.
    """

    effect: EffectId
    call_id: str
    root: tuple[StackRef, int]
    depth: int = 1
    path: tuple[str, ...] = ()


class UserMessage(State, frozen=True, tag="user_message"):
    """Somebody speaks to the agent: a person, a calling agent (`caller`), or the engine (`sender`)."""

    text: str
    sender: str = "user"
    caller: Caller | None = None
    grant: Budget | None = None


class AssistantMessage(State, frozen=True, tag="assistant_message"):
    """What the agent said. With calls beside it, the text stands before them."""

    text: str


class ToolCall(State, frozen=True, tag="tool_call"):
    """The agent wants a tool run. `malformed` is the text of arguments that were no JSON object."""

    call_id: str
    tool: str
    arguments: dict[str, Any] = {}
    malformed: str = ""


class ToolResult(State, frozen=True, tag="tool_result"):
    """What a tool call came to. `duplicate` counts equal calls before it; `reward` is what a policy made of it."""

    call_id: str
    tool: str
    status: Status = "ok"
    content: str = ""
    reward: float | None = None
    duplicate: int = 0


class AgentCall(State, frozen=True, tag="agent_call"):
    """The agent delegates. `grant` is carved from its budget. A `note` call came from a post-effect, not a model."""

    call_id: str
    agent: AgentId
    message: str
    grant: Budget = Budget()
    note: bool = False


class AgentResult(State, frozen=True, tag="agent_result"):
    """What a delegation came to. `child` is the branch and length the child ended at: its memory for the next call."""

    call_id: str
    agent: AgentId
    status: Status = "ok"
    content: str = ""
    child: tuple[StackRef, int] | None = None
    spent: Spent = Spent()
    score: float | None = None


class UserInputRequest(State, frozen=True, tag="user_input_request"):
    """The agent asks a person."""

    call_id: str
    question: str
    kind: Literal["input", "approval"] = "input"
    choices: tuple[str, ...] = ()


class UserResponse(State, frozen=True, tag="user_response"):
    """A person answered a question (`call_id` of the request) or approved a call (`call_id` of the call)."""

    call_id: str
    text: str


class Pending(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One thing a Waiting waits for; `call_id` is empty for a model."""

    slot: int
    what: What
    call_id: str = ""


class Waiting(State, frozen=True, tag="waiting"):
    """The stack waits for these. Answered by later entries, never popped."""

    on: tuple[Pending, ...]


class Finished(State, frozen=True, tag="finished"):
    """The turn is over. `detail` says which bound or error, in words for a person."""

    reason: Reason = "answered"
    detail: str = ""


class Override(State, frozen=True, tag="override"):
    """A configuration change: what was asked (`changes`, `locks`) and what the agent is from here on (`setup`)."""

    changes: dict[str, Any] = {}
    locks: tuple[str, ...] = ()
    setup: Setup | None = None
    source: str = ""


AnyState = (
    UserMessage
    | AssistantMessage
    | ToolCall
    | ToolResult
    | AgentCall
    | AgentResult
    | UserInputRequest
    | UserResponse
    | Waiting
    | Finished
    | Override
)

STATES: tuple[type[State], ...] = (
    UserMessage,
    AssistantMessage,
    ToolCall,
    ToolResult,
    AgentCall,
    AgentResult,
    UserInputRequest,
    UserResponse,
    Waiting,
    Finished,
    Override,
)

_OUTCOMES: frozenset[type[State]] = frozenset({ToolResult, AgentResult, UserResponse})

SUCCESSORS: Mapping[type[State] | None, frozenset[type[State]]] = {
    None: frozenset({UserMessage}),
    # A fork may be cut right after a message or a reply; the next message then stands directly on it.
    UserMessage: frozenset({Waiting, UserMessage, Finished}),
    Waiting: _OUTCOMES | {AssistantMessage, ToolCall, AgentCall, UserInputRequest, UserMessage, Finished},
    AssistantMessage: frozenset({ToolCall, AgentCall, UserInputRequest, Waiting, UserMessage, Finished}),
    # A refused call is answered on the spot; the others of its reply are then waited for together.
    ToolCall: frozenset({ToolCall, AgentCall, ToolResult, AgentResult, Waiting, Finished}),
    AgentCall: frozenset({ToolCall, AgentCall, ToolResult, AgentResult, Waiting, Finished}),
    ToolResult: _OUTCOMES | {AgentCall, Waiting, UserMessage, Finished},
    AgentResult: _OUTCOMES | {Waiting, UserMessage, Finished},
    UserInputRequest: frozenset({Waiting, UserMessage, Finished}),
    UserResponse: _OUTCOMES | {Waiting, UserMessage, Finished},
    Finished: frozenset({UserMessage}),
}
"""Which state may stand on which ground. The ground is the top ignoring overrides and messages inside an open wait;
an Override may stand anywhere and changes no ground."""


def tag_of(state: State | type[State]) -> str:
    """The stored name of a state: `user_message`, …"""
    return str(state.__struct_config__.tag)


def name_of(state: State | type[State] | None) -> str:
    """The name people read: `UserMessage`, …; `(start)` for no state."""
    if state is None:
        return "(start)"
    return state.__name__ if isinstance(state, type) else type(state).__name__
