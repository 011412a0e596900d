"""How a command runs: it says what it wants with an engine, and whoever holds one gives it that.

A command line alone opens an engine, runs its body and closes it; in the shell the bodies share one engine that is
open already. So a command ends with `run_with_engine` (or `run_alone`), which returns before the body runs.
"""

import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import typer

from p2engine.cli.options import Options, options_of
from p2engine.cli.output import Output
from p2engine.cli.program import PROGRAM, program
from p2engine.errors import P2EngineError

if TYPE_CHECKING:
    import asyncio

    from p2engine.cli.lines import Lines
    from p2engine.settings import Settings
    from p2engine.wiring import Engine

INTERRUPTED = 130
TERMINATED = 143
PATIENCE_S = 0.5  # after which closing says that it takes its time
LEAVING = "letting a tool that has begun end; Ctrl-C leaves at once"

Body = Callable[["Engine", Output], Awaitable[int | None]]
"""What a command does with an engine; returns the exit status, None for 0. It may raise P2EngineError and OSError."""


@dataclass(slots=True)
class Wish:
    """What a command line wants done, once it is read. `words`: the command's name, for the log."""

    options: Options
    output: Output
    words: str
    body: Body | None = None
    alone: Callable[[Output], Awaitable[int | None]] | None = None
    work: bool = False
    notes: bool = False


@dataclass(slots=True)
class Session:
    """What the command lines of one process share. `engine`: the shell's, None where each line opens its own."""

    options: Options = field(default_factory=Options)
    engine: "Engine | None" = None
    lines: "Lines | None" = None
    wish: Wish | None = None
    read: "Callable[[Sequence[str], Session], int] | None" = None  # p2engine.cli.main.read
    said: set[str] = field(default_factory=set)  # what a person is told only once
    running: "list[asyncio.Future[int]]" = field(default_factory=list)  # what Ctrl-C ends: the last
    ended_by: int = 0  # the status of the last signal, 0 where there was none

    def lines_in(self) -> "Lines":
        """Standard input, shared by all that read it."""
        if self.lines is None:
            from p2engine.cli.lines import Lines

            self.lines = Lines()
        return self.lines

    @contextmanager
    def interruptible(self, task: "asyncio.Future[int]") -> Iterator[None]:
        """While inside, Ctrl-C cancels this task, and nothing around it."""
        self.running.append(task)
        self.ended_by = 0
        try:
            yield
        finally:
            self.running.remove(task)
            if self.running and self.ended_by == INTERRUPTED:  # what it was for is over, and more goes on around it
                self.ended_by = 0

    def end(self, status: int) -> None:
        """A signal came: Ctrl-C ends what runs innermost, SIGTERM everything."""
        if self.ended_by:  # asked twice: what was acknowledged is on disk, so nothing is lost by leaving now
            leave_now(status)
        self.ended_by = status
        self.running[-1 if status == INTERRUPTED else 0].cancel()

    def once(self, key: str) -> bool:
        """True the first time it is asked for `key`."""
        if key in self.said:
            return False
        self.said.add(key)
        return True


class Interrupted(Exception):
    """Ctrl-C at a prompt, on an empty line."""


def session_of(ctx: typer.Context) -> Session:
    """The session a command line belongs to."""
    session = ctx.find_root().obj
    assert isinstance(session, Session), "p2engine.cli.main runs commands"
    return session


def output_of(ctx: typer.Context) -> Output:
    """Where this command's words go."""
    # Within the shell a line begins with the command itself, or with `p2engine`.
    return Output(options_of(ctx), program=program() if session_of(ctx).engine is None else PROGRAM)


def settings_of(ctx: typer.Context) -> "Settings":
    """The settings that a command line means, for commands without an engine. Raises ConfigError, UsageError."""
    return load_settings(options_of(ctx))


def load_settings(options: Options) -> "Settings":
    """The settings that these options mean."""
    from p2engine.settings import Settings

    return Settings.load(project=options.project, home=options.home, config=options.config)


def run_with_engine(ctx: typer.Context, body: Body, *, work: bool = False, notes: bool = False) -> None:
    """The last thing a command does: have `body(engine, output)` run, and exit with the status it returns (None: 0).

    work: the engine performs what is owed (chat, shell); without it the engine only reads and writes. notes: what is
    wrong with the project is said, as it is before work.
    Errors that the body raises become one or two lines and the exit status: 2 for SetupError and NameTaken, else 1.
    """
    session_of(ctx).wish = Wish(options_of(ctx), output_of(ctx), _words(ctx), body=body, work=work, notes=notes)


