"""What every Ledger does with money that is set aside: it is nobody's until it ends, and it ends once."""

import asyncio

import pytest
from msgspec import structs

from p2engine.domain.money import AccountName, Hold, Limit, treasury
from p2engine.ports import Ledger
from p2engine.testing.contracts.ledger_words import (
    ALICE,
    BOB,
    CAROL,
    NOON,
    ClockByHand,
    amount,
    balance,
    check_conserved,
    holding,
    opened,
    pay,
    paying,
)


class HoldContract:
    """Part of `LedgerContract`."""

    async def test_what_is_held_counts_for_limits(self, ledger: Ledger) -> None:
        """It is the payer's no more, so it is spent."""
        await opened(ledger)
        turn = (Limit(scope="turn:1", amount=amount("25"), says="at most 25"),)
        assert (await ledger.hold(structs.replace(holding("h1", "20"), limits=turn))).status == "held"
        assert (await pay(ledger, paying("t1", "6", limits=turn))).refusal == "limit"

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

    @pytest.mark.parametrize(
        "hold",
        [
            structs.replace(holding("h1"), authority=AccountName("")),
            structs.replace(holding("h1"), authority=AccountName("\ud800")),
            holding("h1", until=float("inf")),
            holding("h1", until=float("nan")),
            holding("h1", until=NOON),
        ],
    )
    async def test_a_hold_says_who_ends_it_and_when(self, ledger: Ledger, hold: Hold) -> None:
        """One that nobody could release, or whose time is none, is refused."""
        await opened(ledger)
        assert (await ledger.hold(hold)).refusal == "hold"
        assert await balance(ledger, ALICE) == "100.0"

    async def test_what_is_held_for_a_treasury_is_paid_to_it(self, ledger: Ledger) -> None:
        """An account that needs no opening needs none for a hold either; nothing is held for a tally."""
        await opened(ledger)
        await ledger.hold(structs.replace(holding("h1"), payee=treasury()))
        assert (await ledger.release("h1", by=CAROL)).is_paid
        assert await balance(ledger, treasury()) == "-290.0"
        for name in ("provider:x", "spend:alice", "treasury:USD"):
            held = await ledger.hold(structs.replace(holding(f"for {name}"), payee=AccountName(name)))
            assert held.refusal == "account"

    async def test_a_hold_is_ended_once_however_many_ask(self, ledger: Ledger, second: Ledger) -> None:
        """Released and given back from two processes at once: one of both is done, and its repeats tell the same."""
        await opened(ledger)
        for number in range(10):
            await ledger.hold(holding(f"h{number}", "1"))
        ended = await asyncio.gather(
            *(end(f"h{number}", by=CAROL) for end in (ledger.release, second.refund) for number in range(10)),
            *(second.release(f"h{number}", by=CAROL) for number in range(10)),
        )
        assert sum(receipt.is_paid for receipt in ended[:20]) == 10
        assert [one.is_paid for one in ended[:10]] == [one.is_paid for one in ended[20:]]
        assert await balance(ledger, "escrow:CREDIT") == "0.0"
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
