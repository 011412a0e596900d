"""The peers' figures beside ours: each of their works is measured between two runs of ours, in the same session."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.rows import PeerRow, Row

PEERS = Path(__file__).parent / "peers"
PYTHON = PEERS / ".venv" / "bin" / "python"
WORK_S_MAX = 1800  # all peers at one work; the longest takes some minutes
OURS = {
    ("work1", "a step"): "SQLite NORMAL",
    ("work1", "a step on disk"): "on disk",
    ("work2", "500 conversations"): "SQLite NORMAL",
}
"""Which of our rows a figure is held against, where the two are not called the same. Ours is always the durable one."""


class RunApart(Protocol):
    """Runs one of our benches in a process of its own."""

    def __call__(self, name: str, *, quick: bool) -> list[Row]: ...


def run_peers(works: Sequence[str], run_apart: RunApart, *, quick: bool) -> list[PeerRow]:
    """The rows of every peer. Raises SystemExit where their environment is not there."""
    if not PYTHON.exists():
        raise SystemExit("the peers are not installed: ./bench/peers/setup.sh")
    rows: list[PeerRow] = []
    for work in works:
        before = run_apart(work, quick=quick)
        theirs = run_theirs(work, quick=quick)
        after = run_apart(work, quick=quick)
        rows += [beside(found, [*before, *after]) for found in theirs]
    return rows


def run_theirs(work: str, *, quick: bool) -> list[dict[str, Any]]:
    """What the peers' own process found. Its progress goes to our standard error."""
    command = [str(PYTHON), str(PEERS / "run.py"), work, *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=WORK_S_MAX, check=False)
    if done.returncode:
        print(f"the peers failed at {work}", file=sys.stderr)
        return []
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def beside(found: dict[str, Any], ours: Sequence[Row]) -> PeerRow:
    """A figure of a peer with ours of the same, before and after: their mean."""
    name = OURS.get((found["work"], found["what"]), found["what"])
    values = [row.value for row in ours if row.what == name]
    return PeerRow(**found, ours=sum(values) / len(values) if values else None)
