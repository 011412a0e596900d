"""What the ledger's contract is told in: a clock set by hand, agents, orders, and what there is of money."""

from p2engine.domain.money import (
    MAIN_BOOK,
    Account,
    AccountName,
    Amount,
    BookId,
    Hold,
    Limit,
    Opening,
    Receipt,
    Transfer,
)
from p2engine.ports import Ledger

ALICE, BOB, CAROL = AccountName("alice"), AccountName("bob"), AccountName("carol")
NOON = 1_767_268_800.0


class ClockByHand:
    """A clock that stands until it is set."""

    def __init__(self, at: float = NOON) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def amount(text: str) -> Amount:
    return Amount.parse(text, zero=True)


def paying(
    order: str,
    units: str | Amount = "10",
    payer: str = ALICE,
    payee: str = BOB,
    *,
    reason: str = "for the weather",
    book: BookId = MAIN_BOOK,
    limits: tuple[Limit, ...] = (),
) -> Transfer:
    """A transfer from alice to bob, unless said otherwise."""
    return Transfer(
        id=order,
        payer=AccountName(payer),
        payee=AccountName(payee),
        amount=units if isinstance(units, Amount) else amount(units),
        reason=reason,
        cause="test",
        book=book,
        limits=limits,
    )


def holding(order: str, units: str = "10", *, until: float | None = None) -> Hold:
    """Alice sets money aside for bob; carol decides."""
    return Hold(id=order, payer=ALICE, payee=BOB, amount=amount(units), authority=CAROL, until=until, cause="test")


async def opened(ledger: Ledger, *names: str, initial: str = "100", book: BookId = MAIN_BOOK) -> None:
    """Open wallets, alice's and bob's unless named."""
    openings = [
        Opening(name=AccountName(name), initial=amount(initial), book=book) for name in names or (ALICE, BOB, CAROL)
    ]
    await ledger.open_wallets(*openings)


async def pay(ledger: Ledger, transfer: Transfer) -> Receipt:
    (receipt,) = await ledger.transfer(transfer)
    return receipt


async def balance(ledger: Ledger, name: str, book: BookId = MAIN_BOOK) -> str:
    """What a wallet holds, as text."""
    return str((await account(ledger, name, book)).balance)


async def account(ledger: Ledger, name: str, book: BookId = MAIN_BOOK) -> Account:
    """A wallet that is open."""
    found = await ledger.account(AccountName(name), book=book)
    assert found is not None
    return found


async def check_conserved(ledger: Ledger, *, book: BookId = MAIN_BOOK) -> None:
    """What there is was given out by the treasury, to the last digit, and no wallet owes."""
    accounts = await ledger.accounts(book=book)
    assert sum(account.balance.units for account in accounts) == 0
    assert all(account.balance.units >= 0 for account in accounts if account.kind in ("wallet", "escrow"))
