"""`rollout show · compare · aa`: what a rollout came to, trial by trial, and how far to believe it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli import rollout_export
from p2engine.cli.output import Output, one_line
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.domain.records import Event
    from p2engine.rollouts.journal import Rollout
    from p2engine.rollouts.report import Report
    from p2engine.rollouts.results import TrialResult
    from p2engine.wiring import Engine

Id = Annotated[str, typer.Argument(metavar="ID", help="The rollout's id, or how it begins.")]
SPLITS_MAX = 100_000


def register(rollout: typer.Typer) -> None:
    """Add these commands, and `export`, to the group `rollout`."""
    rollout.command("show")(show)
    rollout.command("compare")(compare)
    rollout.command("aa")(aa)
    rollout_export.register(rollout)


async def report_on(engine: "Engine", rollout: "Rollout") -> "Report":
    """What came of a rollout so far."""
    from p2engine.rollouts import journal
    from p2engine.rollouts.report import report_of
    from p2engine.wiring import experiments

    results = await journal.results(engine.world, rollout)
    return report_of(rollout, results, status=experiments.status(engine, rollout))


async def found_report(engine: "Engine", key: str) -> "Report":
    """The report of the rollout of that id, or whose id begins so. Raises UsageError."""
    from p2engine.rollouts import journal

    return await report_on(engine, await journal.find(engine.world, key))


def show(
    ctx: typer.Context,
    id: Id,  # noqa: A002 -- the argument's name
    variant: Annotated[
        str | None, typer.Argument(metavar="VARIANT", help="Its trials: VARIANT, or TEAM/VARIANT.")
    ] = None,
    trial: Annotated[
        int | None, typer.Argument(metavar="TRIAL", min=1, help="This trial's transcript and verdicts.")
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the plots also where no terminal is.")] = False,
) -> None:
    """Show what a rollout came to, the trials of a variant, or the transcript of a trial with its verdicts' reasons.

    On a terminal intervals are drawn, and quality by cost where three variants or more differ in both.
    """

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.rollout_view import tell_report

        report = await found_report(engine, id)
        if variant is None:
            tell_report(output, report, plot=plot)
            return
        if plot:
            raise UsageError("--plot is of a whole rollout, not of one variant")
        team, name = report.find(variant)
        rows = report.of(team.team, name)
        if trial is None:
            _show_trials(output, report, f"{team.team}/{name}", rows)
            return
        row = next((row for row in rows if row.number == trial), None)
        if row is None:
            there = ", ".join(str(row.number) for row in rows[:20]) or "none that has ended"
            raise UsageError(f"{name} has no trial {trial} in {report.id}; there is {there}")
        await _show_trial(engine, output, row)

    run_with_engine(ctx, body)


def _show_trials(output: Output, report: "Report", name: str, rows: "tuple[TrialResult, ...]") -> None:
    from p2engine.cli.rollout_words import trials_table
    from p2engine.rollouts.findings import OFFLINE
    from p2engine.rollouts.trial_rows import trial_row

    table = trials_table(rows)
    if not output.is_json:
        if report.offline:
            output.line(OFFLINE)
        output.line(f"{report.id}, {name}:")
    output.table("", table.columns, table.rows, [trial_row(row) for row in rows])
    output.next(f"p2engine rollout show {report.id} {name} TRIAL")


async def _show_trial(engine: "Engine", output: Output, row: "TrialResult") -> None:
    """The transcript as the root agent lived through it, then what was said of it."""
    from p2engine.cli.arguments import conversation_of
    from p2engine.cli.conversation_view import dollars, entry_row, words_of
    from p2engine.cli.reading import all_events, branches_of, stretch_of
    from p2engine.domain.records import Query
    from p2engine.domain.states import Override, Waiting, name_of
    from p2engine.rollouts.trial_rows import trial_row

    conversation = await conversation_of(engine, row.conversation)
    known = await branches_of(conversation)
    branch = await conversation.branch()
    part = await stretch_of(engine, branch)
    query = Query(conversation=conversation.record.id, kinds=("eval.verdict",))
    events = [event async for event in all_events(engine, query)]
    verdicts = [_judgement(event) for event in sorted(events, key=_in_order)]
    if output.is_json:
        entries = [entry_row(entry, branch.agent, known) for entry in part.entries]
        output.document(trial_row(row) | {"transcript": entries, "judgements": verdicts})
        return
    cost = f"{row.cost.tokens} tokens, {dollars(row.cost.cost_usd)}, {row.duration_s:.2f} s"
    output.line(f"{row.conversation}: {row.status}{': ' + row.detail if row.detail else ''}, {cost}")
    output.line(f"seed {row.seed}, repeat {row.repeat}{', task ' + row.task if row.task else ''}")
    output.line("")
    for entry in part.entries:
        if not isinstance(entry.state, Waiting):
            words = words_of(entry.state)
            said = one_line(words) if isinstance(entry.state, Override) else words
            output.line(f"#{entry.index} {name_of(entry.state)}: {said}")
    output.line("")
    for each in verdicts:
        output.line(_judgement_words(each))
    if not verdicts:
        output.line("no verdict: no evaluator was asked")
    output.next(f"p2engine conversation export {row.conversation} --format html")


def _in_order(event: "Event") -> tuple[bool, tuple[int, int]]:
    """As the evaluators stand in the rollout's file, however long each took; what was judged by hand comes last."""
    from p2engine.domain.ids import EffectId, wait_key

    is_owed = ":" in event.id
    return not is_owed, wait_key(EffectId(event.id)) if is_owed else (0, 0)


