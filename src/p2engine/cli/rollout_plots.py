"""Plots of a rollout's report as shapes with their places: intervals of a metric, and quality against cost.

Knows numbers and a surface to draw on; how shapes look is for the page to say, and so is escaping.
"""

from collections.abc import Sequence
from math import floor, log10
from typing import NamedTuple

from p2engine.rollouts.findings import number
from p2engine.rollouts.team_report import TeamReport

WIDTH = 760
NAME_WIDTH = 220
ROW = 26
MARGIN = 14
AXIS = 34
SCATTER_HEIGHT = 320
NAME_CHARS_MAX = 30
RADIUS_LEAST, RADIUS_MOST = 5.0, 16.0
ARMS_MAX = 200  # on one plot
TICKS = 5


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class Bar(NamedTuple):
    """One variant at height `y`: its mean at `middle`, its interval from `begin` to `end`, None where it has none."""

    name: str
    y: float
    middle: float
    begin: float | None
    end: float | None
    told: str


class Intervals(NamedTuple):
    """One metric of all variants of a team, on one scale."""

    metric: str
    width: int
    height: int
    left: int
    bottom: float
    ticks: Sequence[Tick]
    bars: Sequence[Bar]


class Dot(NamedTuple):
    """One variant: quality upwards, cost to the right, the larger the slower."""

    name: str
    x: float
    y: float
    radius: float
    is_front: bool
    told: str


class Scatter(NamedTuple):
    """All variants of a team."""

    metric: str
    width: int
    height: int
    left: int
    bottom: float
    across: Sequence[Tick]
    upwards: Sequence[Tick]
    dots: Sequence[Dot]


class Scale(NamedTuple):
    """From numbers to places. from_, to: the numbers at the ends; begin, end: their places."""

    from_: float
    to: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        return round(self.begin + (value - self.from_) / (self.to - self.from_) * (self.end - self.begin), 1)

    def marks(self, about: int = TICKS) -> list[float]:
        """Round numbers, about so many: four to eight for five."""
        step = _round_step((self.to - self.from_) / about)
        first = -floor(-self.from_ / step)
        last = floor(self.to / step + 1e-9)
        return [n * step for n in range(first, last + 1)]

    def ticks(self, sign: str = "") -> list[Tick]:
        return [Tick(self.place(mark), sign + f"{mark:.6g}") for mark in self.marks()]


def _round_step(least: float) -> float:
    magnitude = 10.0 ** floor(log10(least))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= least * 0.999)


def scale_over(values: Sequence[float], begin: float = 0.0, end: float = 1.0) -> Scale:
    """Wide enough for these, and never without width."""
    least, most = min(values), max(values)
    if most - least < 1e-12:
        least, most = least - (abs(least) or 1.0) * 0.05, most + (abs(most) or 1.0) * 0.05
    return Scale(least, most, begin, end)


def intervals(team: TeamReport, metric: str) -> Intervals | None:
    """None where no variant has that metric, or there are too many variants to see anything."""
    found = [(arm.variant, figure) for arm in team.arms if (figure := arm.metrics.get(metric)) is not None]
    if not found or len(team.arms) > ARMS_MAX:
        return None
    ends = [end for _, each in found for end in (each.low, each.mean, each.high) if end is not None]
    is_score = all(0 <= end <= 1 for end in ends)
    scale = scale_over([*ends, *((0.0, 1.0) if is_score else ())], NAME_WIDTH, WIDTH - MARGIN)
    bars = []
    for row, (name, each) in enumerate(found):
        begin = None if each.low is None else scale.place(each.low)
        end = None if each.high is None else scale.place(each.high)
        between = "" if each.low is None or each.high is None else f" [{number(each.low)}, {number(each.high)}]"
        told = f"{name}: {metric} {number(each.mean)}{between}, n = {each.n}"
        bars.append(Bar(_cut(name), MARGIN + ROW * (row + 0.5), scale.place(each.mean), begin, end, told))
    bottom = MARGIN + ROW * len(found)
    return Intervals(metric, WIDTH, bottom + AXIS, NAME_WIDTH, bottom, scale.ticks(), bars)


def scatter(team: TeamReport) -> Scatter | None:
    """Quality, cost and time of each variant; None where they are not known of two variants or more."""
    points = []
    for arm in team.arms:
        quality = arm.metrics.get(team.primary) if team.primary else None
        cost, time = arm.measures["cost_usd"], arm.measures["duration_s"]
        if quality is not None and cost is not None and time is not None:
            points.append((arm.variant, quality.mean, cost.mean, time.mean))
    if not team.front or len(points) < 2 or len(points) > ARMS_MAX:
        return None
    left, bottom = 70, SCATTER_HEIGHT - AXIS - MARGIN
    across = scale_over([cost for _, _, cost, _ in points], left + 20, WIDTH - 160)
    upwards = scale_over([quality for _, quality, _, _ in points], bottom - 20, MARGIN + 10)
    slowest = max(time for *_, time in points) or 1.0
    dots = [
        Dot(
            _cut(name),
            across.place(cost),
            upwards.place(quality),
            round(RADIUS_LEAST + (RADIUS_MOST - RADIUS_LEAST) * time / slowest, 1),
            name in team.front,
            f"{name}: {team.primary} {number(quality)}, ${cost:.3g} and {time:.3g} s a trial",
        )
        for name, quality, cost, time in points
    ]
    return Scatter(team.primary or "", WIDTH, SCATTER_HEIGHT, left, bottom, across.ticks("$"), upwards.ticks(), dots)


def _cut(name: str) -> str:
    return name if len(name) <= NAME_CHARS_MAX else name[: NAME_CHARS_MAX - 1] + "…"
