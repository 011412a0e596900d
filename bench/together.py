"""Work 2: 500 conversations, 100 at once, with a model that takes 50 ms. Wall time over the ideal."""

import tempfile
import time
from pathlib import Path

from bench.physical import sleepers
from bench.rows import Row
from bench.server import serving
from bench.steps import AT_ONCE, CALLS
from bench.work import converse_all, engine

LATENCY_S = 0.05


async def work2(*, quick: bool) -> list[Row]:
    """In one process, and over HTTP to a server in another."""
    rounds, conversations = (2, 200) if quick else (5, 500)
    ideal_s = conversations / AT_ONCE * CALLS * LATENCY_S
    inside: list[float] = []
    bare: list[float] = []
    for _ in range(rounds):
        bare.append(await sleepers(conversations, AT_ONCE, CALLS, LATENCY_S) / ideal_s)
        inside.append(await wall_s(conversations, latency_s=LATENCY_S) / ideal_s)
    with serving(latency_s=LATENCY_S) as base_url:
        outside = [await wall_s(conversations, base_url=base_url) / ideal_s for _ in range(rounds)]
    unit, limit = f"wall time / {ideal_s:g} s", "100 tasks that only sleep"
    return [
        Row(bench="work2", what="SQLite NORMAL", unit=unit, values=inside, target=1.15, limit=limit, limits=bare),
        Row(
            bench="work2",
            what="SQLite NORMAL, over HTTP",
            unit=unit,
            values=outside,
            target=1.30,
            limit=limit,
            limits=bare,
        ),
    ]


async def wall_s(conversations: int, *, latency_s: float = 0.0, base_url: str | None = None) -> float:
    """Seconds for all of them, in a new store."""
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        async with engine(Path(name), latency_s=latency_s, base_url=base_url) as made:
            await converse_all(made, [f"warm-{number}" for number in range(AT_ONCE)], at_once=AT_ONCE)
            began = time.perf_counter()
            await converse_all(made, [f"work-{number}" for number in range(conversations)], at_once=AT_ONCE)
            return time.perf_counter() - began
