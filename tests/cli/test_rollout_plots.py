"""Plots in characters: where means and intervals stand, how wide plots are, when there is one, in which characters."""

from __future__ import annotations

import io
from collections.abc import Mapping
from math import floor

import pytest
from msgspec.structs import replace

from p2engine.cli.options import Options
from p2engine.cli.output import Output
from p2engine.cli.rollout_drawing import drawn
from p2engine.cli.rollout_view import tell_report
from p2engine.domain.setup import Spent
from p2engine.rollouts.report import Report, report_of
from tests.cli.project import Project, Run
from tests.cli.test_rollout_show import keep
from tests.rollouts.simulated import rollout, row, trials

MEANS = {"base": 0.5, "better": 0.7, "worse": 0.3}
LONG = "model=gpt-4o-mini-2024-07-18,temperature=0.31415,max_tokens=200"


def report(
    means: Mapping[str, float] = MEANS, *, costs: Mapping[str, float] | None = None, offline: bool = False
) -> Report:
    """Of 20 trials of each variant. costs: dollars of a trial; the same for all where nothing is said."""
    rows = [
        replace(each, spent=Spent(1, 100, 20, (costs or {}).get(each.variant, 0.001)), offline=offline)
        for each in trials(means, seed=1, tasks=10, repeats=2)
    ]
    return report_of(rollout(tuple(means), tasks=10, repeats=2), rows)


def plots(of: Report, width: int = 80, encoding: str | None = None) -> list[str]:
    return list(drawn(of.teams[0], width, encoding))


def bars(lines: list[str]) -> dict[str, str]:
    """What is drawn behind each name, with the place of every character."""
    rows = [line.partition("┤") for line in lines if "●" in line]
    return {name.strip(): bar for name, _, bar in rows}


# Places


@pytest.mark.parametrize("width", [40, 80, 133, 200])
def test_means_and_the_ends_of_their_intervals_stand_in_their_places(width: int) -> None:
    """Each variant has a line, in the order of the tables; every end and mean is where its number lies from 0 to 1."""
    of = report()
    drawn_bars = bars(plots(of, width))
    assert list(drawn_bars) == ["base", "better", "worse"]
    room = width - len("better") - 1

    def column(value: float) -> int:
        return floor(0.5 + (room - 1) * value)

    for name, bar in drawn_bars.items():
        figure = of.teams[0].arm(name).metrics["score"]
        assert figure is not None
        assert figure.low is not None
        assert figure.high is not None
        assert bar.index("●") == column(figure.mean)
        assert len(bar) - 1 == max(column(figure.high), column(figure.mean))
        assert len(bar) - len(bar.lstrip()) == min(column(figure.low), column(figure.mean))
    middles = {name: bar.index("●") for name, bar in drawn_bars.items()}
    assert middles["worse"] < middles["base"] < middles["better"]


@pytest.mark.parametrize("width", [40, 41, 80, 200])
@pytest.mark.parametrize(
    "means", [{LONG: 0.5}, {LONG: 0.5, LONG[:-1]: 0.6, "c": 0.2}, {f"v{n}": 0.5 for n in range(60)}]
)
def test_no_line_is_wider_than_the_terminal(width: int, means: dict[str, float]) -> None:
    """From 40 to 200 columns, for one variant and for sixty, whatever they are called."""
    lines = plots(report(means, costs={name: 0.001 * n for n, name in enumerate(means, 1)}), width)
    assert len(bars(lines)) == len({line.partition("┤")[0].strip() for line in lines if "●" in line})
    assert sum("●" in line for line in lines) == len(means)
    assert all(len(line) <= width for line in lines)
    assert not any("\x1b" in line for line in lines)


def test_a_wide_terminal_is_not_filled_and_a_narrow_one_has_none() -> None:
    """Beyond 200 columns nothing is gained; below 40 there is nothing to see."""
    assert max(map(len, plots(report(), 1000))) == 200
    assert plots(report(), 39) == []


def test_a_number_that_is_no_score_has_a_scale_of_its_own() -> None:
    """From the lowest end to the highest."""
    rows = [row(name, n, value + n) for name, value in {"a": 100.0, "b": 200.0}.items() for n in (1, 2, 3)]
    lines = plots(report_of(rollout(("a", "b"), repeats=3), rows))
    axis = [float(word) for word in lines[-1].split()]
    assert (axis[0] >= 90, axis[-1] <= 210) == (True, True)
    drawn_bars = bars(lines)
    assert drawn_bars["a"].startswith("├")
    assert max(len(bar) for bar in drawn_bars.values()) == len(drawn_bars["b"]) == 80 - 2


def test_values_that_are_all_the_same_are_drawn() -> None:
    """An interval without width, also where no other number gives the scale one."""
    rows = [row(name, n, 5.0) for name in ("a", "b") for n in (1, 2, 3)]
    assert [bar.strip() for bar in bars(plots(report_of(rollout(("a", "b"), repeats=3), rows))).values()] == ["●", "●"]


