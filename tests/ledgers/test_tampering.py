"""Whatever is done to the ledger's file by others than the holder of its key is found, and the first record named."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from p2engine.domain.chain import START, link
from p2engine.domain.money import Audit, RecordQuery
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers import writing
from p2engine.ledgers.auditing import check_proof, verify
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.testing.contracts.ledger import ALICE, BOB, CAROL, holding, opened, pay, paying

Damage = Callable[[sqlite3.Connection], object]


@pytest.fixture
async def place(tmp_path: Path) -> Path:
    """A folder with a ledger of three wallets and seven transfers, records 4 to 10, that nobody has open."""
    await _write(tmp_path, range(7))
    return tmp_path


async def _write(place: Path, numbers: range) -> None:
    ledger = await _open(place)
    await opened(ledger)
    for number in numbers:
        assert (await pay(ledger, paying(f"t{number}", "1"))).is_paid
    await ledger.aclose()


async def _open(place: Path) -> EmbeddedLedger:
    return await EmbeddedLedger.open(place / "ledger.db", place / "keys")


def _audit(place: Path) -> Audit:
    return verify(place / "ledger.db", place / "keys")


def _damage(place: Path, damage: Damage) -> None:
    with closing(sqlite3.connect(place / "ledger.db")) as db, db:
        damage(db)


def _field(seq: int, name: str, value: object) -> Damage:
    def change(db: sqlite3.Connection) -> None:
        (body,) = db.execute("SELECT body FROM record WHERE seq = ?", (seq,)).fetchone()
        changed = msgspec.json.decode(body) | {name: value}
        db.execute("UPDATE record SET body = ? WHERE seq = ?", (msgspec.json.encode(changed), seq))
        if name == "id":
            db.execute("UPDATE record SET id = ? WHERE seq = ?", (value, seq))

    return change


def _byte(seq: int) -> Damage:
    def change(db: sqlite3.Connection) -> None:
        (body,) = db.execute("SELECT body FROM record WHERE seq = ?", (seq,)).fetchone()
        place = body.index(b"weather")
        db.execute("UPDATE record SET body = ? WHERE seq = ?", (body[:place] + b"W" + body[place + 1 :], seq))

    return change


def _swap(one: int, other: int) -> Damage:
    def change(db: sqlite3.Connection) -> None:
        for old, new in ((one, -1), (other, one), (-1, other)):
            db.execute("UPDATE record SET seq = ? WHERE seq = ?", (new, old))

    return change


def _insert(after: int) -> Damage:
    def change(db: sqlite3.Connection) -> None:
        db.execute("UPDATE record SET seq = -seq WHERE seq > ?", (after,))
        db.execute("UPDATE record SET seq = 1 - seq WHERE seq < 0")
        columns = "type, payer, payee, at, body, link, seal"
        db.execute(f"INSERT INTO record SELECT ?, 'forged', {columns} FROM record WHERE seq = ?", (after + 1, after))

    return change


def _delete(*seqs: int) -> Damage:
    return lambda db: db.executemany("DELETE FROM record WHERE seq = ?", [(seq,) for seq in seqs])


def _rewrite(seq: int) -> Damage:
    """What somebody does who knows how the chain is made: change a record, and link all that follow anew."""

    def change(db: sqlite3.Connection) -> None:
        _field(seq, "amount", "99.0")(db)
        before = START
        for one, body in db.execute("SELECT seq, body FROM record ORDER BY seq").fetchall():
            before = link(before, body)
            db.execute("UPDATE record SET link = ? WHERE seq = ?", (before, one))

    return change


def _forge(db: sqlite3.Connection) -> None:
    """A record at the end that is linked as it should be, and balances that follow it."""
    body, before = db.execute("SELECT body, link FROM record WHERE seq = 10").fetchone()
    forged = msgspec.json.encode(msgspec.json.decode(body) | {"seq": 11, "id": "forged"})
    db.execute(
        "INSERT INTO record SELECT 11, 'forged', type, payer, payee, at, ?, ?, seal FROM record WHERE seq = 10",
        (forged, link(before, forged)),
    )


TAMPERINGS = {
    "amount": (_field(6, "amount", "0.5"), "changed", 6),
    "payee": (_field(6, "payee", CAROL), "changed", 6),
    "reason": (_field(6, "reason", "none"), "changed", 6),
    "id": (_field(6, "id", "other"), "changed", 6),
    "one byte": (_byte(7), "changed", 7),
    "first deleted": (_delete(1), "missing", 1),
    "middle deleted": (_delete(5), "missing", 5),
    "last deleted": (_delete(10), "cut", 10),
    "tail cut": (_delete(8, 9, 10), "cut", 8),
    "one inserted": (_insert(5), "moved", 6),
    "two swapped": (_swap(5, 8), "moved", 5),
    "all linked anew": (_rewrite(6), "forged", 6),
    "one forged at the end": (_forge, "forged", 11),
    "found under another id": (lambda db: db.execute("UPDATE record SET id = 'x' WHERE seq = 9"), "changed", 9),
    "hidden from its payee": (lambda db: db.execute("UPDATE record SET payee = NULL WHERE seq = 9"), "changed", 9),
    "no record": (lambda db: db.execute("UPDATE record SET body = 'x' WHERE seq = 4"), "changed", 4),
    "a seal": (lambda db: db.execute("UPDATE record SET seal = zeroblob(16) WHERE seq = 4"), "forged", 4),
    "a body that is text": (
        lambda db: db.execute("UPDATE record SET body = CAST(body AS TEXT) WHERE seq = 4"),
        "changed",
        4,
    ),
    "a balance that is no number": (
        lambda db: db.execute("UPDATE account SET balance = x WHERE name = ?".replace("= x", "= 'x'"), ("bob",)),
        "balance",
        None,
    ),
    "a link": (lambda db: db.execute("UPDATE record SET link = zeroblob(32) WHERE seq = 4"), "changed", 4),
    "a balance": (lambda db: db.execute("UPDATE account SET balance = '1' WHERE name = 'bob'"), "balance", None),
    "an account": (lambda db: db.execute("DELETE FROM account WHERE name = 'carol'"), "changed", 3),
    "a limit": (lambda db: db.execute("INSERT INTO scope VALUES ('main', 's', 'CREDIT', '0', 1)"), "balance", None),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_the_first_record_named(place: Path, name: str) -> None:
    """Changed, removed, inserted, swapped, cut: the audit says what, and where it begins."""
    damage, what, seq = TAMPERINGS[name]
    assert _audit(place).is_sound
    _damage(place, damage)
    first = _audit(place).findings[0]
    assert (first.what, first.seq) == (what, seq), first.text


@pytest.fixture
def kept(place: Path) -> Path:
    """A copy of the file as it is now."""
    copy = place / "copy.db"
    shutil.copy(place / "ledger.db", copy)
    return copy


async def test_an_older_copy_is_found_and_not_written_to(place: Path, kept: Path) -> None:
    """The head beside the key knows of later records: the audit names the first, and nobody can pay on the copy."""
    await _write(place, range(7, 9))
    for rest in place.glob("ledger.db*"):
        rest.unlink()
    shutil.copy(kept, place / "ledger.db")
    first = _audit(place).findings[0]
    assert (first.what, first.seq) == ("cut", 11)
    with pytest.raises(StoreError, match="not as it was last written"):
        await _open(place)


async def test_the_file_of_another_ledger_is_found(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Written with another key, it is not taken for this one."""
    other = tmp_path_factory.mktemp("other")
    await _write(other, range(20))
    shutil.copy(other / "ledger.db", place / "ledger.db")
    assert _audit(place).findings[0].what == "replaced"
    with pytest.raises(StoreError, match="another ledger"):
        await _open(place)


