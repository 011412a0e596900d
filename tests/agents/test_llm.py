"""The agent that a model decides for: the request it makes of a view, and what it makes of the reply."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from p2engine.agents.llm import LlmAgent
from p2engine.domain.decisions import Delegate, Say, UseTool
from p2engine.domain.ids import AgentId, ConversationId, EffectId, StackRef
from p2engine.domain.messages import Message, ToolSpec, ToolUse, fragment, prompt_hash
from p2engine.domain.setup import Setup
from p2engine.errors import ModelError
from p2engine.models.openai import OpenAIModel
from p2engine.models.scripted import ScriptedModel
from p2engine.ports import Agent, AgentView
from p2engine.testing.server import OpenAIServer

ALPHA = AgentId("agent_alpha")


def view(*, setup: dict[str, Any] | None = None, **fields: Any) -> AgentView:
    """What agent_alpha sees when somebody said Hello."""
    return AgentView(
        agent=ALPHA,
        conversation=ConversationId("conversation"),
        ref=StackRef("aaaaaaaaaaaa"),
        effect=EffectId("aaaaaaaaaaaa:1.0"),
        setup=Setup(agent=ALPHA, model="openai/gpt-4o", **(setup or {})),
        fragments=(fragment(Message(role="user", text="Hello")),),
        **fields,
    )


async def test_the_request_is_what_the_view_says() -> None:
    """Model, sampling, instructions, history and tools come from the view; the effect is the key."""
    model = ScriptedModel(["Hi"])
    agent: Agent = LlmAgent(model)
    tools = (ToolSpec(name="get_weather"),)
    seen = view(setup={"temperature": 0.3, "top_p": 0.8, "max_tokens": 100}, instructions="Be brief.", tools=tools)
    await agent.decide(seen)
    (request,) = model.requests
    assert (request.model, request.temperature, request.top_p, request.max_tokens) == ("openai/gpt-4o", 0.3, 0.8, 100)
    assert (request.instructions, request.tools, request.fragments) == ("Be brief.", tools, seen.fragments)
    assert (request.key, request.agent, request.conversation) == ("aaaaaaaaaaaa:1.0", "agent_alpha", "conversation")


@pytest.mark.parametrize(
    ("own", "left", "expected"), [(None, None, None), (100, None, 100), (None, 50, 50), (100, 50, 50), (10, 50, 10)]
)
async def test_the_smaller_bound_on_tokens_counts(own: int | None, left: int | None, expected: int | None) -> None:
    """The agent's max_tokens and what its budget leaves: the smaller one is sent."""
    model = ScriptedModel(["Hi"])
    await LlmAgent(model).decide(view(setup={"max_tokens": own}, max_tokens=left))
    assert model.requests[0].max_tokens == expected


async def test_the_usage_names_the_exact_request() -> None:
    """Usage.prompt is the hash of what was sent; another instruction, another hash."""
    model = ScriptedModel(["Hi", "Hi", "Hi"])
    agent = LlmAgent(model)
    usages = [(await agent.decide(view(instructions=text))).usage for text in ("a", "a", "b")]
    prompts = [usage.prompt for usage in usages if usage is not None]
    assert prompts == [prompt_hash(request) for request in model.requests]
    assert prompts[0] == prompts[1] != prompts[2]


async def test_text_is_streamed_to_whoever_watches() -> None:
    """The view's on_text gets the text as it comes."""
    texts: list[str] = []
    decided = await LlmAgent(ScriptedModel(["Hi there"])).decide(view(on_text=texts.append))
    assert texts == ["Hi there"]
    assert decided.moves == (Say("Hi there"),)


async def test_a_model_that_fails_or_says_nothing_is_an_error() -> None:
    """ModelError goes through as it is; an empty reply is one, worth another try."""
    failure = ModelError("openai: the key was refused (401)", status=401)
    with pytest.raises(ModelError) as caught:
        await LlmAgent(ScriptedModel([failure])).decide(view())
    assert caught.value is failure
    with pytest.raises(ModelError, match="answered nothing") as nothing:
        await LlmAgent(ScriptedModel([" "])).decide(view())
    assert nothing.value.retryable


async def test_a_turn_over_http() -> None:
    """Over a real socket: tools are called, delegations told apart, results reasoned over."""
    tools = (
        ToolSpec(name="get_weather", parameters={"type": "object", "properties": {}}),
        ToolSpec(name="delegate", parameters={"type": "object", "properties": {}}),
    )
    async with OpenAIServer() as server:
        model = OpenAIModel(server.base_url, None)
        agent = LlmAgent(model)
        asked = view(tools=tools)
        weather = msg(asked, "What's the weather in Paris and the weather in Tokyo?")
        assert (await agent.decide(weather)).moves == (
            UseTool("get_weather", {"location": "Paris"}, "call_1_0"),
            UseTool("get_weather", {"location": "Tokyo"}, "call_1_1"),
        )
        task = msg(asked, "Delegate to agent_helper: What's the weather in Tokyo?")
        assert (await agent.decide(task)).moves == (
            Delegate(AgentId("agent_helper"), "What's the weather in Tokyo?", "call_1_0"),
        )
        done = msg(
            asked,
            "Weather in Tokyo?",
            Message(role="assistant", calls=(ToolUse("c1", "get_weather"),)),
            Message(role="tool", text="10 °C", call_id="c1"),
        )
        assert (await agent.decide(done)).moves == (Say("I was told: 10 °C"),)
        await model.aclose()


def msg(seen: AgentView, text: str, *more: Message) -> AgentView:
    """The same view of another conversation."""
    fragments = [fragment(Message(role="user", text=text))]
    for message in more:
        fragments.append(fragment(message, fragments[-1].digest))
    return replace(seen, fragments=tuple(fragments))
