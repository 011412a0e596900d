"""What a process of P2Engine costs: to start, and to keep conversations that nobody speaks to."""

import asyncio
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.rows import Row
from bench.work import QUESTION, converse_all, engine

IDLE_S = 5.0


async def imports(*, quick: bool) -> list[Row]:
    """CPU of a fresh interpreter that imports the package, or shows the help; each beside one that does nothing."""
    rounds = 3 if quick else 9
    commands = {
        "nothing": ["-c", "pass"],
        "import p2engine": ["-c", "import p2engine"],
        "p2engine --help": ["-m", "p2engine", "--help"],
    }
    found: dict[str, list[float]] = {what: [] for what in commands}
    for _ in range(rounds):
        for what, arguments in commands.items():
            found[what].append(child_cpu_ms([sys.executable, *arguments]))
    return [
        Row(
            bench="imports",
            what=what,
            unit="CPU ms",
            values=found[what],
            target=target,
            limit="an interpreter that does nothing",
            limits=found["nothing"],
            summary="least",
        )
        for what, target in (("import p2engine", 60), ("p2engine --help", 250))
    ]


def child_cpu_ms(command: list[str]) -> float:
    """CPU milliseconds, user and system, of a process from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip().splitlines()[-1:]}")
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1e3


async def idle(*, quick: bool) -> list[Row]:
    """10,000 conversations after their first turn, their handles held by the process: memory, and CPU while idle."""
    conversations = 1000 if quick else 10_000
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        async with engine(Path(name), tools=0) as made:
            await converse_all(made, [f"warm-{number}" for number in range(10)])
            base = resident_mb()
            held = []
            for number in range(conversations):
                conversation = await made.conversation(f"idle-{number}", agent="alpha")
                await conversation.say(QUESTION)
                held.append(conversation)
            grown = resident_mb() - base
            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.sleep(IDLE_S)
            busy = (time.process_time() - cpu) / (time.perf_counter() - wall) * 100
    return [
        Row(bench="idle", what=f"{len(held):,} idle conversations", unit="MB above base", values=[grown], target=50),
        Row(bench="idle", what=f"{len(held):,} idle conversations", unit="% of a core", values=[busy], target=0.1),
    ]


def resident_mb() -> float:
    """Memory of this process in RAM."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(shown.stdout) * 1024 / 1e6