def test_where_there_is_no_interval_nothing_is_drawn() -> None:
    """One trial each, or the stand-in: dots beside one another would look like a result."""
    one = report_of(rollout(tuple(MEANS)), trials(MEANS, seed=1))
    assert plots(one) == []
    assert plots(report(costs={"base": 1.0, "better": 2.0}, offline=True)) == []
    assert plots(report({f"v{n}": 0.5 for n in range(61)})) == []
    failed = [row(name, n, float(n % 2), status="error", reply="") for name in MEANS for n in range(1, 9)]
    assert plots(report_of(rollout(tuple(MEANS), repeats=8), failed)) == []


# Quality and cost


def test_quality_by_cost_from_three_variants_on() -> None:
    """Better ones higher, dearer ones further to the right, each by its number, which is named below."""
    costs = {"base": 0.001, "better": 0.004, "worse": 0.002}
    lines = plots(report(costs=costs))
    begin = lines.index("") + 1
    assert lines[begin] == "score by the cost of a trial, means:"
    assert lines[-1] == "1 base, 2 better, 3 worse"
    place = {
        mark: (height, canvas.index(mark))
        for height, line in enumerate(lines[begin + 1 : -3])
        for canvas in [line.replace("┤", "│").partition("│")[2]]
        for mark in "123"
        if mark in canvas
    }
    assert place["2"][0] < place["1"][0] < place["3"][0]
    assert place["1"][1] < place["3"][1] < place["2"][1]
    assert "$0.002" in lines[-2]


def test_variants_in_one_place_are_named() -> None:
    """Where one dot lies on another it is said which are hidden."""
    rows = [
        row(name, n, 0.5 if name != "c" else 0.9, spent=Spent(1, 1, 1, 0.1 if name == "c" else 0.001))
        for name in ("a", "b", "c")
        for n in (1, 2, 3)
    ]
    lines = plots(report_of(rollout(("a", "b", "c"), repeats=3), rows))
    assert lines[-2] == "1 a, 2 b, 3 c"
    assert lines[-1] in ("under another: 1", "under another: 2")


@pytest.mark.parametrize(
    ("means", "costs"), [({"base": 0.5, "better": 0.7}, {"better": 0.1}), (MEANS, {})], ids=["two variants", "one cost"]
)
def test_there_is_no_scatter_of_less(means: dict[str, float], costs: dict[str, float]) -> None:
    """Two variants, or a cost that is the same for all, are told by the table."""
    assert "" not in plots(report(means, costs=costs))


# Characters


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "cp1252"])
def test_a_terminal_without_the_characters_gets_simpler_ones(encoding: str) -> None:
    """The same picture, place by place."""
    of = report({**MEANS, LONG: 0.4}, costs={"base": 0.001, "better": 0.004, "worse": 0.002})
    plain, full = plots(of, 60, encoding), plots(of, 60, "utf-8")
    assert "\n".join(plain).isascii()
    assert [len(line) for line in plain] == [len(line) for line in full]
    assert [line.index("o", line.index("|")) for line in plain if "|" in line and "-o" in line] == [
        line.index("●") for line in full if "●" in line and "─●" in line
    ]


# Where


class Terminal(io.StringIO):
    """A terminal that keeps what it shows."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_terminal_gets_plots_as_wide_as_it_is(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the report, under the tables."""
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Terminal()
    tell_report(Output(Options(), screen, io.StringIO()), report())
    shown = screen.getvalue().splitlines()
    assert sum("●" in line for line in shown) == 3
    assert max(len(line) for line in shown if "┬" in line) == columns


def test_nothing_is_drawn_on_a_pipe_or_in_a_document() -> None:
    """Numbers are for programs."""
    for options in (Options(), Options(json=True)):
        out = io.StringIO()
        tell_report(Output(options, out, io.StringIO()), report())
        assert "●" not in out.getvalue()


def test_no_colour_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR, with --no-color and without: a plot is characters alone."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    for options in (Options(), Options(no_color=True)):
        screen = Terminal()
        tell_report(Output(options, screen, io.StringIO()), report())
        lines = [line for line in screen.getvalue().splitlines() if "●" in line or "┬" in line]
        assert len(lines) == 4
        assert "\x1b" not in "".join(lines)


def test_plots_may_be_asked_for(here: Run, project: Project) -> None:
    """`rollout show ID --plot` draws on a pipe; what cannot be drawn is said; a variant has no plot."""
    id_ = keep(project, trials({"base": 0.4, "other": 0.8}, seed=1, repeats=8), repeats=8)
    single = keep(project, trials({"base": 0.4, "other": 0.8}, seed=1))

    asked, none = here("rollout", "show", id_, "--plot"), here("rollout", "show", single, "--plot")
    refused = here("rollout", "show", id_, "base", "--plot")

    assert sum("●" in line for line in asked.out.splitlines()) == 2
    assert "score, mean and 95 % interval:" in asked.out.splitlines()
    assert "●" not in here("rollout", "show", id_).out
    assert none.err.strip() == "nothing to plot of team team: there is no interval"
    assert (refused.status, refused.out) == (2, "")
    assert "--plot is of a whole rollout" in refused.err
