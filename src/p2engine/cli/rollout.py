"""`rollout …`: experiments are planned, started, watched, gone on with and ended."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli import rollout_show
from p2engine.cli.options import Options as GlobalOptions
from p2engine.cli.options import group, options_of
from p2engine.cli.output import Output, iso
from p2engine.cli.program import runnable
from p2engine.cli.session import INTERRUPTED, Interrupted, run_with_engine, session_of
from p2engine.errors import NotAvailable

if TYPE_CHECKING:
    from p2engine.cli.rollout_thresholds import Thresholds
    from p2engine.rollouts.journal import Rollout
    from p2engine.wiring import Engine
    from p2engine.wiring.outlook import Outlook

THRESHOLD_MISSED = 3

File = Annotated[Path, typer.Argument(metavar="FILE", help="The rollout's YAML file.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The rollout's id, or how it begins.")]
Follow = Annotated[bool, typer.Option("--follow", help="Show every trial as it ends.")]
Parallel = Annotated[int | None, typer.Option("--parallel", min=1, metavar="N", help="Trials at once.")]
Repeats = Annotated[int | None, typer.Option("--repeats", min=1, metavar="R", help="Repeats of each task.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="K", help="Trials of each variant, at most.")]
Budget = Annotated[float | None, typer.Option("--budget", metavar="USD", help="Stop when it is spent; asks nothing.")]
Yes = Annotated[bool, typer.Option("--yes", help="Run without asking, whatever it costs within its budget.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    rollout = group("Experiments: teams, variants and repeats, compared.")
    commands = (
        ("start", start),
        ("list", list_),
        ("resume", resume),
        ("cancel", cancel),
        ("extend", extend),
        ("check", check),
    )
    for name, command in commands:
        rollout.command(name)(command)
    rollout_show.register(rollout)
    app.add_typer(rollout, name="rollout")


def start(
    ctx: typer.Context,
    file: File,
    follow: Follow = False,
    parallel: Parallel = None,
    repeats: Repeats = None,
    limit: Limit = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, metavar="S", help="The seed of all trials.")] = None,
    nowait: Annotated[bool, typer.Option("--nowait", help="Print the id; a process of its own goes on.")] = False,
    strict_tools: Annotated[
        bool, typer.Option("--strict-tools", help="Refuse where a persona or variant lacks a tool it wants.")
    ] = False,
    show_config: Annotated[
        bool, typer.Option("--show-config", help="Print what every variant runs with, after the plan.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and stop: nothing is run.")] = False,
    budget: Budget = None,
    yes: Yes = False,
    fail_under: Annotated[
        list[str] | None,
        typer.Option("--fail-under", metavar="METRIC=X", help="Exit 3 when a variant's mean is below X."),
    ] = None,
    fail_if_worse_than: Annotated[
        str | None,
        typer.Option("--fail-if-worse-than", metavar="VARIANT", help="Exit 3 when another one is worse, by interval."),
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", hidden=True)] = False,
) -> None:
    """Run an experiment: every variant on the same tasks, as often as the file says. The plan is printed first.

    Where models are paid it asks before it runs; not on a terminal it wants --yes or --budget. Offline it never asks.
    """
    if rerun:
        raise NotAvailable("rollout start --rerun")
    _no_debt(budget)

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.rollout_plan import tell_config, tell_document, tell_plan
        from p2engine.cli.rollout_thresholds import read_thresholds
        from p2engine.rollouts.journal import Options
        from p2engine.wiring import experiments, runners
        from p2engine.wiring.outlook import outlook

        spec = experiments.read(engine, file)
        thresholds = read_thresholds(engine, spec, fail_under or (), fail_if_worse_than)
        usd = experiments.usual_budget(engine, spec, budget)
        options = Options(seed=seed, repeats=repeats, limit=limit, budget_usd=usd, parallel=parallel)
        look = await outlook(engine, spec, options, strict_tools=strict_tools)
        tell_plan(output, look, aside=nowait)
        for note in thresholds.notes:
            output.note(f"note: {note}")
        if show_config:
            tell_config(output, look, aside=nowait)
        if dry_run:
            tell_document(output, look)
            output.next(f"p2engine rollout check {quote(str(file))}")
            return 0
        command = f"start {quote(str(file))}"
        if refused := await _refused(ctx, output, look, command, said=yes or budget is not None):
            return refused
        rollout = await experiments.begin(engine, spec, options, file)
        if nowait:
            log = runners.detach(engine.settings.home, rollout.id, ["--follow", *_same_engine(options_of(ctx))])
            document = {"id": rollout.id, "status": rollout.status, "log": str(log)}
            output.document(document, rollout.id)
            output.note(f"it goes on in a process of its own, which writes {log}")
            return 0
        return await _run(engine, output, rollout, follow=follow, thresholds=thresholds)

    run_with_engine(ctx, body, work=not (nowait or dry_run), notes=True)


def resume(ctx: typer.Context, rollout: Id, follow: Follow = False, budget: Budget = None, yes: Yes = False) -> None:
    """Go on with a rollout that was cut off, stopped or cancelled. What has ended is not run again; trials that a
    cancellation ended begin anew.

    One that was cancelled asks as `start` does before models are paid again; one that has spent its money wants more.
    """
    _no_debt(budget)

    async def body(engine: "Engine", output: Output) -> int:
        from msgspec.structs import replace

        from p2engine.cli.rollout_plan import tell_plan
        from p2engine.rollouts import journal
        from p2engine.wiring import experiments
        from p2engine.wiring.outlook import outlook

        found = await journal.find(engine.world, rollout)
        options = found.options if budget is None else replace(found.options, budget_usd=budget)
        done = await experiments.check_money(engine, found, options)
        if found.status == "cancelled":
            look = await outlook(engine, found.spec, options, done=done)
            tell_plan(output, look)
            if refused := await _refused(ctx, output, look, f"resume {found.id}", said=yes or budget is not None):
                return refused
        if budget is not None:
            found = await journal.extend(engine.world, found, found.spec, options)
        return await _run(engine, output, found, follow=follow)

    run_with_engine(ctx, body, work=True)


def extend(
    ctx: typer.Context,
    rollout: Id,
    file: File,
    follow: Follow = False,
    parallel: Parallel = None,
    repeats: Repeats = None,
    limit: Limit = None,
    budget: Budget = None,
    yes: Yes = False,
) -> None:
    """Add the variants, repeats and teams of FILE to a rollout, and run them. What ran stays as it is.

    While the rollout runs, the process that runs it takes them up when it is through with the rest.
    """
    _no_debt(budget)

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.cli.rollout_plan import tell_plan
        from p2engine.rollouts import journal
        from p2engine.rollouts.journal import Options
        from p2engine.wiring import experiments, runners
        from p2engine.wiring.outlook import outlook

        found = await journal.find(engine.world, rollout)
        asked = Options(repeats=repeats, limit=limit, budget_usd=budget, parallel=parallel)
        spec, options = experiments.grown(found, experiments.read(engine, file), asked)
        done = frozenset(result.key for result in await journal.results(engine.world, found))
        look = await outlook(engine, spec, options, done=done)
        tell_plan(output, look)
        command = f"extend {found.id} {quote(str(file))}"
        if refused := await _refused(ctx, output, look, command, said=yes or budget is not None):
            return refused
        known = await experiments.provenance(engine, spec, offline=bool(found.provenance.get("offline")))
        known = {**found.provenance, "arms": known["arms"]}
        found = await journal.extend(engine.world, found, spec, options, known)
        if runners.runs(engine.settings.home, found.id):
            text = f"{found.id} runs already: the process that runs it takes them up"
            output.document({"id": found.id, "status": "running"}, text)
            return 0
        return await _run(engine, output, found, follow=follow)

    run_with_engine(ctx, body, work=True)


def cancel(ctx: typer.Context, rollout: Id) -> None:
    """End a rollout that runs; trials that have ended stay."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.rollouts import journal
        from p2engine.wiring import experiments

        ended = await experiments.cancel(engine, await journal.find(engine.world, rollout))
        output.document({"id": ended.id, "status": ended.status}, f"cancelled {ended.id}")

    run_with_engine(ctx, body)


