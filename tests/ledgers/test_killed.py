"""Processes that pay are killed at any moment: what was acknowledged is there, and no money is made or lost."""

import subprocess
import sys
from pathlib import Path

import pytest

from p2engine.domain.money import Amount, Opening, RecordQuery
from p2engine.ledgers.auditing import verify
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.testing.contracts.ledger import check_conserved
from tests.ledgers.payer import NAMES, orders

COUNT = 500


async def _open(place: Path) -> EmbeddedLedger:
    return await EmbeddedLedger.open(place / "ledger.db", place / "keys")


def _payer(place: Path, seed: int) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "tests.ledgers.payer", str(place), str(seed), str(COUNT)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def _read(payer: "subprocess.Popen[str]", lines: int) -> dict[str, str]:
    assert payer.stdout is not None
    said = (payer.stdout.readline() for _ in range(lines))
    return dict(line.split() for line in said if line.endswith("\n"))


@pytest.mark.parametrize("lines", [1, 33, 150, 377])
async def test_two_payers_are_killed_and_the_rest_is_paid_once(tmp_path: Path, lines: int) -> None:
    """Two processes pay at once and are killed; a third gives all 1,000 orders again: each is done once."""
    ledger = await _open(tmp_path)
    await ledger.open_wallets(*(Opening(name=name, initial=Amount.parse(100)) for name in NAMES))
    await ledger.aclose()
    payers = [_payer(tmp_path, seed) for seed in (1, 2)]
    told: dict[str, str] = {}
    for payer in payers:
        told |= _read(payer, lines)
    for payer in payers:
        payer.kill()
        rest, _ = payer.communicate()
        told |= dict(line.split() for line in rest.splitlines(keepends=True) if line.endswith("\n"))
    audit = verify(tmp_path / "ledger.db", tmp_path / "keys")
    assert audit.findings == ()
    ledger = await _open(tmp_path)
    before = {record.id: record for record in await ledger.records(RecordQuery(limit=10_000))}
    assert {order: before[order].status for order in told} == told
    receipts = await ledger.transfer(*orders(1, COUNT), *orders(2, COUNT))
    assert {receipt.id: receipt.status for receipt in receipts if receipt.id in told} == told
    after = await ledger.records(RecordQuery(limit=10_000))
    assert len(after) == len(NAMES) + 2 * COUNT
    await check_conserved(ledger)
    accounts = [account for account in await ledger.accounts() if account.kind == "wallet"]
    assert sum(account.balance.units for account in accounts) == Amount.parse(800).units
    await ledger.aclose()
    assert verify(tmp_path / "ledger.db", tmp_path / "keys").findings == ()
