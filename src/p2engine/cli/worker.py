"""`worker` and `sweeper`: processes that do the work of a project with `dispatch: celery`.

A worker is Celery's process, so it runs where a command line is read, outside any event loop.
"""

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from p2engine.cli.options import options_of
from p2engine.cli.output import Output
from p2engine.cli.session import run_alone, session_of, settings_of
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.settings import Settings

log = logging.getLogger("p2engine.cli")

Health = Annotated[
    int | None,
    typer.Option("--health", metavar="PORT", min=1, max=65535, help="Answer /livez, /readyz, /metrics on 127.0.0.1."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("worker")(worker)
    app.command("sweeper")(sweeper)


def worker(
    ctx: typer.Context,
    queues: Annotated[
        str | None, typer.Option("--queues", metavar="A,B", help="Queues to work for; all unless said.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", min=1, help="Messages held at a time.")
    ] = None,
    health: Health = None,
    no_sweeper: Annotated[bool, typer.Option("--no-sweeper", help="Do not look for what dead processes left.")] = False,
    sinks: Annotated[bool, typer.Option("--sinks", help="Hand events to the sinks, where no sweeper does.")] = False,
) -> int:
    """Run what conversations owe, under `dispatch: celery`, until a signal ends it."""
    settings, options = _settings(ctx), options_of(ctx)
    names = tuple(name.strip() for name in (queues or "").split(",") if name.strip())
    if queues is not None and not names:
        raise UsageError("--queues names none", hint="leave it away for all of them")
    from p2engine.worker import Worker

    working = Worker(
        settings,
        sweeps=not no_sweeper,
        feeds=sinks,
        health=health,
        project_code=not options.no_project_code,
        debug=options.debug,
    )
    return working.run(names, concurrency)


def sweeper(ctx: typer.Context, health: Health = None) -> None:
    """Find what dead processes left, for the workers to do, and hand events to the sinks, until a signal ends it."""
    settings, options = _settings(ctx), options_of(ctx)

    async def body(output: Output) -> None:
        import asyncio

        from p2engine.cli.logs import logged
        from p2engine.probes import serving
        from p2engine.wiring import Part

        part = Part(sweeps=True, feeds=True)
        with logged(settings, debug=options.debug):
            async with serving(settings, part, project_code=not options.no_project_code, health=health) as engine:
                for note in engine.notes:
                    output.note(note)
                log.info("sweeper is ready")
                await asyncio.Event().wait()

    run_alone(ctx, body)


def _settings(ctx: typer.Context) -> "Settings":
    """Those of a process that serves a project. Raises UsageError where it may not."""
    if session_of(ctx).engine is not None:
        raise UsageError(f"{ctx.command.name} is a process of its own", hint="start it in another terminal")
    settings = settings_of(ctx)
    if settings.dispatch == "inline":
        raise UsageError(
            "dispatch is inline: every process does its own work, and there is nothing to do here",
            hint="set dispatch to celery in config/config.json, or P2ENGINE_DISPATCH=celery",
        )
    if options_of(ctx).quiet:
        return settings
    return settings.model_copy(update={"logging": settings.logging.model_copy(update={"console": True})})
