"""Accounts are named after agents, however long their names are."""

import pytest

from p2engine.domain.money import AccountName, Amount
from p2engine.limits import NAME_BYTES_MAX
from p2engine.testing.contracts.ledger import opened, pay, paying
from tests.ledgers.places import Place

LONGEST = "å" * (NAME_BYTES_MAX // 2)


async def test_what_the_agent_of_the_longest_name_costs_is_booked(place: Place) -> None:
    """The word before the name is not counted: who may have a wallet may have a tally, and a provider as well."""
    ledger = await place.open()
    await opened(ledger, LONGEST)
    order = paying("m1", Amount.parse("0.25", "USD"), f"spend:{LONGEST}", f"provider:{LONGEST}")
    assert (await pay(ledger, order)).is_paid
    spent = await ledger.account(AccountName(f"spend:{LONGEST}"), instrument="USD")
    assert spent is not None
    assert str(spent.balance) == "-0.25"
    await ledger.aclose()
    assert (await place.audit()).findings == ()


@pytest.mark.parametrize("name", [f"spend:{LONGEST}x", "spend:a\nb", "provider:\ud800"])
async def test_a_tally_has_a_name_as_agents_have(place: Place, name: str) -> None:
    """One longer, or of letters that nobody can read, is none."""
    ledger = await place.open()
    order = paying("m1", Amount.parse("0.25", "USD"), "spend:a", name)
    assert (await pay(ledger, order)).refusal == "account"
    assert await ledger.accounts() == []
    await ledger.aclose()
