"""`rollout export`: the trials of a rollout as CSV or JSON lines, or its report as one page to read."""

import csv
import json
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.output import Output, safe
from p2engine.cli.session import run_with_engine
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.rollouts.report import Report
    from p2engine.wiring import Engine

FORMATS = ("csv", "jsonl", "html")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a text begins that a spreadsheet would compute."""


def register(rollout: typer.Typer) -> None:
    """Add this command to the group `rollout`."""
    rollout.command("export")(export)


def export(
    ctx: typer.Context,
    id: Annotated[  # noqa: A002 -- the argument's name
        str, typer.Argument(metavar="ID", help="The rollout's id, or how it begins.")
    ],
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Write to FILE, not to standard output (`-`).")
    ] = None,
    format: Annotated[  # noqa: A002 -- the option's name
        str | None,
        typer.Option(
            "--format", help="csv or jsonl: a row a trial; html: the report. Else as FILE ends.", metavar="FORMAT"
        ),
    ] = None,
) -> None:
    """Write the trials of a rollout as CSV or JSON lines, or its report as one HTML page."""
    file = None if file == "-" else file
    chosen = format or (Path(file).suffix.lower().lstrip(".") if file else "") or "csv"
    if chosen not in FORMATS:
        raise UsageError(f"no format {chosen[:40]!r}; there is {', '.join(FORMATS)}")

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.rollout_show import found_report

        report = await found_report(engine, id)
        text = _text(report, chosen)
        if file is not None:
            size = _write(Path(file), text)
            document = {"rollout": report.id, "format": chosen, "file": file, "bytes": size}
            output.document(document, f"wrote {size} bytes to {file}")
        elif chosen == "html" and output.is_json:
            output.document({"rollout": report.id, "format": chosen, "content": text})
        else:
            output.out.write(safe(text) if output.out.isatty() else text)

    run_with_engine(ctx, body)


def _text(report: "Report", format: str) -> str:  # noqa: A002 -- the option's name
    match format:
        case "html":
            from p2engine.cli.rollout_html import page

            return page(report)
        case "jsonl":
            from p2engine.rollouts.trial_rows import trial_row

            return "".join(_line(trial_row(row)) for row in report.rows)
        case _:
            return csv_text(report.to_dicts())


def csv_text(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as CSV, with their keys as the first line. A text that a spreadsheet would compute begins with `'`."""
    stream = StringIO(newline="")
    writer: Any = None
    for row in rows:
        if writer is None:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow([_inert(name) for name in row])
        writer.writerow([_inert(value) for value in row.values()])
    return stream.getvalue()


def _inert(value: object) -> object:
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document, default=str).replace("\x7f", "\\u007f") + "\n"


def _write(path: Path, text: str) -> int:
    """All of it under that name, or nothing. Returns its bytes. Raises OSError."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", hint="name the file to write")
    body = text.encode("utf-8", "backslashreplace")
    part = path.with_name(f".{path.name[:40]}.part")
    try:
        part.write_bytes(body)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return len(body)
