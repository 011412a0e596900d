"""Whatever is done to a ledger by others than the holder of its key is found, and the first record named."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from p2engine.domain.chain import START, Peaks, link
from p2engine.domain.money import Amount, Proof, RecordQuery
from p2engine.errors import StoreError, UsageError
from p2engine.ledgers.auditing import check_proof
from p2engine.ledgers.keys import Head, Keys
from p2engine.ledgers.redis_rows import make_head
from p2engine.ledgers.writing import Top
from p2engine.testing.contracts.ledger import ALICE, BOB, CAROL, holding, opened, pay, paying
from tests.ledgers.places import FilePlace, Line, Place, RedisPlace

Damage = Callable[[list[Line]], Sequence[Line]]


@pytest.fixture
async def written(place: Place) -> Place:
    """A ledger of three wallets and seven transfers, records 4 to 10, that nobody has open."""
    await _write(place, range(7))
    return place


async def _write(place: Place, numbers: range) -> None:
    ledger = await place.open()
    await opened(ledger)
    for number in numbers:
        assert (await pay(ledger, paying(f"t{number}", "1"))).is_paid
    await ledger.aclose()


async def _refused(place: Place) -> None:
    """Record 11: alice has not so much."""
    ledger = await place.open()
    assert (await pay(ledger, paying("much", "1000"))).refusal == "funds"
    await ledger.aclose()


def _saying(seq: int, **fields: object) -> Damage:
    return lambda lines: [line.saying(**fields) if line.seq == seq else line for line in lines]


def _having(seq: int, **fields: Any) -> Damage:
    return lambda lines: [line._replace(**fields) if line.seq == seq else line for line in lines]


def _byte(lines: list[Line]) -> Sequence[Line]:
    line = lines[6]
    lines[6] = line._replace(body=line.body.replace(b"weather", b"Weather"))
    return lines


def _without(*seqs: int) -> Damage:
    return lambda lines: [line for line in lines if line.seq not in seqs]


def _swapped(one: int, other: int) -> Damage:
    def change(lines: list[Line]) -> Sequence[Line]:
        lines[one - 1], lines[other - 1] = lines[other - 1]._replace(seq=one), lines[one - 1]._replace(seq=other)
        return lines

    return change


def _inserted(after: int) -> Damage:
    def change(lines: list[Line]) -> Sequence[Line]:
        more = lines[after - 1].saying(id="forged")._replace(seq=after + 1)
        return [*lines[:after], more, *(line._replace(seq=line.seq + 1) for line in lines[after:])]

    return change


def _linked_anew(lines: list[Line]) -> Sequence[Line]:
    """What somebody does who knows how the chain is made: change a record, and link all that follow."""
    lines[5] = lines[5].saying(amount="99.0")
    before, made = START, []
    for line in lines:
        before = link(before, line.body)
        made.append(line._replace(link=before))
    return made


def _forged(lines: list[Line]) -> Sequence[Line]:
    """One more at the end, linked as it should be."""
    forged = lines[-1].saying(seq=11, id="forged")
    return [*lines, forged._replace(seq=11, link=link(lines[-1].link, forged.body))]


TAMPERINGS = {
    "amount": (_saying(6, amount="0.5"), "changed", 6),
    "payee": (_saying(6, payee=CAROL), "changed", 6),
    "reason": (_saying(6, reason="none"), "changed", 6),
    "id": (_saying(6, id="other"), "changed", 6),
    "one byte": (_byte, "changed", 7),
    "first deleted": (_without(1), "missing", 1),
    "middle deleted": (_without(5), "missing", 5),
    "last deleted": (_without(10), "cut", 10),
    "tail cut": (_without(8, 9, 10), "cut", 8),
    "all deleted": (_without(*range(1, 11)), "replaced", 1),
    "one inserted": (_inserted(5), "moved", 6),
    "two swapped": (_swapped(5, 8), "moved", 5),
    "all linked anew": (_linked_anew, "forged", 6),
    "one forged at the end": (_forged, "forged", 11),
    "a seal": (_having(4, seal=bytes(16)), "forged", 4),
    "a link": (_having(4, link=bytes(32)), "changed", 4),
    "no record": (lambda lines: [line.saying(type="gift") if line.seq == 4 else line for line in lines], "changed", 4),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_failure_23_tampering_is_found_and_the_first_record_named(written: Place, name: str) -> None:
    """Changed, removed, inserted, swapped, cut: the audit says what, and where it begins."""
    damage, what, seq = TAMPERINGS[name]
    assert (await written.audit()).is_sound
    await written.put(damage(await written.lines()))
    first = (await written.audit()).findings[0]
    assert (first.what, first.seq) == (what, seq), first.text


async def test_what_nobody_changed_is_sound(written: Place) -> None:
    """Taking everything out and putting it back is no finding."""
    await written.put(await written.lines())
    audit = await written.audit()
    assert (audit.findings, audit.records, audit.accounts, audit.sealed) == ((), 10, 4, True)


FILE = {
    "found under another id": ("UPDATE record SET id = 'x' WHERE seq = 9", "changed", 9),
    "hidden from its payee": ("UPDATE record SET payee = NULL WHERE seq = 9", "changed", 9),
    "passed over in the list of its payee": (
        "UPDATE record SET payee_before = (SELECT payee_before FROM record WHERE seq = 8) WHERE seq = 9",
        "changed",
        9,
    ),
    "passed over as the newest": ("UPDATE account SET newest = newest - 1 WHERE name = 'bob'", "balance", None),
    "no record": ("UPDATE record SET body = 'x' WHERE seq = 4", "changed", 4),
    "a body that is text": ("UPDATE record SET body = CAST(body AS TEXT) WHERE seq = 4", "changed", 4),
    "a balance that is no number": ("UPDATE account SET balance = 'x' WHERE name = 'bob'", "balance", None),
    "a balance": ("UPDATE account SET balance = '1' WHERE name = 'bob'", "balance", None),
    "who may owe": ("UPDATE account SET kind = 'treasury' WHERE name = 'bob'", "balance", None),
    "an owner": ("UPDATE account SET owner = 'mallory' WHERE name = 'bob'", "balance", None),
    "an account": ("DELETE FROM account WHERE name = 'carol'", "changed", 3),
    "a wallet that nobody opened": (
        "INSERT INTO account VALUES (9, 'main', 'mallory', 'CREDIT', 'wallet', '', '0', '0', '0', 0, 0)",
        "balance",
        None,
    ),
    "a limit": ("INSERT INTO scope VALUES ('main', 's', 'CREDIT', '0', 1)", "balance", None),
    "a hold": ("INSERT INTO hold VALUES ('h', 1, NULL)", "balance", None),
    "a refusal hidden from all": (
        "UPDATE record SET payer = NULL, payee = NULL WHERE type = 'refusal'",
        "changed",
        11,
    ),
    "a refusal hidden from its payer": ("UPDATE record SET payer = NULL WHERE type = 'refusal'", "changed", 11),
    "a refusal taken for a transfer": ("UPDATE record SET type = 'transfer' WHERE type = 'refusal'", "changed", 11),
    "a checkpoint": ("INSERT INTO checkpoint VALUES (5, x'', x'00', 1.0, 'xyz')", "checkpoint", 5),
    "a checkpoint of nothing": ("INSERT INTO checkpoint VALUES (-1, x'', x'00', 1.0, 'xyz')", "checkpoint", None),
    "whose it is, taken out": ("DELETE FROM meta", "changed", None),
    "whose it is, made empty": ("UPDATE meta SET value = ''", "changed", None),
    "whose it is, that is no text": ("UPDATE meta SET value = NULL", "changed", None),
}


@pytest.mark.parametrize("name", FILE)
async def test_what_a_file_keeps_beside_the_records_is_looked_at(file_place: FilePlace, name: str) -> None:
    """By what a record is found, and what is derived from it."""
    await _write(file_place, range(7))
    await _refused(file_place)
    sql, what, seq = FILE[name]
    file_place.run(sql)
    first = (await file_place.audit()).findings[0]
    assert (first.what, first.seq) == (what, seq), first.text


REDIS: dict[str, Any] = {
    "an id": (("hset", "ids", "t5", "7"), "changed", 9),
    "an id that is gone": (("hdel", "ids", "t5"), "changed", 9),
    "an id too many": (("hset", "ids", "other", "9"), "balance", None),
    "hidden from its payee": (("xdel", "of:main\0bob", "9-0"), "changed", 9),
    "a balance": (("hset", "book:main", "bob\0CREDIT", "1 0 0 0 operator"), "balance", None),
    "a balance that is no number": (("hset", "book:main", "bob\0CREDIT", "x"), "balance", None),
    "an owner": (("hset", "book:main", "carol\0CREDIT", "1000000000000 0 0 0 mallory"), "balance", None),
    "an account": (("hdel", "book:main", "carol\0CREDIT"), "balance", None),
    "a wallet that nobody opened": (("hset", "book:main", "mallory\0CREDIT", "0 0 0 0 m"), "balance", None),
    "a book": (("srem", "books", "main"), "balance", None),
    "an account that is no text": (("hset", "book:main", b"\xff\0CREDIT", "0 0 0 0 "), "balance", None),
    "a limit that is no text": (("hset", "scopes", b"\xff", "0 1"), "balance", None),
    "a limit": (("hset", "scopes", "main\0s\0CREDIT", "0 1"), "balance", None),
    "a hold": (("hset", "holds", "h", ""), "balance", None),
    "a refusal hidden from its payer": (("xdel", "of:main\0alice", "11-0"), "changed", 11),
    "a refusal hidden from its payee": (("xdel", "of:main\0bob", "11-0"), "changed", 11),
    "a checkpoint": (("xadd", "checkpoints", {"root": "00", "at": "x", "signature": "xyz"}, "5-0"), "checkpoint", 5),
    "the head": (("set", "head", "x"), "forged", None),
    "no head": (("delete", "head"), "changed", None),
    "a schema that is none": (("hset", "meta", "schema", "-1"), "changed", None),
    "another's words": (("set", "meta", "x"), "unreadable", None),
}


@pytest.mark.parametrize("name", REDIS)
async def test_what_redis_keeps_beside_the_records_is_looked_at(redis_place: RedisPlace, name: str) -> None:
    """By what a record is found, and what is derived from it."""
    await _write(redis_place, range(7))
    await _refused(redis_place)
    (command, key, *more), what, seq = REDIS[name]
    await getattr(redis_place.client, command)(redis_place.base + key, *more)
    first = (await redis_place.audit()).findings[0]
    assert (first.what, first.seq) == (what, seq), first.text


async def test_an_older_copy_is_found_and_not_written_to(written: Place) -> None:
    """The head beside the key knows of later records: the audit names the first, and nobody can pay on the copy."""
    kept = await written.copy()
    await _write(written, range(7, 9))
    await written.restore(kept)
    first = (await written.audit()).findings[0]
    assert (first.what, first.seq) == ("cut", 11)
    with pytest.raises(StoreError, match="not as it was last written"):
        await written.open()


async def test_a_ledger_of_another_key_is_found(written: Place) -> None:
    """Written with another key, it is not taken for this one; nor written to without its key."""
    away = written.keys.rename(written.keys.with_name("away"))
    audit = await written.audit()
    assert (audit.records, audit.sealed, audit.findings) == (10, False, ())
    ledger = await written.open()
    with pytest.raises(StoreError, match="key of the ledger"):
        await pay(ledger, paying("t9", "1"))
    await ledger.aclose()
    assert not written.keys.exists()
    other = FilePlace(written.keys.parent / "other")
    other.keys = written.keys
    other.path.parent.mkdir()
    await _write(other, range(1))
    assert (await written.audit()).findings[0].what == "replaced"
    with pytest.raises(StoreError, match="another"):
        await written.open()
    for file in written.keys.iterdir():
        file.unlink()
    for file in away.iterdir():
        file.rename(written.keys / file.name)
    await (await written.open()).aclose()


async def test_checkpoints_that_are_gone_are_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is signed every so many records, so where none is they were taken out; the next one stands for all."""
    for module in ("embedded_rows", "redis_writing", "auditing"):
        monkeypatch.setattr(f"p2engine.ledgers.{module}.LEDGER_CHECKPOINT_RECORDS", 5)
    await _write(place, range(1))
    assert (await place.audit()).findings == ()  # too few records for one
    await _write(place, range(1, 9))
    assert (await place.audit()).findings == ()
    if isinstance(place, FilePlace):
        place.run("DELETE FROM checkpoint")
    elif isinstance(place, RedisPlace):
        await place.client.delete(place.base + "checkpoints")
    (finding,) = (await place.audit()).findings
    assert (finding.what, finding.seq) == ("checkpoint", 10)
    assert "`p2engine ledger checkpoint` signs" in finding.text
    ledger = await place.open()
    await ledger.checkpoint()
    await ledger.aclose()
    assert (await place.audit()).findings == ()


