"""The distributed mode: a client, one worker and one Redis, each a process of its own.

Every figure is taken at the client, which is the bench's process; the worker and the server are ours alone.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.model import CALLS, WAITS_S, make_project
from bench.monitor import Watched
from bench.physical import sleepers
from bench.processes import LAZY, ROOT, SURE, Running, clean, process, server
from bench.redis_limits import Writes, empty_jobs, round_trip_ms
from bench.rows import Row, median
from bench.work import ANSWER, QUESTION
from p2engine.limits import SWEEP_PERIOD_SHARED_S
from p2engine.runtime.conversation import Conversation
from p2engine.wiring import Engine
from tests.servers import ValkeyServer, free_port

AT_ONCE = 100
IN_FLIGHT = 500
IDLE_S = 30.0
IDLE = (("worker", "worker", "--no-sweeper"), ("worker that sweeps", "worker"), ("sweeper", "sweeper"))
TURNS = (("plain", "a plain turn", 15, None), ("tool", "a turn with a tool", None, 12))
STARTED_S = SWEEP_PERIOD_SHARED_S + 3.0  # what a start leaves to do ends with the first look at the books
SETTLED_S = 0.3  # after an answer, until the worker has acknowledged the message it came from


class Rig(NamedTuple):
    """An open client, and the processes that work for it."""

    client: Engine
    worker: Running
    server: ValkeyServer

    async def open(self, agent: str, number: int) -> list[Conversation]:
        """So many new conversations."""
        names = [f"{agent}-{uuid.uuid4().hex}" for _ in range(number)]  # one without a name looks for a free one
        return await asyncio.gather(*(self.client.conversation(name, agent=agent) for name in names))

    def spent_s(self) -> tuple[float, float, float]:
        """CPU so far of the client, the worker and the server."""
        return time.process_time(), self.worker.cpu_s(), Running(self.server.pid).cpu_s()


@asynccontextmanager
async def rig(*persistence: str) -> AsyncIterator[Rig]:
    """A client with one worker that does everything, on a server with these settings."""
    async with AsyncExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="p2engine-bench-")))
        made = closing.enter_context(server(*persistence))
        make_project(folder, made.port)
        for name in os.environ.keys() - clean(os.environ).keys():
            del os.environ[name]
        worker = closing.enter_context(process(folder, "worker"))
        client = await closing.enter_async_context(Engine.open(folder))
        yield Rig(client, worker, made)


async def say(conversation: Conversation) -> float:
    """A turn; the wall milliseconds until the client has the answer."""
    began = time.perf_counter()
    reply = await conversation.say(QUESTION)
    if reply.text != ANSWER:
        raise RuntimeError(f"{conversation.name} ended {reply.finished}: {reply.detail or reply.text}")
    return (time.perf_counter() - began) * 1e3


async def distributed(*, quick: bool) -> list[Row]:
    """Commands of a turn, its wall time, turns a second, and many conversations at once; and what bounds each."""
    rounds, turns = (3, 30) if quick else (7, 100)
    rows: list[Row] = []
    async with rig(*SURE) as sure:
        rows += await commands(sure, 5 if quick else 20)
        rows += await walls(sure, "", rounds, turns)
        rows += await throughput(sure, "", rounds, 2 if quick else 5)
        rows += await in_flight(sure, "waits", rounds)
        rows += await in_flight(sure, "waits_long", 1 if quick else 2)
        rows.append(row("worker after all this", "MB in RAM", [sure.worker.resident_mb()], target=120))
        rows += await writes(sure, "", rounds)
    async with rig(*LAZY) as lazy:
        rows += await walls(lazy, "everysec: ", rounds, turns)
        rows += await throughput(lazy, "everysec: ", rounds, 2 if quick else 5)
        rows += await writes(lazy, "everysec: ", rounds)
    return rows


def row(what: str, unit: str, values: Sequence[float], **more: Any) -> Row:
    """A row of this bench."""
    return Row(bench="distributed", what=what, unit=unit, values=values, **more)


async def commands(rig: Rig, turns: int) -> list[Row]:
    """What the client and the worker send for one turn, Celery's included."""
    rows = []
    for agent, what, sent_max, trips_max in (
        ("plain", "a plain turn", 15, None),
        ("tool", "a turn with a tool", None, 12),
    ):
        talk = (await rig.open(agent, 1))[0]
        await say(talk)  # the first one subscribes and fills caches
        seen = []
        with Watched(rig.server.port) as watched:
            for _ in range(turns):
                await asyncio.sleep(SETTLED_S)
                watched.so_far()
                await say(talk)
                await asyncio.sleep(SETTLED_S)
                seen.append(watched.so_far())
        rows += [
            row(f"{what}: sent by clients", "commands", [each.commands for each in seen], target=sent_max),
            row(f"{what}: round trips", "round trips", [each.round_trips for each in seen], target=trips_max),
            row(f"{what}: inside scripts", "commands", [each.scripts.total() for each in seen]),
        ]
    return rows


async def walls(rig: Rig, label: str, rounds: int, turns: int) -> list[Row]:
    """A plain turn with a model that takes no time, one at a time."""
    talk = (await rig.open("plain", 1))[0]
    await say(talk)
    middle: list[float] = []
    high: list[float] = []
    trips: list[float] = []
    for _ in range(rounds):
        trips.append(await round_trip_ms(rig.server.port, 300))
        took = sorted([await say(talk) for _ in range(turns)])
        middle.append(median(took))
        high.append(took[int(0.95 * turns)])
    limit, unit = "one EVALSHA that does nothing", "wall ms over the model's"
    return [
        row(f"{label}a plain turn, p50", unit, middle, target=None if label else 15, limit=limit, limits=trips),
        row(f"{label}a plain turn, p95", unit, high, limit=limit, limits=trips),
        row(f"{label}one EVALSHA that does nothing", "wall ms", trips),
    ]


