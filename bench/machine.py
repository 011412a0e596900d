"""What this runs on: enough to know how far figures can be compared, and nothing that names anybody."""

import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.servers import server_program

SERVERS = ("Valkey", "Redis")


def description() -> dict[str, str]:
    """The machine, the interpreter and the libraries that decide."""
    uname = platform.uname()
    return {
        "processor": f"{processor()}, {os.cpu_count()} cores, {uname.machine}",
        "system": f"{uname.system} {uname.release.partition('-')[0]}",
        "files": f"temporary folder on {filesystem()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "SQLite": sqlite3.sqlite_version,
        "Redis": redis(),
        "P2Engine": commit(),
        "measured": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {load()} before the first bench",
    }


def redis() -> str:
    """The server of the distributed benches, and the libraries that speak to it."""
    try:
        said_of_it = said([server_program(), "--version"]).split()
        server = " ".join(word.removeprefix("v=") for word in said_of_it if word in SERVERS or word.startswith("v="))
        return ", ".join([server, *(f"{name} {version(name)}" for name in ("redis", "celery", "kombu"))])
    except (ImportError, AssertionError):
        return "none"


def processor() -> str:
    """The model of the processor, as far as the system says it."""
    if sys.platform == "darwin":
        return said(["sysctl", "-n", "machdep.cpu.brand_string"]) or "unknown"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def filesystem() -> str:
    """The kind of filesystem that the benches write to."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "an unknown filesystem"
    folder = Path(tempfile.gettempdir()).resolve()
    points = {Path(words[1]): words[2] for words in map(str.split, mounts.read_text().splitlines())}
    return next((points[each] for each in (folder, *folder.parents) if each in points), "an unknown filesystem")


def commit() -> str:
    """The commit that is measured, and whether files differ from it."""
    root = Path(__file__).parents[1]
    found = said(["git", "-C", str(root), "rev-parse", "--short", "HEAD"])
    changed = said(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no", "src"])
    return (found or "not in a repository") + (", changed since" if changed else "")


def load() -> str:
    """How many processes wanted to run in the last minute."""
    return f"{os.getloadavg()[0]:.1f}"


def pace_ms() -> float:
    """How long a fixed piece of Python takes now, in milliseconds: the same all along, or somebody else is busy."""
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        total = 0
        for number in range(200_000):
            total += number
        best = min(best, (time.perf_counter() - began) * 1e3)
    return best


def said(command: list[str]) -> str:
    """What a command prints; empty where there is no such command."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