@pytest.mark.parametrize("other", [b"0" * 64, b"\xff", b""])
async def test_a_public_key_that_was_overwritten_is_named(written: Place, other: bytes) -> None:
    """It is worked out of the key, so it is not the ledger that is taken for another; one that is none is made anew."""
    ledger = await written.open()
    public = (await ledger.checkpoint()).ledger
    await ledger.aclose()
    pub = written.keys / "ledger.pub"
    pub.write_bytes(other)
    if len(other) == 64:
        (finding,) = (await written.audit()).findings
        assert (finding.what, str(pub) in finding.text) == ("changed", True)
        with pytest.raises(StoreError, match="is not the public key of the key beside it") as refused:
            await written.open()
        assert "take it away" in refused.value.hint
        pub.unlink()
    assert (await written.audit()).findings == ()
    ledger = await written.open()
    assert ledger.public_key == public == pub.read_text().strip()
    await ledger.aclose()


async def test_a_new_key_has_a_public_key_of_its_own(place: Place) -> None:
    """That of a key which was there before and is gone does not name the ledger."""
    place.keys.mkdir()
    (place.keys / "ledger.pub").write_text("0" * 64)
    await _write(place, range(1))
    ledger = await place.open()
    assert (await ledger.checkpoint()).ledger == ledger.public_key != "0" * 64
    await ledger.aclose()
    assert (await place.audit()).findings == ()


