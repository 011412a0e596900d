"""A rollout's report in the words and cells of tables, the same for a terminal and for a page.

Knows what a figure means to a reader. Prints nothing; text of others is returned as it is.
"""

import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from p2engine.cli.conversation_view import dollars, when
from p2engine.cli.output import one_line
from p2engine.cli.program import PROGRAM
from p2engine.rollouts.arm_report import ArmReport
from p2engine.rollouts.contrasts import Contrast
from p2engine.rollouts.figures import Figure
from p2engine.rollouts.findings import number, signed, span
from p2engine.rollouts.report import Report
from p2engine.rollouts.results import TrialResult
from p2engine.rollouts.team_report import TeamReport

HASH_CHARS = 11  # of a hash in a table
REPLY_CHARS = 60
VALUE_CHARS = 80
SCORE = "score"


class Table(NamedTuple):
    """A table. Cells are text, or None for what is not known."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


# Figures


def cell(figure: Figure | None) -> str | None:
    """`0.71 [0.62, 0.80]`; None where nothing is known, which a table shows as a dash and never as 0."""
    return None if figure is None else number(figure.mean) + span(figure.low, figure.high)


def _measure(name: str, figure: Figure | None) -> str | None:
    """The same of money, counts and seconds, none of which is below zero."""
    if figure is None:
        return None
    words = _money if name.endswith("_usd") else _count
    if figure.low is None or figure.high is None:
        return words(figure.mean)
    return f"{words(figure.mean)} [{words(max(0.0, figure.low))}, {words(figure.high)}]"


def _money(value: float) -> str:
    return dollars(float(f"{value:.3g}"))


def _count(value: float) -> str:
    return f"{value:.0f}" if value == round(value) or value >= 1000 else f"{value:.3g}"


MEASURE_TITLES = {
    "tokens": "tokens",
    "cost_usd": "cost",
    "judge_cost_usd": "of it judges",
    "duration_s": "seconds",
    "steps": "steps",
    "artifacts": "artifacts",
    "reward": "reward",
    "received": "received",
    "sent": "sent",
}
"""Measure -> its column. Each is the mean of a trial, delegates included; tokens and cost also judges."""

USUAL = ("tokens", "cost_usd", "duration_s", "steps")


# Tables


def quality_table(team: TeamReport) -> Table:
    """Each variant with its trials and metrics."""
    metrics = list(team.whole.metrics)
    rows = [[*_head(arm), *(cell(arm.metrics.get(name)) for name in metrics)] for arm in team.arms]
    return Table(("variant", "n", "failed", *metrics), rows)


def _head(arm: ArmReport) -> list[object]:
    return [arm.variant, arm.n, arm.errors]


def measures_table(team: TeamReport) -> Table:
    """What a trial of each variant took, as far as any variant has it."""
    there = [name for name in MEASURE_TITLES if name in USUAL or _is_told(name, team)]
    rows = [[arm.variant, *(_measure(name, arm.measures[name]) for name in there)] for arm in team.arms]
    return Table(("variant", *(MEASURE_TITLES[name] for name in there)), rows)


def _is_told(name: str, team: TeamReport) -> bool:
    return any(figure is not None and figure.mean for arm in team.arms if (figure := arm.measures[name]) is not None)


def contrasts_table(contrasts: Iterable[Contrast]) -> Table:
    """Variants against their baseline."""
    rows = []
    for one in contrasts:
        between = "" if one.low is None or one.high is None else f" [{signed(one.low)}, {signed(one.high)}]"
        effect = None if one.effect is None else signed(float(f"{one.effect:.2g}"))
        p = (f"{one.p:.4f}", f"{one.p_adjusted:.4f}")
        rows.append(
            [one.metric, one.variant, one.baseline, signed(one.difference) + between, *p, effect, one.pairs, one.said]
        )
    return Table(("metric", "variant", "against", "difference", "p", "p (Holm)", "effect", "pairs", "said"), rows)


def differences_table(team: TeamReport) -> Table:
    """What the variants were given that is not the same for all."""
    variants = [arm.variant for arm in team.arms]
    rows = [[each.key, *(_value(each.values.get(variant)) for variant in variants)] for each in team.differences]
    return Table(("", *variants), rows)


def _value(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, list):
        return one_line(", ".join(map(str, value)) or "none", VALUE_CHARS)
    if isinstance(value, dict):
        return one_line(", ".join(f"{name} {each}" for name, each in value.items()) or "none", VALUE_CHARS)
    return one_line(value, VALUE_CHARS)


def trials_table(rows: Sequence[TrialResult]) -> Table:
    """Trials one by one, each with its conversation's name."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    has_tasks = any(row.task for row in rows)
    cells = [
        [
            row.number,
            *((row.task or None,) if has_tasks else ()),
            row.status,
            *(None if (value := row.metrics.get(name)) is None else number(value) for name in metrics),
            row.cost.tokens,
            dollars(row.cost.cost_usd),
            f"{row.duration_s:.2f}",
            row.conversation,
            one_line(row.detail or row.reply, REPLY_CHARS),
        ]
        for row in rows
    ]
    task = ("task",) if has_tasks else ()
    return Table(("trial", *task, "status", *metrics, "tokens", "cost", "seconds", "conversation", "reply"), cells)


# Lines


