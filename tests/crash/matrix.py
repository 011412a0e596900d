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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from p2engine.domain.records import Branch, Event, Placed, Query
from p2engine.domain.states import AgentCall, AgentResult, AnyState, Finished, ToolCall, ToolResult, UserMessage
from p2engine.runtime.artifacts import SAVED
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore
from tests.crash.cast import OPENING, RAN, REPEATS, TASK, Place, answer, traces
from tests.crash.nursery import Life, Nursery, Point, live_cold

COLD = 12  # of the points, for the time that a start from nothing takes
CALLS = {"boss": 5, "ann": 1, "bob": 1}  # that each agent of the turn makes


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
        (conversation,) = await store.conversations()
        stacks = {
            branch: [placed for placed in await store.load(branch.ref) if placed.ref == branch.ref]
            for branch in await store.branches(conversation.id, delegates=True)
        }
        problems = [*await store.check(), *(f"due at rest: {job}" for job in await store.due(limit=10))]
        facts = await store.events(Query(kinds=(RAN, SAVED)))
        for fact in facts:
            if fact.kind == SAVED:
                await FileBlobs(home / "blobs").get(fact.body["blob"])
        for branch in stacks:
            problems += [f"{branch.agent} owes {effect} at rest" for effect in await store.owed(branch.ref)]
    finally:
        await store.aclose()
    if Counter(branch.agent for branch in stacks) != Counter(CALLS.keys()):
        problems.append(f"stacks of {[branch.agent for branch in stacks]}")
    for branch, own in stacks.items():
        problems += [f"{branch.agent}: {problem}" for problem in _stack_problems(branch, own)]
    root = stacks[next(branch for branch in stacks if branch.ref == conversation.current)]
    problems += _said_problems(root, life)
    results = {placed.commit.cause: state for own in stacks.values() for placed in own for state in _results(placed)}
    problems += _trace_problems(traces(home), results, begun, len(died))
    problems += _fact_problems(facts, results)
    interrupted = sum(result.status == "interrupted" for result in results.values())
    return Case(died, life, interrupted, tuple(problems))


def _states(own: Iterable[Placed]) -> list[AnyState]:
    return [state for placed in own for state in placed.commit.states]


def _results(placed: Placed) -> Iterator[ToolResult]:
    return (state for state in placed.commit.states if isinstance(state, ToolResult))


def _stack_problems(branch: Branch, own: Sequence[Placed]) -> Iterator[str]:
    """It has finished, answered; each of its calls has one answer; each of its effects was settled once."""
    states = _states(own)
    if not isinstance(states[-1], Finished) or states[-1].reason != "answered":
        yield f"it stands on {states[-1]}"
    asked = Counter(state.call_id for state in states if isinstance(state, ToolCall | AgentCall))
    answered = Counter(state.call_id for state in states if isinstance(state, ToolResult | AgentResult))
    if asked != answered or asked.total() != CALLS[branch.agent] or len(asked) != asked.total():
        yield f"asked {dict(asked)}, answered {dict(answered)}"
    causes = Counter(placed.commit.cause for placed in own if ":" in placed.commit.cause)
    yield from (f"{cause} was settled {times} times" for cause, times in causes.items() if times > 1)


def _said_problems(root: Sequence[Placed], life: Life) -> Iterator[str]:
    """The task was heard once, and the answer came from every result."""
    states = _states(root)
    heard = [state.text for state in states if isinstance(state, UserMessage)]
    if heard != [TASK]:
        yield f"heard {heard}"
    expected = answer("boss", [s.content for s in states if isinstance(s, ToolResult | AgentResult)])
    said = [getattr(state, "text", "") for state in states][-2]
    if said != expected:
        yield f"said {said!r}, not {expected!r}"
    if life.said not in (None, expected):  # None: the turn was over before anybody asked
        yield f"the caller was told {life.said!r}"


def _trace_problems(
    ran: Sequence[tuple[str, str]], results: dict[str, ToolResult], begun: set[str], kills: int
) -> Iterator[str]:
    """What really ran, against what the stacks say of it."""
    runs = Counter(key for _, key in ran)
    for kind, key in set(ran):
        if kind != "think" and key not in results:
            yield f"{kind} {key} ran, and no stack knows"
        if runs[key] > 1 + kills:
            yield f"{kind} {key} ran {runs[key]} times with {kills} kills"
    for key, result in results.items():
        match REPEATS[result.tool], result.status:
            case "never", "interrupted":
                if runs[key] > 1:
                    yield f"{result.tool} {key} ran {runs[key]} times"
                if key not in begun:
                    yield f"{result.tool} {key} was queued, and is called interrupted"
                if "outcome unknown" not in result.content:
                    yield f"{result.tool} {key} does not say what is known: {result.content!r}"
            case "never", "ok":
                if runs[key] != 1:
                    yield f"{result.tool} {key} is ok and ran {runs[key]} times"
                if key in begun:
                    yield f"{result.tool} {key} had begun when its process died, and was run again"
            case _, "ok":
                if not runs[key]:
                    yield f"{result.tool} {key} is ok and never ran"
            case _:
                yield f"{result.tool} {key} ended {result.status}: {result.content!r}"


def _fact_problems(facts: Sequence[Event], results: dict[str, ToolResult]) -> Iterator[str]:
    """What the tools raised and saved stands in the log once where the result is `ok`, and not at all elsewhere."""
    seen = Counter((fact.kind, fact.cause) for fact in facts)
    for key, result in results.items():
        kinds = (RAN, SAVED) if result.tool == "book" else (RAN,)
        for kind in kinds:
            if seen.pop((kind, key), 0) != (result.status == "ok"):
                yield f"{result.tool} {key} is {result.status}, and {kind} is not told so once"
    yield from (f"{kind} of {key} comes from nowhere" for kind, key in seen)


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
