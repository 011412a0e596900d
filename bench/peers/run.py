"""The same works with the peers, in bench/peers/.venv. `python run.py work1 [--quick]` prints one JSON list.

Every peer gets a model in its own process that answers at once, one tool, and the fastest form of persistence that
it documents; SQLite files are WAL and NORMAL, like ours in these works. Knows nothing of P2Engine: `bench --peers`
puts the figures side by side.
"""

import argparse
import asyncio
import json
import logging
import sqlite3
import sys
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

QUESTION = "What is the weather in Paris this week?"
TOOLS = 5
STEPS = 2 * TOOLS + 1
AT_ONCE = 100
LATENCY_S = 0.05
FORKS = 100
PRAGMAS = ("page_count", "freelist_count", "page_size")


class System(Protocol):
    """One peer in one form. `turn` is one user turn of a conversation; `fork` a branch from its middle, if it has that.

    Models call the tool `tools` times a turn and wait `latency_s` each time.
    """

    name: str

    def open(self, folder: Path, *, tools: int, latency_s: float) -> AbstractAsyncContextManager["Opened"]: ...


class Opened(Protocol):
    """A system at work."""

    async def turn(self, conversation: str, text: str) -> None: ...

    async def fork(self, conversation: str, number: int) -> None: ...


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return sorted(values)[len(values) // 2]


def size_of(folder: Path) -> int:
    """Bytes of the databases there, what is still in their WALs moved in."""
    size = 0
    for path in folder.glob("*.db"):
        db = sqlite3.connect(path)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages, free, each = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in PRAGMAS)
        db.close()
        size += (pages - free) * each
    return size


def figure(system: System, work: str, what: str, unit: str, value: float) -> dict[str, Any]:
    """One row. `what` is what the same figure is called among ours."""
    return {"work": work, "peer": system.name, "what": what, "unit": unit, "value": value}


async def work1(system: System, *, quick: bool) -> list[dict[str, Any]]:
    """Conversations of 11 steps, one after another: CPU and bytes a step."""
    rounds, conversations = (2, 8) if quick else (5, 30)
    spent = []
    with tempfile.TemporaryDirectory(prefix="p2engine-peers-") as name:
        folder = Path(name)
        async with system.open(folder, tools=TOOLS, latency_s=0.0) as opened:
            await opened.turn("warm", QUESTION)
            before = size_of(folder)
            for number in range(rounds):
                began = time.process_time()
                for each in range(conversations):
                    await opened.turn(f"work-{number}-{each}", QUESTION)
                spent.append((time.process_time() - began) * 1e3 / conversations / STEPS)
        bytes_n = (size_of(folder) - before) / (rounds * conversations * STEPS)
    rows = [figure(system, "work1", "a step", "CPU ms", median(spent))]
    return [*rows, figure(system, "work1", "a step on disk", "bytes", bytes_n)] if bytes_n > 0 else rows


async def work2(system: System, *, quick: bool) -> list[dict[str, Any]]:
    """Conversations 100 at once, with 50 ms a model call: wall time over the ideal."""
    conversations = 100 if quick else 500
    ideal_s = conversations / AT_ONCE * (TOOLS + 1) * LATENCY_S
    with tempfile.TemporaryDirectory(prefix="p2engine-peers-") as name:
        async with system.open(Path(name), tools=TOOLS, latency_s=LATENCY_S) as opened:
            await opened.turn("warm", QUESTION)
            left = iter(range(conversations))

            async def one_after_another() -> None:
                for number in left:
                    await opened.turn(f"work-{number}", QUESTION)

            began = time.perf_counter()
            await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
            wall_s = time.perf_counter() - began
    return [figure(system, "work2", f"{conversations} conversations", "× ideal", wall_s / ideal_s)]


async def work4(system: System, *, quick: bool) -> list[dict[str, Any]]:
    """One conversation of 1,000 turns: CPU of turn 10 and turn 1,000, and the bytes at the end."""
    turns = 100 if quick else 1000
    spent = []
    with tempfile.TemporaryDirectory(prefix="p2engine-peers-") as name:
        folder = Path(name)
        async with system.open(folder, tools=0, latency_s=0.0) as opened:
            for number in range(1, turns + 1):
                began = time.process_time()
                await opened.turn("long", f"turn {number}: tell me something about Paris")
                spent.append((time.process_time() - began) * 1e3)
        size_mb = size_of(folder) / 1e6
    rows = [
        figure(system, "work4", f"turn {place:,}", "CPU ms", median(spent[place - reach - 1 : place + reach]))
        for place, reach in ((10, 5), (100, 25), (1000, 25))
        if place <= turns
    ]
    if size_mb and turns == 1000:
        rows.append(figure(system, "work4", "on disk after 1,000 turns", "MB", size_mb))
    return rows


async def work5(system: System, *, quick: bool) -> list[dict[str, Any]]:
    """Branches from the middle of a conversation of 500 steps: CPU and bytes of one."""
    turns, forks = (10, 3) if quick else (500 // STEPS + 1, FORKS)
    with tempfile.TemporaryDirectory(prefix="p2engine-peers-") as name:
        folder = Path(name)
        async with system.open(folder, tools=TOOLS, latency_s=0.0) as opened:
            for _ in range(turns):
                await opened.turn("long", QUESTION)
            before = size_of(folder)
            await opened.fork("long", -1)
            spent = []
            for number in range(forks):
                began = time.process_time()
                await opened.fork("long", number)
                spent.append((time.process_time() - began) * 1e3)
            bytes_n = (size_of(folder) - before) / (forks + 1)
    rows = [figure(system, "work5", "a branch", "CPU ms", median(spent))]
    return [*rows, figure(system, "work5", "a branch on disk", "bytes", bytes_n)] if before else rows


Work = Callable[..., Awaitable[list[dict[str, Any]]]]
WORKS: dict[str, Work] = {"work1": work1, "work2": work2, "work4": work4, "work5": work5}


def systems_for(work: str) -> list[System]:
    """Every form of every peer that has the notion of this work."""
    from langgraph_peer import LangGraphRaw, LangGraphReact
    from openai_agents_peer import OpenAIAgents, OpenAIAgentsAdvanced
    from pydantic_ai_peer import PydanticAI

    langgraph: list[System] = [
        kind(saver) for kind in (LangGraphRaw, LangGraphReact) for saver in ("", "InMemorySaver", "AsyncSqliteSaver")
    ]
    if work == "work5":
        kept = [system for system in langgraph if "Saver" in system.name]
        return [*kept, OpenAIAgentsAdvanced(), PydanticAI(persistent=True)]
    if work == "work4":  # without a saver LangGraph remembers nothing
        langgraph = [system for system in langgraph if "Saver" in system.name]
    others: list[System] = [OpenAIAgents(persistent=False), OpenAIAgents(persistent=True)]
    return [*langgraph, *others, PydanticAI(persistent=False), PydanticAI(persistent=True)]


def main() -> int:
    """Run one work with every peer that has it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    found: list[dict[str, Any]] = []
    for system in systems_for(given.work):
        began = time.perf_counter()
        found += asyncio.run(WORKS[given.work](system, quick=given.quick))
        print(f"{system.name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
