"""A rollout's report as a person reads it: tables, plots, warnings, the conclusion, the next command.

Knows reports and where words go; computes nothing.
"""

from p2engine.cli.output import Output
from p2engine.cli.program import runnable
from p2engine.cli.rollout_drawing import WIDTH_LEAST, drawn
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


def tell_report(output: Output, report: Report, *, stream: bool = False, plot: bool = False) -> None:
    """Say what a rollout came to. stream: with --json, as one line of a stream, not as a document of its own.

    plot: draw plots also where no terminal is.
    """
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
        _tell_team(output, team, report, plot=plot)
    output.line("")
    if report.no_statistics:
        output.line(f"no intervals and no tests: {report.no_statistics}")
    for line in (*ranking_lines(report), *next_lines(report)):
        output.line(runnable(line, output.program))


def _tell_team(output: Output, team: TeamReport, report: Report, *, plot: bool) -> None:
    if report.offline:
        output.line(OFFLINE)
    output.line(f"team {team.team}: {whole_words(team)}")
    for table in (quality_table(team), measures_table(team)):
        _table(output, table)
    if plot or output.is_terminal:
        _plots(output, team, asked=plot)
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


def _plots(output: Output, team: TeamReport, *, asked: bool) -> None:
    width = max(output.width, WIDTH_LEAST) if asked else output.width
    lines = list(drawn(team, width, output.out.encoding))
    for line in lines:
        output.line(line)
    if asked and not lines:
        output.note(f"nothing to plot of team {team.team}: there is no interval")


def _table(output: Output, table: Table) -> None:
    output.table("", table.columns, table.rows)
