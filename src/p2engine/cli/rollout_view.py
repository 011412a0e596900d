"""A rollout's report as a person reads it: tables, a plot of intervals, warnings, the conclusion, the next command.

Knows reports and where words go; computes nothing.
"""

from collections.abc import Iterator

from p2engine.cli.output import Output
from p2engine.cli.program import runnable
from p2engine.cli.rollout_words import (
    Table,
    contrasts_table,
    differences_table,
    end_words,
    failure_words,
    headline,
    measures_table,
    next_lines,
    provenance_rows,
    quality_table,
    ranking_lines,
    whole_words,
)
from p2engine.rollouts.findings import OFFLINE, number
from p2engine.rollouts.report import Report
from p2engine.rollouts.team_report import TeamReport

PLOT_CHARS = 40
ARMS_PLOTTED_MAX = 60


def tell_report(output: Output, report: Report, *, stream: bool = False) -> None:
    """Say what a rollout came to. stream: with --json, as one line of a stream, not as a document of its own."""
    if output.is_json:
        if stream:
            output.line("", report.to_dict())
        else:
            output.document(report.to_dict())
        return
    output.line(headline(report))
    (_, version), *facts = provenance_rows(report)
    output.line(", ".join([version, *(f"{name} {value}" for name, value in facts)]))
    for team in report.teams:
        output.line("")
        _tell_team(output, team, report)
    output.line("")
    if report.no_statistics:
        output.line(f"no intervals and no tests: {report.no_statistics}")
    for line in (*ranking_lines(report), *next_lines(report)):
        output.line(runnable(line, output.program))


def _tell_team(output: Output, team: TeamReport, report: Report) -> None:
    if report.offline:
        output.line(OFFLINE)
    output.line(f"team {team.team}: {whole_words(team)}")
    for table in (quality_table(team), measures_table(team)):
        _table(output, table)
    for line in interval_lines(team):
        output.line(line)
    if team.agreement is not None:
        output.line(f"judges agree on the same trials: α = {number(team.agreement)} (Krippendorff; 1 is always)")
    shown = [each for each in team.contrasts if each.metric in (team.primary, "cost_usd", "duration_s")]
    if shown:
        output.line(f"against {team.baseline}, in pairs of the same task and seed:")
        _table(output, contrasts_table(shown))
    if team.differences:
        output.line("what differs:")
        _table(output, differences_table(team))
    if len(team.front) and len(team.arms) > 1:
        beaten = f"not beaten in {team.primary}, cost and time together: {', '.join(team.front)}"
        output.line(f"by the means alone, which chance moves, {beaten}")
    for word, row in (("best", team.best), ("worst", team.worst)):
        if row is not None and team.primary:
            output.line(f"{word}: {end_words(row, team.primary)}")
    for arm in team.arms:
        for line in failure_words(arm):
            output.line(line)
    for warning in team.warnings:
        output.line(f"note: {warning}")
    output.line(team.conclusion)


def _table(output: Output, table: Table) -> None:
    output.table("", table.columns, table.rows)


def interval_lines(team: TeamReport) -> Iterator[str]:
    """The intervals of the metric that conclusions are about, drawn on one scale with their mean."""
    if not team.whole.answered:
        return
    found = [(arm.variant, figure) for arm in team.arms if (figure := arm.metrics.get(team.primary or ""))]
    drawn = [(name, each) for name, each in found if each.low is not None and each.high is not None]
    if not drawn or len(drawn) > ARMS_PLOTTED_MAX:
        return
    low = min(0.0, *(each.low for _, each in drawn if each.low is not None))
    high = max(1.0, *(each.high for _, each in drawn if each.high is not None))
    width = max(len(name) for name, _ in drawn)

    def place(value: float) -> int:
        return round((value - low) / (high - low) * (PLOT_CHARS - 1))

    yield f"{team.primary}, {number(low)} to {number(high)}:"
    for name, each in drawn:
        assert each.low is not None
        assert each.high is not None
        begin, middle, end = place(each.low), place(each.mean), place(each.high)
        bar = [" "] * PLOT_CHARS
        bar[begin : end + 1] = ["─"] * (end + 1 - begin)
        bar[begin], bar[end], bar[middle] = "├", "┤", "●"
        yield f"  {name:<{width}}  {''.join(bar).rstrip()}"
