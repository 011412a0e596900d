"""Who answers a model id: keys, addresses, the offline policy, and what is missing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from p2engine.domain.messages import Message, ModelRequest, fragment
from p2engine.errors import ConfigError, ModelError, UsageError
from p2engine.models import litellm as litellm_driver
from p2engine.models.catalogue import Models, Offline, provider_of
from p2engine.models.limiter import LocalLimiter
from p2engine.models.scripted import ScriptedModel
from p2engine.ports import Model
from p2engine.testing.server import Fault, OpenAIServer


def asking(model: str, text: str = "Hello") -> ModelRequest:
    """A request of this model."""
    return ModelRequest(model=model, fragments=(fragment(Message(role="user", text=text)),))


@pytest.fixture(params=[True, False], ids=["litellm", "no litellm"])
def extra(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With and without the extra, as far as anyone can see without importing it."""
    found = object() if request.param else None
    monkeypatch.setattr(litellm_driver, "find_spec", lambda _: found)
    return bool(request.param)


OWN = "https://api.openai.com/v1"
LOCAL = "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize(
    ("offline", "key", "base", "expected"),
    [
        ("auto", "", "", True),
        ("auto", "", OWN, True),
        ("auto", "", OWN + "/", True),
        ("auto", "k", "", False),
        ("auto", "k", OWN, False),
        ("auto", "", LOCAL, False),
        ("auto", "k", LOCAL, False),
        ("auto", "  ", "", True),
        ("always", "k", LOCAL, True),
        ("never", "", "", False),
    ],
)
def test_the_stand_in_answers_by_the_policy(offline: Offline, key: str, base: str, expected: bool) -> None:
    """auto: only without a key at the vendor's own address; always and never say what they mean."""
    models = Models(keys={"openai": key}, bases={"openai": base}, offline=offline)
    assert models.is_offline("openai/gpt-4o") is expected
    assert models.is_offline("gpt-4o") is expected


@pytest.mark.parametrize("offline", ["auto", "always", "never"])
def test_the_stand_in_always_answers_to_its_name(offline: Offline) -> None:
    """`offline/…` is the stand-in under every policy."""
    assert Models(keys={"openai": "k"}, offline=offline).is_offline("offline/any")


def test_another_providers_key_says_nothing() -> None:
    """Each provider is judged by its own key and address."""
    models = Models(keys={"openai": "k"}, bases={"vllm": LOCAL})
    assert models.is_offline("anthropic/claude-sonnet-4-5")
    assert not models.is_offline("vllm/llama")
    assert not models.is_offline("ollama/llama3")


def test_an_id_names_its_provider() -> None:
    """Up to the first slash; without one it is OpenAI's."""
    assert provider_of("openai/gpt-4o") == "openai"
    assert provider_of("openrouter/openai/gpt-4o") == "openrouter"
    assert provider_of("gpt-4o") == "openai"


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("opneai/gpt-4o", "openai"),
        ("OpenAI/gpt-4o", "openai"),
        ("antropic/claude", "anthropic"),
        ("ofline/any", "offline"),
        ("lm-studio/x", "lm_studio"),
        ("our/x", "ours"),
    ],
)
def test_a_provider_that_is_misspelt_is_named(model: str, near: str) -> None:
    """A name that is nearly a known one is taken for a slip: nobody is called so."""
    provider = provider_of(model)
    with pytest.raises(UsageError, match=rf"^no provider '{provider}' \(did you mean {near}\?\)$"):
        Models(bases={"ours": LOCAL}).check_provider(model)


@pytest.mark.parametrize(
    "model",
    [
        *("gpt-4o", "openai/gpt-4o", "offline/any", "ollama_chat/x", "groq/x", "azure/x", "azure_ai/x", "cohere/x"),
        *("vertex_ai_beta/x", "bedrock_converse/x", "sagemaker_chat/x", "custom_openai/x", "openai_like/x", "opnai/x"),
    ],
)
def test_a_provider_that_may_be_meant_passes(model: str) -> None:
    """Which there are is open: litellm has many, and whoever has a key or an address is known by any name."""
    Models(keys={"opnai": "k"}).check_provider(model)


async def test_a_base_makes_any_provider_speak_the_wire() -> None:
    """With an address any provider is spoken to directly; the id loses its provider on the way."""
    async with OpenAIServer(["Hi", "Hi"]) as server:
        models = Models(bases={"vllm": server.base_url, "openai": server.base_url})
        assert isinstance(models, Model)
        await models.complete(asking("vllm/meta-llama/Llama-3"))
        texts: list[str] = []
        reply = await models.complete(asking("gpt-4o"), on_text=texts.append)
        await models.aclose()
        await models.aclose()
    assert [received.body["model"] for received in server.requests] == ["meta-llama/Llama-3", "gpt-4o"]
    assert "".join(texts) == reply.text == "Hi"
    assert reply.usage.attempts == 1


