"""What a reply becomes: text and calls in order, delegations told from tools, ids made distinct."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from p2engine.agents.moves import decision, delegate_spec
from p2engine.domain.decisions import Delegate, Move, Say, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import ModelReply, ToolUse, Usage

HELPER = AgentId("agent_helper")
USAGE = Usage(model="gpt-4o", tokens_in=3)


def moves(text: str, *calls: ToolUse) -> tuple[Move, ...]:
    """The moves of a reply with this text and these calls."""
    return decision(ModelReply(text=text, calls=calls, usage=USAGE), USAGE).moves


def delegating(**arguments: Any) -> ToolUse:
    """A call of delegate."""
    return ToolUse("d1", "delegate", arguments)


def test_text_and_calls_are_all_kept_in_order() -> None:
    """Text beside calls, tools beside delegations, several at once: nothing is dropped, and usage comes along."""
    reply = ModelReply(
        text="Let me see.",
        calls=(
            ToolUse("c1", "get_weather", {"location": "Paris"}),
            ToolUse("c2", "delegate", {"agent_id": "agent_helper", "message": "Weather in Tokyo?"}),
            ToolUse("c3", "delegate", {"agent_id": "agent_beta", "message": "Weather in Oslo?"}),
            ToolUse("c4", "get_weather", malformed="{"),
        ),
        usage=USAGE,
    )
    made = decision(reply, USAGE)
    assert made.usage is USAGE
    assert made.moves == (
        Say("Let me see."),
        UseTool("get_weather", {"location": "Paris"}, "c1"),
        Delegate(HELPER, "Weather in Tokyo?", "c2"),
        Delegate(AgentId("agent_beta"), "Weather in Oslo?", "c3"),
        UseTool("get_weather", {}, "c4", malformed="{"),
    )


def test_blank_text_is_nothing_said() -> None:
    """White space beside calls is no message; a reply of nothing is no move."""
    assert moves(" \n", ToolUse("c1", "now")) == (UseTool("now", {}, "c1"),)
    assert moves(" \n") == ()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"agent_id": "agent_helper"},
        {"message": "Weather?"},
        {"agent_id": "agent_helper", "message": ""},
        {"agent_id": " ", "message": "Weather?"},
        {"agent_id": ["agent_helper", "agent_beta"], "message": "Weather?"},
        {"agent_id": "agent_helper", "message": {"text": "Weather?"}},
        {"agent_id": None, "message": None},
        {"agent_id": 5, "message": True},
    ],
)
def test_a_delegation_that_lacks_something_is_malformed(arguments: dict[str, Any]) -> None:
    """Missing or wrong agent_id or message: a malformed call with what the model wrote, never a guess."""
    (move,) = moves("", delegating(**arguments))
    assert isinstance(move, UseTool)
    assert (move.tool, move.arguments, move.call_id) == ("delegate", {}, "d1")
    assert msgspec.json.decode(move.malformed) == arguments


def test_a_delegation_that_is_no_json_stays_as_written() -> None:
    """The model's own text is kept."""
    assert moves("", ToolUse("d1", "delegate", malformed='{"agent_id": ')) == (
        UseTool("delegate", {}, "d1", malformed='{"agent_id": '),
    )


def test_only_agent_and_message_count() -> None:
    """Further arguments change nothing of who acts; blanks around a name are no part of it."""
    given = delegating(agent_id=" agent_helper ", message="Weather?", caller="treasurer", conversation_id="other")
    assert moves("", given) == (Delegate(HELPER, "Weather?", "d1"),)


def test_a_repeated_call_id_is_left_to_be_derived() -> None:
    """Of calls with one id the first keeps it; missing ids stay missing; other ids are untouched."""
    ids = ["x", "x", "", "", "y", "x"]
    calls = [ToolUse(call_id, "delegate" if n % 2 else "f", {"n": n}) for n, call_id in enumerate(ids)]
    made = [move for move in moves("", *calls) if isinstance(move, UseTool)]
    assert [move.call_id for move in made] == ["x", "", "", "", "y", ""]


def test_a_model_is_shown_whom_it_may_ask() -> None:
    """The spec of delegate lists the allowed agents, in order, and wants both arguments."""
    spec = delegate_spec(["agent_helper", "agent_beta"])
    assert spec.name == "delegate"
    assert spec.parameters["properties"]["agent_id"]["enum"] == ["agent_helper", "agent_beta"]
    assert spec.parameters["required"] == ["agent_id", "message"]