async def test_a_ledger_that_is_gone_is_not_begun_anew(written: Place) -> None:
    """What is missing is a loss, not an empty ledger."""
    await written.lose()
    assert (await written.audit()).findings[0].what == "replaced"
    with pytest.raises(StoreError, match="is gone: it had 10 records"):
        await written.open()


async def test_what_others_linked_is_not_signed(written: Place) -> None:
    """A checkpoint covers what the key's holder wrote: it is refused over links that somebody else put there."""
    ledger = await written.open()
    before = (await ledger.checkpoint()).count
    await written.put(_forged(await written.lines()))
    with suppress(StoreError):  # where it looks that far
        assert (await ledger.checkpoint()).count == before
    await ledger.aclose()
    newest = (await written.audit()).checkpoint
    assert newest is not None
    assert newest.count == before


@pytest.fixture
async def proof(written: Place) -> AsyncIterator[tuple[Proof, str]]:
    """A proof of `t3`, through bytes, and the public key."""
    ledger = await written.open()
    made = await ledger.proof("t3")
    yield msgspec.json.decode(msgspec.json.encode(made), type=Proof), made.checkpoint.ledger
    with pytest.raises(UsageError, match="'t99'"):
        await ledger.proof("t99")
    await ledger.aclose()


async def test_a_proof_needs_nothing_but_the_public_key(proof: tuple[Proof, str]) -> None:
    """One transfer is proved from its own bytes and hashes; no word of another record is in it."""
    made, public = proof
    record = check_proof(made, public)
    assert (record.id, record.payer, record.payee, record.amount) == ("t3", ALICE, BOB, "1.0")
    shown = bytes.fromhex(made.body)
    for start in range(len(shown)):  # what is cut off what is shown is not taken for what is hidden
        cut = msgspec.structs.replace(made, body=shown[:start].hex(), hidden=shown[start:].hex() + made.hidden)
        with pytest.raises(UsageError, match="no proof"):
            check_proof(cut, public)
    changed = bytes.fromhex(made.body).replace(b'"1.0"', b'"2.0"').hex()
    for wrong in (
        msgspec.structs.replace(made, body=changed),
        msgspec.structs.replace(made, index=made.index + 1),
        msgspec.structs.replace(made, path=made.path[:-1]),
        msgspec.structs.replace(made, body="zz"),
        msgspec.structs.replace(made, hidden=""),
        msgspec.structs.replace(made, hidden="00" * 32),
        msgspec.structs.replace(made, hidden="00"),
        msgspec.structs.replace(made, checkpoint=msgspec.structs.replace(made.checkpoint, at=1.0)),
        msgspec.structs.replace(made, checkpoint=msgspec.structs.replace(made.checkpoint, signature="00")),
    ):
        with pytest.raises(UsageError, match="no proof"):
            check_proof(wrong, public)
    with pytest.raises(UsageError, match="no proof"):
        check_proof(made, "00" * 32)