async def test_a_refused_key_is_an_error_never_a_stand_in() -> None:
    """401 under `auto` is told, once: nothing answers in place of the real model."""
    async with OpenAIServer(api_key="right") as server:
        models = Models(keys={"openai": "wrong"}, bases={"openai": server.base_url})
        with pytest.raises(ModelError, match="the key was refused"):
            await models.complete(asking("openai/gpt-4o"))
        await models.aclose()
    assert len(server.requests) == 1


async def test_a_busy_server_is_asked_again() -> None:
    """Retries happen behind the catalogue, and count."""
    async with OpenAIServer([Fault(status=429, headers={"retry-after-ms": "1"}), "Hi"]) as server:
        models = Models(bases={"openai": server.base_url})
        reply = await models.complete(asking("openai/gpt-4o"))
        await models.aclose()
    assert (reply.text, reply.usage.attempts) == ("Hi", 2)


async def test_all_calls_share_the_limiter() -> None:
    """However many calls are made at once, the provider sees no more than the limiter lets through."""
    at_once: list[int] = []
    running = 0
    second = asyncio.Event()

    async def handler(_: dict[str, Any]) -> str:
        nonlocal running
        running += 1
        at_once.append(running)
        if running == 2:
            second.set()
        await second.wait()
        running -= 1
        return "Hi"

    async with OpenAIServer(handler) as server:
        models = Models(bases={"openai": server.base_url}, limiter=LocalLimiter(2))
        await asyncio.gather(*(models.complete(asking("openai/gpt-4o")) for _ in range(8)))
        await models.aclose()
    assert max(at_once) == 2


async def test_a_missing_key_is_named_where_there_is_no_stand_in() -> None:
    """Under `never` a provider without a key is an error of the setup, and of the call, with the mend."""
    models = Models(offline="never")
    with pytest.raises(ConfigError, match="no key for openai") as setup:
        models.resolve("openai/gpt-4o")
    assert setup.value.hint == "export OPENAI_API_KEY=…"
    with pytest.raises(ModelError, match="no key for openai") as call:
        await models.complete(asking("openai/gpt-4o"))
    assert call.value.hint == "export OPENAI_API_KEY=…"
    assert not call.value.retryable


async def test_a_provider_behind_a_missing_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that only litellm knows says what to install, when it is resolved and when it is called."""
    monkeypatch.setattr(litellm_driver, "find_spec", lambda _: None)
    models = Models(keys={"anthropic": "k"})
    with pytest.raises(ConfigError, match="anthropic need the package litellm") as caught:
        models.resolve("anthropic/claude-sonnet-4-5")
    assert caught.value.hint == "pip install 'p2engine[litellm]'"
    with pytest.raises(ModelError, match="need the package litellm"):
        await models.complete(asking("anthropic/claude-sonnet-4-5"))


async def test_a_driver_of_ones_own_answers_as_it_is() -> None:
    """A driver that is handed in answers for its provider under every policy."""
    policies: list[Offline] = ["auto", "always", "never"]
    for offline in policies:
        own = ScriptedModel(["mine"])
        models = Models(drivers={"scripted": own}, offline=offline)
        assert not models.is_offline("scripted/any")
        assert models.resolve("scripted/any") is own
        assert (await models.complete(asking("scripted/any"))).text == "mine"


def test_every_provider_has_a_line_that_enables_it(extra: bool) -> None:
    """`describe` lists what is known and what is configured, with the missing steps; nothing where it works."""
    models = Models(keys={"openai": "k"}, bases={"vllm": LOCAL}, drivers={"mine": ScriptedModel([])})
    rows = {row.provider: row for row in models.describe()}
    assert [next(iter(rows)), next(reversed(rows))] == ["openai", "offline"]
    install = "" if extra else "pip install 'p2engine[litellm]'; "
    assert rows["anthropic"].enable == f"{install}export ANTHROPIC_API_KEY=…"
    assert rows["anthropic"].offline
    assert (rows["openai"].driver, rows["openai"].key, rows["openai"].base) == ("openai", True, None)
    assert (rows["vllm"].driver, rows["vllm"].key, rows["vllm"].base) == ("openai", False, LOCAL)
    assert [rows[name].enable for name in ("openai", "vllm", "mine", "offline")] == [""] * 4


def test_what_the_policy_holds_back_is_said() -> None:
    """With a key and `always`, the line says what to change; no line ever shows a key."""
    rows = Models(keys={"openai": "sk-secret"}, offline="always").describe()
    assert rows[0].enable == "set llm.offline to auto"
    assert "secret" not in repr(rows)


async def test_the_stand_in_says_that_it_is_one() -> None:
    """Without a key the stand-in answers, and its usage says so."""
    models = Models()
    reply = await models.complete(asking("openai/gpt-4o"))
    await models.aclose()
    assert reply.text
    assert reply.usage.offline


def test_nothing_heavy_is_loaded_before_a_call() -> None:
    """Building the catalogue and resolving a model loads no HTTP client, no prices, no litellm."""
    code = """
import sys
from p2engine.models.catalogue import Models
models = Models(keys={"openai": "k"})
models.resolve("openai/gpt-4o")
models.describe()
print(sorted({"aiohttp", "litellm", "genai_prices", "pydantic", "stamina", "ruamel.yaml"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
