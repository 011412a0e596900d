"""A rollout while it runs, as a person sees it: a live table, lines, or a count. Knows rows as they come, and screens.

Means are running ones with Student's t interval over trials; the report at the end weighs tasks as they should be.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from p2engine.cli.output import Output, one_line, safe
from p2engine.cli.rollout_pace import Pace
from p2engine.cli.rollout_plan import money
from p2engine.rollouts.estimate import by_arm
from p2engine.rollouts.figures import Chance, Figure, figure_of
from p2engine.rollouts.findings import OFFLINE, number, span
from p2engine.rollouts.results import TrialResult, metric_names
from p2engine.rollouts.spec import Spec, Trial
from p2engine.rollouts.trial_rows import trial_row

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table

LINES_MAX = 200  # trials that get a line each; beyond, one line stands for several
SUMMARIES = 50  # lines that stand for several
BAR = 12  # characters
FRAME = 4  # lines of the screen beside the arms and the words above and below them
COLUMNS = ("variant", "", "trials", "so far", "errors", "cost", "seconds")
SPARED = ("", "seconds", "cost", "errors", "so far", "trials")  # in this order, where the screen is narrow
WIDE = 10_000  # characters: a screen on which all columns fit
REFRESH = 4  # a second
STALE = 1.05  # times as many values, before an interval is counted anew
OVERDUE = "the last ones take longer than usual"


class View(Protocol):
    """Takes in every trial as it ends; those told before are passed over."""

    def take(self, result: TrialResult) -> None: ...


@dataclass(slots=True)
class Tally:
    """What is known of one arm so far. team, variant: their ids, by which the report draws the same chance."""

    name: str
    team: str
    variant: str
    planned: int
    names: Sequence[str]
    ended: int = 0
    errors: int = 0
    usd: float = 0.0
    unpriced: bool = False
    seconds: float = 0.0
    scores: dict[str, list[tuple[int, str, float]]] = field(default_factory=dict)
    _counted: Figure | None = None

    def take(self, result: TrialResult) -> None:
        self.ended += 1
        self.errors += result.status != "done"
        self.usd += result.cost.usd
        self.unpriced = self.unpriced or result.cost.unpriced > 0
        self.seconds += result.duration_s
        for name, value in result.metrics.items():
            if value is not None:
                self.scores.setdefault(name, []).append((result.number, result.task, value))

    @property
    def forecast(self) -> float:
        """What all its trials will cost, if they go on so."""
        return self.usd * self.planned / self.ended if self.ended else 0.0

    def score(self, chance: Chance) -> str:
        """The first number, with its interval as the report gives it. There must be one."""
        name = next(name for name in (*self.names, *self.scores) if name in self.scores)
        found = self._figure(name, chance)
        return f"{name} {number(found.mean)}{span(found.low, found.high)}"

    def _figure(self, name: str, chance: Chance) -> Figure:
        """Counted anew with each twentieth that comes, and with the last: counting takes longer than a trial may."""
        taken, before = self.scores[name], self._counted
        grown = before is None or len(taken) >= before.n * STALE
        if before is None or grown or (self.ended == self.planned and len(taken) > before.n):
            _, tasks, values = zip(*sorted(taken), strict=True)
            is_score = name in self.names
            before = figure_of(values, tasks, chance, self.team, self.variant, "metric", name, is_score=is_score)
            assert before is not None
            self._counted = before
        return before


class Board:
    """Every arm of a rollout as it stands. known: results from before it was begun or gone on with. now: the time.

    offline: no interval is shown. at_once: how many trials run at the same time. seed: the rollout's.
    """

    def __init__(
        self,
        spec: Spec,
        trials: Sequence[Trial],
        known: Iterable[TrialResult],
        *,
        now: Callable[[], float],
        offline: bool,
        at_once: int = 1,
        seed: int = 0,
    ) -> None:
        self.offline = offline
        self._seed = seed
        self.planned = len(trials)
        self.ended = 0
        self._now = now
        self._seen: set[str] = set()
        of_arm = by_arm(trials)
        self.arms = {
            (team.id, variant.id): Tally(
                f"{team.id}/{variant.id}" if len(spec.teams) > 1 else variant.id,
                team.id,
                variant.id,
                len(of_arm.get((team.id, variant.id), ())),
                metric_names(team.evaluations),
            )
            for team, variant in spec.arms()
        }
        for result in known:
            self._count(result)
        self._began_at = now()
        ran = sum(tally.seconds for tally in self.arms.values())
        usual_s = ran / self.ended if self.ended else None
        self._pace = Pace(at_once, self.planned - self.ended, self._began_at, usual_s)

    @cached_property
    def chance(self) -> Chance:
        """As the report has it; made when there is something to count, as that takes a library."""
        return Chance(self._seed, is_counted=not self.offline)

    def take(self, result: TrialResult) -> bool:
        """Whether it is new."""
        is_new = self._count(result)
        if is_new:
            self._pace.take(result.duration_s, self.planned - self.ended, self._now())
        return is_new

    def _count(self, result: TrialResult) -> bool:
        if result.key in self._seen:
            return False
        self._seen.add(result.key)
        self.ended += 1
        arm = result.team, result.variant
        tally = self.arms.get(arm)
        if tally is None:  # somebody added it while this ran
            tally = self.arms[arm] = Tally("/".join(arm), *arm, 0, ())
        tally.take(result)
        tally.planned = max(tally.planned, tally.ended)
        self.planned = max(self.planned, self.ended)
        return True

    @property
    def errors(self) -> int:
        return sum(tally.errors for tally in self.arms.values())

    def words(self) -> str:
        """All of it in a line."""
        usd = sum(tally.usd for tally in self.arms.values())
        forecast = sum(tally.forecast for tally in self.arms.values())
        parts = [f"{self.ended} of {self.planned} trials"]
        parts += [f"{self.errors} without an answer"] if self.errors else []
        if usd or not self.offline:
            unknown = " and what has no price" if any(tally.unpriced for tally in self.arms.values()) else ""
            parts.append(f"{money(usd)} so far{unknown}" + (f", about {money(forecast)} in all" if self.ended else ""))
        return ", ".join([*parts, *self._time()])

    def _time(self) -> Iterator[str]:
        """How long it has taken, and will take if it goes on so."""
        now = self._now()
        yield _span(now - self._began_at)
        if self.ended < self.planned:
            seconds = self._pace.remaining(self.planned - self.ended, now)
            yield "– left" if seconds is None else f"about {_span(_round(seconds))} left" if seconds else OVERDUE


def _round(seconds: float) -> float:
    """As exact as such a number is: from 20 seconds on in fives."""
    return max(1.0, seconds) if seconds < 20 else 5 * round(seconds / 5)


def _span(seconds: float) -> str:
    """`8 s`, `3 min`, `2.5 h`."""
    if seconds < 100:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def shown(output: Output, board: Board, *, follow: bool) -> Iterator[View]:
    """While inside, the board is on the screen, as far as somebody looks."""
    if output.is_json:
        yield _JsonLines(output, board, follow=follow)
    elif follow and output.is_terminal:
        with _live(output, board, lambda console: table(board, console)) as view:
            yield view
    elif follow:
        yield _Lines(output, board)
    elif output.err.isatty() and not output.is_quiet:
        with _live(output, board, lambda console: board.words(), transient=True) as view:
            yield view
    else:
        yield _Silent(board)


class _Silent:
    def __init__(self, board: Board) -> None:
        self._board = board

    def take(self, result: TrialResult) -> None:
        self._board.take(result)


class _JsonLines:
    """A line a trial."""

    def __init__(self, output: Output, board: Board, *, follow: bool) -> None:
        self._output = output
        self._board = board
        self._follow = follow

    def take(self, result: TrialResult) -> None:
        if self._board.take(result) and self._follow:
            self._output.line("", trial_row(result))


class _Lines:
    """A line a trial, or one for several of many."""

    def __init__(self, output: Output, board: Board) -> None:
        self._output = output
        self._board = board
        self._every = 1 if board.planned <= LINES_MAX else math.ceil(board.planned / SUMMARIES)

    def take(self, result: TrialResult) -> None:
        board = self._board
        if not board.take(result):
            return
        if self._every == 1:
            self._output.line(f"[{board.ended}/{board.planned}] {trial_words(result)}")
        elif board.ended % self._every == 0 or board.ended == board.planned:
            self._output.line(board.words())


def trial_words(result: TrialResult) -> str:
    """One trial that has ended, in a line."""
    metrics = "  ".join(f"{name} {'–' if value is None else number(value)}" for name, value in result.metrics.items())
    why = f"  {one_line(result.detail, 100)}" if result.status != "done" and result.detail else ""
    return f"{result.status:<9} {result.key}  {metrics}{why}"


@contextmanager
def _live(
    output: Output, board: Board, draw: "Callable[[Console], Group | str]", *, transient: bool = False
) -> Iterator[View]:
    """A picture that is drawn again and again. transient: on standard error, and gone at the end."""
    from rich.console import Console
    from rich.live import Live

    stream = output.err if transient else output.out
    console = Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        color_system=None if output.options.no_color else "auto",
    )
    with Live(
        console=console,
        get_renderable=lambda: draw(console),
        refresh_per_second=REFRESH,
        transient=transient,
        vertical_overflow="crop",
    ):
        yield _Silent(board)


def table(board: Board, console: "Console") -> "Group":
    """The board as a table that fits on the screen, the stand-in named above it and all of it in words below: where not
    all variants fit, those that began last are shown; where not all columns do, the bar is left out first, and names of
    variants never.
    """
    from rich.console import Group
    from rich.measure import Measurement
    from rich.text import Text

    def lines(*texts: str) -> int:
        return sum(len(Text(text).wrap(console, console.width)) for text in texts)

    head, words = [OFFLINE] if board.offline else [], board.words()
    arms = list(board.arms.values())
    room = max(1, console.height - FRAME - lines(*head, words))
    if len(arms) > room:
        room = max(1, console.height - FRAME - lines(*head, f"{words}; {len(arms)} more variants"))
        words = f"{words}; {len(arms) - room} more variants"
    begun = max((place for place, tally in enumerate(arms, 1) if tally.ended), default=0)
    first = min(max(0, begun - room), max(0, len(arms) - room))
    rows = [_cells(tally, board) for tally in arms[first : first + room]]
    columns = list(COLUMNS)
    drawn = _drawn(columns, rows)
    for spared in SPARED:
        if Measurement.get(console, console.options.update(max_width=WIDE), drawn).maximum <= console.width:
            break
        columns.remove(spared)
        drawn = _drawn(columns, rows)
    return Group(*map(Text, head), drawn, Text(words))


def _drawn(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        drawn.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        drawn.add_row(*(Text(row[column]) for column in columns))
    return drawn


def _cells(tally: Tally, board: Board) -> dict[str, str]:
    """By column."""
    share = tally.ended / tally.planned if tally.planned else 1.0
    done = round(BAR * share)
    cost = "–" if board.offline and not tally.usd else f"{money(tally.usd)} → {money(tally.forecast)}"
    cells = (
        safe(tally.name),
        "█" * done + "░" * (BAR - done),
        f"{tally.ended}/{tally.planned}",
        tally.score(board.chance) if tally.scores else "–",
        str(tally.errors) if tally.errors else "–",
        cost,
        f"{tally.seconds / tally.ended:.1f}" if tally.ended else "–",
    )
    return dict(zip(COLUMNS, cells, strict=True))
