"""`ledger …`: wallets, payments by the operator, and what the ledger has written down."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2engine.cli.options import group
from p2engine.cli.output import Output, as_json, iso
from p2engine.cli.session import run_alone, run_with_engine, settings_of
from p2engine.errors import UsageError

if TYPE_CHECKING:
    from p2engine.domain.money import Account, Checkpoint, Proof, Record, RecordQuery
    from p2engine.ports import AuditableLedger, Ledger
    from p2engine.wiring import Engine

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="Whose wallet.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="The newest N.")]

TYPES = ("open", "transfer", "refusal", "hold", "release", "refund")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    ledger = group("Wallets, payments, and the audit of both.")
    for command in (init, balance, transfer, history, overview, audit, verify, proof, checkpoint):
        ledger.command(command.__name__)(command)
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

    async def body(engine: "Engine", output: Output) -> None:
        opened, before = await _open_wallets(engine, balance, agent)
        document = {"opened": opened, "already_open": before}
        output.document(document, f"opened {len(opened)}, already open {len(before)}")
        output.next("p2engine ledger overview")

    run_with_engine(ctx, body)


def balance(ctx: typer.Context, agent: Agent) -> None:
    """Show what an agent has."""

    async def body(engine: "Engine", output: Output) -> None:
        account = await _account(await _ledger(engine), agent)
        document = {"agent": agent, "balance": str(account.balance), "instrument": account.balance.instrument}
        output.document(document, account.balance.shown)

    run_with_engine(ctx, body)


def transfer(
    ctx: typer.Context,
    payer: Annotated[str, typer.Argument(metavar="FROM", help="Who pays.")],
    payee: Annotated[str, typer.Argument(metavar="TO", help="Who is paid.")],
    amount: Annotated[str, typer.Argument(metavar="AMOUNT", help="How much, such as 12.5.")],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="What it is for.")] = "",
) -> None:
    """Pay from one wallet to another, as the operator: caps of agents do not apply."""

    async def body(engine: "Engine", output: Output) -> int:
        from p2engine.domain.money import AccountName, Amount, Transfer

        units = Amount.parse(amount)
        ledger = await _ledger(engine)
        order = Transfer(
            id=f"operator:{engine.world.ids.fact()}",
            payer=AccountName(payer),
            payee=AccountName(payee),
            amount=units,
            reason=reason,
            cause="operator",
        )
        (receipt,) = await ledger.transfer(order)
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
            return 0
        output.document(document, f"not paid: {receipt.why}")
        return 1

    run_with_engine(ctx, body)


def history(ctx: typer.Context, agent: Agent, limit: Limit = 20) -> None:
    """List what an agent paid and was paid, oldest first; refusals too."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.domain.money import AccountName, RecordQuery

        ledger = await _ledger(engine)
        await _account(ledger, agent)
        await _records(ledger, RecordQuery(account=AccountName(agent), limit=limit), output)

    run_with_engine(ctx, body)


def overview(ctx: typer.Context) -> None:
    """List all wallets: balance, received, sent."""

    async def body(engine: "Engine", output: Output) -> None:
        accounts = [one for one in await (await _ledger(engine)).accounts() if one.kind == "wallet"]
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

    run_with_engine(ctx, body)


def audit(
    ctx: typer.Context,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only from this time on (ISO 8601, UTC), or 10m, 2h, 1d."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--type", metavar="TYPE", help=f"Only: {', '.join(TYPES)}.")] = None,
    limit: Limit = 100,
) -> None:
    """List what the ledger has written down, of all wallets and books, oldest first."""

    async def body(engine: "Engine", output: Output) -> None:
        from p2engine.cli.moments import moment
        from p2engine.domain.money import RecordQuery

        if kind is not None and kind not in TYPES:
            raise UsageError(f"no type {kind!r}", hint=f"one of: {', '.join(TYPES)}")
        types = (kind,) if kind else ()
        after = None if since is None else moment(since, engine.world.clock.now())
        query = RecordQuery(book=None, since=after, types=types, limit=limit)  # type: ignore[arg-type]
        await _records(await _ledger(engine), query, output)

    run_with_engine(ctx, body)


