"""From what a model answered to what an agent does. Knows the one call that is no tool: `delegate`."""

from collections.abc import Sequence

import msgspec

from p2engine.domain.decisions import Decision, Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import ModelReply, ToolSpec, ToolUse, Usage

DELEGATE = "delegate"


def delegate_spec(names: Sequence[str]) -> ToolSpec:
    """How a model is told that it may delegate, and to whom."""
    return ToolSpec(
        name=DELEGATE,
        description=(
            "Give a task to another agent and get its answer. "
            "Call it several times in one reply to have several agents work at once."
        ),
        parameters={
            "type": "object",
            "properties": {
                "agent_id": {"type": "string", "enum": list(names), "description": "The agent to ask."},
                "message": {"type": "string", "description": "The task, with everything that agent has to know."},
            },
            "required": ["agent_id", "message"],
            "additionalProperties": False,
        },
    )


def decision(reply: ModelReply, usage: Usage) -> Decision:
    """The reply as moves, in its order: the text first, then each call. Whether a move is allowed is not judged here.

    A delegation without a proper agent_id and message stays a malformed call of `delegate`. Of calls that share an id
    the later ones lose it, so that each result can be told apart.
    """
    moves: list[Move] = [Say(reply.text)] if reply.text.strip() else []
    taken: set[str] = set()
    for call in reply.calls:
        call_id = "" if call.call_id in taken else call.call_id
        taken.add(call_id)
        moves.append(_delegation(call, call_id) if call.name == DELEGATE else _use(call, call_id))
    return Decision(tuple(moves), usage)


def _use(call: ToolUse, call_id: str) -> UseTool:
    return UseTool(call.name, call.arguments, call_id, call.malformed)


def _delegation(call: ToolUse, call_id: str) -> Move:
    if call.malformed:
        return _use(call, call_id)
    agent, message = call.arguments.get("agent_id"), call.arguments.get("message")
    if isinstance(agent, str) and isinstance(message, str) and agent.strip() and message.strip():
        return Delegate(AgentId(agent.strip()), message, call_id)
    return UseTool(DELEGATE, {}, call_id, malformed=msgspec.json.encode(call.arguments).decode())
