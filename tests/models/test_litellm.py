"""The litellm driver: what it says when the package is missing, and, where it is installed, that it agrees."""

from __future__ import annotations

import pytest

from p2engine.domain.messages import Message, ModelRequest, ToolSpec, ToolUse, fragment
from p2engine.errors import ConfigError, ModelError
from p2engine.models import litellm as driver
from p2engine.models.litellm import LiteLLMModel, is_installed
from p2engine.testing.server import Fault, OpenAIServer, Reply

needs_litellm = pytest.mark.skipif(not is_installed(), reason="pip install 'p2engine[litellm]'")

REQUEST = ModelRequest(
    model="openai/gpt-4o",
    instructions="Be brief.",
    fragments=(fragment(Message(role="user", text="Hello")),),
    tools=(ToolSpec(name="f", parameters={"type": "object", "properties": {}}),),
    temperature=0.5,
    max_tokens=9,
)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the driver says what to install."""
    monkeypatch.setattr(driver, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="models of anthropic need the package litellm") as caught:
        LiteLLMModel("anthropic", api_key="k")
    assert caught.value.hint == "pip install 'p2engine[litellm]'"


@pytest.mark.full
@needs_litellm
@pytest.mark.filterwarnings("ignore")  # litellm and what it imports warn of their own affairs
async def test_it_agrees_with_the_wire_driver() -> None:
    """Text, calls, usage and errors of a real server come out as the wire driver's do, streamed or not."""
    calls = (ToolUse("c1", "f", {"a": 1}), ToolUse("c2", "f", malformed="{"))
    answer = Reply(text="Let me look.", calls=calls, tokens_in=100, tokens_out=10)
    faults = [Fault(status=429, message="slow down"), Fault(status=401), Fault(status=400), Fault(drop="before")]
    async with OpenAIServer([answer, answer, *faults]) as server:
        model = LiteLLMModel("openai", api_key="k", api_base=server.base_url)
        for stream in (False, True):
            texts: list[str] = []
            reply = await model.complete(REQUEST, on_text=texts.append if stream else None)
            assert (reply.text, reply.calls) == ("Let me look.", calls)
            assert (reply.usage.tokens_in, reply.usage.tokens_out) == (100, 10)
            assert reply.usage.cost_usd == pytest.approx(100 * 2.5e-6 + 10 * 10e-6)
            assert "".join(texts) == (reply.text if stream else "")
        for retryable, words in ((True, "slow down"), (False, "key was refused"), (False, ""), (True, "")):
            with pytest.raises(ModelError, match=words) as caught:
                await model.complete(REQUEST)
            assert caught.value.retryable is retryable
        await model.aclose()
    body = server.requests[0].body
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert (body["model"], body["temperature"], body["tools"][0]["function"]["name"]) == ("gpt-4o", 0.5, "f")
