"""What agents and tools hand back, as the machine gets it: plain values of its own, or a word about why not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.decisions import (
    AskUser,
    CallAgentAfter,
    Decision,
    Delegate,
    Failure,
    Finish,
    Move,
    Say,
    ToolOutcome,
    UseTool,
)
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.limits import REPLY_BYTES_MAX
from p2engine.runtime.outcomes import plain_decision, plain_result

ANN = AgentId("ann")
USAGE = Usage(model="m", tokens_in=3, tokens_out=4, cost_usd=0.5, latency_s=0.25, prompt="p")
HALF = "\ud800"


class Word(str):
    """Text that is more than text."""

    __slots__ = ()


def arguments_of(decision: Decision | Failure) -> dict[str, Any]:
    """The arguments of its one call."""
    assert isinstance(decision, Decision)
    (move,) = decision.moves
    assert isinstance(move, UseTool)
    return move.arguments


MOVES: tuple[Move, ...] = (
    Say("so it is"),
    UseTool("look", {"city": "Paris", "day": 3, "warm": True, "wind": 1.5, "rain": None}, "c1"),
    UseTool("look", {"days": [1, {"of": []}]}, "c2", "{oops"),
    Delegate(ANN, "work", "c3"),
    AskUser("which?", ("a", "b"), "c4"),
    Finish("answered", "that is all"),
)


@pytest.mark.parametrize("usage", [USAGE, None])
def test_what_is_plain_stays_what_it_was(usage: Usage | None) -> None:
    """Every kind of move, with and without its cost, in order."""
    assert plain_decision(Decision(MOVES, usage)) == Decision(MOVES, usage)
    outcome = ToolOutcome(
        content="paid", reward=0.5, then=(CallAgentAfter(ANN, "file it"),), events=(("tool.paid", {"to": ["ann"]}),)
    )
    assert plain_result(outcome) == outcome
    assert plain_result(ToolOutcome(content="seen")) == ToolOutcome(content="seen")


@pytest.mark.parametrize("given", [{"n": 1}, {"n": [1]}, {"n": {"m": 1}}], ids=["flat", "a list", "an object"])
def test_an_agent_cannot_change_its_arguments_afterwards(given: dict[str, Any]) -> None:
    """What the machine got shares nothing with what the agent kept, at any depth."""
    before = msgspec.json.decode(msgspec.json.encode(given))
    kept = arguments_of(plain_decision(Decision((UseTool("look", given),))))
    inner = given["n"]
    if isinstance(inner, list):
        inner.append(2)
    elif isinstance(inner, dict):
        inner["m"] = 2
    given["n"] = given["more"] = 2
    assert kept == before


def test_a_tool_cannot_change_its_events_afterwards() -> None:
    """What a tool tells of itself is what it told then."""
    body = {"to": ["ann"]}
    kept = plain_result(ToolOutcome(content="x", events=(("tool.x", body),)))
    body["to"].append("bob")
    assert kept.events == (("tool.x", {"to": ["ann"]}),)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({Word("a"): 1}, {"a": 1}),
        ({1: 2}, {"1": 2}),
        ({"a": {1: 2}}, {"a": {"1": 2}}),
        ({"a": (1, (2,))}, {"a": [1, [2]]}),
        ({"a": b"xy"}, {"a": "eHk="}),
        ({"a": HALF}, {"a": "?"}),
        ({"a": [HALF], HALF: 1}, {"a": ["?"], "?": 1}),
        ({"a": 2**64 - 1, "b": -(2**63)}, {"a": 2**64 - 1, "b": -(2**63)}),
    ],
)
def test_arguments_are_what_will_be_read_back(given: dict[str, Any], kept: dict[str, Any]) -> None:
    """Now and from the log they are the same values of the same plain kinds, whatever kinds the agent used."""
    plain = arguments_of(plain_decision(Decision((UseTool("look", given),))))
    assert plain == kept
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plain)) == plain
    assert {type(key) for key in plain} == {str}
    assert not [value for value in plain.values() if type(value) in (tuple, bytes)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_object_is_kept_as_it_is(arguments: dict[str, Any]) -> None:
    """No text, number or nesting is changed on the way."""
    assert arguments_of(plain_decision(Decision((UseTool("look", arguments),)))) == arguments


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Decision((UseTool("look", {"a": 10**40}),)), "cannot be kept"),
        (Decision((UseTool("look", {"a": object()}),)), "cannot be kept"),
        (Decision((UseTool("look", {"a": Word("b")}),)), "objects of type Word"),
        (Decision((UseTool("look", [1]),)), "cannot be kept"),  # type: ignore[arg-type]
        (Decision((Say(5),)), "cannot be kept"),  # type: ignore[arg-type]
        (Decision((Say("a"), 5)), "int is no move of an agent"),  # type: ignore[arg-type]
        (Decision(None), "its moves are NoneType, not a tuple"),  # type: ignore[arg-type]
        (Decision((Say("a"),), 5), "cannot be kept"),  # type: ignore[arg-type]
        (Decision((Say("x" * (REPLY_BYTES_MAX // 2)), Say("x" * (REPLY_BYTES_MAX // 2)))), "bytes, more than"),
        (5, "the agent answered int, not a Decision"),
    ],
)
def test_what_cannot_be_kept_is_a_failure_that_says_why(answer: Any, says: str) -> None:
    """A wrong kind, a number beyond 64 bits, too much: the turn ends with that word."""
    failure = plain_decision(answer)
    assert isinstance(failure, Failure)
    assert says in failure.detail


def test_moves_may_come_as_a_list() -> None:
    """An agent that hands over a list has decided as well; it cannot add to it afterwards."""
    given: list[Move] = [Say("a")]
    plain = plain_decision(Decision(given))  # type: ignore[arg-type]
    given.append(Say("b"))
    assert plain == Decision((Say("a"),))