def verify(ctx: typer.Context) -> None:
    """Look through the whole ledger: exit 1 and name the first record that is not as it was written."""
    settings = settings_of(ctx)

    async def body(output: Output) -> int:
        from p2engine.ledgers.door import LedgerDoor

        found = await LedgerDoor(settings.layout.ledger, settings.layout.keys).verify()
        document = {
            "sound": found.is_sound,
            "records": found.records,
            "accounts": found.accounts,
            "sealed": found.sealed,
            "findings": [{"what": one.what, "record": one.seq, "text": one.text} for one in found.findings],
        }
        lines = [one.text for one in found.findings]
        if found.is_sound:
            lines = [f"sound: {found.records} records, {found.accounts} accounts"]
        if not found.sealed:
            lines.append("the key is not here: seals and head were not checked")
        output.document(document, "\n".join(lines))
        return 0 if found.is_sound else 1

    run_alone(ctx, body)


def proof(
    ctx: typer.Context,
    order: Annotated[str, typer.Argument(metavar="ID", help="The id of a transfer, as `ledger history` has it.")],
) -> None:
    """Print the proof that one transfer stands in the ledger. It is checked by the public key alone."""

    async def body(engine: "Engine", output: Output) -> None:
        ledger = await _door(engine)
        _print_json(await ledger.proof(order), output)

    run_with_engine(ctx, body)


def checkpoint(ctx: typer.Context) -> None:
    """Sign what is written by now, and print it. Whoever has it can hold you to it."""

    async def body(engine: "Engine", output: Output) -> None:
        ledger = await _door(engine)
        _print_json(await ledger.checkpoint(), output)

    run_with_engine(ctx, body)


def _print_json(value: "Proof | Checkpoint", output: Output) -> None:
    """What programs are to read is JSON for people too."""
    import msgspec

    document = msgspec.to_builtins(value)
    output.document(document, as_json(document, indent=True))


async def _ledger(engine: "Engine") -> "Ledger":
    """The ledger, with the wallets of agents.yml open. Raises UsageError where it is off."""
    await _open_wallets(engine)
    return await _door(engine)


async def _door(engine: "Engine") -> "AuditableLedger":
    if engine.world.ledger is None:
        hint = "set LEDGER_ENABLED=true, or ledger.enabled in config/config.json"
        raise UsageError("the ledger is off", hint=hint)
    return await engine.world.ledger()


async def _open_wallets(
    engine: "Engine", balance: str | None = None, agent: str | None = None
) -> tuple[list[str], list[str]]:
    """Open what is missing: the names that were opened, and those that were open."""
    from p2engine.domain.ids import AgentId
    from p2engine.domain.money import AccountName, Amount, Opening

    ledger = await _door(engine)
    usual = Amount.parse(engine.settings.ledger.initial_balance if balance is None else balance, zero=True)
    rows = [engine.roster.describe(AgentId(agent))] if agent else map(engine.roster.describe, engine.roster.agents())
    openings = [
        Opening(
            name=AccountName(row.id),
            initial=usual if balance is not None or row.wallet.initial is None else row.wallet.initial,
            owner=row.owner,
        )
        for row in rows
        if row.wallet.is_open
    ]
    new = await ledger.open_wallets(*openings)
    opened = [one.name for one, is_new in zip(openings, new, strict=True) if is_new]
    return [*opened], [one.name for one in openings if one.name not in opened]


async def _account(ledger: "Ledger", agent: str) -> "Account":
    from p2engine.domain.money import AccountName

    account = await ledger.account(AccountName(agent))
    if account is None:
        raise UsageError(f"{agent!r} has no wallet", hint="p2engine ledger overview lists those there are")
    return account


async def _records(ledger: "Ledger", query: "RecordQuery", output: Output) -> None:
    rows = [_row(record) for record in await ledger.records(query)]
    columns = ("at", "type", "payer", "payee", "amount", "status", "reason")
    output.table("", columns, [tuple(row[name] for name in columns) for row in rows], rows)


def _row(record: "Record") -> dict[str, Any]:
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
