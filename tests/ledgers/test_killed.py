"""Processes that pay are killed at any moment: what was acknowledged is there, and no money is made or lost."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2engine.domain.money import Amount, Opening, RecordQuery
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.contracts.ledger import check_conserved
from tests.ledgers.payer import NAMES, orders
from tests.ledgers.places import FilePlace, Place, RedisPlace
from tests.servers import ValkeyServer

COUNT = 500


def _payer(place: Place, seed: int) -> "subprocess.Popen[str]":
    if isinstance(place, FilePlace):
        where = str(place.path)
    else:
        assert isinstance(place, RedisPlace)
        where = f"{place.server.address.port}:{place.server.address.prefix}"
    words = [sys.executable, "-m", "tests.ledgers.payer", where, str(place.keys), str(seed), str(COUNT)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


def _read(payer: "subprocess.Popen[str]", lines: int) -> dict[str, str]:
    assert payer.stdout is not None
    return _told(payer.stdout.readline() for _ in range(lines))


def _rest(payer: "subprocess.Popen[str]") -> dict[str, str]:
    """Until it ends. Not by `communicate`, which forgets the lines that are read and not yet given out."""
    with payer:
        assert payer.stdout is not None
        return _told(iter(payer.stdout.readlines()))


def _told(lines: Iterator[str]) -> dict[str, str]:
    words = (line.split() for line in lines if line.endswith("\n"))
    return {order: status for order, status in words if status != "unknown"}


async def _open_wallets(place: Place) -> None:
    ledger = await place.open()
    await ledger.open_wallets(*(Opening(name=name, initial=Amount.parse(100)) for name in NAMES))
    await ledger.aclose()


async def _check(place: Place, told: dict[str, str]) -> None:
    """What was told stands; all orders given again are done once; and the sum is what it was."""
    audit = await place.audit()
    assert audit.findings == ()
    ledger = await place.open()
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
    assert (await place.audit()).findings == ()


@pytest.mark.parametrize("lines", [1, 33, 150, 377])
async def test_two_payers_are_killed_and_the_rest_is_paid_once(place: Place, lines: int) -> None:
    """Two processes pay at once and are killed; a third gives all 1,000 orders again: each is done once."""
    await _open_wallets(place)
    payers = [_payer(place, seed) for seed in (1, 2)]
    told: dict[str, str] = {}
    for payer in payers:
        told |= _read(payer, lines)
    for payer in payers:
        payer.kill()
        told |= _rest(payer)
    await _check(place, told)


@pytest.mark.parametrize("lines", [5, 120])
async def test_the_server_is_killed_and_both_payers_go_on(tmp_path: Path, lines: int) -> None:
    """A Redis that flushes what it acknowledges is killed under two payers and restarted: they end, each order once."""
    with ValkeyServer() as valkey:
        address = RedisAddress(host="127.0.0.1", port=valkey.port, prefix="killed")
        server = await RedisServer.open(address, durability="refuse")
        place = RedisPlace(server, tmp_path)
        await _open_wallets(place)
        payers = [_payer(place, seed) for seed in (1, 2)]
        told: dict[str, str] = {}
        for payer in payers:
            told |= _read(payer, lines)
        valkey.restart()
        for payer in payers:
            told |= _rest(payer)
            assert payer.returncode == 0
        assert len(told) == 2 * COUNT
        await _check(place, told)
        await server.aclose()
