"""How a ledger command runs: with the ledger open, its wallets there, and the log in step with it.

Knows when wallets are opened; what a command does with them is the command's.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from p2engine.cli.output import Output, iso
from p2engine.cli.session import run_with_engine
from p2engine.errors import StoreError, UsageError

if TYPE_CHECKING:
    from p2engine.domain.money import Record
    from p2engine.ports import AuditableLedger
    from p2engine.wiring import Engine


class Open(NamedTuple):
    """A ledger, and the engine whose agents use it."""

    engine: "Engine"
    ledger: "AuditableLedger"


Body = Callable[[Open, Output], Awaitable[int | None]]


def run_with_ledger(ctx: typer.Context, body: Body, *, opens: bool = True) -> None:
    """As `run_with_engine`. opens: the missing wallets of agents.yml first, as any command that reads them does."""

    async def with_engine(engine: "Engine", output: Output) -> int | None:
        books = Open(engine, await ledger_of(engine))
        if opens:
            await opened(books)
        await _in_step(engine, output)
        try:
            return await body(books, output)
        finally:
            await _in_step(engine, output)

    run_with_engine(ctx, with_engine)


async def ledger_of(engine: "Engine") -> "AuditableLedger":
    """Raises UsageError where it is off."""
    if engine.world.ledger is None:
        why = engine.settings.sources.get("ledger.enabled", "")
        hint = "set LEDGER_ENABLED=true, or ledger.enabled in config/config.json"
        raise UsageError(f"the ledger is off ({why})" if why else "the ledger is off", hint=hint)
    return await engine.world.ledger()


async def _in_step(engine: "Engine", output: Output) -> None:
    """What was paid is paid, whether or not the log can tell it by now: a later sweep will."""
    try:
        await engine.bookkeeper.catch_up()
    except StoreError as error:
        output.note(f"the log does not have it yet: {error}")


async def opened(books: Open, balance: str | None = None, agent: str | None = None) -> tuple[list[str], list[str]]:
    """Open the wallets that are missing: the names that were opened, and those that were open."""
    from p2engine.wiring.wallets import openings

    wanted = openings(books.engine.roster, books.engine.settings, balance=balance, agent=agent)
    new = await books.ledger.open_wallets(*wanted)
    names = [one.name for one, is_new in zip(wanted, new, strict=True) if is_new]
    return [*names], [one.name for one in wanted if one.name not in names]


def a_row(record: "Record") -> dict[str, Any]:
    """A record as programs see it."""
    return {
        "id": record.id,
        "at": iso(record.at),
        "type": record.type,
        "payer": record.payer,
        "payee": record.payee,
        "amount": record.amount,
        "reason": record.why or record.reason,
        "status": record.status,
        "cause": record.cause,
    }
