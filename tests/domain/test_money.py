"""Amounts are exact, or they are refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2engine.domain.money import DIGITS_MAX, PLACES, UNITS_MAX, Amount, kind_of_account
from p2engine.errors import UsageError

UNITS = st.integers(min_value=0, max_value=UNITS_MAX)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("100", "100.0"),
        ("100.0", "100.0"),
        (" 12.50 ", "12.5"),
        ("0.0000000001", "0.0000000001"),
        ("0" * 5000 + "7", "7.0"),
        (7, "7.0"),
        (0.1, "0.1"),
        (1e-7, "0.0000001"),
        (1e3, "1000.0"),
        (Decimal("1E+2"), "100.0"),
        ("9" * 28 + "." + "9" * 10, "9" * 28 + "." + "9" * 10),
    ],
)
def test_amounts_are_read_exactly(value: object, shown: str) -> None:
    """What can be written with ten places is read as it stands and shown without useless zeros."""
    assert str(Amount.parse(value)) == shown


@pytest.mark.parametrize(
    "value",
    [
        "1e3", "१०", "NaN", "Infinity", "-1", "-0.5", "0", "0.0", "", " ", "1,5", "+1", "1.", ".5", "0x10", "1_000",
        "0." + "1" * 30, "1." + "0" * 30, "1" * 29, -1, 0, True, None, [], float("nan"), float("inf"), 1e-30, 1e300,
        0.1 + 0.2, 1 / 3, 2.0**60, 10**40, 10**5000, "1" * 5000, Decimal("NaN"),
        Decimal("1E-999999"), Decimal("1E+999999"),
    ],
    ids=lambda value: repr(value)[:20] if not isinstance(value, int) else f"{value.bit_length()} bits",
)  # fmt: skip
def test_what_is_no_exact_amount_is_refused(value: object) -> None:
    """Exponents in text, other digits, signs, zero, too many places, and floats that may have lost digits."""
    with pytest.raises(UsageError):
        Amount.parse(value)


def test_zero_is_an_amount_where_it_may_be() -> None:
    """A wallet may be opened with nothing."""
    assert Amount.parse("0", zero=True) == Amount(0)
    with pytest.raises(UsageError, match="not negative"):
        Amount.parse("-1", zero=True)


@given(UNITS, st.integers(min_value=1, max_value=1000))
def test_equal_shares_sum_exactly(units: int, count: int) -> None:
    """No share differs from another by more than the smallest unit, and nothing is left over or made."""
    shares = Amount(units).shares(count)
    assert sum(share.units for share in shares) == units
    assert max(shares, key=lambda share: share.units).units - min(shares, key=lambda share: share.units).units <= 1
    assert len(shares) == count


@given(st.integers(min_value=-UNITS_MAX, max_value=UNITS_MAX))
def test_text_and_decimal_say_the_same(units: int) -> None:
    """Written and read again an amount is what it was; as a Decimal it has the same value."""
    amount = Amount(units)
    assert Amount.read(str(amount)) == amount
    assert Decimal(str(amount)) == amount.value


@given(UNITS, UNITS)
def test_adding_and_taking_away_lose_nothing(one: int, other: int) -> None:
    """Sums are exact however many digits they have."""
    assert Amount(one) + Amount(other) - Amount(other) == Amount(one)
    assert (Amount(one) < Amount(other)) == (one < other)


@given(st.decimals(min_value=Decimal("0.0001"), max_value=Decimal(999999), places=4))
def test_a_number_of_few_digits_is_what_was_written(value: Decimal) -> None:
    """A model writes a JSON number: as a float of at most 15 digits it is the same amount as in text."""
    assert Amount.parse(float(value)) == Amount.parse(f"{value:f}")


def test_instruments_do_not_mix() -> None:
    """Credits and dollars are never counted together."""
    with pytest.raises(UsageError, match="USD"):
        Amount(1) + Amount(1, "USD")


def test_names_say_what_an_account_is() -> None:
    """A name without a colon is a wallet's; the others are of kinds that no agent can be named like."""
    assert kind_of_account("agent_alpha") == "wallet"
    assert kind_of_account("treasury:CREDIT") == "treasury"
    assert kind_of_account("spend:agent_alpha") == "tally"
    for name in ("bank:x", "treasury:", ":"):
        with pytest.raises(UsageError):
            kind_of_account(name)


def test_the_bounds_are_those_of_canton() -> None:
    """Numeric 10: 38 digits, 10 of them after the point."""
    assert (DIGITS_MAX, PLACES) == (38, 10)
