"""What a person or a program gets to see: text, tables, JSON documents and JSON lines, on the right stream.

Knows streams and escapes. Whatever comes from models, tools, files or users goes through `safe`: it is shown, never
interpreted, neither by the terminal nor as markup.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from p2engine.cli.options import Options
from p2engine.cli.program import PROGRAM, runnable
from p2engine.errors import ConfigError, P2EngineError

DIM = "\x1b[2m"
BOLD = "\x1b[1m"
RED = "\x1b[31m"
RESET = "\x1b[0m"
SHORT = 24  # characters: a column of a table that is no wider is never folded
FOLDED = 16  # characters: the least width that a folded column is worth

# Characters that move the cursor, start a sequence, or turn the text around. Tab and newline stay as they are.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}
_TURNS = {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
_HALVES = {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}  # lone surrogates: no stream can encode them
_SHOWN = {**_CONTROLS, **_TURNS, **_HALVES}
_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_TURNS)}  # JSON itself escapes those below


def safe(text: object) -> str:
    """Text as it may be printed: control characters and escape sequences are written out."""
    return str(text).translate(_SHOWN)


def one_line(text: object, width: int = 200) -> str:
    """`safe` on one line, cut to `width` characters with `…`."""
    line = " ".join(safe(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def as_json(obj: Any, *, indent: bool = False) -> str:
    """A document as JSON on one line, or indented. What would steer a terminal is escaped."""
    import msgspec

    body = msgspec.json.encode(obj, enc_hook=str)
    return (msgspec.json.format(body, indent=2) if indent else body).decode().translate(_IN_JSON)


def iso(at: float | None) -> str | None:
    """A recorded time (Unix seconds) as ISO 8601 in UTC with milliseconds."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Output:
    """Where a command's words go: results to standard output, everything else to standard error.

    One of the two texts of a result is printed: the one for people, or with `--json` the one for programs.
    program: what the commands in hints begin with.
    """

    def __init__(
        self, options: Options, out: TextIO | None = None, err: TextIO | None = None, *, program: str = PROGRAM
    ) -> None:
        self.options = options
        self.program = program
        self._out = out
        self._err = err
        self.is_json = options.json
        self.is_quiet = options.quiet
        self._is_plain: bool | None = True if options.no_color else None

    @property
    def out(self) -> TextIO:
        """Standard output as it is now: prompts may put something in front of it."""
        return self._out or sys.stdout

    @property
    def err(self) -> TextIO:
        return self._err or sys.stderr

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads the results as they come."""
        return self.out.isatty() and not self.is_json

    @property
    def width(self) -> int:
        """Characters on a line of the results: of the terminal, else as COLUMNS says, else 80."""
        from rich.console import Console

        return Console(file=self.out).width

    def safe(self, text: object) -> str:
        """Text of others as it may be printed."""
        return safe(text)

    # Results

    def document(self, obj: Any, text: str | None = None) -> None:
        """The one result of a command: `obj` as a JSON document, or `text` (else the fields of `obj`) for people."""
        if self.is_json:
            self._print(as_json(obj, indent=True))
        else:
            self._print(safe(text) if text is not None else _fields(obj))

    def line(self, text: str, obj: Any = None) -> None:
        """One line of a stream: `text` for people; with --json `obj` as a JSON line, and nothing where it is None."""
        if not self.is_json:
            self._print(safe(text))
        elif obj is not None:
            self._print(as_json(obj))
        self.out.flush()

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        json_rows: Sequence[Any] | None = None,
    ) -> None:
        """A table for people; with --json the list `json_rows` (else the rows by their columns) as one document."""
        cells = [[("–" if cell is None else safe(cell)) for cell in row] for row in rows]
        if self.is_json:
            self.document(
                json_rows if json_rows is not None else [dict(zip(columns, row, strict=True)) for row in cells]
            )
        elif self.is_terminal:
            self._rich_table(title, columns, cells)
        else:
            self._print(_aligned(columns, cells))

    # Everything else

    def note(self, text: object) -> None:
        """Something to know beside the result, on standard error; not with --quiet."""
        if not self.is_quiet:
            self.aside(safe(text))

    def next(self, command: str) -> None:
        """The next useful command, as a dim last line on a terminal."""
        if self.is_terminal and self.err.isatty() and not self.is_quiet:
            self.aside(f"next: {safe(runnable(command, self.program))}")

    def aside(self, text: str) -> None:
        """A line on standard error that is safe already, dim on a terminal."""
        print(self.style(text, DIM, self.err), file=self.err, flush=True)

    def error(self, error: BaseException) -> None:
        """Say what went wrong: one or two lines for people, or a JSON document on standard output."""
        fault = fault_of(error)
        if self.is_json:
            self.document({"error": fault})
            return
        where = ""
        if fault["file"]:
            where = f"{fault['file']}:{fault['line']}: " if fault["line"] else f"{fault['file']}: "
        label = self.style("error:", RED, self.err)
        lines = [f"{label} {safe(where + fault['message'])}"]
        if fault["hint"]:
            lines.append(self.style(f"  {safe(runnable(fault['hint'], self.program))}", DIM, self.err))
        print("\n".join(lines), file=self.err, flush=True)

    def style(self, text: str, style: str, stream: TextIO) -> str:
        """`text` in a style where the stream is a terminal and colour is wanted."""
        if not text or not stream.isatty():
            return text
        if self._is_plain is None:
            from rich.console import Console  # it knows NO_COLOR and dumb terminals

            console = Console(file=stream)
            self._is_plain = console.no_color or console.color_system is None
        return text if self._is_plain else f"{style}{text}{RESET}"

    def _print(self, text: str) -> None:
        print(text, file=self.out)

    def _rich_table(self, title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        colours: Literal["auto"] | None = None if self.options.no_color else "auto"
        console = Console(file=self.out, highlight=False, markup=False, emoji=False, color_system=colours)
        is_long = _long_columns(columns, cells, console.width)
        if is_long is None:
            self._print("\n".join(([safe(title)] if title else []) + [_aligned(columns, cells)]))
            return
        table = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", padding=(0, 1))
        for column, folds in zip(columns, is_long, strict=True):
            table.add_column(Text(column), no_wrap=not folds, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)


def fault_of(error: BaseException) -> dict[str, Any]:
    """An error as programs see it: `{code, message, hint, file, line}`; what does not apply is null."""
    fault: dict[str, Any] = {"code": "internal", "message": "", "hint": None, "file": None, "line": None}
    match error:
        case ConfigError():
            fault |= {"file": error.file, "line": error.line}
            fault |= {"code": error.code, "message": error.message, "hint": error.hint or None}
        case P2EngineError():
            fault |= {"code": error.code, "message": error.message, "hint": error.hint or None}
        case OSError():
            fault |= {"code": "os", "message": error.strerror or str(error), "file": _name(error)}
        case _:
            fault |= {"message": f"{type(error).__name__}: {error}", "hint": "a fault of p2engine; --debug shows where"}
    return fault


def _name(error: OSError) -> str | None:
    name = error.filename
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name) if name is not None else None


def _fields(obj: Any) -> str:
    """The fields of a result, one a line."""
    if isinstance(obj, Mapping):
        width = max((len(str(key)) for key in obj), default=0)
        return "\n".join(f"{safe(key):<{width}}  {'–' if value is None else safe(value)}" for key, value in obj.items())
    if isinstance(obj, list | tuple):
        return "\n".join(safe(each) for each in obj)
    return safe(obj)


def _long_columns(columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> list[bool] | None:
    """Which columns of a table fold on a terminal of that width, so that names, ids and times stay whole and can be
    copied; None where it is too narrow for any folding: the lines are printed as they are then, and nothing is cut.
    """
    from rich.cells import cell_len

    widths = [max(map(cell_len, (name, *(row[place] for row in cells)))) for place, name in enumerate(columns)]
    room = width - 2 - 3 * len(columns)
    if sum(widths) <= room:
        return [False] * len(columns)
    is_long = [wide > SHORT for wide in widths]
    left = room - sum(wide for wide, folds in zip(widths, is_long, strict=True) if not folds)
    return is_long if any(is_long) and left >= FOLDED * sum(is_long) else None


def _aligned(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table for a pipe: columns aligned by blanks, nothing cut, one line a row."""
    lines = [list(columns), *([" ".join(cell.split()) for cell in row] for row in cells)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