def _judgement(event: "Event") -> dict[str, Any]:
    """A verdict as programs see it."""
    import msgspec

    from p2engine.cli.verdicts import verdict_row
    from p2engine.domain.verdicts import Verdict

    return verdict_row(msgspec.convert(event.body, Verdict))


def _judgement_words(found: dict[str, Any]) -> str:
    name = f"{found['evaluator']}@{found['version']}" if found["version"] else found["evaluator"]
    score = found["status"] if found["score"] is None else f"{found['score']:g}"
    by = f", {found['model']}" if found["model"] else ""
    numbers = "".join(f", {key} {value:g}" for key, value in found["metrics"].items())
    label = f" ({found['label']})" if found["label"] else ""
    terms = f"\n  on terms: {found['terms']['words']}" if found["terms"] else ""
    source = f"\n  as on {found['source']}, where the same was judged before" if found["source"] else ""
    return f"{name}{by}: {score}{label}{numbers}{': ' + found['comment'] if found['comment'] else ''}{source}{terms}"


def compare(
    ctx: typer.Context,
    id: Id,  # noqa: A002 -- the argument's name
    one: Annotated[str | None, typer.Argument(metavar="A", help="The baseline: VARIANT, or TEAM/VARIANT.")] = None,
    other: Annotated[str | None, typer.Argument(metavar="B", help="The variant that is compared with A.")] = None,
) -> None:
    """Compare the variants with the first of their team, or B with A, in every metric, cost and time.

    Pairs have the same task and seed. `p (Holm)` is corrected for all variants of the team, for each metric by itself,
    also where only two are shown.
    """

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.rollout_words import contrasts_table

        if (one is None) != (other is None):
            raise UsageError("compare takes two variants, or none", hint="p2engine rollout compare ID A B")
        found = (await found_report(engine, id)).compare(other, one)
        table = contrasts_table(found)
        output.table("", table.columns, table.rows, [each.document for each in found])

    run_with_engine(ctx, body)


def aa(
    ctx: typer.Context,
    rollout: Annotated[str, typer.Argument(metavar="FILE|ID", help="A rollout that ran: its file, or its id.")],
    splits: Annotated[int, typer.Option("--splits", min=1, max=SPLITS_MAX, help="Halvings drawn.", metavar="N")] = 200,
) -> None:
    """Check the comparison on a rollout that ran: how often it finds a difference between halves of one variant."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.rollouts.false_alarms import false_alarms

        report = await _that_ran(engine, output, rollout)
        found = false_alarms(report, splits=splits)
        if not found:
            raise UsageError(f"no trial of {report.id} has a score", hint=f"p2engine rollout show {report.id}")
        if not output.is_json:
            output.line(f"{report.id}: halves of the same variant, drawn {splits} times and compared at p ≤ 0.05")
        cells = [_alarm_cells(each.document) for each in found]
        columns = ("variant", "metric", "found", "rate", "at most", "counted by", "said")
        output.table("", columns, cells, [each.document for each in found])

    run_with_engine(ctx, body)


def _alarm_cells(row: dict[str, Any]) -> list[object]:
    name = f"{row['team']}/{row['variant']}"
    if row["rate"] is None:
        return [name, row["metric"], None, None, None, None, "nothing was repeated, so nothing can be halved"]
    said = "as promised" if row["holds"] else "finds more than it may"
    if not row["attainable"]:
        said = "too few repeats: it can never find anything"
    if not row["varies"]:
        said = "all repeats are the same: nothing could vary, so nothing was checked"
    rate = f"{row['rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    found = f"{row['rejections']} of {row['splits']}"
    return [name, row["metric"], found, rate, f"{row['attainable']:.3f}", row["unit"], said]


async def _that_ran(engine: "Engine", output: Output, key: str) -> "Report":
    """The rollout of that id, or the newest that ran with that file and has something to halve. Where that is not the
    newest, or none has, it is said. Raises UsageError, ConfigError.
    """
    from p2engine.rollouts import journal
    from p2engine.rollouts.false_alarms import can_halve

    if not key.lower().endswith((".yml", ".yaml")):
        return await found_report(engine, key)
    from p2engine.wiring import experiments

    spec = experiments.read(engine, Path(key))
    ran = [each for each in await journal.rollouts(engine.world) if each.spec.name == spec.name]
    same = [each for each in ran if each.spec.hash == spec.hash] or ran
    if not same:
        raise UsageError(
            f"no rollout of {one_line(key, 100)} has run: an A/A check halves the repeats of one that did",
            hint=f"p2engine rollout start {one_line(key, 100)}",
        )
    for each in reversed(same):
        report = await report_on(engine, each)
        if can_halve(report):
            if each is not same[-1]:
                output.note(f"{same[-1].id} is newer, and has nothing to halve")
            return report
    output.note(f"{same[-1].id} is the newest, and none has anything to halve")
    return await report_on(engine, same[-1])
