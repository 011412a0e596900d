"""What is the embedded ledger's own: its file, its key, its checkpoints, and two processes on it."""

import os
import shutil
import stat
from asyncio import run  # a loop of its own, whose threads have no more powers than this one
from pathlib import Path

import pytest

from p2engine.domain.money import RecordQuery
from p2engine.errors import StoreError
from p2engine.ledgers import embedded_rows
from p2engine.testing.contracts.ledger import BOB, CAROL, holding, opened, pay, paying
from tests.crash.test_disk import without_root_powers
from tests.ledgers.places import FilePlace


async def _write(place: FilePlace, count: int) -> None:
    ledger = await place.open()
    await opened(ledger)
    for number in range(count):
        await pay(ledger, paying(f"t{number}", "1"))
    await ledger.aclose()


@pytest.mark.parametrize("length", [0, 100, 5000])
async def test_a_truncated_file_is_not_written_to(file_place: FilePlace, length: int) -> None:
    """It is found, and opening says so in a line."""
    await _write(file_place, 7)
    os.truncate(file_place.path, length)
    assert not (await file_place.audit()).is_sound
    with pytest.raises(StoreError):
        await file_place.open()


async def test_the_key_is_its_holders_alone(file_place: FilePlace) -> None:
    """Made with mode 0600, kept from then on."""
    await _write(file_place, 1)
    key = file_place.keys / "ledger.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    await (await file_place.open()).aclose()
    assert key.read_text() == before


async def test_checkpoints_come_by_themselves(file_place: FilePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many records one is signed; a later one continues its tree, and all of them are checked."""
    monkeypatch.setattr(embedded_rows, "LEDGER_CHECKPOINT_RECORDS", 5)
    await _write(file_place, 23)
    checkpoint = (await file_place.audit()).checkpoint
    assert checkpoint is not None
    assert checkpoint.count == 25
    ledger = await file_place.open()
    assert (await ledger.checkpoint()).count == 26
    assert await ledger.checkpoint() == await ledger.checkpoint()
    await ledger.aclose()
    assert (await file_place.audit()).is_sound
    file_place.run("UPDATE checkpoint SET signature = '00' WHERE count = 10")
    assert [(one.what, one.seq) for one in (await file_place.audit()).findings] == [("checkpoint", 10)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE record SET body = CAST(replace(CAST(body AS TEXT), 'weather', 'Weather') AS BLOB) WHERE seq = 8",
        "UPDATE record SET body = CAST(body AS TEXT) WHERE seq = 8",
        "UPDATE record SET seal = zeroblob(16) WHERE seq = 9",
        "DELETE FROM record WHERE seq = 8",
        "UPDATE checkpoint SET peaks = zeroblob(64) WHERE count = 5",
        "UPDATE checkpoint SET peaks = root WHERE count = 5",
        "UPDATE checkpoint SET signature = '00' WHERE count = 5",
    ],
)
async def test_nothing_is_signed_that_was_changed(
    file_place: FilePlace, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Neither records since the newest checkpoint nor the tree at it: a key that signs what others wrote proves it."""
    monkeypatch.setattr(embedded_rows, "LEDGER_CHECKPOINT_RECORDS", 5)
    await _write(file_place, 6)
    ledger = await file_place.open()
    file_place.run(change)
    with pytest.raises(StoreError, match="changed"):
        await ledger.checkpoint()
    with pytest.raises(StoreError, match="changed"):
        await pay(ledger, paying("a", "1"))
    await ledger.aclose()


async def test_an_open_ledger_notices_that_it_was_cut(file_place: FilePlace) -> None:
    """Nothing is written over the place of a record that this process knows, so that the loss stays to be found."""
    ledger = await file_place.open()
    await opened(ledger)
    await pay(ledger, paying("t1", "1"))
    file_place.run("DELETE FROM record WHERE seq = 4")
    with pytest.raises(StoreError, match="not as it was last written"):
        await pay(ledger, paying("t2", "1"))
    await ledger.aclose()
    first = (await file_place.audit()).findings[0]
    assert (first.what, first.seq) == ("cut", 4)


@pytest.mark.parametrize("how", ["replaced", "replaced with all beside it", "moved away"])
async def test_failure_21_nothing_is_paid_into_a_file_that_is_no_more(file_place: FilePlace, how: str) -> None:
    """Exchanged for an older copy under an open ledger, or taken away: an order is an error, and in neither file."""
    await _write(file_place, 3)
    copy = Path(shutil.copy(file_place.path, file_place.path.with_name("copy.db")))
    ledger = await file_place.open()
    await pay(ledger, paying("a", "1"))
    file_place.path.rename(file_place.path.with_name("moved.db"))
    if how != "moved away":
        copy.rename(file_place.path)
    if how == "replaced with all beside it":
        for file in file_place.path.parent.glob("ledger.db-*"):
            file.unlink()
    with pytest.raises(StoreError, match="replaced or moved"):
        await pay(ledger, paying("b", "1"))
    with pytest.raises(StoreError, match="replaced or moved"):
        await ledger.checkpoint()
    await ledger.aclose()
    audit = await file_place.audit()
    assert audit.is_sound == (how == "replaced")  # then the log beside it had all that the copy had not
    assert audit.records == {"replaced": 7, "replaced with all beside it": 6, "moved away": 0}[how]


def test_failure_21_a_ledger_that_is_read_only_pays_nothing(file_place: FilePlace) -> None:
    """It says so in a line, and can be looked at; writable again, it goes on."""
    run(_write(file_place, 3))
    files = [file_place.path.parent, file_place.path]
    with without_root_powers():
        modes = [file.stat().st_mode for file in files]
        for file in files:
            file.chmod(0o555 if file.is_dir() else 0o444)
        try:
            with pytest.raises(StoreError, match="cannot be written"):
                run(file_place.open())
            audit = run(file_place.audit())
        finally:
            for file, mode in zip(files, modes, strict=True):
                file.chmod(mode)
    assert (audit.findings, audit.records) == ((), 6)
    run(_write(file_place, 4))
    assert run(file_place.audit()).records == 7


async def test_two_processes_share_a_ledger(file_place: FilePlace) -> None:
    """What one connection writes the other continues; each sees the money that the other has spent."""
    one, other = await file_place.open(), await file_place.open()
    await opened(one)
    for number in range(10):
        await pay(one, paying(f"a{number}", "10"))
        await pay(other, paying(f"b{number}", "10", BOB, CAROL))
    assert (await pay(other, paying("c", "1"))).refusal == "funds"
    assert len(await one.records(RecordQuery(types=("transfer",)))) == 20
    await one.aclose()
    await other.aclose()
    assert (await file_place.audit()).is_sound


async def test_holds_are_part_of_the_audit(file_place: FilePlace) -> None:
    """A hold whose end was taken back by hand is found."""
    ledger = await file_place.open()
    await opened(ledger)
    await ledger.hold(holding("h1"))
    await ledger.release("h1", by=CAROL)
    await ledger.aclose()
    assert (await file_place.audit()).is_sound
    file_place.run("UPDATE hold SET ended_by = NULL")
    assert (await file_place.audit()).findings[0].what == "balance"
