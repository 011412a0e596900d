"""What a book comes to: money there is, payments made and refused, what models cost. Reads; prints nothing."""

from typing import TYPE_CHECKING, Any

from p2engine.domain.money import CREDIT, PROVIDER, SPEND, USD, Amount, BookId, RecordQuery
from p2engine.limits import RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from p2engine.domain.money import Account
    from p2engine.ports import Ledger


async def metrics_of(ledger: "Ledger", book: BookId) -> dict[str, Any]:
    """The document of `ledger metrics`. Costs a look at every account and every refusal of the ledger."""
    accounts = await ledger.accounts(book=book)
    instruments = sorted({one.balance.instrument for one in accounts if one.kind != "tally"} | {CREDIT})
    return {
        "book": book,
        "instruments": [_instrument(name, accounts) for name in instruments],
        "refusals": await _refusals(ledger, book),
        "spend": {
            "instrument": USD,
            "total": _sum((one.balance for one in accounts if one.name.startswith(PROVIDER)), USD),
            "agents": [_spent(one, SPEND, "agent") for one in accounts if one.name.startswith(SPEND)],
            "providers": [_spent(one, PROVIDER, "provider") for one in accounts if one.name.startswith(PROVIDER)],
        },
    }


def _instrument(name: str, accounts: "Sequence[Account]") -> dict[str, Any]:
    of_it = [one for one in accounts if one.balance.instrument == name and one.kind != "tally"]
    wallets = [one for one in of_it if one.kind == "wallet"]
    return {
        "instrument": name,
        "wallets": len(wallets),
        "supply": _sum((one.balance for one in of_it if one.kind != "treasury"), name),
        "held": _sum((one.balance for one in of_it if one.kind == "escrow"), name),
        "transfers": sum(one.transfers for one in of_it) // 2,
        "transferred": _sum((one.sent for one in of_it), name),
    }


def _spent(account: "Account", prefix: str, word: str) -> dict[str, Any]:
    return {
        word: account.name.removeprefix(prefix),
        "amount": str(Amount(abs(account.balance.units), USD)),
        "calls": account.transfers,
    }


def _sum(amounts: "Iterable[Amount]", instrument: str) -> str:
    return str(Amount(sum(one.units for one in amounts), instrument))


async def _refusals(ledger: "Ledger", book: BookId) -> int:
    count, after = 0, 0
    while True:
        query = RecordQuery(book=book, types=("refusal",), after=after, limit=RECORDS_MAX, newest=False)
        records = await ledger.records(query)
        count += len(records)
        if len(records) < RECORDS_MAX:
            return count
        after = records[-1].seq


def metrics_words(document: dict[str, Any]) -> str:
    """The same for people."""
    lines = []
    for one in document["instruments"]:
        held = "" if one["held"] == "0.0" else f", {one['held']} of it held"
        lines.append(f"{one['instrument']}: {one['supply']}, wallets: {one['wallets']}{held}")
        lines.append(f"  paid: {one['transferred']}, transfers: {one['transfers']}")
    lines.append(f"refused: {document['refusals']}")
    spend = document["spend"]
    lines.append(f"models cost: {spend['total']} {spend['instrument']}")
    for word, rows in (("agent", spend["agents"]), ("provider", spend["providers"])):
        lines += [
            f"  {'by' if word == 'agent' else 'to'} {one[word]}: {one['amount']}, {one['calls']} calls" for one in rows
        ]
    return "\n".join(lines)
