"""The agent that answers by rules: which rule fits, what it says, and that messages are data to it."""

from __future__ import annotations

from typing import Any

import pytest

from p2engine.agents.entries import RuleAgentEntry
from p2engine.agents.patterns import MATCH_CHARS_MAX, compile_pattern
from p2engine.agents.rules import RuleAgent
from p2engine.domain.decisions import Decision, Delegate, Finish, Say, UseTool
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.messages import Fragment, Message, ToolUse, fragment
from p2engine.domain.setup import Setup
from p2engine.errors import ModelError
from p2engine.ports import Agent, AgentView

DESK = AgentId("desk")


def agent(*rules: dict[str, Any], default: str | None = None) -> Agent:
    return RuleAgent(
        RuleAgentEntry.model_validate({"id": "desk", "type": "rule", "rules": list(rules), "default": default})
    )


def view(*messages: Message | str) -> AgentView:
    """What the agent sees when this was said."""
    pieces: list[Fragment] = []
    for message in messages:
        said = Message(role="user", text=message) if isinstance(message, str) else message
        pieces.append(fragment(said, pieces[-1].digest if pieces else b""))
    return AgentView(
        agent=DESK,
        conversation=ConversationId("conversation"),
        ref=StackRef("aaaaaaaaaaaa"),
        effect=EffectId("aaaaaaaaaaaa:1.0"),
        setup=Setup(agent=DESK, type="rule"),
        fragments=pieces,
    )


async def answer(decider: Agent, *messages: Message | str) -> str:
    decision = await decider.decide(view(*messages))
    (move,) = decision.moves
    assert isinstance(move, Say)
    return move.text


CALLED = Message(role="assistant", calls=(ToolUse("c1", "get_weather", {"location": "Paris"}),))


def result(text: str) -> Message:
    return Message(role="tool", text=text, call_id="c1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("hello", "exact"),
        ("  hello \n", "exact"),
        ("Hello", "other"),
        ("well, GOOD night then", "part"),
        ("weather in Rome?", "Rome"),
        ("anything", "other"),
        ("", "other"),
    ],
)
async def test_the_first_rule_that_fits_answers(said: str, expected: str) -> None:
    """Exact text, a part in any case, a regular expression with its groups, and the default."""
    decider = agent(
        {"match": "hello", "answer": "exact"},
        {"contains": "good", "answer": "part"},
        {"regex": r"weather in (?P<city>\w+)", "answer": "{{ named.city }}"},
        {"regex": "weather in", "answer": "never reached"},
        default="other",
    )
    assert await answer(decider, said) == expected


async def test_templates_see_the_message_and_what_was_found() -> None:
    """`agent`, `message`, `groups` and `named` are there; a group that took no part is empty."""
    decider = agent(
        {"regex": r"(a)(b)?(?P<last>c)", "answer": "{{ agent }}|{{ message }}|{{ groups }}|{{ named.last }}"}
    )
    assert await answer(decider, "xacx") == "desk|xacx|['a', '', 'c']|c"


async def test_failure_25_what_was_said_is_never_a_template() -> None:
    """Braces in a message, a group or a result are shown as they are."""
    evil = "{{ 7 * 7 }}{% for x in y %}"
    decider = agent({"regex": "(.*)", "answer": "{{ groups[0] }} {{ message }}"})
    assert await answer(decider, evil) == f"{evil} {evil}"
    decider = agent({"contains": "go", "tool": "get_weather", "then": "{{ results[0] }}"})
    assert await answer(decider, "go", CALLED, result(evil)) == evil


async def test_a_rule_uses_a_tool_and_says_what_came_of_it() -> None:
    """Texts among the arguments are filled in, other values stay; once the result is in, `then` speaks."""
    arguments = {"location": "{{ named.city }}", "days": 2, "more": {"tags": ["{{ agent }}", True]}}
    decider = agent(
        {
            "regex": r"weather in (?P<city>\w+)",
            "tool": "get_weather",
            "arguments": arguments,
            "then": "In {{ named.city }}: {{ results | join('; ') }}",
        }
    )
    assert await decider.decide(view("weather in Paris")) == Decision(
        (UseTool("get_weather", {"location": "Paris", "days": 2, "more": {"tags": ["desk", True]}}),)
    )
    assert await answer(decider, "weather in Paris", CALLED, result("22 °C")) == "In Paris: 22 °C"


async def test_without_then_the_results_are_said() -> None:
    """What came back is the answer, a line each."""
    decider = agent({"match": "go", "tool": "get_weather"})
    assert await answer(decider, "go", CALLED, result("one"), result("two")) == "one\ntwo"


async def test_results_of_an_earlier_message_are_not_this_ones() -> None:
    """Only what came after the last message counts: the same message again uses the tool again."""
    decider = agent({"match": "go", "tool": "get_weather"})
    decision = await decider.decide(view("go", CALLED, result("old"), Message(role="assistant", text="old"), "go"))
    assert decision.moves == (UseTool("get_weather", {}),)


async def test_a_rule_delegates() -> None:
    """The message goes on as it is, or as the rule says."""
    decider = agent({"contains": "bill", "delegate": "treasurer"})
    assert (await decider.decide(view("my bill?"))).moves == (Delegate(AgentId("treasurer"), "my bill?"),)
    decider = agent({"contains": "bill", "delegate": "treasurer", "message": "Please: {{ message }}"})
    assert (await decider.decide(view("my bill?"))).moves == (Delegate(AgentId("treasurer"), "Please: my bill?"),)


async def test_when_no_rule_fits_the_turn_gives_up_and_says_why() -> None:
    """Without a default there is an end with a reason, not an empty answer."""
    decision = await agent({"match": "hello", "answer": "hi"}).decide(view("something else"))
    assert decision.moves == (Finish("gave_up", "no rule of desk fits this message, and it has no default"),)


@pytest.mark.parametrize("template", ["{{ nothing }}", "{{ groups[3] }}", "{{ '' }}", "{{ message.__class__ }}"])
async def test_a_template_that_cannot_be_filled_in_is_an_error_of_the_agent(template: str) -> None:
    """The turn ends with what is wrong with the rule."""
    with pytest.raises(ModelError, match="a rule of desk: template: "):
        await agent({"match": "go", "answer": template}).decide(view("go"))


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+", "(a*)*", "((ab)+c)*", "(?:a+)+b", "(?P<x>a{2,})+", r"(\w+\s?)+", "([^x]+)*", "(a|b+)+", "(a+){3,}"],
)
def test_a_repeat_inside_a_repeat_is_refused(pattern: str) -> None:
    """Patterns whose cost doubles with each character are refused when they are read."""
    with pytest.raises(ValueError, match="a repeat inside a repeat"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a+)b", "(?:foo|bar)+", r"([+*])+", r"(\+)+", "(a{2,3})+", r"^\s*(\w+)\s*$", "(a+)?", r"[(]a+[)]+", ""]
)
def test_other_patterns_are_taken(pattern: str) -> None:
    """A repeat beside a repeat, in a class, or escaped is none inside another."""
    assert compile_pattern(pattern).pattern == pattern


async def test_a_pattern_sees_only_the_first_part_of_a_long_message() -> None:
    """What a match may cost is bounded by the text it is tried on."""
    decider = agent({"regex": "needle", "answer": "found"}, default="not found")
    assert await answer(decider, "x" * (MATCH_CHARS_MAX - 6) + "needle") == "found"
    assert await answer(decider, "x" * (MATCH_CHARS_MAX - 5) + "needle") == "not found"