def list_(ctx: typer.Context) -> None:
    """List the rollouts, the newest last. `interrupted`: whoever ran it is gone; resume goes on."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.rollouts import journal

        found = await journal.rollouts(engine.world)
        rows = [_row(engine, one) for one in found]
        columns = ("id", "status", "teams", "variants", "trials", "started (UTC)", "ended (UTC)")
        output.table("", columns, [tuple(row.values()) for row in rows], rows)
        if found:
            output.next(f"p2engine rollout show {found[-1].id}")

    run_with_engine(ctx, body)


def _row(engine: "Engine", rollout: "Rollout") -> dict[str, Any]:
    from p2engine.wiring import experiments

    return {
        "id": rollout.id,
        "status": experiments.status(engine, rollout),
        "teams": len(rollout.spec.teams),
        "variants": sum(1 for _ in rollout.spec.arms()),
        "trials": len(experiments.planned(rollout.spec, rollout.options)),
        "started_at": iso(rollout.started_at),
        "ended_at": iso(rollout.ended_at),
    }


def check(ctx: typer.Context, file: File) -> None:
    """Try the checks of a rollout: a right agent must pass each, a useless one must not. Runs offline, costs nothing.

    Both are scripted from what the tasks expect. Checks that only forbid are tried on an agent that does what they
    forbid. Judges are left out: `eval calibrate` tries those. Exit 1 when a check is invalid.
    """

    async def body(engine: "Engine", output: Output) -> int:
        import msgspec

        from p2engine.rollouts.validity import is_valid
        from p2engine.wiring import experiments

        found = await experiments.check(engine, experiments.read(engine, file))
        rows = [msgspec.to_builtins(each) for each in found]
        cells = [(each.team, each.check, each.status, each.tried, _said(each)) for each in found]
        output.table("", ("team", "check", "status", "tasks", "why"), cells, rows)
        if not found:
            output.note("no team has a check: nothing says what a right answer is")
        return 0 if is_valid(found) else 1

    run_with_engine(ctx, body, notes=True)


def _said(each: Any) -> str:
    more = []
    if each.guards and each.status == "valid":
        more.append("it only forbids: who does nothing passes")
    if each.echoes:
        more.append("an agent that repeats its order passes too")
    return "; ".join([*([each.why] if each.why else []), *more])


async def _refused(ctx: typer.Context, output: Output, look: "Outlook", command: str, *, said: bool) -> int:
    """The exit status where a person does not want it to run, else 0. said: by --yes or --budget."""
    from p2engine.cli.rollout_plan import agreed

    try:
        if await agreed(session_of(ctx), output, look, command, said=said):
            return 0
        status = 1
    except Interrupted:
        status = INTERRUPTED
    output.note("nothing was run")
    return status


def _no_debt(budget: float | None) -> None:
    from p2engine.errors import UsageError

    if budget is not None and not 0 < budget < float("inf"):
        raise UsageError(f"--budget is a number of US dollars above 0, not {budget:g}")


def _same_engine(options: GlobalOptions) -> list[str]:
    """The global options that make another process open the same engine."""
    given = (("--project", options.project), ("--home", options.home), ("--config", options.config))
    flags = [flag for flag, on in (("--no-project-code", options.no_project_code), ("--debug", options.debug)) if on]
    return [*(word for name, value in given if value is not None for word in (name, value)), *flags]


async def _run(
    engine: "Engine", output: Output, rollout: "Rollout", *, follow: bool, thresholds: "Thresholds | None" = None
) -> int:
    """Run what is left, show it, and say what came of it. Returns the exit status."""
    from asyncio import CancelledError

    from p2engine.cli.rollout_live import Board, shown
    from p2engine.cli.rollout_view import tell_report
    from p2engine.rollouts import journal
    from p2engine.wiring import experiments, runners
    from p2engine.wiring.outlook import places

    trials = experiments.planned(rollout.spec, rollout.options)
    known = await journal.results(engine.world, rollout)
    offline = bool(rollout.provenance.get("offline"))
    at_once = places(rollout.spec, rollout.options)
    seed = rollout.spec.seed if rollout.options.seed is None else rollout.options.seed
    now = engine.world.clock.now
    board = Board(rollout.spec, trials, known, now=now, offline=offline, at_once=at_once, seed=seed)
    output.note(f"rollout {rollout.id}")
    try:
        with runners.hold(engine.settings.home, rollout.id) as held, shown(output, board, follow=follow) as view:
            ended = await experiments.run(engine, rollout, held=held, on_result=view.take)
    except CancelledError:
        output.note(f"{rollout.id} is cut off after {board.words()}")
        output.note(runnable(f"p2engine rollout resume {rollout.id} goes on", output.program))
        raise
    report = await rollout_show.report_on(engine, ended)
    tell_report(output, report, stream=follow)
    missed = thresholds.missed(report) if thresholds else []
    for line in missed:
        output.note(line)
    if missed:
        return THRESHOLD_MISSED
    if report.rows and not any(row.status == "done" for row in report.rows):
        output.note("no trial has an answer")
        return 1
    return 1 if ended.status == "cancelled" else 0
