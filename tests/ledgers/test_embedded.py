"""What is the embedded ledger's own: its file, its key, its checkpoints, and two processes on it."""

import os
import shutil
import sqlite3
import stat
from asyncio import run  # a loop of its own, whose threads have no more powers than this one
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.money import USD, AccountName, Amount, Opening, RecordQuery
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers import embedded_rows
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.testing.contracts.ledger import ALICE, BOB, CAROL, holding, opened, pay, paying
from tests.crash.test_disk import without_root_powers
from tests.ledgers.places import FilePlace


async def _write(place: FilePlace, count: int) -> None:
    ledger = await place.open()
    await opened(ledger)
    for number in range(count):
        await pay(ledger, paying(f"t{number}", "1"))
    await ledger.aclose()


def _wallet(name: str) -> Opening:
    return Opening(name=AccountName(name), initial=Amount.parse(10))


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


@pytest.mark.parametrize("peaks", ["randomblob(length(peaks))", "x''", "'x'", "1.5"])
async def test_a_changed_tree_of_a_checkpoint_is_found(file_place: FilePlace, peaks: str) -> None:
    """Nothing can be signed on it, and the audit, which the refusal names, says by which checkpoint it lies."""
    await _write(file_place, 4)
    ledger = await file_place.open()
    assert (await ledger.checkpoint()).count == 7
    await pay(ledger, paying("a", "1"))
    assert (await file_place.audit()).is_sound
    file_place.run(f"UPDATE checkpoint SET peaks = {peaks}")
    with pytest.raises(StoreError, match="the checkpoint of 7 records of the ledger was changed"):
        await ledger.checkpoint()
    await ledger.aclose()
    (finding,) = (await file_place.audit()).findings
    assert (finding.what, finding.seq) == ("checkpoint", 7)


@pytest.mark.parametrize("change", ["DELETE FROM meta", "UPDATE meta SET value = ''", "UPDATE meta SET value = NULL"])
async def test_a_file_that_does_not_say_whose_it_is_is_refused(file_place: FilePlace, change: str) -> None:
    """In a line that names it: it had records, so it said so once."""
    await _write(file_place, 3)
    file_place.run(change)
    with pytest.raises(StoreError, match="does not say whose ledger it is"):
        await file_place.open()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE account SET balance = 'x' WHERE name = 'alice'",
        "UPDATE account SET received = '' WHERE name = 'alice'",
        "UPDATE account SET sent = x'00ff' WHERE name = 'alice'",
        "UPDATE account SET transfers = 'x' WHERE name = 'alice'",
    ],
)
async def test_an_account_that_is_no_number_is_named(file_place: FilePlace, change: str) -> None:
    """Whoever looks at it or pays from it is told that it was changed; other accounts go on."""
    await _write(file_place, 1)
    file_place.run(change)
    ledger = await file_place.open()
    with pytest.raises(StoreError, match="the account alice of the ledger was changed"):
        await pay(ledger, paying("a", "1"))
    with pytest.raises(StoreError, match="the account alice of the ledger was changed"):
        await ledger.account(ALICE)
    with pytest.raises(StoreError, match="the account alice of the ledger was changed"):
        await ledger.accounts()
    assert (await pay(ledger, paying("b", "1", BOB, CAROL))).is_paid
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


@pytest.mark.parametrize("length", [0, 5000])
async def test_nothing_is_paid_into_a_file_that_was_cut_short_while_it_was_open(
    file_place: FilePlace, length: int
) -> None:
    """Also where all that an order looks at is in memory still."""
    await _write(file_place, 7)
    ledger = await file_place.open()
    await pay(ledger, paying("a", "1"))
    os.truncate(file_place.path, length)
    with pytest.raises(StoreError, match="was cut, replaced or moved away while it was open"):
        await pay(ledger, paying("b", "1"))
    with pytest.raises(StoreError, match="was cut, replaced or moved away while it was open"):
        await ledger.checkpoint()
    await ledger.aclose()


