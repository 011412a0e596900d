"""What a person sees of a rollout while it runs: from one trial to five hundred, on a terminal and on a pipe."""

from __future__ import annotations

import heapq
import io
import math
import random
from collections.abc import Iterator
from itertools import pairwise

import msgspec
import pytest
from msgspec.structs import replace
from rich.console import Console

from p2engine.cli.options import Options
from p2engine.cli.output import Output
from p2engine.cli.rollout_live import OVERDUE, Board, shown, table
from p2engine.cli.rollout_pace import Pace
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Spent
from p2engine.rollouts import findings
from p2engine.rollouts.arm_report import arm_report
from p2engine.rollouts.columns import Columns
from p2engine.rollouts.figures import Chance
from p2engine.rollouts.plan import plan
from p2engine.rollouts.results import TrialResult, TrialStatus
from p2engine.rollouts.spec import Spec, Task, Team, Variant
from p2engine.rollouts.stats import mean_interval


def spec(variants: int = 2, repeats: int = 2) -> Spec:
    arms = tuple(Variant(id=f"v{n}", agent=AgentId("a"), message="Hi") for n in range(1, variants + 1))
    checks = (Evaluation(evaluator="score"), Evaluation(evaluator="contains"))
    return Spec(name="s", teams=(Team(id="t", variants=arms, repeats=repeats, evaluations=checks),))


def board(of: Spec, *known: TrialResult, offline: bool = False, at_once: int = 1) -> tuple[Board, list[float]]:
    """A board, and the time that it reads."""
    clock = [0.0]
    return Board(of, plan(of), known, now=lambda: clock[0], offline=offline, at_once=at_once), clock


def result(
    variant: str = "v1", number: int = 1, status: TrialStatus = "done", usd: float = 0.0, **metrics: float | None
) -> TrialResult:
    return TrialResult(
        team="t",
        variant=variant,
        number=number,
        agent=AgentId("a"),
        conversation=f"s/t/{variant}/{number}",
        status=status,
        detail="" if status == "done" else "it fell over",
        metrics=metrics,
        spent=Spent(1, 10, 10, usd),
        duration_s=2.0,
    )


