"""`conversation export`: a conversation as one file, for people (HTML) or for programs (JSON lines).

The HTML asks nothing of any network and runs nothing: every text of a conversation is escaped data in it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.arguments import ConversationName, conversation_of
from p2engine.cli.output import Output
from p2engine.cli.session import run_with_engine
from p2engine.errors import NotAvailable, UsageError

if TYPE_CHECKING:
    from p2engine.runtime.conversation import Conversation
    from p2engine.wiring import Engine

FORMATS = ("jsonl", "html")
LATER = ("openai", "sharegpt")


def register(app: typer.Typer) -> None:
    """Add this command to the group `conversation`, which must be there."""
    for added in app.registered_groups:
        if added.name == "conversation" and added.typer_instance is not None:
            added.typer_instance.command("export")(export)


def export(
    ctx: typer.Context,
    name: ConversationName,
    format: Annotated[  # noqa: A002 -- the option's name
        str, typer.Option("--format", help="jsonl: every event; html: one page to read.", metavar="FORMAT")
    ] = "jsonl",
    file: Annotated[
        str | None, typer.Option("-o", "--output", help="Write to FILE, not to standard output.", metavar="FILE")
    ] = None,
) -> None:
    """Write a conversation as one file: its events as JSON lines, or a page to read."""
    if format in LATER:
        raise NotAvailable(f"export --format {format}", hint=f"there is {' and '.join(FORMATS)}")
    if format not in FORMATS:
        raise UsageError(f"no format {format[:40]!r}; there is {' and '.join(FORMATS)}")

    async def body(engine: "Engine", output: Output) -> None:
        conversation = await conversation_of(engine, name)
        if format == "html":
            from p2engine.cli.export_html import page

            text = await page(engine, conversation)
            if file is None:
                output.document({"conversation": conversation.name, "format": format, "content": text}, text)
                return
            lines = [text]
        else:
            lines = await _lines(engine, conversation)
            if file is None:
                for line in lines:
                    output.out.write(line)
                return
        size = _write(Path(file), lines)
        document = {"conversation": conversation.name, "format": format, "file": file, "bytes": size}
        output.document(document, f"wrote {size} bytes to {file}")

    run_with_engine(ctx, body)


async def _lines(engine: "Engine", conversation: "Conversation") -> list[str]:
    """Every event of a conversation as a line of JSON in ASCII, oldest first."""
    from p2engine.cli.conversation_view import event_line
    from p2engine.cli.reading import all_events
    from p2engine.domain.records import Query

    query = Query(conversation=conversation.record.id)
    return [_line(event_line(event)) async for event in all_events(engine, query)]


def _line(document: dict[str, Any]) -> str:
    return json.dumps(document, default=str).replace("\x7f", "\\u007f") + "\n"


def _write(path: Path, parts: Iterable[str]) -> int:
    """All of it under that name, or nothing. Returns its bytes. Raises OSError."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", hint="name the file to write")
    part = path.with_name(f".{path.name[:40]}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(parts)
            size = stream.tell()
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return size