async def test_a_file_that_has_grown_is_known_by_what_it_grew_to(file_place: FilePlace) -> None:
    """What others wrote into it meanwhile is not cut off unseen either."""
    await _write(file_place, 1)
    ledger = await file_place.open()
    await pay(ledger, paying("a", "1"))
    before = file_place.path.stat().st_size
    for number in range(40):
        await pay(ledger, paying(f"b{number}", "1"))
    file_place.run("PRAGMA wal_checkpoint(TRUNCATE)")
    await pay(ledger, paying("c", "1"))
    assert file_place.path.stat().st_size > before
    os.truncate(file_place.path, before)
    with pytest.raises(StoreError, match="was cut, replaced or moved away while it was open"):
        await pay(ledger, paying("d", "1"))
    await ledger.aclose()


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
    with pytest.raises(StoreError, match="replaced or moved away"):
        await pay(ledger, paying("b", "1"))
    with pytest.raises(StoreError, match="replaced or moved away"):
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


FIRST_FORM = """
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE account(
  aid INTEGER PRIMARY KEY, book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, kind TEXT NOT NULL,
  owner TEXT NOT NULL, balance TEXT NOT NULL, received TEXT NOT NULL, sent TEXT NOT NULL, transfers INTEGER NOT NULL,
  UNIQUE(book, name, instrument));
CREATE TABLE record(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, payer INTEGER, payee INTEGER,
  at REAL NOT NULL, body BLOB NOT NULL, link BLOB NOT NULL, seal BLOB NOT NULL);
CREATE INDEX record_payer ON record(payer) WHERE payer IS NOT NULL;
CREATE INDEX record_payee ON record(payee) WHERE payee IS NOT NULL;
CREATE TABLE scope(
  book TEXT NOT NULL, name TEXT NOT NULL, instrument TEXT NOT NULL, spent TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(book, name, instrument)) WITHOUT ROWID;
CREATE TABLE hold(id TEXT PRIMARY KEY, seq INTEGER NOT NULL, ended_by TEXT) WITHOUT ROWID;
CREATE TABLE checkpoint(
  count INTEGER PRIMARY KEY, peaks BLOB NOT NULL, root BLOB NOT NULL, at REAL NOT NULL, signature TEXT NOT NULL);
PRAGMA application_id=0x50324C31;
PRAGMA user_version=1;
"""
COPIED = {
    "meta": "*",
    "account": "aid, book, name, instrument, kind, owner, balance, received, sent, transfers",
    "record": "seq, id, type, payer, payee, at, body, link, seal",
    "scope": "*",
    "hold": "*",
    "checkpoint": "*",
}
LISTS = "SELECT seq, payer_before, payee_before FROM record", "SELECT aid, newest FROM account"


async def test_a_ledger_of_the_first_form_is_sound_and_brought_up(file_place: FilePlace) -> None:
    """It can be verified as it is; opened, it is as one that was never of that form, and a copy of it is kept."""
    ledger = await file_place.open()
    await opened(ledger)
    await pay(ledger, paying("to-nobody", "1", ALICE, "nobody"))
    await pay(ledger, paying("to-oneself", "1", ALICE, ALICE))
    await pay(ledger, paying("cost", Amount.parse(1, USD), "spend:a", "provider:p"))
    await ledger.hold(holding("h1"))
    await ledger.release("h1", by=CAROL)
    for number in range(5):
        await pay(ledger, paying(f"t{number}", "1", *((ALICE, BOB) if number % 2 else (BOB, CAROL))))
    of_alice = await ledger.records(RecordQuery(account=ALICE))
    await ledger.checkpoint()
    await ledger.aclose()
    lists = [file_place.run(sql) for sql in LISTS]

    newer = file_place.path.rename(file_place.path.with_name("newer.db"))
    with closing(sqlite3.connect(file_place.path)) as db:
        db.executescript(FIRST_FORM)
        db.execute("ATTACH ? AS newer", (str(newer),))
        with db:
            for table, columns in COPIED.items():
                db.execute(f"DELETE FROM {table}")
                db.execute(f"INSERT INTO {table} SELECT {columns} FROM newer.{table}")
    assert (await file_place.audit()).is_sound

    ledger = await file_place.open()
    assert await ledger.records(RecordQuery(account=ALICE)) == of_alice
    assert [file_place.run(sql) for sql in LISTS] == lists
    assert file_place.path.with_name("ledger.db.schema-1").exists()
    assert (await pay(ledger, paying("after", "1"))).is_paid
    await ledger.aclose()
    assert (await file_place.audit()).findings == ()
    assert file_place.run("PRAGMA user_version") == [(2,)]