def headline(report: Report) -> str:
    """`jokes-1a2b3c: finished, 24 of 24 trials, $0.12, seed 0`."""
    rollout = report.rollout
    why = f" ({rollout.why})" if rollout.why else ""
    spent = report.spent
    cost = f"{spent.tokens} tokens, {dollars(spent.cost_usd)}"
    return f"{rollout.id}: {report.status}{why}, {len(report.rows)} of {report.planned} trials, {cost}"


def provenance_rows(report: Report) -> list[tuple[str, str]]:
    """What one must know to do it again."""
    known, rollout = report.rollout.provenance, report.rollout
    arms: list[dict[str, Any]] = list(known.get("arms", {}).values())
    return [
        ("version", f"p2engine {known.get('p2engine', '–')}, python {known.get('python', '–')}"),
        ("commit", str(known.get("commit") or "–")[:12]),
        ("models", ", ".join(report.models) or "–"),
        ("prompts", _hashes(arm.get("prompt") for arm in arms)),
        ("tools", _hashes(arm.get("tools") for arm in arms)),
        ("spec", rollout.spec.hash[:HASH_CHARS] or "–"),
        ("seed", str(report.seed)),
        ("started", f"{when(rollout.started_at)} UTC"),
    ]


def _hashes(found: Iterable[object]) -> str:
    distinct = [str(each)[:HASH_CHARS] for each in dict.fromkeys(found) if each]
    more = f" and {len(distinct) - 4} more" if len(distinct) > 4 else ""
    return ", ".join(distinct[:4]) + more or "–"


def whole_words(team: TeamReport) -> str:
    """All variants of a team together."""
    whole = team.whole
    scores = [f"{name} {number(each.mean)}" for name, each in whole.metrics.items() if each]
    spent = f"{whole.cost.tokens} tokens, {dollars(whole.cost.cost_usd)}"
    judges = f" (judges {dollars(whole.judged.cost_usd)})" if whole.judged.tokens else ""
    trials = "one trial" if whole.n == 1 else f"{whole.n} trials"
    return ", ".join([trials, f"{whole.answered} answered", spent + judges, *scores])


def end_words(row: TrialResult, metric: str) -> str:
    """A best or worst trial in a line."""
    score = row.metrics.get(metric)
    said = "–" if score is None else number(score)
    return f"{row.conversation} ({metric} {said}): {one_line(row.reply, 100)}"


def failure_words(arm: ArmReport) -> list[str]:
    """How its trials failed, one reason a line."""
    return [f"{arm.variant}: {each.n} × {each.status}: {one_line(each.detail, 120)}" for each in arm.failures]


# Commands


def ranking_lines(report: Report) -> list[str]:
    """The command that shows the best trials: by `score`, or by what conclusions are about where no metric is called
    so. Nothing where nobody was asked.
    """
    if not any(team.scores for team in report.teams):
        return []
    metrics = {name for team in report.teams for name in team.whole.metrics}
    primary = next((team.primary for team in report.teams if team.primary), SCORE)
    metric = SCORE if SCORE in metrics or not metrics else primary
    return [f"{PROGRAM} eval top {report.id} --metric {shlex.quote(metric)}"]


def next_lines(report: Report) -> list[str]:
    """What comes next: the command that goes on with what was cut off, else the one for a real run, or that decides."""
    return resume_lines(report) or (real_run_lines(report) if report.offline else advice_lines(report))


def resume_lines(report: Report) -> list[str]:
    """The command that goes on; nothing where none would."""
    command = f"{PROGRAM} rollout resume {report.id}"
    if report.status == "interrupted":
        return ["to go on:", command]
    if report.status != "stopped":
        return []
    budget, said = report.rollout.spec.budget, report.rollout.options.budget_usd
    usd = budget.usd if said is None else said
    if usd is not None and report.spent.usd >= usd:
        return ["to go on with more money:", f"{command} --budget USD"]
    if budget.tokens is not None and report.spent.tokens >= budget.tokens:  # no option raises it
        return []
    return ["to go on:", command]


def advice_lines(report: Report) -> list[str]:
    """The command that would decide what is open, and what it costs and finds; nothing where nothing is open."""
    found = report.advice
    if found is None:
        return []
    cost = "of unknown cost" if found.cost_usd is None else f"about {_money(found.cost_usd)}"
    finds = (
        "which finds no difference that a score can have: more tasks are needed"
        if found.difference is None
        else f"detects {number(float(f'{found.difference:.2g}'))} at 80 % power"
    )
    more = "; more tasks would find more than more repeats" if found.more_tasks and found.difference is not None else ""
    budget = "" if found.budget_usd is None else f" --budget {found.budget_usd:g}"
    return [f"to decide ({cost}, {finds}{more}):", f"{start_command(report)} --repeats {found.repeats}{budget}"]


def real_run_lines(report: Report) -> list[str]:
    """How the same rollout is run with real models."""
    from p2engine.models.catalogue import provider_of

    arms = report.rollout.provenance.get("arms", {}).values()
    models = [str(arm["model"]) for arm in arms if arm.get("model")]
    providers = dict.fromkeys(provider_of(model) for model in models) or {"openai": None}
    keys = [f"export {name.upper()}_API_KEY=…" for name in providers]
    return ["for a real run:", *keys, start_command(report)]


def start_command(report: Report) -> str:
    """Starts the same file again."""
    file = report.rollout.provenance.get("file") or f"config/{report.rollout.spec.name}.yml"
    return f"{PROGRAM} rollout start {shlex.quote(str(file))}"
