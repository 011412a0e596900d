"""Costs agree with the price table, and an unknown model costs nobody knows what."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime

import genai_prices
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st

from p2engine.models.pricing import cost_usd, usage
from p2engine.models.wire import Answered

TOKENS = st.integers(0, 2_000_000)


def test_a_known_model_has_its_price() -> None:
    """gpt-4o: 2.50 dollars a million in, 10 out, half for what was cached."""
    assert cost_usd("openai", "gpt-4o", 1_000_000, 100_000) == pytest.approx(3.5)
    assert cost_usd("openai", "gpt-4o", 1_000_000, 0, tokens_cached=400_000) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "my-own-model"), ("ollama", "llama3"), ("nobody", "gpt-4o"), ("openai", "")]
)
def test_an_unknown_model_has_no_price(provider: str, model: str) -> None:
    """Unknown is None, never 0."""
    assert cost_usd(provider, model, 1000, 1000) is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-mini"),
        ("openai", "o3"),
        ("anthropic", "claude-sonnet-4-5"),
        ("gemini", "gemini-2.5-pro"),
        ("groq", "llama-3.3-70b-versatile"),
        ("deepseek", "deepseek-chat"),
        ("perplexity", "sonar"),
    ],
)
@given(tokens_in=TOKENS, tokens_out=TOKENS, share=st.integers(0, 100))
def test_the_cost_is_what_the_table_says(
    provider: str, model: str, tokens_in: int, tokens_out: int, share: int
) -> None:
    """Whatever the size of the prompt (some prices have tiers), our numbers and the library's own agree."""
    cached = tokens_in * share // 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts = genai_prices.Usage(input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=cached or None)
        expected = genai_prices.calc_price(counts, model, provider_id=provider).total_price
        assert cost_usd(provider, model, tokens_in, tokens_out, tokens_cached=cached) == pytest.approx(float(expected))


def test_every_text_model_of_the_table_is_priced_as_the_table_does() -> None:
    """No model of the large vendors is priced differently by us: those with odd prices are asked each time."""
    for provider in data_snapshot.get_snapshot().providers:
        if provider.id not in {"openai", "anthropic", "google", "mistral", "deepseek", "x-ai", "perplexity"}:
            continue
        for model in provider.models:
            price = model.get_prices(datetime.now(UTC))
            if price.input_mtok is None and price.output_mtok is None and price.requests_kcount is None:
                continue
            for tokens_in in (1_000, 300_000):
                counts = genai_prices.Usage(input_tokens=tokens_in, output_tokens=500)
                expected = float(model.calc_price(counts, provider).total_price)
                assert cost_usd(provider.id, model.id, tokens_in, 500) in (None, pytest.approx(expected)), model.id


def answered(model: str, tokens_in: int | None) -> Answered:
    """An answer of the wire with these counts."""
    return Answered(
        text="Hi", calls=(), model=model, finish="stop", tokens_in=tokens_in, tokens_out=10, tokens_cached=0
    )


def test_usage_names_the_model_that_answered() -> None:
    """The id is the provider's; where that has no price, the id that was asked for has."""
    dated = usage("openai", "openai/gpt-4o", answered("gpt-4o-2024-08-06", 100), 0.5)
    assert (dated.model, dated.latency_s) == ("gpt-4o-2024-08-06", 0.5)
    alias = usage("openai", "openai/gpt-4o", answered("deployment-7", 100), 0.5)
    assert alias.model == "deployment-7"
    assert alias.cost_usd == dated.cost_usd == pytest.approx(100 * 2.5e-6 + 10 * 10e-6)
    assert usage("openai", "openai/gpt-4o", answered("", 100), 0.5).model == "gpt-4o"


def test_what_was_not_counted_has_no_price() -> None:
    """Without the provider's count of tokens the cost is unknown."""
    assert usage("openai", "openai/gpt-4o", answered("gpt-4o", None), 0.1).cost_usd is None