async def test_a_list_that_goes_round_is_read_to_its_end(file_place: FilePlace) -> None:
    """Whoever can write the file can hide a record from its account, which an audit finds, and holds up nobody."""
    await _write(file_place, 3)
    ledger = await file_place.open()
    whole = await ledger.records(RecordQuery(account=BOB))
    file_place.run("UPDATE record SET payee_before = 6 WHERE seq = 5")
    for newest in (True, False):
        assert await ledger.records(RecordQuery(account=BOB, newest=newest)) == whole[-2:]
    await ledger.aclose()
    first = (await file_place.audit()).findings[0]
    assert (first.what, first.seq) == ("changed", 5)


async def test_an_order_that_fails_half_way_leaves_nothing_in_memory(file_place: FilePlace) -> None:
    """What it had moved before it failed is not in the accounts from which the next order goes on."""
    ledger = await file_place.open()
    await opened(ledger)
    await pay(ledger, paying("open:main:eve:CREDIT", "1"))  # so no wallet can be opened for eve
    with pytest.raises(UsageError, match="another order"):
        await ledger.open_wallets(_wallet("dan"), _wallet("eve"))
    assert await ledger.account(AccountName("dan")) is None
    assert await ledger.open_wallets(_wallet("fay")) == [True]
    await ledger.aclose()
    assert (await file_place.audit()).findings == ()


class Refusing:
    """A cursor as it is, but for refusing to commit when it is told to: the disk's fault, as SQLite tells it."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.executemany = cursor.executemany
        self.refuses = False

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "COMMIT" and self.refuses:
            raise sqlite3.OperationalError("disk I/O error")
        return self._cursor.execute(sql, *values)


async def test_what_is_not_committed_is_not_in_memory(file_place: FilePlace) -> None:
    """The next order goes on from what stands, and the head beside the key tells of no record that is not there."""
    ledger = await EmbeddedLedger.open(file_place.path, file_place.keys)
    await opened(ledger)
    assert (await pay(ledger, paying("a", "1"))).left == Amount.parse(99)
    head = file_place.head.read_text()
    cursor: Any = Refusing(ledger._writer._cursor)
    ledger._writer._cursor = cursor
    cursor.refuses = True
    with pytest.raises(StoreError, match="disk I/O error"):
        await pay(ledger, paying("b", "1"))
    assert file_place.head.read_text() == head
    cursor.refuses = False
    assert (await pay(ledger, paying("c", "1"))).left == Amount.parse(98)
    await ledger.aclose()
    assert (await file_place.audit()).findings == ()


async def test_no_more_accounts_are_kept_in_memory_than_may_be(
    file_place: FilePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond, they are read again."""
    monkeypatch.setattr(embedded_rows, "LEDGER_ROWS_KEPT_MAX", 0)
    ledger = await EmbeddedLedger.open(file_place.path, file_place.keys)
    await opened(ledger)
    await pay(ledger, paying("a", "1"))
    rows = ledger._rows
    assert (await pay(ledger, paying("b", "1"))).left == Amount.parse(98)
    assert ledger._rows is not rows
    await ledger.aclose()


@pytest.mark.parametrize("how", ["taken away", "restored"])
async def test_a_head_that_was_taken_away_or_restored_is_written_again(file_place: FilePlace, how: str) -> None:
    """By the next payment of a ledger that is open all the while, so that a tail that is cut later is found."""
    ledger = await file_place.open()
    await opened(ledger)
    older = Path(shutil.copy(file_place.head, file_place.head.with_name("older")))
    await pay(ledger, paying("a", "1"))
    if how == "taken away":
        file_place.head.unlink()
    else:
        older.rename(file_place.head)
    await pay(ledger, paying("b", "1"))
    await ledger.aclose()
    file_place.run("DELETE FROM record WHERE seq = 5")
    assert (await file_place.audit()).findings[0].what == "cut"
