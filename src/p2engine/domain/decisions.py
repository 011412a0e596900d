"""What an agent may answer, and what a tool came to. Values only."""

from typing import Any

import msgspec

from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.domain.states import Reason, Status


class Say(msgspec.Struct, frozen=True):
    text: str


class UseTool(msgspec.Struct, frozen=True):
    """`malformed` holds the model's text when its arguments were no JSON object. An empty call_id is derived."""

    tool: str
    arguments: dict[str, Any] = {}
    call_id: str = ""
    malformed: str = ""


class Delegate(msgspec.Struct, frozen=True):
    agent: AgentId
    message: str
    call_id: str = ""


class AskUser(msgspec.Struct, frozen=True):
    question: str
    choices: tuple[str, ...] = ()
    call_id: str = ""


class Finish(msgspec.Struct, frozen=True):
    """End the turn without a further word."""

    reason: Reason = "gave_up"
    detail: str = ""


Move = Say | UseTool | Delegate | AskUser | Finish


class Decision(msgspec.Struct, frozen=True):
    """One answer of an agent: any text and any number of calls together, and what it cost."""

    moves: tuple[Move, ...]
    usage: Usage | None = None


class Failure(msgspec.Struct, frozen=True):
    """An agent that could not answer: the model was down, refused, or answered nothing."""

    detail: str
    usage: Usage | None = None


class CallAgentAfter(msgspec.Struct, frozen=True):
    """Post-effect: have an agent act on the result. Its answer reaches the caller as a note."""

    agent: AgentId
    message: str


class ToolOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came back from a tool call. `content` is what the model reads.

    events: (kind, body) facts to record with the result; kinds start with `tool.`.
    """

    status: Status = "ok"
    content: str = ""
    reward: float | None = None
    then: tuple[CallAgentAfter, ...] = ()
    events: tuple[tuple[str, dict[str, Any]], ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """A person's answer. For an approval, `approved` decides and `text` is the reason."""

    text: str
    approved: bool = True
