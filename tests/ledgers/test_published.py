"""A published checkpoint holds even the holder of the key to what was written when it was signed."""

import shutil
from pathlib import Path

import pytest
from msgspec import structs

from p2engine.domain.money import Checkpoint
from p2engine.ledgers.keys import Keys
from p2engine.testing.contracts.ledger import opened, pay, paying
from tests.ledgers.places import FilePlace, Place


async def _write(place: Place, numbers: range, amount: str = "1") -> Checkpoint:
    """Open the wallets, pay, and sign what is there."""
    ledger = await place.open()
    await opened(ledger)
    for number in numbers:
        assert (await pay(ledger, paying(f"t{number}", amount))).is_paid
    signed = await ledger.checkpoint()
    await ledger.aclose()
    return signed


def _forget_head(place: Place) -> None:
    """As whoever holds the key can: what this machine has seen to be written is no more."""
    place.head.unlink()


@pytest.fixture
async def published(place: Place) -> Checkpoint:
    """Of three wallets and seven transfers."""
    return await _write(place, range(7))


async def test_a_ledger_that_only_grew_is_that_of_its_checkpoint(place: Place, published: Checkpoint) -> None:
    """Now and later, whatever is signed in between."""
    assert (await place.audit(published)).findings == ()
    newest = await _write(place, range(7, 12))
    assert newest.count > published.count == 10
    assert [(await place.audit(one)).findings for one in (published, newest)] == [(), ()]
    assert (await place.audit(published)).checkpoint == newest


async def test_another_history_under_the_same_key_is_found(place: Place, published: Checkpoint) -> None:
    """The key's holder writes everything anew: sound by itself, and not what was published."""
    await place.lose()
    _forget_head(place)
    await _write(place, range(9), amount="2")
    assert (await place.audit()).findings == ()
    (finding,) = (await place.audit(published)).findings
    assert (finding.what, finding.seq) == ("checkpoint", 10)
    assert "published" in finding.text


async def test_a_restored_state_folder_is_found(place: Place) -> None:
    """An older copy of the ledger with the head of its time: nothing here knows of more, but the checkpoint does."""
    await _write(place, range(3))
    kept, head = await place.copy(), place.head.read_bytes()
    published = await _write(place, range(3, 7))
    await place.restore(kept)
    place.head.write_bytes(head)
    assert (await place.audit()).findings == ()
    (finding,) = (await place.audit(published)).findings
    assert (finding.what, finding.seq) == ("cut", 7)


async def test_a_ledger_that_is_gone_with_its_head_is_found(place: Place, published: Checkpoint) -> None:
    """Where nothing is left to say that there ever was one."""
    await place.lose()
    _forget_head(place)
    assert (await place.audit()).findings == ()
    (finding,) = (await place.audit(published)).findings
    assert (finding.what, finding.seq) == ("cut", 1)


async def test_a_ledger_begun_anew_with_another_key_is_found(place: Place, published: Checkpoint) -> None:
    """The checkpoint names the key that signed it."""
    await place.lose()
    shutil.rmtree(place.keys)
    await _write(place, range(7))
    assert (await place.audit()).findings == ()
    assert "another ledger" in (await place.audit(published)).findings[0].text


@pytest.mark.parametrize("change", [{"root": "00" * 32}, {"count": 9}, {"at": 1.0}, {"signature": "00"}])
async def test_what_was_not_signed_is_no_checkpoint(
    place: Place, published: Checkpoint, change: dict[str, object]
) -> None:
    """A word of it changed, and the key has not signed it."""
    first = (await place.audit(structs.replace(published, **change))).findings[0]
    assert (first.what, "not signed" in first.text) == ("checkpoint", True)


async def test_a_copy_without_its_key_is_held_to_a_checkpoint(file_place: FilePlace, tmp_path: Path) -> None:
    """An auditor who has the file and what was published needs no more: it is signed by the key that the file names."""
    published = await _write(file_place, range(7))
    copy = FilePlace(tmp_path / "elsewhere")
    copy.path.parent.mkdir()
    shutil.copy(file_place.path, copy.path)
    audit = await copy.audit(published)
    assert (audit.findings, audit.sealed) == ((), False)
    other = Keys.at(tmp_path / "other").sign(10, bytes.fromhex(published.root), 1.0)
    for wrong in (structs.replace(published, signature="00"), other):
        assert (await copy.audit(wrong)).findings[0].what == "checkpoint"
