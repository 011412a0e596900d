"""The embedded ledger: transfers alone, at once and in batches, a look-up in a long book, looking through all of it."""

import asyncio
import tempfile
import time
from pathlib import Path

from bench.physical import RawCommits
from bench.rows import Row
from p2engine.domain.money import AccountName, Amount, Opening, Transfer
from p2engine.ledgers.embedded import EmbeddedLedger

ACCOUNTS = [AccountName(f"agent_{number}") for number in range(10)]
BATCH = 1000
AT_ONCE = 100
RECORD_BYTES = 300  # roughly what one of our records writes
LOOKS = 1000


async def ledger(*, quick: bool) -> list[Row]:
    """Each commit flushed, beside raw commits on the same disk. The book grows to a million transfers."""
    rounds, singles, longest = (2, 100, 20_000) if quick else (5, 500, 1_000_000)
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        folder = Path(name)
        raw = RawCommits(folder / "raw.db", sync="FULL", bytes_n=RECORD_BYTES)
        made = await EmbeddedLedger.open(folder / "ledger.db", folder / "keys")
        await made.open_wallets(*(Opening(name=account, initial=Amount.parse(10**9)) for account in ACCOUNTS))
        shares, raw_rates, single_rates = [], [], []
        raw.run(singles)  # to warm up
        await _one_by_one(made, -1, singles)
        for number in range(3 * rounds):
            raw_rates.append(1e3 / raw.run(singles)[1])
            single_rates.append(await _one_by_one(made, number, singles))
            shares.append(single_rates[-1] / raw_rates[-1])
        raw.close()
        together_rates = [await _at_once(made, number, singles * 4) for number in range(rounds)]
        early_us = [await _look_us(made) for _ in range(rounds)]
        batch_rates = [await _batch(made, number) for number in range(longest // BATCH)]
        late_us = [await _look_us(made) for _ in range(rounds)]
        audits = []
        for _ in range(1 if quick else 3):
            began = time.perf_counter()
            audit = await made.verify()
            assert audit.is_sound, audit.findings
            audits.append(audit.records / (time.perf_counter() - began))
        await made.aclose()
    growth = [late / early for late, early in zip(late_us, early_us, strict=True)]
    limit = "raw commits, FULL"
    return [
        _row("transfers, one after another", "a second", single_rates, limit=limit, limits=raw_rates),
        _row("transfers, one after another / raw commits, FULL", "ratio", shares, target=0.5, at_least=True),
        _row(f"transfers, {AT_ONCE} at once", "a second", together_rates, limit=limit, limits=raw_rates),
        _row(f"transfers in batches of {BATCH:,}", "a second", batch_rates, target=20_000, at_least=True),
        _row(f"balance look-up after {longest:,} transfers", "wall µs", late_us),
        _row(f"balance look-up, after {longest:,} transfers / at first", "ratio", growth, target=1.5),
        _row(f"verify {longest:,} records", "a second", audits, target=200_000, at_least=True),
    ]


def _row(
    what: str,
    unit: str,
    values: list[float],
    *,
    target: float | None = None,
    at_least: bool = False,
    limit: str = "",
    limits: list[float] | None = None,
) -> Row:
    return Row(
        bench="ledger",
        what=what,
        unit=unit,
        values=values,
        target=target,
        at_least=at_least,
        limit=limit,
        limits=limits or [],
    )


def _transfer(order: str, number: int) -> Transfer:
    payer, payee = ACCOUNTS[number % 10], ACCOUNTS[(number + 1 + number // 10 % 9) % 10]
    return Transfer(id=order, payer=payer, payee=payee, amount=Amount(1 + number), reason="for the weather")


async def _one_by_one(made: EmbeddedLedger, turn: int, count: int) -> float:
    """Transfers a second, each asked for when the one before is answered."""
    began = time.perf_counter()
    for number in range(count):
        (receipt,) = await made.transfer(_transfer(f"single:{turn}:{number}", number))
        assert receipt.is_paid, receipt.why
    return count / (time.perf_counter() - began)


async def _at_once(made: EmbeddedLedger, turn: int, count: int) -> float:
    """Transfers a second of so many payers, each of whom asks for the next when the one before is answered."""
    left = iter(range(count))

    async def one_after_another() -> None:
        for number in left:
            (receipt,) = await made.transfer(_transfer(f"together:{turn}:{number}", number))
            assert receipt.is_paid, receipt.why

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return count / (time.perf_counter() - began)


async def _batch(made: EmbeddedLedger, turn: int) -> float:
    """Transfers a second in one batch."""
    orders = [_transfer(f"batch:{turn}:{number}", number) for number in range(BATCH)]
    began = time.perf_counter()
    receipts = await made.transfer(*orders)
    rate = BATCH / (time.perf_counter() - began)
    assert all(receipt.is_paid for receipt in receipts)
    return rate


async def _look_us(made: EmbeddedLedger) -> float:
    """Microseconds to look up one balance."""
    began = time.perf_counter()
    for number in range(LOOKS):
        assert await made.account(ACCOUNTS[number % 10]) is not None
    return (time.perf_counter() - began) * 1e6 / LOOKS
