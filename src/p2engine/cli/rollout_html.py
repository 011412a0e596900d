"""A rollout's report as one HTML page with its plots in it. It asks nothing of any network and runs nothing.

Puts together what the page shows; the template beside this file says how. Escaping is the template engine's, for every
value without exception.
"""

from pathlib import Path
from typing import Any

from p2engine.cli.output import safe
from p2engine.cli.program import program, runnable
from p2engine.cli.rollout_plots import intervals, scatter
from p2engine.cli.rollout_words import (
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
    trials_table,
    whole_words,
)
from p2engine.rollouts.findings import OFFLINE
from p2engine.rollouts.report import Report
from p2engine.rollouts.team_report import TeamReport

TEMPLATE = Path(__file__).with_name("rollout.html.j2")
TRIALS_MAX = 2_000  # listed on a page; more belong into a table of their own


def page(report: Report) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["safe_text"] = safe
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        id=report.id,
        headline=headline(report),
        facts=provenance_rows(report),
        title=OFFLINE if report.offline else None,
        no_statistics=report.no_statistics,
        teams=[_team(team, report) for team in report.teams],
        commands=[runnable(line, program()) for line in (*next_lines(report), *ranking_lines(report))],
        trials_max=TRIALS_MAX,
    )


def _team(team: TeamReport, report: Report) -> dict[str, Any]:
    rows = {arm.variant: report.of(team.team, arm.variant) for arm in team.arms}
    ends = [(word, row) for word, row in (("best", team.best), ("worst", team.worst)) if row is not None]
    figures = [name for name, figure in team.whole.metrics.items() if figure]
    return {
        "name": team.team,
        "whole": whole_words(team),
        "conclusion": team.conclusion,
        "warnings": team.warnings,
        "quality": quality_table(team),
        "measures": measures_table(team),
        "plots": [] if report.offline else [plot for name in figures if (plot := intervals(team, name)) is not None],
        "scatter": scatter(team),
        "baseline": team.baseline,
        "contrasts": contrasts_table(team.contrasts),
        "differences": differences_table(team),
        "ends": [(word, end_words(row, team.primary)) for word, row in ends if team.primary],
        "failures": [line for arm in team.arms for line in failure_words(arm)],
        "trials": [(name, len(each), trials_table(each[:TRIALS_MAX])) for name, each in rows.items()],
    }
