"""How a ledger command runs: with the ledger open, its wallets there, and the log in step with it.

Knows when wallets are opened; what a command does with them is the command's.
"""

import shlex
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from p2engine.cli.output import Output, iso
from p2engine.cli.session import run_with_engine
from p2engine.errors import StoreError, UsageError

if TYPE_CHECKING:
    from p2engine.domain.money import Record, RecordType
    from p2engine.ports import AuditableLedger, Ledger
    from p2engine.settings import Settings
    from p2engine.wiring import Engine

MAIN = "main"
HINT_RECORDS = 1000  # the newest payments that are looked at for another book


class Open(NamedTuple):
    """A ledger, and the engine whose agents use it."""

    engine: "Engine"
    ledger: "AuditableLedger"


Body = Callable[[Open, Output], Awaitable[int | None]]


def run_with_ledger(ctx: typer.Context, body: Body, *, opens: bool = True) -> None:
    """As `run_with_engine`. opens: the missing wallets of agents.yml first, as any command that reads them does."""

    async def with_engine(engine: "Engine", output: Output) -> int | None:
        books = Open(engine, await ledger_of(engine))
        told: set[str] = set()  # a complaint is heard once
        if opens:
            await _opened_if_it_can_be(books, output, told)
        await _in_step(engine, output, told)
        try:
            return await body(books, output)
        finally:
            await _in_step(engine, output, told)

    run_with_engine(ctx, with_engine)


async def ledger_of(engine: "Engine") -> "AuditableLedger":
    """Raises UsageError where it is off."""
    if engine.world.ledger is None:
        hint = "set LEDGER_ENABLED=true, or ledger.enabled in config/config.json"
        raise UsageError(off_words(engine.settings), hint=hint)
    return await engine.world.ledger()


def off_words(settings: "Settings") -> str:
    """That the ledger is off, and who says so."""
    return f"the ledger is off ({settings.sources.get('ledger.enabled') or 'ledger.enabled'})"


async def all_records(ledger: "Ledger", types: "tuple[RecordType, ...]" = ()) -> "AsyncIterator[Record]":
    """Those of all books, oldest first. types: only these."""
    from p2engine.domain.money import RecordQuery
    from p2engine.limits import RECORDS_MAX

    after = 0
    while True:
        query = RecordQuery(book=None, types=types, after=after, limit=RECORDS_MAX, newest=False)
        records = await ledger.records(query)
        for record in records:
            yield record
        if len(records) < RECORDS_MAX:
            return
        after = records[-1].seq


async def book_names(ledger: "Ledger") -> list[str]:
    """All books in which a wallet was opened, the main one first. Costs a look at every opening."""
    names = {record.book async for record in all_records(ledger, ("open",))}
    return sorted(names, key=lambda name: (name != MAIN, name))


async def check_book(ledger: "Ledger", book: str) -> None:
    """Raises UsageError, with the nearest one, for a book that there is not."""
    from p2engine.documents import did_you_mean
    from p2engine.domain.money import BookId

    if book == MAIN or await ledger.accounts(book=BookId(book)):
        return
    raise UsageError(f"no book {book[:80]!r}{did_you_mean(book, await book_names(ledger))}")


async def hint_at_other_books(ledger: "Ledger", book: str, output: Output) -> None:
    """Say beside the main book that money moved in another one too, by its name. Looks at the newest payments only."""
    from p2engine.domain.money import RecordQuery

    if book != MAIN or output.is_json or output.is_quiet:
        return
    paid = await ledger.records(RecordQuery(book=None, types=("transfer",), limit=HINT_RECORDS))
    others = {record.book: None for record in reversed(paid) if record.book != MAIN}
    if others:
        where = "another book too" if len(others) == 1 else "other books too, last"
        output.note(f"money moved in {where}: --book {shlex.quote(next(iter(others)))}")


async def _in_step(engine: "Engine", output: Output, told: set[str]) -> None:
    """What was paid is paid, whether or not the log can tell it by now: a later sweep will."""
    try:
        await engine.bookkeeper.catch_up()
    except StoreError as error:
        if str(error) not in told:
            told.add(str(error))
            output.note(f"the log does not have it yet: {error}")


async def _opened_if_it_can_be(books: Open, output: Output, told: set[str]) -> None:
    """A ledger whose key is not here is looked at as it is; what would write refuses by itself."""
    from p2engine.ledgers.keys import KeyMissing

    try:
        await opened(books)
    except KeyMissing as missing:
        told.add(str(missing))
        output.note(f"nobody can pay, only look: {missing}")


async def opened(books: Open, balance: str | None = None, agent: str | None = None) -> tuple[list[str], list[str]]:
    """Open the wallets that are missing: the names that were opened, and those that were open.

    Raises UsageError for an `agent` that is to have none.
    """
    from p2engine.wiring.wallets import openings

    wanted = openings(books.engine.roster, books.engine.settings, balance=balance, agent=agent)
    if agent and not wanted:
        hint = f"take that out, then `p2engine ledger init --agent {agent}` opens it"
        raise UsageError(f"{agent!r} is to have no wallet: agents.yml says `wallet: false`", hint=hint)
    new = await books.ledger.open_wallets(*wanted)
    names = [one.name for one, is_new in zip(wanted, new, strict=True) if is_new]
    return [*names], [one.name for one in wanted if one.name not in names]


def a_row(record: "Record") -> dict[str, Any]:
    """A record as programs see it."""
    return {
        "id": record.id,
        "book": record.book,
        "at": iso(record.at),
        "type": record.type,
        "payer": record.payer,
        "payee": record.payee,
        "amount": record.amount,
        "instrument": record.instrument,
        "reason": record.reason,
        "why": record.why or None,
        "status": record.status,
        "cause": record.cause,
    }
