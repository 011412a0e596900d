"""What every Ledger does: each order once, refusals with their reason, and no money made or lost.

A subclass gives `ledger`, an empty one, `second`, which is the same as another process has it open, and `clock`, the
ClockByHand that both read.
"""

import asyncio
from random import Random

import pytest
from msgspec import structs

from p2engine.domain.money import (
    MAIN_BOOK,
    AccountName,
    Amount,
    BookId,
    Limit,
    Opening,
    RecordQuery,
    Transfer,
    treasury,
)
from p2engine.errors import UsageError
from p2engine.ports import Ledger
from p2engine.testing.contracts.ledger_holds import HoldContract
from p2engine.testing.contracts.ledger_words import (
    ALICE,
    BOB,
    CAROL,
    NOON,
    ClockByHand,
    account,
    amount,
    balance,
    check_conserved,
    holding,
    opened,
    pay,
    paying,
)

__all__ = [
    "ALICE",
    "BOB",
    "CAROL",
    "NOON",
    "ClockByHand",
    "LedgerContract",
    "amount",
    "balance",
    "check_conserved",
    "holding",
    "opened",
    "pay",
    "paying",
]


class LedgerContract(HoldContract):
    """A subclass gives the fixtures `ledger`, empty, `second`, the same in another process's hands, and `clock`."""

    async def test_a_wallet_is_opened_once(self, ledger: Ledger) -> None:
        """The treasury gives what it is opened with; opening again tops nothing up, whatever it says."""
        assert await ledger.open_wallets(Opening(name=ALICE, initial=amount("100"), owner="ann")) == [True]
        assert await ledger.open_wallets(
            Opening(name=ALICE, initial=amount("500")), Opening(name=BOB, initial=amount("0"))
        ) == [False, True]
        assert (await account(ledger, ALICE)).owner == "ann"
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
        alice, bob = await account(ledger, ALICE), await account(ledger, BOB)
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
            (paying("t", payer="\ud800"), "account"),
            (paying("t", payee="spend:\ud800"), "account"),
            (paying("t", book=BookId("\ud800")), "account"),
            (paying("t", book=BookId("")), "account"),
            (paying("t", Amount(1, "A\0B")), "account"),
            (paying("t", limits=(Limit(scope="\ud800", count=1, says="one"),)), "limit"),
            (paying("t", "1000", payee="treasury:CREDIT"), "funds"),
            (paying("t", payee="provider:x"), "account"),
            (paying("t", payee="spend:judge/x"), "account"),
            (paying("t", payer="provider:x"), "account"),
            (paying("t", payer="spend:alice"), "account"),
            (paying("t", payer="spend:alice", payee="provider:x"), "account"),
            (paying("t", payer="spend:alice", payee="treasury:CREDIT"), "account"),
            (paying("t", payer="treasury:CREDIT", payee="provider:x"), "account"),
            (paying("t", Amount(1, "USD"), "provider:x", "spend:alice"), "account"),
            (paying("t", Amount(1, "USD"), "spend:alice", "spend:bob"), "account"),
            (paying("t", Amount(1, "USD"), "treasury:USD", "spend:alice"), "account"),
            (paying("t", payer="treasury:USD"), "account"),
            (paying("t", payer="treasury:FOO"), "account"),
            (paying("t", payee="treasury:USD"), "account"),
            (structs.replace(paying("t", payee="treasury:CREDIT"), wallets=True), "account"),
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
        assert receipt.payee == order.payee
        assert await ledger.accounts() == before

    async def test_what_nobody_wrote_is_not_found(self, ledger: Ledger) -> None:
        """An order, an account, a book that never were are nothing, whatever their names."""
        for name in ("nobody", "", "\ud800"):
            assert await ledger.receipt(name) is None
            assert await ledger.account(AccountName(name)) is None
            assert await ledger.accounts(book=BookId(name)) == []
            assert await ledger.records(RecordQuery(account=AccountName(name))) == []
            assert (await ledger.release(name, by=CAROL)).refusal == "hold"

    async def test_an_id_is_of_one_kind_of_order(self, ledger: Ledger) -> None:
        """A hold, a transfer, an opening and the end of a hold never share an id; who comes second is told so."""
        await opened(ledger)
        await pay(ledger, paying("t1"))
        assert (await ledger.hold(holding("t1"))).refusal == "id"
        await ledger.hold(holding("h1"))
        assert (await pay(ledger, paying("h1"))).refusal == "id"
        changed = (holding("h1", "11"), holding("h1", until=NOON + 1), structs.replace(holding("h1"), authority=BOB))
        assert [(await ledger.hold(other)).refusal for other in changed] == ["id"] * 3
        assert (await pay(ledger, paying("h1/release"))).is_paid
        assert (await ledger.release("h1", by=CAROL)).refusal == "id"
        assert (await ledger.refund("h1", by=CAROL)).is_paid
        await pay(ledger, paying("open:main:dave:CREDIT"))
        with pytest.raises(UsageError, match="another order"):
            await opened(ledger, "dave")
        await check_conserved(ledger)

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
        assert (await pay(ledger, paying("m2", cost, "spend:judge/tone", "provider:openai"))).is_paid
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

    async def test_two_limits_on_one_scope_count_a_transfer_once(self, ledger: Ledger) -> None:
        """An amount and a number that are limited together are both of the same transfers."""
        await opened(ledger)
        both = (
            Limit(scope="agent:alice", amount=amount("25"), says="at most 25"),
            Limit(scope="agent:alice", count=2, says="two at most"),
        )
        receipts = await ledger.transfer(*(paying(f"t{number}", "10", limits=both) for number in range(3)))
        assert [receipt.why for receipt in receipts] == ["", "", "at most 25; 20.0 of it is spent"]
        assert (await pay(ledger, paying("t3", "5", limits=both))).why == "two at most"

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

    async def test_history_is_read_on_from_a_place(self, ledger: Ledger) -> None:
        """Page by page, by the number of the last record that was read, everything comes once, oldest first."""
        trial = BookId("trial")
        await opened(ledger)
        await opened(ledger, book=trial)
        await ledger.transfer(*(paying(f"t{number}", "1", book=(MAIN_BOOK, trial)[number % 2]) for number in range(20)))
        for query in (
            RecordQuery(newest=False, limit=3),
            RecordQuery(newest=False, limit=3, account=BOB),
            RecordQuery(newest=False, limit=3, account=ALICE, book=None, types=("transfer",)),
        ):
            read: list[int] = []
            while page := await ledger.records(structs.replace(query, after=read[-1] if read else 0)):
                read += [record.seq for record in page]
            whole = await ledger.records(structs.replace(query, limit=100))
            assert read == sorted(read) == [record.seq for record in whole]
            assert len(whole) == {None: 13, BOB: 11, ALICE: 20}[query.account]
        newest = await ledger.records(RecordQuery(account=ALICE, book=None, limit=2))
        assert [record.id for record in newest] == ["t18", "t19"]

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
        held = [(await account(ledger, name)).balance.units for name in names]
        assert sum(held) == 800 * 10**10

    async def test_opposite_transfers_at_once_conserve_the_sum(self, ledger: Ledger, second: Ledger) -> None:
        """Two processes pay to and fro at once, each order given to both: each is done once, and both see the same."""
        await opened(ledger)
        there = [paying(f"a{number}", "1", ALICE, BOB) for number in range(40)]
        back = [paying(f"b{number}", "1", BOB, ALICE) for number in range(40)]
        receipts = await asyncio.gather(
            *(pay(ledger, order) for order in there),
            *(pay(second, order) for order in back),
            *(pay(second, order) for order in there),
        )
        assert all(receipt.is_paid for receipt in receipts)
        assert receipts[:40] == receipts[80:]
        assert await ledger.accounts() == await second.accounts()
        assert (await balance(ledger, ALICE), await balance(second, BOB)) == ("100.0", "100.0")
        await check_conserved(second)

    async def test_one_who_brings_many_is_not_always_too_late(self, ledger: Ledger, second: Ledger) -> None:
        """A batch of 2,500 against another process's single orders: both are done, each for itself."""
        await opened(ledger, initial="10000")
        many = asyncio.ensure_future(ledger.transfer(*(paying(f"m{number}", "1") for number in range(2500))))
        singles = 0
        while not many.done() and singles < 2000:
            assert (await pay(second, paying(f"s{singles}", "1", BOB, ALICE))).is_paid
            singles += 1
        receipts = await many
        assert [receipt.id for receipt in receipts] == [f"m{number}" for number in range(2500)]
        assert all(receipt.is_paid for receipt in receipts)
        assert await balance(second, BOB) == f"{12500 - singles}.0"
        await check_conserved(ledger)

    async def test_a_wallet_is_opened_once_by_two_at_once(self, ledger: Ledger, second: Ledger) -> None:
        """One of two processes opens it, and the other is told so."""
        openings = [Opening(name=AccountName(f"agent_{number}"), initial=amount("5")) for number in range(10)]
        new = await asyncio.gather(*(one.open_wallets(opening) for opening in openings for one in (ledger, second)))
        assert sum(is_new for (is_new,) in new) == 10
        assert await balance(ledger, treasury()) == "-50.0"
