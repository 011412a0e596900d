"""Works 4 and 5: what a turn costs at the end of a long conversation, and what a branch from one costs."""

import sqlite3
import tempfile
import time
from pathlib import Path

from bench.physical import RawCommits
from bench.rows import Row, median
from bench.steps import ROW_BYTES
from bench.work import QUESTION, STEPS, engine

TURN_COMMITS = 2  # the message, and the answer
FORKS = 100


async def work4(*, quick: bool) -> list[Row]:
    """One conversation of 1,000 turns (and of 10,000): turns 10, 100, 1,000, …, each the median of its neighbours."""
    rounds, longest = (1, 1000) if quick else (5, 10_000)
    places = [place for place in (10, 100, 1000, 10_000) if place <= longest]
    found: dict[int, list[float]] = {place: [] for place in places}
    sizes: list[float] = []
    limits: list[float] = []
    for number in range(rounds):
        turns = longest if number == 0 else 1000
        spent, bytes_n, raw_ms = await long_conversation(turns)
        limits.append(raw_ms * TURN_COMMITS)
        for place in (place for place in places if place <= turns):
            found[place].append(around(spent, place))
        sizes.append(bytes_n / 1e6)
    growth = [late / early for late, early in zip(found[1000], found[10], strict=True)]
    return [
        *(
            Row(
                bench="work4",
                what=f"turn {place:,}",
                unit="CPU ms",
                values=found[place],
                target=0.6 if place == 1000 else None,
                limit=f"{TURN_COMMITS} raw commits, NORMAL",
                limits=limits,
            )
            for place in places
        ),
        Row(bench="work4", what="turn 1,000 / turn 10", unit="ratio", values=growth, target=1.2),
        Row(bench="work4", what="on disk after 1,000 turns", unit="MB", values=sizes, target=1.5),
    ]


async def long_conversation(turns: int) -> tuple[list[float], int, float]:
    """CPU milliseconds of each turn, bytes of the store after 1,000 of them, and those of a raw commit."""
    spent = []
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        folder = Path(name)
        raw = RawCommits(folder / "raw.db", sync="NORMAL", bytes_n=ROW_BYTES)
        async with engine(folder, tools=0) as made:
            conversation = await made.conversation("long", agent="alpha")
            raw_ms = raw.run(2000)[0]
            bytes_n = 0
            for number in range(1, turns + 1):
                began = time.process_time()
                await conversation.say(f"turn {number}: tell me something about Paris")
                spent.append((time.process_time() - began) * 1e3)
                if number == 1000:
                    bytes_n = used_bytes(folder / "store.db")
        raw.close()
    return spent, bytes_n, raw_ms


def around(spent: list[float], place: int) -> float:
    """The median of the turns around that one (1-based)."""
    reach = min(place // 2, 25)
    return median(spent[place - reach - 1 : place + reach])


def used_bytes(store: Path) -> int:
    """Bytes of the pages in use."""
    db = sqlite3.connect(store)
    try:
        pages, free, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS)
    finally:
        db.close()
    return int((pages - free) * size)


PRAGMAS = ("page_count", "freelist_count", "page_size")


async def work5(*, quick: bool) -> list[Row]:
    """Branches from the middle of a conversation of 500 steps, and the first turn on each."""
    rounds = 1 if quick else 5
    forks: list[float] = []
    firsts: list[float] = []
    bytes_n: list[float] = []
    limits: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
            folder = Path(name)
            raw = RawCommits(folder / "raw.db", sync="NORMAL", bytes_n=ROW_BYTES)
            limits.append(raw.run(2000)[0])
            raw.close()
            async with engine(folder) as made:
                conversation = await made.conversation("long", agent="alpha")
                for _ in range(500 // STEPS + 1):
                    await conversation.say(QUESTION)
                middle = await made.world.store.head(conversation.record.current) // 2
                before, began = used_bytes(folder / "store.db"), time.process_time()
                for number in range(FORKS):
                    await conversation.fork(middle, f"fork-{number}")
                forks.append((time.process_time() - began) * 1e3 / FORKS)
                bytes_n.append((used_bytes(folder / "store.db") - before) / FORKS)
                began = time.process_time()
                for number in range(FORKS):
                    await conversation.say(QUESTION, branch=f"fork-{number}")
                firsts.append((time.process_time() - began) * 1e3 / FORKS / STEPS)
    return [
        Row(
            bench="work5",
            what="a branch",
            unit="CPU ms",
            values=forks,
            target=0.2,
            limit="one raw commit, NORMAL",
            limits=limits,
        ),
        Row(bench="work5", what="a branch on disk", unit="bytes", values=bytes_n, target=256),
        Row(
            bench="work5",
            what="the first turn on a branch",
            unit="CPU ms a step",
            values=firsts,
            limit="one raw commit, NORMAL",
            limits=limits,
        ),
    ]
