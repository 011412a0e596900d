"""The embedded ledger keeps the ledger's contract, on a quick disk and on a slow one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.stores import sqlite_writer
from p2engine.testing.contracts import LedgerContract
from p2engine.testing.contracts.ledger import ClockByHand


class _Embedded(LedgerContract):
    @pytest.fixture
    def clock(self) -> ClockByHand:
        return ClockByHand()

    @pytest.fixture
    async def ledger(self, tmp_path: Path, clock: ClockByHand) -> AsyncIterator[EmbeddedLedger]:
        ledger = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys", now=clock)
        yield ledger
        audit = await ledger.verify()
        await ledger.aclose()
        assert audit.findings == ()

    @pytest.fixture
    async def second(self, ledger: EmbeddedLedger, tmp_path: Path, clock: ClockByHand) -> AsyncIterator[EmbeddedLedger]:
        second = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys", now=clock)
        yield second
        await second.aclose()


class TestQuickDisk(_Embedded):
    """Whatever a test of the contract did, the ledger verifies after it."""


class TestSlowDisk(_Embedded):
    """Every commit is the thread's."""

    @pytest.fixture(autouse=True)
    def _slow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite_writer, "FLUSH_ON_LOOP_MAX_S", -1.0)
