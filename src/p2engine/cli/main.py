"""The command line: one app of all commands, and what becomes of errors, signals and a closed pipe.

Knows every command module and no command's work. Runs before `--help`, so it imports nothing heavy.
"""

import os
import sys
from collections.abc import Sequence
from functools import cache
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Annotated, TextIO

import typer

from p2engine.cli import (
    agent,
    artifact,
    chat,
    config,
    conversation,
    doctor,
    export,
    fsm,
    init,
    ledger,
    models,
    rollout,
    shell,
    worker,
)
from p2engine.cli import eval as evals
from p2engine.cli.options import AnyCommand, Options, group, share
from p2engine.cli.output import Output
from p2engine.cli.program import PROGRAM as PROGRAM
from p2engine.cli.program import program
from p2engine.cli.session import EXPECTED, INTERRUPTED, Session, output_of, status_of
from p2engine.cli.session import run as run_wish
from p2engine.errors import P2EngineError, UsageError

COMMANDS = (
    chat,
    shell,
    agent,
    conversation,
    export,
    artifact,
    config,
    ledger,
    evals,
    rollout,
    fsm,
    worker,
    init,
    doctor,
    models,
)

app = group("Build, run, evaluate and improve multi-agent LLM systems.")


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        from p2engine import __version__

        output_of(ctx).document({"version": __version__}, f"{PROGRAM} {__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        raise UsageError("missing command", hint=f"{PROGRAM} --help lists what there is")


for _module in COMMANDS:
    _module.register(app)


@cache
def command() -> AnyCommand:
    """Every command as one tree, with the global options on each."""
    root = typer.main.get_command(app)
    return share(root)  # type: ignore[arg-type]


def read(arguments: Sequence[str], session: Session) -> int:
    """Read one command line. Afterwards `session.wish` is what it wants done; the status counts where it is None.

    Raises P2EngineError for whatever is wrong with the line.
    """
    session.wish = None
    try:
        done = command().main(list(arguments), prog_name=PROGRAM, standalone_mode=False, obj=session)
    except typer.Abort:
        return INTERRUPTED
    except typer.TyperException as error:
        raise _as_ours(error) from error
    return done if isinstance(done, int) else 0


def _as_ours(error: typer.TyperException) -> P2EngineError:
    """A line that typer could not read."""
    ctx = getattr(error, "ctx", None)
    hint = f"{ctx.command_path} --help" if ctx else ""
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def execute(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status. Errors are told in one or two lines."""
    session = Session(read=read)
    options = _options_in(arguments)
    try:
        status = read(arguments, session)
        if session.wish is not None:
            options = session.wish.options
            status = run_wish(session.wish, session)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except EXPECTED as error:
        _check_output()
        if not isinstance(error, BrokenPipeError):
            if options.debug:
                _show_traceback(error)
            Output(options, program=program()).error(error)
        return status_of(error)
    return status


def run() -> None:
    """The program `p2engine`."""
    # What was typed is UTF-8, whatever the locale says; bytes that are not are shown as such.
    arguments = [os.fsencode(word).decode("utf-8", "replace") for word in sys.argv[1:]]
    sys.excepthook = _Unforeseen(_options_in(arguments))
    sys.stdout, sys.stderr = _usable(sys.stdout), _usable(sys.stderr)
    sys.exit(execute(arguments))


def _usable(stream: TextIO | None) -> TextIO:
    """A stream that takes any text: one that was closed takes it to nowhere."""
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return stream


class _Unforeseen:
    """What happens to a fault of ours: a line for people, or for programs; a traceback with --debug."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if self._options.debug:
            sys.__excepthook__(kind, error, trace)
        Output(self._options, program=program()).error(error)


def _options_in(arguments: Sequence[str]) -> Options:
    """How errors are to be shown, for a line that may not be readable at all."""
    return Options(json="--json" in arguments, debug="--debug" in arguments, no_color="--no-color" in arguments)


def _show_traceback(error: BaseException) -> None:
    import traceback

    traceback.print_exception(error)


def _check_output() -> None:
    """Where standard output cannot be written (its reader has left, the disk is full), let nobody try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
