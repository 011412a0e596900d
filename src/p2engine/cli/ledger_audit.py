"""The commands that look through the ledger and show it to others: verify, proof, checkpoint, export, debug."""

import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.books import a_row, all_records, book_names, off_words, run_with_ledger
from p2engine.cli.output import Output, as_json, iso
from p2engine.cli.session import run_alone, run_with_engine, settings_of
from p2engine.domain.ids import is_beginning
from p2engine.errors import P2EngineError, UsageError

if TYPE_CHECKING:
    from p2engine.cli.books import Open
    from p2engine.domain.money import Checkpoint, Record
    from p2engine.ports import AuditableLedger, Ledger
    from p2engine.settings import Settings
    from p2engine.wiring import Engine

FORMATS = ("jsonl", "csv")
COLUMNS = (
    *("seq", "id", "at", "type", "book", "payer", "payee", "amount", "instrument"),
    *("status", "reason", "why", "left", "owner", "hold", "cause"),
)
BOOKS_SHOWN = 5
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would work out rather than show."""


def register(ledger: typer.Typer) -> None:
    """Add the commands of this module to the group `ledger`."""
    for command in (verify, proof, checkpoint, export, debug):
        ledger.command(command.__name__)(command)


def verify(
    ctx: typer.Context,
    proof: Annotated[
        str | None,
        typer.Option("--proof", metavar="FILE", help="Check this proof instead; it needs the public key alone."),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="FILE", help="Hold the ledger to this one too, which was published."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="KEY", help="The public key of the proof, in hexadecimal or in a file; else this ledger's."
        ),
    ] = None,
) -> None:
    """Look through the whole ledger: exit 1 and name the first record that is not as it was written."""
    settings = settings_of(ctx)
    if proof is not None and checkpoint is not None:
        raise UsageError("verify takes one of --proof and --checkpoint")
    if key is not None and proof is None:
        raise UsageError("--key is for --proof")

    async def body(output: Output) -> int:
        if proof is not None:
            return _check_proof(settings, Path(proof), key, output)
        published = None if checkpoint is None else _checkpoint_in(Path(checkpoint))
        if not settings.ledger.enabled:
            raise UsageError(off_words(settings), hint="set LEDGER_ENABLED=true to look at it")
        from p2engine.wiring.keeping import ledger_by_itself

        async with ledger_by_itself(settings) as door:
            found = await door.verify(published)
        document = {
            "sound": found.is_sound,
            "records": found.records,
            "accounts": found.accounts,
            "sealed": found.sealed,
            "noted": found.noted,
            "findings": [{"what": one.what, "record": one.seq, "text": one.text} for one in found.findings],
        }
        lines = [one.text for one in found.findings]
        if found.is_sound:
            lines = [f"sound: {found.records} records, {found.accounts} accounts"]
            if published is not None:
                lines.append(f"the first {published.count} records are those of the published checkpoint")
        if not found.sealed:
            lines.append("the key is not here: seals and head were not checked")
        if not found.noted:
            lines.append("no head lies beside the key: a tail that was cut, or an older copy, could not be told")
        output.document(document, "\n".join(lines))
        return 0 if found.is_sound else 1

    run_alone(ctx, body)


def _checkpoint_in(file: Path) -> "Checkpoint":
    """Raises UsageError, OSError."""
    import msgspec

    from p2engine.domain.money import Checkpoint

    try:
        return msgspec.json.decode(file.read_bytes(), type=Checkpoint)
    except msgspec.DecodeError as error:
        hint = "p2engine ledger checkpoint --print > FILE"
        raise UsageError(f"{str(file)!r} is no checkpoint: {error}", hint=hint) from None


def _check_proof(settings: "Settings", file: Path, key: str | None, output: Output) -> int:
    import msgspec

    from p2engine.domain.money import Proof
    from p2engine.ledgers.auditing import check_proof

    public = _public_key(settings, key)
    try:
        given = msgspec.json.decode(file.read_bytes(), type=Proof)
    except msgspec.DecodeError as error:
        raise UsageError(f"{str(file)!r} is no proof: {error}", hint="p2engine ledger proof ID > FILE") from None
    try:
        record = check_proof(given, public)
    except UsageError as error:
        output.document({"proved": False, "why": str(error)}, str(error))
        return 1
    document = {"proved": True, "record": _line(record), "records": given.checkpoint.count}
    document["signed_at"] = iso(given.checkpoint.at)
    output.document(
        document,
        f"proved: {_proved(record)}\nit is record {record.seq} of {given.checkpoint.count}, signed with {public}",
    )
    return 0


def _proved(record: "Record") -> str:
    """What a proof shows, in words. A refusal moved no money, and does not read as if it had."""
    where = f"{record.type} {record.id} at {iso(record.at)}"
    if record.type == "refusal":
        return f"this payment was refused: {record.why}\nno money moved: {where}"
    return f"{record.payer} → {record.payee} {record.money.shown}, {where}"


def _public_key(settings: "Settings", key: str | None) -> str:
    """As it was given, or in the file of that name. Raises UsageError."""
    text = (key or str(settings.layout.keys / "ledger.pub")).strip()
    if not _is_key(text):
        try:
            text = Path(text).read_text("ascii").strip()
        except (OSError, ValueError):
            raise UsageError("there is no public key to check by", hint="--key KEY, in hexadecimal or a file") from None
    if not _is_key(text):
        raise UsageError("a public key is 64 hexadecimal digits")
    return text


def _is_key(text: str) -> bool:
    return len(text) == 64 and all(letter in "0123456789abcdef" for letter in text)


def proof(
    ctx: typer.Context,
    order: Annotated[str, typer.Argument(metavar="ID", help="The id of a transfer, or how alone it begins.")],
) -> None:
    """Print the proof that one transfer stands in the ledger. `verify --proof` checks it, by the public key alone.

    It shows id, type, time, book, payer, payee, amount, reason, and of a refusal why: not what the payer has left, not
    the cause, not the limits it counts for. Nor anything of other records, but how many there are.
    """

    async def body(books: "Open", output: Output) -> None:
        import msgspec

        found = await books.ledger.proof(await whole_id(books.ledger, order))
        document = msgspec.to_builtins(found)
        output.document(document, as_json(document, indent=True))

    run_with_ledger(ctx, body)


async def whole_id(ledger: "Ledger", prefix: str) -> str:
    """The id of the one record that begins so. Raises UsageError."""
    if await ledger.receipt(prefix) is not None:
        return prefix
    found = [record.id async for record in all_records(ledger) if is_beginning(prefix, record.id)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(f"nothing is called {prefix[:80]!r}", hint="p2engine ledger audit lists what there is")
    more = ", …" if len(found) > 10 else ""
    raise UsageError(f"ambiguous reference {prefix!r}: {', '.join(found[:10])}{more}")


def checkpoint(
    ctx: typer.Context,
    print_: Annotated[bool, typer.Option("--print", help="Print it whole, to be published.")] = False,
) -> None:
    """Sign what is written by now. Whoever has the checkpoint can hold you to it."""

    async def body(books: "Open", output: Output) -> None:
        import msgspec

        signed = await books.ledger.checkpoint()
        document = msgspec.to_builtins(signed)
        words = f"signed {signed.count} records at {iso(signed.at)}, root {signed.root}"
        output.document(document, as_json(document, indent=True) if print_ else words)
        if not print_:
            output.next("p2engine ledger checkpoint --print > FILE")

    run_with_ledger(ctx, body)


def export(
    ctx: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Where to; else standard output.")] = None,
    format: Annotated[  # noqa: A002 -- the option's name
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="jsonl: a line of JSON each; csv: for spreadsheets, where a cell that they would work out gets a '.",
        ),
    ] = "jsonl",
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
) -> None:
    """Write all records of all books, oldest first."""
    if format not in FORMATS:
        raise UsageError(f"no format {format[:40]!r}; there is {' and '.join(FORMATS)}")

    async def body(books: "Open", output: Output) -> None:
        lines = _as_csv(books.ledger) if format == "csv" else _as_lines(books.ledger)
        if file is None:
            async for line in lines:
                output.out.write(line)
            return
        count = await _write(Path(file), lines, force=force)
        count -= format == "csv"  # its head
        document = {"file": file, "format": format, "records": count}
        output.document(document, f"wrote {count} records to {file}")

    run_with_ledger(ctx, body)


async def _as_lines(ledger: "Ledger") -> AsyncIterator[str]:
    async for record in all_records(ledger):
        yield json.dumps(_line(record)).replace("\x7f", "\\u007f") + "\n"


async def _as_csv(ledger: "Ledger") -> AsyncIterator[str]:
    yield _csv_line(COLUMNS)
    async for record in all_records(ledger):
        yield _csv_line(tuple(_cell(name, value) for name, value in _line(record).items()))


def _csv_line(cells: tuple[str, ...]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cell(name: str, value: object) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) and name != "left" else text


def _line(record: "Record") -> dict[str, Any]:
    left = record.payer_left
    more = {"left": None if left is None else str(left), "owner": record.owner or None, "hold": record.hold or None}
    row = a_row(record) | {"seq": record.seq, **more}
    return {name: row[name] for name in COLUMNS}


async def _write(path: Path, lines: AsyncIterator[str], *, force: bool) -> int:
    """All of it under that name, or nothing. Returns how many lines. Raises UsageError, OSError."""
    _check_free(path, force=force)
    part, count = path.with_name(f".{path.name[:40]}.part"), 0
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            async for line in lines:
                stream.write(line)
                count += 1
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return count


def _check_free(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder", hint="name the file to write")
    if path.exists() and not force:
        raise UsageError(f"{str(path)!r} is there already", hint="--force overwrites it")


def debug(ctx: typer.Context) -> None:
    """Show where the ledger is and how it is: key, newest record, checkpoint, books. Exit 1 where it cannot be used."""

    async def body(engine: "Engine", output: Output) -> int:
        document = await _state(engine)
        words = {name: _word(value) for name, value in document.items()}
        width = max(map(len, words))
        output.document(document, "\n".join(f"{name:<{width}}  {value}" for name, value in words.items()))
        output.next("p2engine ledger verify")
        return 0 if document["problem"] is None else 1

    run_with_engine(ctx, body)


async def _state(engine: "Engine") -> dict[str, Any]:
    settings = engine.settings
    document: dict[str, Any] = {
        "enabled": settings.ledger.enabled,
        "driver": "redis" if settings.store == "redis" else settings.ledger.driver,
        "place": str(settings.layout.ledger if settings.store == "sqlite" else settings.redis_address),
        "public_key": None,
        "records": None,
        "newest": None,
        "checkpoint": None,
        "books": [],
        "problem": None if engine.world.ledger else off_words(settings),
    }
    if engine.world.ledger is None or not engine.world.has_ledger():
        return document | ({"problem": document["problem"]} if engine.world.ledger is None else {"records": 0})
    try:
        return document | await _seen(await engine.world.ledger())
    except P2EngineError as error:
        return document | {"problem": str(error)}


async def _seen(ledger: "AuditableLedger") -> dict[str, Any]:
    from p2engine.domain.money import RecordQuery

    newest = await ledger.records(RecordQuery(book=None, limit=1))
    signed = await ledger.checkpoint()
    return {
        "public_key": ledger.public_key,
        "records": newest[-1].seq if newest else 0,
        "newest": a_row(newest[-1]) if newest else None,
        "checkpoint": {"records": signed.count, "at": iso(signed.at), "root": signed.root},
        "books": await book_names(ledger),
    }


def _word(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {one}" for name, one in value.items() if one not in (None, ""))
        case list():
            return _names(value)
        case _:
            return str(value)


def _names(names: list[str]) -> str:
    """All of them where they are few; else how many, and the first."""
    if len(names) <= BOOKS_SHOWN:
        return ", ".join(names) or "none"
    return f"{len(names)}: {', '.join(names[:BOOKS_SHOWN])}, …"
