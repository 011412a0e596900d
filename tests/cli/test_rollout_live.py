"""What a person sees of a rollout while it runs: from one trial to five hundred, on a terminal and on a pipe."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from p2engine.cli.options import Options
from p2engine.cli.output import Output
from p2engine.cli.rollout_live import Board, Running, shown, table
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.setup import Spent
from p2engine.rollouts.plan import plan
from p2engine.rollouts.results import TrialResult, TrialStatus
from p2engine.rollouts.spec import Spec, Team, Variant
from p2engine.rollouts.stats import mean_interval


def spec(variants: int = 2, repeats: int = 2) -> Spec:
    arms = tuple(Variant(id=f"v{n}", agent=AgentId("a"), message="Hi") for n in range(1, variants + 1))
    checks = (Evaluation(evaluator="score"), Evaluation(evaluator="contains"))
    return Spec(name="s", teams=(Team(id="t", variants=arms, repeats=repeats, evaluations=checks),))


def board(of: Spec, *known: TrialResult, offline: bool = False, now: float = 0.0) -> tuple[Board, list[float]]:
    """A board, and the time that it reads."""
    clock = [now]
    return Board(of, plan(of), known, now=lambda: clock[0], offline=offline), clock


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


def test_a_running_mean_is_the_mean_and_its_interval_is_students() -> None:
    """One value at a time gives what all at once give."""
    values = [0.1, 0.5, 0.35, 0.9, 0.2]
    running = Running()
    for value in values:
        running.take(value)
    interval = mean_interval(values)
    assert interval is not None
    assert running.mean == pytest.approx(interval.estimate)
    assert running.half() == pytest.approx(interval.high - interval.estimate)


def test_one_value_has_no_interval() -> None:
    """Nothing is known of the spread."""
    running = Running()
    running.take(0.5)
    assert running.half() is None


def test_a_row_has_progress_score_errors_cost_and_time() -> None:
    """Each arm: how far, its mean with interval, what failed, what it cost and will cost, seconds a trial."""
    of, clock = board(spec(repeats=4))
    for number, score in enumerate((0.25, 0.75), 1):
        of.take(result("v1", number, usd=0.5, score=score))
    of.take(result("v2", 1, status="timeout"))
    clock[0] = 30.0
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
    assert one.score(compared=True) == "score 0.867 [0.723, 1]"
    assert other.score(compared=True) == "words 0.867 [0.723, 1.01]"


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


def test_what_was_told_before_counts_once() -> None:
    """A trial that is told again is passed over; those from before it went on are no speed of this run."""
    before = result("v1", 1, score=1.0)
    of, clock = board(spec(), before)
    assert not of.take(before)
    clock[0] = 10.0
    assert of.take(result("v1", 2, score=1.0))
    assert of.words() == "2 of 4 trials, $0.00 so far, about $0.00 in all, 10 s, about 20 s left"


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
