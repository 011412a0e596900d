"""Plots of a rollout's report in characters: means with their intervals, and quality against cost. Drawn by plotext.

Knows reports, and how wide a terminal is; gives plain lines without colour.
"""

from collections.abc import Iterator, Sequence
from string import ascii_lowercase, digits
from textwrap import wrap

from p2engine.cli.output import one_line
from p2engine.cli.rollout_plots import TICKS, Scale, scale_over
from p2engine.rollouts.figures import Figure
from p2engine.rollouts.findings import number
from p2engine.rollouts.team_report import TeamReport

WIDTH_LEAST, WIDTH_MOST = 40, 200  # characters; on less nothing is drawn
ARMS_MAX = 60  # a line each
SCATTER_LEAST = 3  # variants that are worth one
SCATTER_LINES = 12
MARKS = digits[1:] + ascii_lowercase  # of variants in a scatter
TICK_CHARS = 10  # that a mark of the axis takes, about
MARGIN = 0.05  # of what a scatter spans, on each side: no dot lies on an axis
TIED = "\u00a0"  # a blank at which no line ends

PLAIN = str.maketrans("─│├┤┬└●…", "-|||++o~")


def drawn(team: TeamReport, width: int, encoding: str | None) -> Iterator[str]:
    """The plots of a team, line by line; none where no interval is known. encoding: of where they will be written:
    where it lacks a character of theirs, all are simpler ones.
    """
    if not team.whole.answered or width < WIDTH_LEAST:
        return
    width = min(width, WIDTH_MOST)
    lines = [*_intervals(team, width), *_scatter(team, width)]
    is_plain = not _can_write("\n".join(lines), encoding)
    for line in lines:
        yield line.translate(PLAIN) if is_plain else line


def _can_write(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


# Intervals


def _intervals(team: TeamReport, width: int) -> Iterator[str]:
    """The metric that conclusions are about: a line for each variant, in the order of the tables, on one scale."""
    metric = team.primary or ""
    found = [(arm.variant, figure) for arm in team.arms if (figure := arm.metrics.get(metric)) is not None]
    if len(found) > ARMS_MAX or not any(_ends(figure) for _, figure in found):
        return
    values = [value for _, figure in found for value in (figure.mean, *_ends(figure))]
    is_score = all(0 <= value <= 1 for value in values)
    scale = scale_over([*values, *((0.0, 1.0) if is_score else ())])
    yield f"{one_line(metric, width - 32)}, mean and 95 % interval:"
    yield from _interval_rows(found, scale, width)


def _ends(figure: Figure) -> tuple[float, ...]:
    return () if figure.low is None or figure.high is None else (figure.low, figure.high)


def _interval_rows(found: Sequence[tuple[str, Figure]], scale: Scale, width: int) -> list[str]:
    import plotext as plot

    _begin(width, len(found))
    rows = range(len(found), 0, -1)
    for row, (_, figure) in zip(rows, found, strict=True):
        if ends := _ends(figure):
            plot.plot(ends, (row, row), marker="─")
            plot.scatter(ends[:1], (row,), marker="├")
            plot.scatter(ends[1:], (row,), marker="┤")
        plot.scatter((figure.mean,), (row,), marker="●")
    plot.ylim(1, max(2, len(found)))  # a line of the screen each
    plot.yticks(list(rows), [_name(name, width) for name, _ in found])
    return _end(scale, "", width)


def _name(name: str, width: int) -> str:
    return one_line(name, width // 3)


# Quality and cost


def _scatter(team: TeamReport, width: int) -> Iterator[str]:
    """Each variant's mean quality by its mean cost, where there are some and their cost differs."""
    points = []
    for arm in team.arms:
        quality, cost = arm.metrics.get(team.primary or ""), arm.measures["cost_usd"]
        if quality is not None and cost is not None:
            points.append((arm.variant, cost.mean, quality.mean))
    costs = {cost for _, cost, _ in points}
    if not SCATTER_LEAST <= len(points) <= len(MARKS) or not team.front or len(costs) < 2:
        return
    yield ""
    yield f"{one_line(team.primary or '', width - 28)} by the cost of a trial, means:"
    rows = _scatter_rows(points, team.front, width)
    yield from rows
    seen = {character for line in rows for character in line.partition("┤" if "┤" in line else "│")[2]}
    hidden = [mark for mark, _ in zip(MARKS, points, strict=False) if mark not in seen]
    names = [f"{mark}{TIED}{one_line(name, width - 4)}" for mark, (name, *_) in zip(MARKS, points, strict=False)]
    for line in wrap(", ".join(names), width, break_on_hyphens=False):
        yield line.replace(TIED, " ")
    if hidden:
        yield f"under another: {', '.join(hidden)}"


def _scatter_rows(points: Sequence[tuple[str, float, float]], front: Sequence[str], width: int) -> list[str]:
    import plotext as plot

    _begin(width, SCATTER_LINES)
    marked = list(zip(MARKS, points, strict=False))
    for mark, (_, cost, quality) in sorted(marked, key=lambda each: each[1][0] in front):  # those on top
        plot.scatter((cost,), (quality,), marker=mark)
    upwards = _around([quality for _, _, quality in points])
    plot.ylim(upwards.from_, upwards.to)
    marks = upwards.marks()
    plot.yticks(marks, [number(mark) for mark in marks])
    return _end(_around([cost for _, cost, _ in points]), "$", width)


def _around(values: Sequence[float]) -> Scale:
    narrow = scale_over(values)
    margin = (narrow.to - narrow.from_) * MARGIN
    return scale_over([narrow.from_ - margin, narrow.to + margin])


# plotext has one figure, which is cleared before each plot


def _begin(width: int, lines: int) -> None:
    """An empty plot of so many lines above its axis."""
    import plotext as plot

    plot.clear_figure()
    plot.limit_size(False, False)
    plot.plot_size(width, lines + 2)
    plot.xaxes(True, False)
    plot.yaxes(True, False)


def _end(across: Scale, sign: str, width: int) -> list[str]:
    """The lines of the plot. sign: before numbers of the axis."""
    import plotext as plot

    plot.xlim(across.from_, across.to)
    marks = across.marks(min(TICKS, width // TICK_CHARS))
    plot.xticks(marks, [f"{sign}{mark:.6g}" for mark in marks])
    text: str = plot.uncolorize(plot.build())
    return [line.rstrip() for line in text.splitlines()]