async def test_a_proof_shows_the_transfer_and_nothing_else(proof: tuple[Proof, str]) -> None:
    """Not what the payer has left, not the cause, not the limits it counted for; nor can that be guessed."""
    made, public = proof
    assert set(msgspec.json.decode(bytes.fromhex(made.body) + b"}")) == {
        *("seq", "id", "type", "book", "at", "payer", "payee", "amount", "reason")
    }
    record = check_proof(made, public)
    assert (record.left, record.cause, record.scopes, record.salt) == ("", "", (), "")


async def test_what_a_proof_does_not_show_is_linked_as_well(written: Place) -> None:
    """A changed balance, cause, limit or salt of a record is found like any other word of it."""
    lines = await written.lines()
    for change in ({"left": "1"}, {"cause": "x"}, {"scopes": ["x"]}, {"salt": "x"}):
        await written.put(_saying(6, **change)(list(lines)))
        first = (await written.audit()).findings[0]
        assert (first.what, first.seq) == ("changed", 6)
    await written.put(lines)
    assert (await written.audit()).is_sound


async def _raise(place: Place, units: int) -> None:
    """Bob's balance, by somebody who can write what is kept beside the records."""
    if isinstance(place, FilePlace):
        place.run("UPDATE account SET balance = ? WHERE name = 'bob'", str(units))
        return
    assert isinstance(place, RedisPlace)
    book, field = place.base + "book:main", b"bob\0CREDIT"
    _, rest = (await place.client.hget(book, field)).split(b" ", 1)
    await place.client.hset(book, field, b"%d %s" % (units, rest))