async def test_a_ledger_that_is_gone_is_not_begun_anew(place: Path) -> None:
    """A missing file is a loss, not an empty ledger; one whose key is gone can be looked at, not written to."""
    kept = place / "kept.db"
    (place / "ledger.db").rename(kept)
    assert _audit(place).findings[0].what == "replaced"
    with pytest.raises(StoreError, match="is gone: it had 10 records"):
        await _open(place)
    kept.rename(place / "ledger.db")
    (place / "keys" / "ledger.key").unlink()
    audit = _audit(place)
    assert (audit.records, audit.sealed, audit.findings) == (10, False, ())
    with pytest.raises(StoreError, match="key of the ledger"):
        await _open(place)


@pytest.mark.parametrize("length", [0, 100, 5000])
async def test_a_truncated_file_is_not_written_to(place: Path, length: int) -> None:
    """It is found, and opening says so in a line."""
    os.truncate(place / "ledger.db", length)
    assert not _audit(place).is_sound
    with pytest.raises(StoreError):
        await _open(place)


async def test_the_key_is_its_holders_alone(place: Path) -> None:
    """Made with mode 0600, kept from then on."""
    key = place / "keys" / "ledger.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_text()
    await (await _open(place)).aclose()
    assert key.read_text() == before


async def test_a_proof_needs_nothing_but_the_public_key(place: Path) -> None:
    """One transfer is proved from its own bytes and hashes; no word of another record is in it."""
    ledger = await _open(place)
    proof = msgspec.json.decode(msgspec.json.encode(await ledger.proof("t3")), type=type(await ledger.proof("t3")))
    public = ledger.public_key
    await ledger.aclose()
    record = check_proof(proof, public)
    assert (record.id, record.payer, record.payee, record.amount) == ("t3", ALICE, BOB, "1.0")
    changed = bytes.fromhex(proof.body).replace(b'"1.0"', b'"2.0"').hex()
    for wrong in (
        msgspec.structs.replace(proof, body=changed),
        msgspec.structs.replace(proof, index=proof.index + 1),
        msgspec.structs.replace(proof, path=proof.path[:-1]),
        msgspec.structs.replace(proof, body="zz"),
        msgspec.structs.replace(proof, checkpoint=msgspec.structs.replace(proof.checkpoint, at=1.0)),
        msgspec.structs.replace(proof, checkpoint=msgspec.structs.replace(proof.checkpoint, signature="00")),
    ):
        with pytest.raises(UsageError, match="no proof"):
            check_proof(wrong, public)
    with pytest.raises(UsageError, match="no proof"):
        check_proof(proof, "00" * 32)


