"""What every Ledger does: each order once, refusals with their reason, and no money made or lost.

A subclass gives `ledger`, an empty one, and `clock`, the ClockByHand that it reads.
"""

import asyncio
from random import Random

import pytest

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
    RecordQuery,
    Transfer,
    treasury,
)
from p2engine.errors import UsageError
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
    return str((await _account(ledger, name, book)).balance)


async def _account(ledger: Ledger, name: str, book: BookId = MAIN_BOOK) -> Account:
    account = await ledger.account(AccountName(name), book=book)
    assert account is not None
    return account


async def check_conserved(ledger: Ledger, *, book: BookId = MAIN_BOOK) -> None:
    """What there is was given out by the treasury, to the last digit, and no wallet owes."""
    accounts = await ledger.accounts(book=book)
    assert sum(account.balance.units for account in accounts) == 0
    assert all(account.balance.units >= 0 for account in accounts if account.kind in ("wallet", "escrow"))


class LedgerContract:
    """A subclass gives the fixtures `ledger`, empty, and `clock`."""

    async def test_a_wallet_is_opened_once(self, ledger: Ledger) -> None:
        """The treasury gives what it is opened with; opening again tops nothing up, whatever it says."""
        assert await ledger.open_wallets(Opening(name=ALICE, initial=amount("100"), owner="ann")) == [True]
        assert await ledger.open_wallets(
            Opening(name=ALICE, initial=amount("500")), Opening(name=BOB, initial=amount("0"))
        ) == [False, True]
        assert (await _account(ledger, ALICE)).owner == "ann"
        assert (await balance(ledger, ALICE), await balance(ledger, BOB)) == ("100.0", "0.0")
        assert await balance(ledger, treasury()) == "-100.0"
        await check_conserved(ledger)

    @pytest.mark.parametrize("name", ["", "treasury:CREDIT", "spend:x", "a:b", "a\nb", "x" * 200, "\ud800"])
    async def test_only_wallets_are_opened(self, ledger: Ledger, name: str) -> None:
        """A name that is no agent's opens nothing."""
        with pytest.raises(UsageError):
            await ledger.open_wallets(Opening(name=AccountName(name), initial=amount("1")))
        assert await ledger.accounts() == []

    async def test_a_transfer_moves_what_it_says(self, ledger: Ledger) -> None:
        """The payer has less, the payee more, and the receipt says what is left."""
        await opened(ledger)
        receipt = await pay(ledger, paying("t1", "0.0000000001"))
        assert (receipt.status, receipt.at, str(receipt.left)) == ("paid", NOON, "99.9999999999")
        alice, bob = await _account(ledger, ALICE), await _account(ledger, BOB)
        assert (str(alice.balance), str(alice.sent), alice.transfers) == ("99.9999999999", "0.0000000001", 1)
        assert (str(bob.balance), str(bob.received), bob.transfers) == ("100.0000000001", "0.0000000001", 1)
        await check_conserved(ledger)

    async def test_a_repeated_order_is_answered_as_the_first_time(self, ledger: Ledger) -> None:
        """The same id and content is done once, also in one batch, also after the wallet is empty."""
        await opened(ledger)
        first = await pay(ledger, paying("t1", "100"))
        again, twin = await ledger.transfer(paying("t1", "100"), paying("t1", "100"))
        assert first == again == twin == await ledger.receipt("t1")
        assert await balance(ledger, ALICE) == "0.0"

    @pytest.mark.parametrize(
        "other",
        [
            paying("t1", "11"),
            paying("t1", payee=CAROL),
            paying("t1", payer=CAROL),
            paying("t1", reason="for nothing"),
            paying("t1", book=BookId("trial")),
        ],
    )
    async def test_an_id_belongs_to_one_order(self, ledger: Ledger, other: Transfer) -> None:
        """The same id with another content is refused, and what was done stays."""
        await opened(ledger)
        await opened(ledger, book=BookId("trial"))
        await pay(ledger, paying("t1"))
        receipt = await pay(ledger, other)
        assert (receipt.status, receipt.refusal) == ("refused", "id")
        assert await balance(ledger, BOB) == "110.0"

    @pytest.mark.parametrize(
        ("order", "refusal"),
        [
            (paying("", "1"), "id"),
            (paying("t", "0"), "amount"),
            (paying("t", Amount(-5)), "amount"),
            (paying("t", Amount(10**40)), "amount"),
            (paying("t", payee=ALICE), "self"),
            (paying("t", payee="nobody"), "account"),
            (paying("t", payee=""), "account"),
            (paying("t", payer="nobody"), "account"),
            (paying("t", payee="bank:x"), "account"),
            (paying("t", payer="escrow:CREDIT"), "account"),
            (paying("t", Amount(1, "GOLD")), "account"),
            (paying("t", "100.0000000001"), "funds"),
            (paying("t", reason="x" * 1001), "reason"),
            (paying("t", reason="\ud800"), "reason"),
        ],
    )
    async def test_what_may_not_be_is_refused_with_its_reason(
        self, ledger: Ledger, order: Transfer, refusal: str
    ) -> None:
        """Nothing is moved, nothing is opened, and the receipt says why."""
        await opened(ledger)
        before = await ledger.accounts()
        receipt = await pay(ledger, order)
        assert (receipt.status, receipt.refusal) == ("refused", refusal)
        assert receipt.why
        assert await ledger.accounts() == before

    async def test_a_refusal_stays_one(self, ledger: Ledger) -> None:
        """An order that was refused is not done later, when there would be money: a new order has a new id."""
        await opened(ledger)
        refused = await pay(ledger, paying("t1", "150"))
        await pay(ledger, paying("t2", "60", BOB, ALICE))
        assert await pay(ledger, paying("t1", "150")) == refused
        assert refused.why == "alice has 100.0 CREDIT, not 150.0 CREDIT"

    async def test_orders_of_a_batch_see_those_before(self, ledger: Ledger) -> None:
        """Each is done or refused for itself, in order."""
        await opened(ledger, initial="10")
        receipts = await ledger.transfer(paying("a"), paying("b"), paying("c", "20", BOB, ALICE))
        assert [receipt.status for receipt in receipts] == ["paid", "refused", "paid"]
        assert await balance(ledger, ALICE) == "20.0"

    async def test_only_the_treasury_makes_money(self, ledger: Ledger) -> None:
        """It may owe without end, and nobody else may."""
        await opened(ledger, initial="0")
        assert (await pay(ledger, paying("t1", "5", treasury(), ALICE))).is_paid
        assert (await pay(ledger, paying("t2", "6"))).refusal == "funds"
        await check_conserved(ledger)

    async def test_tallies_count_what_is_spent_outside(self, ledger: Ledger) -> None:
        """What a model call cost is booked from an agent's tally to its provider's, which need no opening."""
        cost = Amount.parse("0.0123", "USD")
        assert (await pay(ledger, paying("m1", cost, "spend:alice", "provider:openai"))).is_paid
        spent = await ledger.account(AccountName("spend:alice"), instrument="USD")
        assert spent is not None
        assert str(spent.balance) == "-0.0123"

    async def test_limits_hold_over_all_that_share_them(self, ledger: Ledger) -> None:
        """A limit counts every transfer that names its scope, whoever pays; what is refused does not count."""
        await opened(ledger)
        turn = (Limit(scope="turn:1", amount=amount("25"), says="at most 25 a turn"),)
        assert (await pay(ledger, paying("a", "20", limits=turn))).is_paid
        refused = await pay(ledger, paying("b", "5.0000000001", BOB, CAROL, limits=turn))
        assert (refused.refusal, refused.why) == ("limit", "at most 25 a turn; 20.0 of it is spent")
        assert (await pay(ledger, paying("c", "5", BOB, CAROL, limits=turn))).is_paid
        once = (Limit(scope="minute:1", count=1, says="one a minute"),)
        receipts = await ledger.transfer(paying("d", "1", limits=once), paying("e", "1", limits=once))
        assert [receipt.refusal for receipt in receipts] == [None, "limit"]

    async def test_books_do_not_touch(self, ledger: Ledger) -> None:
        """A wallet of the same name in another book is another wallet."""
        trial = BookId("trial")
        await opened(ledger)
        await opened(ledger, book=trial)
        await pay(ledger, paying("t1", "100", book=trial))
        assert (await balance(ledger, ALICE), await balance(ledger, ALICE, trial)) == ("100.0", "0.0")
        assert await ledger.records(RecordQuery(types=("transfer",))) == []
        await check_conserved(ledger, book=trial)

    async def test_history_is_what_was_written(self, ledger: Ledger) -> None:
        """Of an account, of a type, of a time, the newest or from a place on; always oldest first."""
        await opened(ledger)
        for number in range(5):
            await pay(ledger, paying(f"t{number}", "1"))
        await pay(ledger, paying("t5", "1", CAROL, BOB))
        await pay(ledger, paying("t6", "1000"))
        of_alice = await ledger.records(RecordQuery(account=ALICE, limit=3))
        assert [record.id for record in of_alice] == ["t3", "t4", "t6"]
        assert [record.status for record in of_alice] == ["paid", "paid", "refused"]
        paid = await ledger.records(RecordQuery(types=("transfer",), newest=False, limit=2))
        assert [(record.id, record.amount, record.payer, record.payee) for record in paid] == [
            ("t0", "1.0", ALICE, BOB),
            ("t1", "1.0", ALICE, BOB),
        ]
        rest = await ledger.records(RecordQuery(after=paid[-1].seq, newest=False))
        assert [record.id for record in rest] == ["t2", "t3", "t4", "t5", "t6"]
        assert await ledger.records(RecordQuery(since=NOON + 1)) == []

    async def test_a_hold_is_nobodys_until_it_ends(self, ledger: Ledger) -> None:
        """The payer cannot spend it, the payee has it when its authority says so, and only once."""
        await opened(ledger)
        held = await ledger.hold(holding("h1", "60"))
        assert (held.status, await balance(ledger, ALICE), await balance(ledger, BOB)) == ("held", "40.0", "100.0")
        assert await ledger.hold(holding("h1", "60")) == held
        assert (await pay(ledger, paying("t1", "41"))).refusal == "funds"
        released = await ledger.release("h1", by=CAROL)
        assert released.is_paid
        assert await ledger.release("h1", by=CAROL) == released
        assert (await ledger.refund("h1", by=CAROL)).refusal == "hold"
        assert (await balance(ledger, ALICE), await balance(ledger, BOB)) == ("40.0", "160.0")
        await check_conserved(ledger)

    async def test_a_hold_can_be_given_back(self, ledger: Ledger) -> None:
        """By its authority or its payee; then it cannot be released any more."""
        await opened(ledger)
        await ledger.hold(holding("h1", "60"))
        assert (await ledger.refund("h1", by=ALICE)).refusal == "hold"
        assert (await ledger.refund("h1", by=BOB)).is_paid
        assert (await ledger.release("h1", by=CAROL)).refusal == "hold"
        assert (await ledger.refund("h1", by=BOB)).is_paid
        assert await balance(ledger, ALICE) == "100.0"

    async def test_a_hold_is_ended_by_its_authority(self, ledger: Ledger) -> None:
        """Neither payer nor payee may release it, and there is none of another name."""
        await opened(ledger)
        await ledger.hold(holding("h1"))
        await pay(ledger, paying("t1"))
        for hold, by in (("h1", ALICE), ("h1", BOB), ("h1", ""), ("h2", CAROL), ("t1", CAROL)):
            assert (await ledger.release(hold, by=AccountName(by))).refusal == "hold"
        await check_conserved(ledger)

    async def test_after_its_time_a_hold_can_only_be_given_back(self, ledger: Ledger, clock: ClockByHand) -> None:
        """By anybody. A clock that goes backwards does not bring the time back."""
        await opened(ledger)
        assert (await ledger.hold(holding("h0", until=NOON))).refusal == "hold"
        await ledger.hold(holding("h1", until=NOON + 60))
        clock.at = NOON + 60
        await pay(ledger, paying("t1", "1"))
        clock.at = NOON
        assert (await ledger.release("h1", by=CAROL)).refusal == "hold"
        assert (await ledger.refund("h1", by=ALICE)).is_paid
        assert await balance(ledger, ALICE) == "99.0"

    async def test_a_clock_that_goes_back_does_not_take_the_ledger_along(
        self, ledger: Ledger, clock: ClockByHand
    ) -> None:
        """Records are in the order of their times."""
        await opened(ledger)
        clock.at = NOON - 3600
        assert (await pay(ledger, paying("t1"))).at == NOON

    async def test_concurrent_transfers_lose_nothing(self, ledger: Ledger) -> None:
        """A thousand random transfers at once, some repeated: the sum is what it was, to the last digit."""
        names = [f"agent_{number}" for number in range(8)]
        await opened(ledger, *names)
        dice = Random(7)
        orders = []
        for number in range(1000):
            payer, payee = dice.sample(names, 2)
            orders.append(paying(f"t{number}", Amount(dice.randrange(1, 30 * 10**10)), payer, payee))
        receipts = await asyncio.gather(*(pay(ledger, order) for order in [*orders, *orders[::7]]))
        assert {receipt.status for receipt in receipts} == {"paid", "refused"}
        await check_conserved(ledger)
        held = [(await _account(ledger, name)).balance.units for name in names]
        assert sum(held) == 800 * 10**10