async def test_a_payment_out_of_a_balance_that_was_raised_is_found(written: Place) -> None:
    """Raised, spent, and set back to what the records come to: the record that paid is named, now and for ever."""
    units = 10**10
    await _raise(written, 10**6 * units)
    ledger = await written.open()
    assert (await pay(ledger, paying("much", "999999", BOB, CAROL))).is_paid
    assert (await pay(ledger, paying("more", "1", BOB, CAROL))).is_paid
    await ledger.aclose()
    await _raise(written, (107 - 999999 - 1) * units)
    first, second = (await written.audit()).findings
    assert (first.what, first.seq) == ("balance", 11)
    assert first.text == "record 11 (much) took more than there was: bob has -999892.0 CREDIT by it"
    assert second.text.startswith("record 11 (much) says that bob had 1.0 CREDIT left, and the records come to -999892")


async def test_a_balance_that_was_raised_and_set_back_is_found_by_what_was_paid_meanwhile(written: Place) -> None:
    """Also where the payer could have paid it anyway, for the record says what was left."""
    units = 10**10
    await _raise(written, 108 * units)
    ledger = await written.open()
    assert (await pay(ledger, paying("t9", "1", BOB, CAROL))).is_paid
    await ledger.aclose()
    await _raise(written, 106 * units)
    (finding,) = (await written.audit()).findings
    assert (finding.what, finding.seq) == ("balance", 11)
    assert "bob had 107.0 CREDIT left, and the records come to 106.0 CREDIT" in finding.text


@pytest.mark.parametrize("damage", [b"", b"\0" * 86, b"12 zz\n", b"\xff\xfe"])
async def test_a_head_that_cannot_be_read_is_a_finding(written: Place, damage: bytes) -> None:
    """All else is looked at, nobody pays, and the hint names the way out, which works, and what it costs."""
    noted = written.head.read_bytes()
    written.head.write_bytes(damage)
    audit = await written.audit()
    assert [(one.what, one.seq) for one in audit.findings] == [("unreadable", None)]
    assert (audit.records, audit.noted) == (10, True)
    with pytest.raises(StoreError, match="cannot be read") as refused:
        await written.open()
    assert f"take {written.head} away; without it" in refused.value.hint
    written.head.unlink()
    audit = await written.audit()
    assert (audit.findings, audit.noted) == ((), False)
    await (await written.open()).aclose()
    await _write(written, range(7, 8))
    assert len(written.head.read_bytes()) == len(noted)
    assert (await written.audit()).noted