def run_alone(ctx: typer.Context, body: Callable[[Output], Awaitable[int | None]]) -> None:
    """As `run_with_engine`, for a command that needs a loop and no engine."""
    session_of(ctx).wish = Wish(options_of(ctx), output_of(ctx), _words(ctx), alone=body)


def _words(ctx: typer.Context) -> str:
    return " ".join(ctx.command_path.split()[1:])


async def grant(wish: Wish, session: Session) -> int:
    """Run what a command line wants, on the session's engine or on one of its own."""
    if wish.alone is not None:
        return await wish.alone(wish.output) or 0
    if session.engine is not None and wish.options.is_same_engine(session.options):
        return await _run_body(wish, session.engine)
    async with open_engine(wish) as engine:
        return await _run_body(wish, engine)


@asynccontextmanager
async def open_engine(wish: Wish) -> AsyncIterator["Engine"]:
    """The engine that a command line means, and its log. Raises ConfigError, UsageError, StoreError."""
    import asyncio

    from p2engine.cli.logs import logged
    from p2engine.wiring import Engine

    settings = load_settings(wish.options)
    with logged(settings, debug=wish.options.debug), ExitStack() as closed:
        async with Engine.open(
            settings=settings, work=wish.work, project_code=not wish.options.no_project_code
        ) as engine:
            if wish.work or wish.notes:
                for note in engine.notes:
                    wish.output.note(note)
            try:
                yield engine
            except asyncio.CancelledError:
                let_go(engine)
                raise
            finally:
                leaving = asyncio.get_running_loop().call_later(PATIENCE_S, wish.output.note, LEAVING)
                closed.callback(leaving.cancel)


async def _run_body(wish: Wish, engine: "Engine") -> int:
    import logging

    assert wish.body is not None
    log = logging.getLogger("p2engine.cli")
    log.info("command %s", wish.words)
    try:
        return await wish.body(engine, wish.output) or 0
    except EXPECTED as error:
        log.warning("command %s: %s", wish.words, error)
        raise
    except Exception:
        log.exception("command %s failed", wish.words)
        raise


async def obey(words: Sequence[str], session: Session, engine: "Engine", options: Options) -> int:
    """Run another command line on an engine that is open, under its options. Raises what the command raises."""
    assert session.read is not None
    inner = replace(session, engine=engine, options=options)
    status = session.read(words, inner)
    return await grant(inner.wish, inner) if inner.wish is not None else status


def reloaded(engine: "Engine") -> Iterator[str]:
    """Take in what changed on disk, and say what did, in lines."""
    for line in engine.refresh():
        # A file that was taken over is a bare name; a problem says where it lies and what it is.
        kept = "; the last good version, if any, stays in use" if ": " in line else ""
        yield f"changed on disk: {line}{kept}"


def let_go(engine: "Engine") -> None:
    """Stop the attempts that may be stopped, so that closing need not wait for them. They stay owed."""
    for attempt in tuple(engine.world.running.values()):
        attempt.cancel()


def run(wish: Wish, session: Session) -> int:
    """Grant a wish in a loop of its own. Ctrl-C and SIGTERM cancel it; asked twice, the process ends at once."""
    import asyncio

    async def main() -> int:
        task = asyncio.ensure_future(grant(wish, session))
        with session.interruptible(task), _signals(session):
            try:
                return await task
            except asyncio.CancelledError:
                if not session.ended_by:
                    raise
                return session.ended_by

    return asyncio.run(main())


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM go to the session."""
    import asyncio

    loop = asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():  # signals belong to whoever has that one
        yield
        return
    for number, status in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
        loop.add_signal_handler(number, session.end, status)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)


def leave_now(status: int) -> None:
    """End the process without waiting for anything. Every commit is on disk already."""
    import os

    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def status_of(error: BaseException) -> int:
    """The exit status that an error means: 2 where the user must change something, else 1."""
    from p2engine.errors import NameTaken, SetupError

    return 2 if isinstance(error, SetupError | NameTaken) else 1


EXPECTED = (P2EngineError, OSError)
"""Errors that are told in a line. Any other is a fault of ours."""
