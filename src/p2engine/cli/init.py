"""`init`: a starter project, written around whatever is there already."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from p2engine.cli.session import output_of
from p2engine.errors import NotAvailable, UsageError


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("init")(init)


def init(
    ctx: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to; made if it is not there.")] = ".",
    template: Annotated[str, typer.Option("--template", help="Which starter: chat.", metavar="NAME")] = "chat",
) -> None:
    """Write a starter project: agents, configuration, personas, an example tool. Files that exist are left alone."""
    from p2engine.cli.starter import EXAMPLE_MESSAGE, LATER, TEMPLATES, write

    if template in LATER:
        raise NotAvailable(f"init --template {template}", hint=f"there is {', '.join(TEMPLATES)}")
    if template not in TEMPLATES:
        raise UsageError(f"no template {template[:40]!r}; there is {', '.join(TEMPLATES)}")
    output, project = output_of(ctx), Path(folder)
    if project.exists() and not project.is_dir():
        raise UsageError(f"{folder!r} is a file, not a folder")
    done = list(write(project))
    written = [name for name, is_new in done if is_new]
    left = [name for name, is_new in done if not is_new]
    lines = [f"{'wrote':<5}  {name}" for name in written]
    lines += [f"kept   {name} (it was there already)" for name in left]
    output.document(
        {"project": str(project.absolute()), "template": template, "written": written, "kept": left}, "\n".join(lines)
    )
    there = "" if folder == "." else f" --project {shlex.quote(folder)}"
    output.next(f"p2engine{there} chat with agent_alpha -m {shlex.quote(EXAMPLE_MESSAGE)}")
