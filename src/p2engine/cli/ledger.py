"""`ledger …`: wallets, payments by the operator, and what the ledger has written down."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from p2engine.cli import ledger_audit
from p2engine.cli.books import MAIN, a_row, check_book, hint_at_other_books, opened, run_with_ledger
from p2engine.cli.options import group
from p2engine.cli.output import Output, iso
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.cli.books import Open
    from p2engine.domain.money import Account, RecordQuery

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Whose wallet.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="The newest N.")]
Book = Annotated[str, typer.Option("--book", metavar="BOOK", help="Of another book, such as that of a trial.")]

TYPES = ("open", "transfer", "refusal", "hold", "release", "refund")


class Paying(TyperCommand):
    """A command with an amount: one below zero is told as such, not as an option that there is not."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            name = getattr(error, "option_name", "")
            if name[:1] == "-" and name[1:2] in tuple("0123456789."):
                raise UsageError("an amount is more than zero") from None
            raise


def register(app: typer.Typer) -> None:
    """Add the commands of this module, and those that look through the ledger."""
    ledger = group("Wallets, payments, and the audit of both.")
    for command in (init, balance, transfer, history, overview, metrics, audit):
        ledger.command(command.__name__, cls=Paying if command is transfer else None)(command)
    ledger_audit.register(ledger)
    app.add_typer(ledger, name="ledger")


def init(
    ctx: typer.Context,
    balance: Annotated[
        str | None,
        typer.Option("--balance", metavar="AMOUNT", help="What to open with; else `ledger.initial_balance`."),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Only this agent's; else all of agents.yml.")
    ] = None,
) -> None:
    """Open the wallets that are missing. One that is open is never topped up."""

    async def body(books: "Open", output: Output) -> None:
        new, before = await opened(books, balance, agent)
        document = {"opened": new, "already_open": before}
        output.document(document, f"opened {len(new)}, already open {len(before)}")
        output.next("p2engine ledger overview")

    run_with_ledger(ctx, body, opens=False)


def balance(ctx: typer.Context, agent: Agent, book: Book = MAIN) -> None:
    """Show what an agent has."""

    async def body(books: "Open", output: Output) -> None:
        account = await _account(books, agent, book)
        document = {"agent": agent, "balance": str(account.balance), "instrument": account.balance.instrument}
        output.document(document, account.balance.shown)

    run_with_ledger(ctx, body)


def transfer(
    ctx: typer.Context,
    payer: Annotated[str, typer.Argument(metavar="FROM", help="Who pays.")],
    payee: Annotated[str, typer.Argument(metavar="TO", help="Who is paid.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, such as 12.5.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What it is for.")] = "",
) -> None:
    """Pay from one wallet to another, as the operator: caps of agents do not apply."""

    async def body(books: "Open", output: Output) -> int:
        from p2engine.domain.money import AccountName, Amount, Transfer

        units = Amount.parse(amount)
        order = Transfer(
            id=f"operator:{books.engine.world.ids.fact()}",
            payer=AccountName(payer),
            payee=AccountName(payee),
            amount=units,
            reason=reason,
            cause="operator",
        )
        (receipt,) = await books.ledger.transfer(order)
        document = {
            "id": receipt.id,
            "at": iso(receipt.at),
            "status": receipt.status,
            "payer": payer,
            "payee": payee,
            "amount": str(receipt.amount),
            "reason": reason,
            "why": receipt.why or None,
            "balance": str(receipt.left) if receipt.left is not None else None,
        }
        if receipt.is_paid:
            output.document(document, f"paid {units.shown} to {payee}; {payer} has {receipt.left} left\n{receipt.id}")
            output.next(f"p2engine ledger history {payee}")
            return 0
        if receipt.status == "unknown":
            output.document(document, f"the ledger has not answered: the outcome is unknown\n{receipt.id}")
            output.next("p2engine ledger audit")
            return 1
        output.document(document, f"not paid: {receipt.why}")
        return 1

    run_with_ledger(ctx, body)