async def throughput(rig: Rig, label: str, rounds: int, turns: int) -> list[Row]:
    """Turns with a tool and a model that takes no time, 100 conversations at once; and whose CPU that is."""
    jobs = await empty_jobs(rig.server, rounds)
    talks = await rig.open("tool", AT_ONCE)
    await asyncio.gather(*map(say, talks))
    rates: list[float] = []
    spent: list[list[float]] = []
    for _ in range(rounds):
        before, began = rig.spent_s(), time.perf_counter()
        for _ in range(turns):
            await asyncio.gather(*map(say, talks))
        rates.append(AT_ONCE * turns / (time.perf_counter() - began))
        spent.append([(b - a) * 1e3 / AT_ONCE / turns for a, b in zip(before, rig.spent_s(), strict=True)])
    what, unit = f"{label}turns with a tool, 100 at once", "CPU ms a turn"
    return [
        row(
            what,
            "turns a second",
            rates,
            target=None if label else 300,
            at_least=True,
            limit="Celery jobs a second that do nothing",
            limits=jobs,
        ),
        *(
            row(f"{label}of these, the {who}", unit, [each[place] for each in spent])
            for place, who in enumerate(("client", "worker", "server"))
        ),
        row(f"{label}Celery jobs that do nothing", "jobs a second", jobs),
    ]


async def in_flight(rig: Rig, agent: str, rounds: int) -> list[Row]:
    """500 conversations at once, each with a turn of six model calls: wall time over that of the calls."""
    ideal_s, waits_ms = CALLS * WAITS_S[agent], WAITS_S[agent] * 1e3
    steps = IN_FLIGHT * (2 * CALLS - 1)
    talks = await rig.open(agent, IN_FLIGHT)
    found: list[float] = []
    bare: list[float] = []
    for _ in range(rounds):
        bare.append(await sleepers(IN_FLIGHT, IN_FLIGHT, CALLS, WAITS_S[agent]) / ideal_s)
        began = time.perf_counter()
        await asyncio.gather(*map(say, talks))
        found.append((time.perf_counter() - began) / ideal_s)
    return [
        row(
            f"500 in flight, {waits_ms:,.0f} ms a model call",
            f"wall time / {ideal_s:g} s",
            found,
            target=1.25 if agent == "waits" else None,
            limit="500 tasks that only sleep",
            limits=bare,
        ),
        row(f"500 in flight, {waits_ms:,.0f} ms", "steps a second", [steps / (ratio * ideal_s) for ratio in found]),
    ]


async def writes(rig: Rig, label: str, rounds: int) -> list[Row]:
    """Our writing script alone, through our store."""
    async with Writes(rig.server.port) as raw:
        one = [await raw.one_ms(200) for _ in range(rounds)]
        many = [await raw.rate(2000) for _ in range(rounds)]
    return [
        row(f"{label}the writing script alone", "wall ms", one),
        row(f"{label}the writing script alone, 50 at once", "writes a second", many),
    ]


# Idle and starting


async def distributed_idle(*, quick: bool) -> list[Row]:
    """Processes that nobody asks anything: CPU, commands, memory. Each has a server of its own. And a whole start."""
    rows = []
    idle_s = 10.0 if quick else IDLE_S
    with ExitStack() as closing:
        watched = {name: closing.enter_context(alone(*words)) for name, *words in IDLE}
        await asyncio.sleep(STARTED_S)
        before = {name: (running.cpu_s(), each.so_far()) for name, (running, each) in watched.items()}
        await asyncio.sleep(idle_s)
        for name, (running, each) in watched.items():
            sent = each.so_far()
            rows += [
                idle_row(f"{name}, idle", f"CPU s in {idle_s:g} s", running.cpu_s() - before[name][0], target=0.1),
                idle_row(f"{name}, idle", "commands a second", sent.commands / idle_s, target=1),
                idle_row(f"{name}, idle", "MB in RAM", running.resident_mb(), target=120),
            ]
    starts = [start_s() for _ in range(2 if quick else 5)]
    rows.append(Row(bench="distributed_idle", what="distributed.py, until ready", unit="s", values=starts, target=10))
    return rows


def idle_row(what: str, unit: str, value: float, *, target: float) -> Row:
    return Row(bench="distributed_idle", what=what, unit=unit, values=[value], target=target)


@contextmanager
def alone(*words: str) -> Iterator[tuple[Running, Watched]]:
    """One process of a project, on a server that nobody else uses."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="p2engine-bench-")))
        made = closing.enter_context(server(*SURE))
        make_project(folder, made.port)
        running = closing.enter_context(process(folder, *words))
        yield running, closing.enter_context(Watched(made.port))


def start_s() -> float:
    """Seconds until `scripts/distributed.py` says that everything is up, a Valkey of its own included."""
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        folder = Path(name)
        make_project(folder, free_port())
        command = [sys.executable, str(ROOT / "scripts" / "distributed.py"), "--project", name, "conversation", "list"]
        began = time.perf_counter()
        with subprocess.Popen(
            command, env=clean(os.environ), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as child:
            assert child.stderr is not None
            said = []
            for line in child.stderr:
                said.append(line.decode(errors="replace").strip())
                if " ready in " in said[-1]:
                    took = time.perf_counter() - began
                    child.stderr.read()
                    return took
    raise RuntimeError(f"distributed.py was not ready: {said[-1:]}")
