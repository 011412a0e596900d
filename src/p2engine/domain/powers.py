"""What an agent may do, judged from its recorded setup, in slot order, so that a replay refuses the same.

A refusal is a result that the model reads: what, which, what now.
"""

from typing import Any

import msgspec

from p2engine.domain.decisions import Delegate, UseTool
from p2engine.domain.stack import Stack, call_digest
from p2engine.domain.states import ToolResult
from p2engine.limits import (
    ARGUMENTS_BYTES_MAX,
    CALLS_PER_REPLY_MAX,
    DELEGATION_DEPTH_MAX,
    FAN_OUT_MAX,
    TOOL_RESULT_BYTES_MAX,
)

_TOO_LITTLE = "too little of this turn's budget is left to"


def tool_refused(stack: Stack, call: UseTool, call_id: str, slot: int, earlier: int, steps: int) -> ToolResult | None:
    """Why this call does not run, as its result; None when it may. `steps`: how many are left for it and the next."""
    grant = stack.setup.grant(call.tool)
    known = ", ".join(grant.name for grant in stack.setup.tools) or "none"
    if slot >= CALLS_PER_REPLY_MAX:
        return ToolResult(
            call_id=call_id,
            tool=call.tool,
            status="error",
            content=f"more than {CALLS_PER_REPLY_MAX} calls in one reply",
        )
    if grant is None:
        why = f"no tool {call.tool!r} for {stack.agent}; its tools: {known}"
        return ToolResult(call_id=call_id, tool=call.tool, status="denied", content=why)
    if call.malformed:
        why = f"the arguments are not a JSON object: {call.malformed[:200]!r}; send an object"
        return ToolResult(call_id=call_id, tool=call.tool, status="error", content=why)
    if len(msgspec.json.encode(call.arguments)) > ARGUMENTS_BYTES_MAX:
        why = f"the arguments are larger than {ARGUMENTS_BYTES_MAX} bytes"
        return ToolResult(call_id=call_id, tool=call.tool, status="error", content=why)
    if stack.setup.dedup == "strict" and grant.repeat != "free" and earlier:
        why = f"{call.tool} ran with these arguments already; not run again"
        return ToolResult(call_id=call_id, tool=call.tool, status="skipped", content=why, duplicate=earlier)
    if steps < 1:
        return ToolResult(call_id=call_id, tool=call.tool, status="error", content=f"{_TOO_LITTLE} run it")
    return None


def delegation_refused(stack: Stack, call: Delegate, slot: int, delegated: int, steps: int | None) -> str:
    """Why this delegation does not happen; empty when it may."""
    names = ", ".join(stack.setup.delegates) or "nobody"
    depth = stack.caller.depth if stack.caller else 0
    if slot >= CALLS_PER_REPLY_MAX or delegated > FAN_OUT_MAX:
        return f"more than {FAN_OUT_MAX} delegations in one reply"
    if call.agent not in stack.setup.delegates:
        return f"no agent {call.agent!r} to delegate to; {stack.agent} may delegate to: {names}"
    if not call.message.strip():
        return "a delegation needs a message"
    if depth >= DELEGATION_DEPTH_MAX:
        return f"delegations may not go deeper than {DELEGATION_DEPTH_MAX}"
    if stack.caller and call_digest(call.agent, call.message) in stack.caller.path:
        return f"{call.agent} was asked exactly this further up: the delegation goes in a circle"
    if steps is not None and steps < 1:
        return f"{_TOO_LITTLE} delegate"
    return ""


def earlier_calls(stack: Stack, tool: str, arguments: dict[str, Any], at: float, *, before: int) -> int:
    """How many equal calls stand on this lineage before that entry, decided within the tool's dedup_ttl."""
    if stack.setup.dedup == "none":
        return 0
    grant = stack.setup.grant(tool)
    ttl_s = grant.dedup_ttl_s if grant else None
    seen = stack.equal_calls(call_digest(tool, arguments))
    return sum(entry < before and (ttl_s is None or at - decided <= ttl_s) for entry, decided in seen)


def bounded(text: str) -> str:
    """`text` within TOOL_RESULT_BYTES_MAX; what is cut is said."""
    body = text.encode()
    if len(body) <= TOOL_RESULT_BYTES_MAX:
        return text
    kept = body[:TOOL_RESULT_BYTES_MAX].decode(errors="ignore")
    return f"{kept}\n[cut: {len(body) - TOOL_RESULT_BYTES_MAX} more bytes]"
