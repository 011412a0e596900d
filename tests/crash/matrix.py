"""The kill matrix: one turn, killed at a point and gone on with, and what must be true of it afterwards.

As a program it prints the table of all points: `python -m tests.crash.matrix [--double COUNT] [--seed N]`.
"""

import argparse
import asyncio
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from tests.crash.cast import OPENING, Place, traces
from tests.crash.judging import fact_problems, look_at, trace_problems
from tests.crash.nursery import Life, Nursery, Point, live_cold

COLD = 12  # of the points, for the time that a start from nothing takes


class Case(NamedTuple):
    """One course of events: where processes died, how the last one fared, and what is wrong with what is left.

    interrupted: how many calls ended with their outcome unknown.
    """

    deaths: tuple[Point, ...]
    last: Life
    interrupted: int
    problems: tuple[str, ...]


def points(life: Life) -> list[Point]:
    """Every point that such a life comes to."""
    return [Point(place, nth + 1) for place in get_args(Place) for nth in range(life.reached.get(place, 0))]


def seconds(single: Iterable[Case]) -> list[tuple[Point, Point]]:
    """Every pair of points such that the process that goes on after the first comes to the second.

    Of a process that died while it opened the store nothing is left but the file: what follows is a death in opening
    again, or one that stands in the matrix of one kill already.
    """
    return [
        (case.deaths[0], second)
        for case in single
        if case.deaths
        for second in points(case.last)
        if second.place == OPENING or case.deaths[0].place != OPENING
    ]


def run(nursery: Nursery, home: Path, *deaths: Point, cold: bool = False, keeps: bool = False) -> Case:
    """Processes die at `deaths`, one after the other; the next one ends the turn. cold: it starts from nothing.

    The home is removed where all is well, unless it `keeps` it.
    """
    home.mkdir()
    begun: set[str] = set()
    died: list[Point] = []
    for death in deaths:
        life = nursery.live(home, death)
        if not life.is_killed:  # its life did not come to this point
            break
        died.append(death)
        begun |= _begun(home)
    else:
        life = live_cold(home) if cold else nursery.live(home)
    case = asyncio.run(look(home, tuple(died), life, begun))
    if not (case.problems or keeps):
        shutil.rmtree(home)
    return case


def _begun(home: Path) -> set[str]:
    """The open calls that may not be repeated and had begun. Read from a copy: looking must not mend anything."""
    with tempfile.TemporaryDirectory() as folder:
        for part in home.glob("store.db*"):
            shutil.copy(part, folder)
        db = sqlite3.connect(Path(folder) / "store.db")
        try:
            return {effect for (effect,) in db.execute("SELECT id FROM owed WHERE started = 1")}
        except sqlite3.OperationalError:  # it died before the table was there
            return set()
        finally:
            db.close()


async def look(home: Path, died: tuple[Point, ...], life: Life, begun: set[str]) -> Case:
    store = await SqliteStore.open(home / "store.db")
    try:
        problems = [*await store.check(), *(f"due at rest: {job}" for job in await store.due(limit=10))]
        (conversation,) = await store.conversations()
        found = await look_at(store, FileBlobs(home / "blobs"), conversation)
    finally:
        await store.aclose()
    problems += [*found.problems, *found.gone.values()]
    if life.said not in (None, found.answer):  # None: the turn was over before anybody asked
        problems.append(f"the caller was told {life.said!r}")
    problems += trace_problems(traces(home), found.results, begun, len(died))
    problems += fact_problems(found.facts, found.results)
    return Case(died, life, found.interrupted, tuple(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit 1 when anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("--double", type=int, default=0, help="how many pairs of deaths to try; 0: none, -1: all")
    parser.add_argument("--seed", type=int, default=0, help="which pairs")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, Nursery() as nursery:
        homes = Path(folder)
        whole = run(nursery, homes / "whole")
        first = points(whole.last)
        single = [run(nursery, homes / f"{point}", point) for point in first]
        print(f"One kill: {len(single)} points. A turn that nobody kills takes {whole.last.seconds * 1000:.0f} ms.\n")
        _table(single)
        cold = [run(nursery, homes / f"cold {point}", point, cold=True) for point in first[:: len(first) // COLD]]
        print(f"\nOne kill, then a Python that starts from nothing: {len(cold)} of the points.\n")
        _table(cold)
        pairs = seconds(single) if chosen.double else []
        if 0 < chosen.double < len(pairs):
            pairs = random.Random(chosen.seed).sample(pairs, chosen.double)
        double = [run(nursery, homes / f"{one}, {two}", one, two) for one, two in pairs]
        if double:
            print(f"\nTwo kills: {len(double)} pairs (seed {chosen.seed}).\n")
            _table(double)
    wrong = [case for case in (whole, *single, *cold, *double) if case.problems]
    for case in wrong:
        print(f"\nkilled {', then '.join(map(str, case.deaths))}:", *case.problems, sep="\n  ")
    return 1 if wrong else 0


def _table(cases: Sequence[Case]) -> None:
    """By the place of the last death."""
    print("| killed | cases | kills | turns ended | outcome unknown | end of turn after start, median / worst ms |")
    print("|---|---|---|---|---|---|")
    for place in get_args(Place):
        there = [case for case in cases if case.deaths and case.deaths[-1].place == place]
        if there:
            print(_row(place, there))
    print(_row("**all**", cases))


def _row(name: str, cases: Sequence[Case]) -> str:
    times = [case.last.seconds * 1000 for case in cases]
    kills = sum(len(case.deaths) for case in cases)
    ended = sum(not case.problems for case in cases)
    unknown = sum(case.interrupted for case in cases)
    return (
        f"| {name} | {len(cases)} | {kills} | {ended} | {unknown} | {statistics.median(times):.0f} / {max(times):.0f} |"
    )


if __name__ == "__main__":
    sys.exit(main())
