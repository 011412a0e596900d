"""kill −9 of real processes, at every boundary of a turn with tools of all classes and two delegates.

`python -m tests.crash.matrix --double -1` prints the whole table; docs/reliability.md explains it.
"""

import asyncio
import random
import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path

import pytest

from p2engine.domain.states import Finished
from p2engine.limits import TRIES_MAX
from p2engine.stores.sqlite import SqliteStore
from tests.crash import matrix
from tests.crash.cast import OPENING, TASK, traces
from tests.crash.matrix import Case, points, seconds
from tests.crash.nursery import Nursery, Point

SHARES = 4  # of the matrix, so that workers divide it
OPENINGS = 2  # deaths while the store is opened, in each share
PAIRS = 4  # deaths of two processes, in each share
THIRDS = 40  # longer series of deaths, in each share of the full matrix

shares = pytest.mark.parametrize("share", range(SHARES))


def lots(share: int) -> random.Random:
    """What is drawn by lot in this share. The seed comes from pytest's `--randomly-seed`, so that gives it again."""
    seed = f"{random.getrandbits(32)}/{share}"
    print(f"seed {seed}")
    return random.Random(seed)


def of_one_life(nursery: Nursery, homes: Path) -> list[Point]:
    """Every point of a turn that nobody kills."""
    whole = matrix.run(nursery, homes / "whole")
    assert whole.problems == ()
    assert whole.last.said is not None
    return points(whole.last)


def singles(nursery: Nursery, homes: Path, deaths: Iterable[Point]) -> dict[Point, Case]:
    """What becomes of each death of one process."""
    return {death: matrix.run(nursery, homes / f"{death}", death) for death in deaths}


def expect_all_well(cases: Collection[Case]) -> None:
    """Every turn ended as it must. Says how long the last process of each took, which is no condition."""
    times = sorted(case.last.seconds for case in cases)
    kills = sum(len(case.deaths) for case in cases)
    print(f"{len(cases)} cases, {kills} kills; from start to the end of the turn {times[0]:.3f}…{times[-1]:.3f} s")
    wrong = [f"killed {', then '.join(map(str, case.deaths))}: {case.problems}" for case in cases if case.problems]
    assert not wrong, "\n".join(wrong)


@shares
def test_failure_06_killed_anywhere(nursery: Nursery, tmp_path: Path, share: int) -> None:
    """Wherever a process is killed, the next one ends the turn; nothing is lost, or done twice that must not be."""
    every = of_one_life(nursery, tmp_path)[share::SHARES]
    opening = [point for point in every if point.place == OPENING]  # they are many, and much alike
    spared = lots(share).sample(opening, len(opening) - OPENINGS)
    cases = singles(nursery, tmp_path, [point for point in every if point not in spared])
    # How many writes share a commit is a matter of time, so a life may have fewer commits than the one counted.
    alive = [point for point, case in cases.items() if not case.deaths and point.place != "inside a commit"]
    assert not alive, f"never came to {alive}"
    expect_all_well(cases.values())


@shares
def test_failure_06_killed_again_while_recovering(nursery: Nursery, tmp_path: Path, share: int) -> None:
    """The process that goes on is killed too, at points drawn by lot."""
    lot = lots(share)
    firsts = lot.sample(of_one_life(nursery, tmp_path), PAIRS)
    cases = singles(nursery, tmp_path, firsts).values()
    pairs = [lot.choice(found) for case in cases if (found := seconds([case]))]
    expect_all_well([matrix.run(nursery, tmp_path / f"{pair}", *pair) for pair in pairs])


@pytest.mark.full
@pytest.mark.timeout(1800)
@shares
def test_failure_06_killed_again_everywhere(nursery: Nursery, tmp_path: Path, share: int) -> None:
    """Every death, and every pair: the process that goes on after each is killed at each point that it comes to."""
    cases = singles(nursery, tmp_path, of_one_life(nursery, tmp_path)[share::SHARES]).values()
    expect_all_well(cases)
    pairs = seconds(cases)
    expect_all_well([matrix.run(nursery, tmp_path / f"{pair}", *pair) for pair in pairs])


@pytest.mark.full
@pytest.mark.timeout(600)
@shares
def test_failure_06_killed_again_and_again(nursery: Nursery, tmp_path: Path, share: int) -> None:
    """Up to five processes die one after the other, at points drawn by lot."""
    lot = lots(share)
    whole = of_one_life(nursery, tmp_path)
    series = [[lot.choice(whole) for _ in range(lot.randint(3, TRIES_MAX))] for _ in range(THIRDS)]
    expect_all_well([matrix.run(nursery, tmp_path / str(number), *deaths) for number, deaths in enumerate(series)])


def test_a_model_call_that_kills_every_process_is_given_up(nursery: Nursery, tmp_path: Path) -> None:
    """After a bounded number of deaths the turn ends with an error that says so, and the process lives."""
    home = tmp_path / "home"
    home.mkdir()
    lives = 0
    while nursery.live(home, Point("in a model call", 1)).is_killed:
        lives += 1
        assert lives <= TRIES_MAX + 1
    assert lives == TRIES_MAX + 1
    assert [kind for kind, _ in traces(home)] == ["think"] * lives
    ended = asyncio.run(_last_state(home))
    assert isinstance(ended, Finished)
    assert ended.reason == "error"
    assert "given up" in ended.detail
    assert "processes died" in ended.detail


async def _last_state(home: Path) -> object:
    store = await SqliteStore.open(home / "store.db")
    try:
        (conversation,) = await store.conversations()
        assert await store.owed(conversation.current) == []
        return (await store.load(conversation.current))[-1].commit.states[-1]
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("a payment made twice", "is ok and ran 2 times"),
        ("a booking made three times", "ran 3 times with 1 kills"),
        ("a call that nobody knows", "no stack knows"),
        ("a call that never ran", "is ok and never ran"),
        ("a task heard twice", "heard"),
        ("an effect that is owed", "owes"),
    ],
)
def test_the_judge_sees_what_is_wrong(nursery: Nursery, tmp_path: Path, fault: str, problem: str) -> None:
    """Faults put in by hand after a good run are found, each by its name."""
    home = tmp_path / "home"
    death = Point("in a model call", 1)
    case = matrix.run(nursery, home, death, keeps=True)
    assert case.problems == ()
    _put_in(home, fault)
    judged = asyncio.run(matrix.look(home, (death,), case.last, set()))
    assert any(problem in found for found in judged.problems), judged.problems


def _put_in(home: Path, fault: str) -> None:
    lines = [f"{kind} {key}" for kind, key in traces(home)]
    pay = next(line for line in lines if line.startswith("pay"))
    book = next(line for line in lines if line.startswith("book"))
    db = sqlite3.connect(home / "store.db")
    match fault:
        case "a payment made twice":
            lines.append(pay)
        case "a booking made three times":
            lines += [book, book]
        case "a call that nobody knows":
            lines.append("pay 000000000000:1.0")
        case "a call that never ran":
            lines.remove(book)
        case "a task heard twice":
            (body,) = db.execute("SELECT body FROM log WHERE seq = 0 ORDER BY cursor LIMIT 1").fetchone()
            assert TASK.encode() in body
            db.execute(
                "UPDATE log SET body = ? WHERE body = ?", (body.replace(TASK.encode(), TASK.upper().encode()), body)
            )
        case _:
            db.execute(
                "INSERT INTO owed(id, born, kind, tries, started, body)"
                " SELECT ref || ':1.0', 1, 'think', 0, 0, x'00' FROM branch"
            )
    db.commit()
    db.close()
    (home / "trace").write_text("\n".join(lines) + "\n")
