"""What a model call costs in US dollars, from the price table of genai-prices. Keeps no prices of its own.

The table takes about a second of CPU to load and a tenth of a millisecond to ask, so it is loaded once, best in a
thread while the first reply is on its way, and each model is resolved once to plain numbers.
"""

from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from p2engine.domain.messages import Usage
from p2engine.models.wire import Answered

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

Rate = tuple[tuple[int, float], ...]
"""Dollars per token by size of the prompt: (above this many tokens in, dollars), largest first."""


class Rates(msgspec.Struct, frozen=True):
    """The prices of one model that depend on nothing but tokens."""

    tokens_in: Rate
    tokens_out: Rate
    tokens_cached: Rate | None


def load() -> None:
    """Load the price table. Blocks; later calls return at once."""
    from genai_prices import data_snapshot

    data_snapshot.get_snapshot()


def cost_usd(provider: str, model: str, tokens_in: int, tokens_out: int, *, tokens_cached: int = 0) -> float | None:
    """The price of one call; None when the model is not in the table. `tokens_cached` are part of `tokens_in`."""
    found = _resolved(provider, model)
    tokens_cached = min(tokens_cached, tokens_in)
    if not isinstance(found, Rates):
        return None if found is None else _asked(*found, tokens_in, tokens_out, tokens_cached)
    cost = tokens_out * _at(found.tokens_out, tokens_in)
    if found.tokens_cached is not None and tokens_cached:
        cost += tokens_cached * _at(found.tokens_cached, tokens_in)
        return cost + (tokens_in - tokens_cached) * _at(found.tokens_in, tokens_in)
    return cost + tokens_in * _at(found.tokens_in, tokens_in)


def usage(provider: str, model: str, answered: Answered, latency_s: float) -> Usage:
    """What the call cost. A server that does not count tokens leaves them 0 and the cost unknown."""
    name = model.removeprefix(f"{provider}/")
    tokens_in, tokens_out = answered.tokens_in or 0, answered.tokens_out or 0
    cost = None
    if answered.tokens_in is not None and answered.tokens_out is not None:
        for known in dict.fromkeys((answered.model or name, name)):
            cost = cost_usd(provider, known, tokens_in, tokens_out, tokens_cached=answered.tokens_cached)
            if cost is not None:
                break
    return Usage(
        model=answered.model or name,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        cost_usd=cost,
        latency_s=latency_s,
        provider=provider,
    )


def _at(rate: Rate, tokens_in: int) -> float:
    for above, dollars in rate:
        if tokens_in > above:
            return dollars
    return rate[-1][1]


@cache
def _resolved(provider: str, model: str) -> "Rates | tuple[Provider, ModelInfo] | None":
    """Plain numbers; or what must be asked each time, as the price depends on more than tokens; or nothing."""
    from genai_prices import data_snapshot, types

    try:
        seller, known = data_snapshot.get_snapshot().find_provider_model(model, None, provider, None)
    except LookupError:
        return None
    if isinstance(known.prices, list) and any(
        isinstance(price.constraint, types.TimeOfDateConstraint) for price in known.prices
    ):
        return seller, known
    price = known.get_prices(datetime.now(UTC))
    if price.requests_kcount is not None:
        return seller, known
    if price.input_mtok is None and price.output_mtok is None:
        return None
    cached = price.cache_read_mtok
    return Rates(_rate(price.input_mtok), _rate(price.output_mtok), None if cached is None else _rate(cached))


def _rate(price: Any) -> Rate:
    """A price per million tokens as the table writes it: nothing, a number, or a base with tiers."""
    tiers = [(tier.start, float(tier.price) / 1e6) for tier in reversed(getattr(price, "tiers", ()))]
    base = getattr(price, "base", price)
    return (*tiers, (-1, float(base or 0) / 1e6))


def _asked(seller: "Provider", known: "ModelInfo", tokens_in: int, tokens_out: int, tokens_cached: int) -> float:
    from genai_prices import Usage as Counts

    counts = Counts(input_tokens=tokens_in, output_tokens=tokens_out, cache_read_tokens=tokens_cached or None)
    return float(known.calc_price(counts, seller).total_price)