async def test_what_is_not_there_has_no_proof(place: Path) -> None:
    """An unknown order is an error that names it."""
    ledger = await _open(place)
    with pytest.raises(UsageError, match="'t99'"):
        await ledger.proof("t99")
    await ledger.aclose()


async def test_checkpoints_come_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many records one is signed; a later one continues its tree, and all of them are checked."""
    monkeypatch.setattr(writing, "LEDGER_CHECKPOINT_RECORDS", 5)
    await _write(tmp_path, range(23))
    checkpoint = _audit(tmp_path).checkpoint
    assert checkpoint is not None
    assert checkpoint.count == 25
    ledger = await _open(tmp_path)
    assert (await ledger.checkpoint()).count == 26
    assert await ledger.checkpoint() == await ledger.checkpoint()
    await ledger.aclose()
    assert _audit(tmp_path).is_sound
    _damage(tmp_path, lambda db: db.execute("UPDATE checkpoint SET signature = '00' WHERE count = 10"))
    assert [(one.what, one.seq) for one in _audit(tmp_path).findings] == [("checkpoint", 10)]


async def test_two_processes_share_a_ledger(tmp_path: Path) -> None:
    """What one connection writes the other continues; each sees the money that the other has spent."""
    one, other = await _open(tmp_path), await _open(tmp_path)
    await opened(one)
    for number in range(10):
        await pay(one, paying(f"a{number}", "10"))
        await pay(other, paying(f"b{number}", "10", BOB, CAROL))
    assert (await pay(other, paying("c", "1"))).refusal == "funds"
    assert len(await one.records(RecordQuery(types=("transfer",)))) == 20
    await one.aclose()
    await other.aclose()
    assert _audit(tmp_path).is_sound


async def test_holds_are_part_of_the_audit(tmp_path: Path) -> None:
    """A hold whose end was taken back by hand is found."""
    ledger = await _open(tmp_path)
    await opened(ledger)
    await ledger.hold(holding("h1"))
    await ledger.release("h1", by=CAROL)
    await ledger.aclose()
    assert _audit(tmp_path).is_sound
    _damage(tmp_path, lambda db: db.execute("UPDATE hold SET ended_by = NULL"))
    assert _audit(tmp_path).findings[0].what == "balance"