def drawn(of: Board, height: int = 24, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(table(of, console))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_interval_is_the_one_of_the_report() -> None:
    """Where tasks are tried several times, tasks are what is independent: so while it runs, and so at the end."""
    of = spec(variants=1, repeats=4)
    tasks = tuple(Task(id=name) for name in ("a", "b", "c"))
    of = msgspec.structs.replace(of, teams=(msgspec.structs.replace(of.teams[0], tasks=tasks),))
    live, _ = board(of)
    rows = [
        msgspec.structs.replace(result("v1", trial.number, score=score), task=trial.task.id)
        for trial, score in zip(plan(of), (0.1, 0.9, 0.4, 0.2, 1.0, 0.5, 0.0, 0.8, 0.6, 0.1, 0.9, 0.3), strict=True)
        if trial.task
    ]
    for row in reversed(rows):
        live.take(row)
    columns = Columns(rows)
    arm = arm_report("t", "v1", columns, ("score",), Chance(0))
    expected = arm.metrics["score"]
    assert expected is not None
    assert expected.units == 3
    ((_, tally),) = live.arms.items()
    assert (
        tally.score(Chance(0)) == f"score {findings.number(expected.mean)}{findings.span(expected.low, expected.high)}"
    )


def test_a_row_has_progress_score_errors_cost_and_time() -> None:
    """Each arm: how far, its mean with interval, what failed, what it cost and will cost, seconds a trial."""
    of, clock = board(spec(repeats=4))
    for number, score in enumerate((0.25, 0.75), 1):
        clock[0] += 10.0
        of.take(result("v1", number, usd=0.5, score=score))
    clock[0] += 10.0
    of.take(result("v2", 1, status="timeout"))
    head, _, one, other, *_ = [line.split() for line in drawn(of) if line.strip()]
    assert head == ["variant", "trials", "so", "far", "errors", "cost", "seconds"]
    assert one == ["v1", "██████░░░░░░", "2/4", "score", "0.5", "[0,", "1]", "–", "$1.00", "→", "$2.00", "2.0"]
    assert other == ["v2", "███░░░░░░░░░", "1/4", "–", "1", "$0.00", "→", "$0.00", "2.0"]
    assert of.words() == "3 of 8 trials, 1 without an answer, $1.00 so far, about $2.00 in all, 30 s, about 50 s left"


def test_an_interval_is_students_within_the_scale_of_a_score() -> None:
    """0.8, 0.9, 0.9 is no evidence of more than 1; a number that is no score has no scale."""
    values = (0.8, 0.9, 0.9)
    found = mean_interval(values)
    assert found is not None
    assert [found.low, found.high] == pytest.approx([0.7232, 1.0101], abs=1e-4)
    of, _ = board(spec(repeats=3))
    for number, value in enumerate(values, 1):
        of.take(result("v1", number, score=value))
        of.take(result("v2", number, words=value))
    one, other = of.arms.values()
    assert one.score(Chance(0)) == "score 0.867 [0.723, 1]"
    assert other.score(Chance(0)) == "words 0.867 [0.723, 1.01]"


@pytest.mark.parametrize(
    ("width", "head"),
    [
        (140, ["variant", "trials", "so", "far", "errors", "cost", "seconds"]),
        (105, ["variant", "trials", "so", "far", "errors", "cost", "seconds"]),
        (80, ["variant", "trials", "so", "far", "errors"]),
        (50, ["variant", "trials"]),
        (36, ["variant"]),
    ],
)
def test_a_narrow_screen_has_the_names_whole(width: int, head: list[str]) -> None:
    """The bar goes first, then what matters less; a variant without its name is none."""
    name = "model=gpt-4o,temperature=0.3"
    arms = (Variant(id=name, agent=AgentId("a"), message="Hi"),)
    of, _ = board(Spec(name="s", teams=(Team(id="t", variants=arms, repeats=4),)))
    for number, score in enumerate((0.25, 0.75), 1):
        of.take(result(name, number, usd=0.5, score=score))
    lines = [line for line in drawn(of, width=width) if line.strip()]
    assert lines[0].split() == head
    assert lines[2].split()[0] == name
    assert ("█" in lines[2]) == (width == 140)
    assert "…" not in "".join(lines)
    assert all(len(line) <= width for line in lines)


def test_the_stand_in_is_named_and_gets_no_interval() -> None:
    """Offline nothing is compared, and nothing is paid."""
    of, _ = board(spec(), offline=True)
    for number in (1, 2):
        of.take(result("v1", number, score=None, contains=1.0))
    lines = drawn(of)
    assert lines[0] == "offline stand-in: configurations are not compared"
    assert "contains 1 " in next(line for line in lines if " v1 " in line)
    assert "[" not in "".join(lines)
    assert "$" not in of.words()


@pytest.mark.parametrize(("variants", "repeats"), [(1, 1), (4, 6), (250, 2), (500, 1)])
def test_it_stays_on_the_screen_from_1_to_500_trials(variants: int, repeats: int) -> None:
    """No more lines than the terminal has; what is left out is counted; the arms that run now come into sight."""
    of, _ = board(spec(variants, repeats))
    for number in range(1, repeats + 1):
        for variant in range(1, variants + 1):
            of.take(result(f"v{variant}", number, score=0.5))
            assert variants * repeats > 50 or len(drawn(of)) <= 24
    lines = drawn(of)
    assert len(lines) <= 24
    assert all(len(line) <= 100 for line in lines)
    rows = sum(line.strip().startswith("v") for line in lines) - 1
    assert rows == min(variants, 19)
    if variants > rows:
        assert f"{variants - rows} more variants" in " ".join(lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 24), (40, 12)])
@pytest.mark.parametrize("offline", [False, True])
def test_the_words_below_are_seen_whole_where_they_wrap(width: int, height: int, offline: bool) -> None:
    """100 variants of five trials: how many are left out, and how long it takes, stand on the screen."""
    of, clock = board(spec(100, 5), offline=offline)
    of.take(result("v1", 1, "error", usd=0.123, score=0.5))
    clock[0] = 100.0
    lines = drawn(of, height, width)
    rows = sum(line.strip().startswith("v") for line in lines) - 1
    assert (len(lines), all(len(line) <= width for line in lines)) == (height, True)
    assert f"h left; {100 - rows} more variants" in " ".join(lines)


def test_what_was_told_before_counts_once() -> None:
    """A trial that is told again is passed over; those from before it went on are no speed of this run."""
    before = result("v1", 1, score=1.0)
    of, clock = board(spec(), before)
    assert not of.take(before)
    clock[0] = 10.0
    assert of.take(result("v1", 2, score=1.0))
    assert of.words() == "2 of 4 trials, $0.00 so far, about $0.00 in all, 10 s, about 20 s left"


def left(of: Board) -> str:
    """What is said of the time that is left."""
    return of.words().rpartition(", ")[2]


def test_the_time_left_counts_what_runs_and_what_waits() -> None:
    """Eight trials of 10 s, four at once: a dash until one has ended; the other half takes as long, and counts down."""
    of, clock = board(spec(repeats=4), at_once=4)
    assert left(of) == "– left"
    clock[0] = 9.0
    assert left(of) == "– left"
    clock[0] = 10.0
    of.take(result("v1", 1))
    assert left(of) == "about 10 s left"  # three more are due now
    for variant, number in (("v2", 1), ("v1", 2), ("v2", 2)):
        of.take(result(variant, number))
    said = []
    for now in (10.0, 14.0, 19.5, 20.0, 300.0):
        clock[0] = now
        said.append(left(of))
    assert said == ["about 10 s left", "about 6 s left", "about 1 s left", OVERDUE, OVERDUE]


