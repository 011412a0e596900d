"""`p2engine▸`: every command, one a line, on one engine that stays open; typed, or from a pipe.

Knows lines and words; what the words do is the commands' affair.
"""

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import typer

from p2engine.cli.options import summaries
from p2engine.cli.output import Output
from p2engine.cli.program import PROGRAM, program
from p2engine.cli.session import (
    INTERRUPTED,
    Interrupted,
    Session,
    obey,
    reloaded,
    run_with_engine,
    session_of,
    status_of,
)
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.cli.prompts import Prompt
    from p2engine.wiring import Engine

PROMPT = "p2engine▸ "
LEAVE = ("exit", "quit")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("shell")(shell)


def shell(ctx: typer.Context) -> None:
    """Type commands at p2engine▸, or pipe them in, one a line."""
    session = session_of(ctx)
    if session.engine is not None:
        raise UsageError("this is the shell already")

    async def body(engine: "Engine", output: Output) -> int:
        return await Shell(engine, output, session).run()

    run_with_engine(ctx, body, work=True)


class Shell:
    """The loop of a shell. The exit status is that of the first line that failed, 0 when a person typed them."""

    def __init__(self, engine: "Engine", output: Output, session: Session) -> None:
        self._engine = engine
        self._output = output
        self._session = session
        output.program = PROGRAM
        self._lines = session.lines_in()
        self._is_interactive = self._lines.is_terminal and output.is_terminal
        self._prompt: Prompt | None = None
        self._last = ""
        self._status = 0

    async def run(self) -> int:
        if self._is_interactive:
            self._greet()
        try:
            while (line := await self._ask()) is not None:
                text = line.strip()
                if text in LEAVE:
                    break
                status = await self._do(text)
                if not self._is_interactive:
                    self._status = self._status or status
        except Interrupted:
            return INTERRUPTED
        return self._status

    def _greet(self) -> None:
        from p2engine import __version__

        project = self._engine.settings.project
        where = f"project {project.name}" if project else "no project here: p2engine init makes one"
        self._output.note(f"P2Engine {__version__} · {where} · help lists the commands, exit leaves")

    async def _ask(self) -> str | None:
        if not self._is_interactive:
            return await self._lines.next(PROMPT)
        if self._prompt is None:
            from p2engine.cli.prompts import Prompt

            self._prompt = Prompt(self._words, self._engine.settings.layout.history)
        while True:
            try:
                return await self._prompt.ask(PROMPT)
            except Interrupted:  # Ctrl-C on an empty line: only Ctrl-D and `exit` leave
                continue

    def _help(self) -> None:
        """Every command in a line."""
        from p2engine.cli.main import command

        rows = [{"command": " ".join(path), "does": said} for path, said in summaries(command())]
        cells = [(row["command"], row["does"]) for row in rows]
        self._output.table("", ("command", "does"), cells, rows)
        self._output.note("help COMMAND explains one; !! runs the last line again; exit or Ctrl-D leaves")

    # A line

    async def _do(self, text: str) -> int:
        """One line. Whatever goes wrong is told, and the shell goes on."""
        if text == "!!":
            if not self._last:
                self._output.note("there is no last line yet")
                return 2
            text = self._last
            self._output.note(text)
        words: list[str] = []
        try:
            words = _split(text)
        except UsageError as error:
            self._output.error(error)
            return status_of(error)
        if not words:
            return 0
        self._last = text
        if text in ("help", "?"):
            self._help()
            return 0
        for line in reloaded(self._engine):
            self._output.note(line)
        return await self._run(words)

    async def _run(self, words: list[str]) -> int:
        import asyncio

        task = asyncio.ensure_future(obey(words, self._session, self._engine, self._output.options))
        try:
            with self._session.interruptible(task) if self._is_interactive else nullcontext():
                await asyncio.wait({task})
        finally:
            task.cancel()  # nothing, where it is done
            await asyncio.wait({task})
            self._output.out.flush()
        if task.cancelled():
            return INTERRUPTED
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, Interrupted):  # at a prompt of the command: it is left, and not the shell
            return INTERRUPTED
        if isinstance(error, BrokenPipeError):  # nobody reads on: no line after this one can say anything either
            raise error
        if self._output.options.debug:
            import traceback

            traceback.print_exception(error)
        self._output.error(error)
        return status_of(error)

    async def _words(self, before: str) -> Sequence[str]:
        from p2engine.cli.completion import words

        return await words(before, self._engine)


def _split(text: str) -> list[str]:
    """The words of a line, as a command line has them. Raises UsageError."""
    try:
        words = shlex.split(text)
    except ValueError:
        hint = "write \\' for an apostrophe, or put the text in double quotes"
        raise UsageError("a quote is not closed", hint=hint) from None
    comment = next((place for place, word in enumerate(words) if word.startswith("#")), len(words))
    words = words[:comment]
    if words and words[0].rstrip("▸>$ ") in (PROGRAM, program()):  # pasted, perhaps with its prompt
        words = words[1:]
    return [*words[1:], "--help"] if words[:1] in (["help"], ["?"]) else words
