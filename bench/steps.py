"""Work 1: conversations of 11 steps, one after another or 100 at once. What one step costs in CPU, and on disk."""

import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import NamedTuple

from bench.physical import RawCommits, raw_http, task_switch
from bench.rows import Row
from bench.server import serving
from bench.work import MEMORY, STEPS, Spent, Sync, converse_all, engine
from p2engine.runtime.engine import Engine

AT_ONCE = 100
ROW_BYTES = 200  # roughly what one of our commits writes into the log
CALLS = STEPS // 2 + 1  # model calls in a conversation


class Rig(NamedTuple):
    """An engine of one kind, a raw loop of the same kind, and names that were not used yet."""

    engine: Engine
    raw: RawCommits
    names: "count[int]"

    async def converse(self, conversations: int, at_once: int = 1) -> Spent:
        """So many new conversations."""
        with Spent() as spent:
            await converse_all(self.engine, (f"work-{next(self.names)}" for _ in range(conversations)), at_once=at_once)
        return spent


@asynccontextmanager
async def rig(sync: Sync, *, memory: bool = False, base_url: str | None = None) -> AsyncIterator[Rig]:
    """A rig that has warmed up, in a folder that goes away with it."""
    async with AsyncExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="p2engine-bench-")))
        made = await closing.enter_async_context(engine(folder, sync=sync, memory=memory, base_url=base_url))
        await converse_all(made, (f"warm-{number}" for number in range(20)))
        raw_file = MEMORY if memory else folder / "raw.db"
        raw = RawCommits(raw_file, sync=sync, bytes_n=ROW_BYTES if memory else row_bytes(folder / "store.db"))
        closing.callback(raw.close)
        yield Rig(made, raw, count())


def row_bytes(store: Path) -> int:
    """What one of our commits writes into the log, on average."""
    db = sqlite3.connect(store)
    try:
        return int(db.execute("SELECT avg(length(body)) FROM log").fetchone()[0])
    finally:
        db.close()


async def work1(*, quick: bool) -> list[Row]:
    """In one process: in memory, SQLite NORMAL, SQLite FULL; one conversation at a time, and 100 at once."""
    rounds, conversations = (3, 50) if quick else (9, 200)
    memory: list[float] = []
    normal: list[float] = []
    normal_100: list[float] = []
    full: list[float] = []
    full_100: list[float] = []
    switches: list[float] = []
    raw_normal: list[float] = []
    raw_full: list[float] = []
    raw_full_rate: list[float] = []
    async with rig("NORMAL", memory=True) as in_memory, rig("NORMAL") as lazy, rig("FULL") as strict:
        for _ in range(rounds):
            switches.append(await task_switch(2000))
            memory.append(cpu(await in_memory.converse(conversations), conversations))
            raw_normal.append(lazy.raw.run(2000)[0])
            normal.append(cpu(await lazy.converse(conversations), conversations))
            normal_100.append(cpu(await lazy.converse(conversations, AT_ONCE), conversations))
            raw_full_ms, raw_wall_ms = strict.raw.run(300)
            raw_full.append(raw_full_ms)
            raw_full_rate.append(1e3 / raw_wall_ms)
            few = conversations // 5
            full.append(cpu(await strict.converse(few), few))
            spent = await strict.converse(2 * AT_ONCE, AT_ONCE)
            full_100.append(2 * AT_ONCE * STEPS / spent.wall_s)
    a_commit, unit = "one raw commit of a row as long", "CPU ms a step"
    return [
        Row(bench="work1", what="in memory", unit=unit, values=memory, limit="one asyncio task", limits=switches),
        Row(
            bench="work1",
            what="SQLite NORMAL",
            unit=unit,
            values=normal,
            target=0.15,
            limit=f"{a_commit}, NORMAL",
            limits=raw_normal,
        ),
        Row(
            bench="work1",
            what="SQLite NORMAL, 100 at once",
            unit=unit,
            values=normal_100,
            limit=f"{a_commit}, NORMAL",
            limits=raw_normal,
        ),
        Row(bench="work1", what="SQLite FULL", unit=unit, values=full, limit=f"{a_commit}, FULL", limits=raw_full),
        Row(
            bench="work1",
            what="SQLite FULL, 100 at once",
            unit="steps a second",
            values=full_100,
            target=5000,
            at_least=True,
            limit="raw commits a second, FULL, one at a time",
            limits=raw_full_rate,
        ),
        Row(bench="work1", what="on disk", unit="bytes a step", values=[await bytes_a_step(conversations)]),
    ]


async def work1_http(*, quick: bool) -> list[Row]:
    """With the `openai` driver and a server in another process; what this process spends."""
    rounds, conversations = (3, 30) if quick else (7, 100)
    one: list[float] = []
    many: list[float] = []
    raw_one: list[float] = []
    raw_many: list[float] = []
    body = b'{"model":"at-once","messages":[{"content":"What is the weather in Paris this week?","role":"user"}]}'
    with serving() as base_url:
        url = f"{base_url}/chat/completions"
        async with rig("NORMAL", base_url=base_url) as client:
            for _ in range(rounds):
                raw_one.append(await raw_http(url, body, 500) * CALLS / STEPS)
                one.append(cpu(await client.converse(conversations), conversations))
                raw_many.append(await raw_http(url, body, 500, AT_ONCE) * CALLS / STEPS)
                many.append(cpu(await client.converse(2 * AT_ONCE, AT_ONCE), 2 * AT_ONCE))
    unit, limit = "CPU ms a step", f"raw aiohttp, {CALLS} calls for {STEPS} steps"
    return [
        Row(bench="work1_http", what="SQLite NORMAL", unit=unit, values=one, target=0.45, limit=limit, limits=raw_one),
        Row(
            bench="work1_http",
            what="SQLite NORMAL, 100 at once",
            unit=unit,
            values=many,
            limit=f"{limit}, 100 at once",
            limits=raw_many,
        ),
    ]


def cpu(spent: Spent, conversations: int) -> float:
    """CPU milliseconds of one step."""
    return spent.cpu_s * 1e3 / (conversations * STEPS)


async def bytes_a_step(conversations: int) -> float:
    """How much the file grows with a step, once it is closed; an empty store's size aside."""
    sizes = []
    for number in (0, conversations):
        with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
            async with engine(Path(name)) as made:
                await converse_all(made, (f"work-{n}" for n in range(number)))
            sizes.append((Path(name) / "store.db").stat().st_size)
    return (sizes[1] - sizes[0]) / (conversations * STEPS)