async def test_a_ledger_without_its_key_can_be_looked_at(written: Place) -> None:
    """Accounts, records and receipts are told as before; whatever would write or sign is refused, and why."""
    ledger = await written.open()
    before = await ledger.accounts(), await ledger.records(RecordQuery()), await ledger.receipt("t3")
    public = ledger.public_key
    await ledger.aclose()
    (written.keys / "ledger.key").unlink()
    ledger = await written.open()
    assert (await ledger.accounts(), await ledger.records(RecordQuery()), await ledger.receipt("t3")) == before
    assert (await ledger.account(BOB), ledger.public_key) == (before[0][1], public)
    assert (await ledger.verify()).findings == ()
    for refused in (
        opened(ledger, "dan"),
        pay(ledger, paying("t9", "1")),
        ledger.hold(holding("h1")),
        ledger.release("h1", by=CAROL),
        ledger.refund("h1", by=CAROL),
        ledger.checkpoint(),
        ledger.proof("t3"),
    ):
        with pytest.raises(StoreError, match="key of the ledger"):
            await refused
    await ledger.aclose()
    assert len(await written.lines()) == 10
    assert not (written.keys / "ledger.key").exists()


async def test_a_ledger_that_is_gone_is_begun_anew_without_its_head_alone(written: Place) -> None:
    """As the hint says: the key stays, which a ledger elsewhere may need."""
    await written.lose()
    with pytest.raises(StoreError, match="is gone") as gone:
        await written.open()
    assert f"take {written.head} away" in gone.value.hint
    key = (written.keys / "ledger.key").read_text()
    written.head.unlink()
    await _write(written, range(3))
    assert (written.keys / "ledger.key").read_text() == key
    assert (await written.audit()).is_sound


def _first_form(lines: list[Line], keys: Keys) -> list[Line]:
    """The same records as they were once written: the salt first, linked as a whole, what is left as an amount."""
    before, made = START, []
    for line in lines:
        said = msgspec.json.decode(line.body)
        left = str(Amount(int(said["left"])))
        body = msgspec.json.encode({"seq": said.pop("seq"), "salt": said.pop("salt"), **said, "left": left})
        before = sha256(b"\0" + before + body).digest()
        made.append(Line(line.seq, body, before, keys.seal(before)))
    return made


async def test_records_of_the_first_form_are_verified_continued_and_proved(written: Place) -> None:
    """Whole ones and such that hide a part stand in one chain; a proof of a whole one shows all of it, as it did."""
    keys = Keys.at(written.keys, head=written.head.name)
    lines = _first_form(await written.lines(), keys)
    await written.put(lines)
    keys.write_head(Head(10, lines[-1].link))
    if isinstance(written, RedisPlace):
        tree = Peaks()
        for line in lines:
            tree.add(line.link)
        head = make_head(Top(10, lines[-1].link, msgspec.json.decode(lines[-1].body)["at"]), tree, keys)
        await written.client.set(written.base + "head", head.raw)
    assert (await written.audit()).findings == ()
    await _write(written, range(7, 9))
    assert (await written.audit()).findings == ()
    ledger = await written.open()
    old, new = await ledger.proof("t3"), await ledger.proof("t8")
    assert (check_proof(old, ledger.public_key).left, old.hidden) == ("96.0", "")
    assert (check_proof(new, ledger.public_key).left, len(new.hidden)) == ("", 64)
    receipts = [await ledger.receipt(order) for order in ("t3", "t8")]
    assert [one and str(one.left) for one in receipts] == ["96.0", "91.0"]
    await ledger.aclose()
    changed = [*lines]
    changed[5] = changed[5].saying(left="1.0")
    await written.put([*changed, *(await written.lines())[10:]])
    first = (await written.audit()).findings[0]
    assert (first.what, first.seq) == ("changed", 6)