def test_one_that_takes_longer_than_all_others_is_the_one_that_is_left() -> None:
    """Which trial ended is known by how long it went on: the first one still runs, and is overdue."""
    of, clock = board(spec(1, 4), at_once=2)
    for number in (2, 3, 4):
        clock[0] += 10.0
        of.take(replace(result("v1", number), duration_s=10.0))
    assert left(of) == OVERDUE


def test_the_time_left_is_known_at_once_where_trials_ran_before() -> None:
    """Who goes on knows how long one takes."""
    of, clock = board(spec(repeats=4), result("v1", 1), result("v2", 1), at_once=3)
    assert left(of) == "about 4 s left"
    clock[0] = 1.0
    assert left(of) == "about 3 s left"


def test_the_time_left_is_in_minutes_and_hours_where_it_is_long() -> None:
    """About 3 min, not 187 seconds."""
    for seconds, said in ((25.0, "about 25 s left"), (60.0, "about 60 s left"), (187.0, "about 3 min left")):
        of, clock = board(spec(1, 2))
        clock[0] = seconds
        of.take(result("v1", 1))
        assert left(of) == said


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("at_once", "count"), [(1, 10), (4, 40), (32, 200)])
def test_the_time_left_neither_jumps_nor_falls_below_zero(at_once: int, count: int, seed: int) -> None:
    """Trials of 5 to 15 s on virtual time, looked at every second: beside the second that went by, it moves by less
    than three trials take, and two thirds of the time it is within a third of the truth.
    """
    said = list(guesses(at_once, count, seed))
    moves = [abs(after - before + 1) for (before, _), (after, _) in pairwise(said)]
    close = [abs(guess - truth) <= max(10.0, truth / 3) for guess, truth in said]
    assert min(guess for guess, _ in said) >= 0
    assert max(moves) < 30
    assert sum(close) / len(close) > 2 / 3


def guesses(at_once: int, count: int, seed: int) -> Iterator[tuple[float, float]]:
    """What is said to be left, every second from the first result on, and what is."""
    lots = random.Random(seed)
    places = [0.0] * at_once
    ends = []
    for _ in range(count):
        took = lots.uniform(5, 15)
        heapq.heapify(places)
        ends.append((places[0] + took, took))
        places[0] += took
    ends.sort()
    pace, now, last = Pace(at_once, count, 0.0), 0.0, ends[-1][0]
    for number, (end, took) in enumerate(ends):
        while now < end:
            if (guess := pace.remaining(count - number, now)) is not None:
                yield guess, last - now
            now += 1.0
        pace.take(took, count - number - 1, end)


def test_a_variant_that_was_added_meanwhile_has_a_row() -> None:
    """It is not known to the plan that this began with."""
    of, _ = board(spec())
    of.take(result("new", 1, score=0.5))
    assert of.words().startswith("1 of 4 trials")
    assert any("t/new" in line for line in drawn(of))


def test_on_a_pipe_there_is_a_line_a_trial_or_one_for_many() -> None:
    """Up to 200 trials each has its line, with the reason of what failed; more are summed up."""
    for repeats, lines in ((2, 4), (100, 200), (250, 50)):
        out = io.StringIO()
        of, _ = board(spec(repeats=repeats))
        with shown(Output(Options(), out, io.StringIO()), of, follow=True) as view:
            for number in range(1, repeats + 1):
                for variant in ("v1", "v2"):
                    view.take(result(variant, number, status="error" if number == 1 else "done", score=0.5))
        assert len(out.getvalue().splitlines()) == lines
        if repeats == 2:
            assert out.getvalue().splitlines()[0] == "[1/4] error     t/v1/1  score 0.5  it fell over"
    assert out.getvalue().splitlines()[-1].startswith("500 of 500 trials, 2 without an answer")


def test_on_a_pipe_without_follow_nothing_is_said() -> None:
    """Neither on standard output nor on standard error."""
    out, err = io.StringIO(), io.StringIO()
    of, _ = board(spec())
    with shown(Output(Options(), out, err), of, follow=False) as view:
        view.take(result())
    assert (out.getvalue(), err.getvalue(), of.ended) == ("", "", 1)


def test_names_of_others_do_nothing_to_the_terminal() -> None:
    """Escapes in a reason are written out."""
    out = io.StringIO()
    of, _ = board(spec())
    evil = result(status="error")
    with shown(Output(Options(), out, io.StringIO()), of, follow=True) as view:
        view.take(
            TrialResult(**{**{name: getattr(evil, name) for name in evil.__struct_fields__}, "detail": "\x1b[31m"})
        )
    assert "\x1b" not in out.getvalue()
    assert math.isfinite(of.ended)