def history(ctx: typer.Context, agent: Agent, limit: Limit = 20, book: Book = MAIN) -> None:
    """List what an agent paid and was paid, oldest first; refusals too."""

    async def body(books: "Open", output: Output) -> None:
        from p2engine.domain.money import AccountName, BookId, RecordQuery

        await _account(books, agent, book)
        await _records(books, RecordQuery(account=AccountName(agent), book=BookId(book), limit=limit), output)
        await hint_at_other_books(books.ledger, book, output)

    run_with_ledger(ctx, body)


def overview(ctx: typer.Context, book: Book = MAIN) -> None:
    """List all wallets: balance, received, sent."""

    async def body(books: "Open", output: Output) -> None:
        from p2engine.domain.money import BookId

        await check_book(books.ledger, book)
        accounts = [one for one in await books.ledger.accounts(book=BookId(book)) if one.kind == "wallet"]
        rows = [
            {
                "agent": one.name,
                "balance": str(one.balance),
                "received": str(one.received),
                "sent": str(one.sent),
                "transfers": one.transfers,
            }
            for one in accounts
        ]
        columns = ("agent", "balance", "received", "sent", "transfers")
        output.table("", columns, [tuple(row.values()) for row in rows], rows)
        await hint_at_other_books(books.ledger, book, output)
        output.next("p2engine ledger metrics")

    run_with_ledger(ctx, body)


def metrics(ctx: typer.Context, book: Book = MAIN) -> None:
    """Show what there is in all, what was paid, and what models really cost, by agent and by provider."""

    async def body(books: "Open", output: Output) -> None:
        from p2engine.cli.ledger_metrics import metrics_of, metrics_words
        from p2engine.domain.money import BookId

        await check_book(books.ledger, book)
        document = await metrics_of(books.ledger, BookId(book))
        output.document(document, metrics_words(document))
        output.next("p2engine ledger audit")

    run_with_ledger(ctx, body)


def audit(
    ctx: typer.Context,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only from this time on (ISO 8601, UTC), or 10m, 2h, 1d."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", metavar="TYPE", help=f"Only: {', '.join(TYPES)}.")] = None,
    limit: Limit = 100,
    book: Annotated[
        str | None, typer.Option("--book", metavar="BOOK", help="Only this book; else all of them.")
    ] = None,
) -> None:
    """List what the ledger has written down, of all wallets and books, oldest first."""

    async def body(books: "Open", output: Output) -> None:
        from p2engine.cli.moments import moment
        from p2engine.domain.money import BookId, RecordQuery

        if kind is not None and kind not in TYPES:
            raise UsageError(f"no type {kind!r}", hint=f"one of: {', '.join(TYPES)}")
        types = (kind,) if kind else ()
        after = None if since is None else moment(since, books.engine.world.clock.now())
        if book is not None:
            await check_book(books.ledger, book)
        of = None if book is None else BookId(book)
        query = RecordQuery(book=of, since=after, types=types, limit=limit)  # type: ignore[arg-type]
        await _records(books, query, output)

    run_with_ledger(ctx, body)


async def _account(books: "Open", agent: str, book: str) -> "Account":
    from p2engine.domain.money import AccountName, BookId

    await check_book(books.ledger, book)
    account = await books.ledger.account(AccountName(agent), book=BookId(book))
    if account is None:
        where = "" if book == MAIN else f" in book {book!r}"
        raise UsageError(f"{agent!r} has no wallet{where}", hint="p2engine ledger overview lists those there are")
    return account


def _amount(row: dict[str, Any]) -> str:
    """With its instrument where that is not what agents pay with."""
    from p2engine.domain.money import CREDIT

    return str(row["amount"]) if row["instrument"] == CREDIT else f"{row['amount']} {row['instrument']}"


async def _records(books: "Open", query: "RecordQuery", output: Output) -> None:
    rows: list[dict[str, Any]] = [a_row(record) for record in await books.ledger.records(query)]
    columns = ["id", "at", "type", "payer", "payee", "amount", "status", "reason"]
    if query.book is None and any(row["book"] != MAIN for row in rows):
        columns.insert(2, "book")
    shown = [row | {"reason": row["why"] or row["reason"], "amount": _amount(row)} for row in rows]
    output.table("", columns, [tuple(row[name] for name in columns) for row in shown], rows)
    if rows:
        output.next("p2engine artifact why ID")
