"""What is the own of a ledger in Redis: answers that are lost, heads that move, keys on several machines."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Lost
from redis.exceptions import ResponseError

from p2engine.domain.money import Audit, BookId, Opening, RecordQuery
from p2engine.errors import NewerFormat, Rewound, StoreBusy, StoreError
from p2engine.ledgers import redis_reading, redis_writing
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.ledgers.redis import RedisLedger
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.testing.contracts.ledger import ALICE, BOB, CAROL, amount, balance, check_conserved, opened, pay, paying
from tests.ledgers.places import RedisPlace
from tests.servers import ValkeyServer


@pytest.fixture
def own() -> Iterator[ValkeyServer]:
    """A server that a test may stop."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
async def ledger(redis_place: RedisPlace) -> AsyncIterator[RedisLedger]:
    """With wallets of 100 each. It verifies after the test."""
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys)
    await opened(ledger)
    yield ledger
    await ledger.aclose()
    assert (await redis_place.audit()).findings == ()


async def test_a_project_may_have_a_ledger_of_each_kind(redis_place: RedisPlace, tmp_path: Path) -> None:
    """One in a file and one in a Redis, with one key: what the file's has come to is nothing that Redis has lost."""
    in_a_file = await EmbeddedLedger.open(tmp_path / "ledger.db", redis_place.keys)
    await opened(in_a_file)
    assert (await pay(in_a_file, paying("t1", "5"))).is_paid
    await in_a_file.aclose()
    in_redis = await RedisLedger.open(redis_place.server, redis_place.keys)
    await opened(in_redis)
    await in_redis.aclose()
    again = await EmbeddedLedger.open(tmp_path / "ledger.db", redis_place.keys)
    assert await balance(again, ALICE) == "95.0"
    await again.aclose()


def _losing_an_answer(
    ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch, *, done: bool = True, then: Callable[[], object] | None = None
) -> list[bool]:
    """The connection is lost after the next call of the appending script was done, or before it was."""
    append, lost = ledger._writer._append, [True]

    async def lose(**words: Any) -> Any:
        if lost and not done:
            lost.pop()
            raise Lost("reset by peer")
        answer = await append(**words)
        if lost:
            lost.pop()
            if then is not None:
                then()
            raise Lost("reset by peer")
        return answer

    monkeypatch.setattr(ledger._writer, "_append", lose)
    return lost


@pytest.mark.parametrize("done", [True, False])
async def test_failure_35_an_order_whose_answer_is_lost_is_done_once(
    ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    """It is found written, or done again, and answered as if nothing had been; a wallet too, which is new only once."""
    lost = _losing_an_answer(ledger, monkeypatch, done=done)
    receipts = await ledger.transfer(paying("t1", "60"), paying("t2", "60"))
    assert ([receipt.status for receipt in receipts], lost) == (["paid", "refused"], [])
    lost = _losing_an_answer(ledger, monkeypatch, done=done)
    opening = Opening(name=ALICE, initial=amount("1"), book=BookId("trial"))
    assert (await ledger.open_wallets(opening), lost) == ([True], [])
    assert [record.id for record in await ledger.records(RecordQuery(types=("transfer", "refusal")))] == ["t1", "t2"]


async def test_an_order_that_arrives_after_it_was_given_up_on_is_not_done_twice(
    ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection was cut, it was given again, and then the first one came through: the head is another by then."""
    append, held = ledger._writer._append, list[Any]()

    async def late(**words: Any) -> Any:
        if not held:
            held.append(words)
            raise Lost("reset by peer")
        return await append(**words)

    monkeypatch.setattr(ledger._writer, "_append", late)
    assert (await pay(ledger, paying("t1"))).is_paid
    assert await append(**held[0]) == b"moved"
    assert await balance(ledger, BOB) == "110.0"


async def test_an_order_that_may_be_done_is_unknown_until_the_server_is_back(
    own: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent, unanswered, and the server away: unknown, not refused. Asked again later: done, and done once."""
    server = await RedisServer.open(RedisAddress(host="127.0.0.1", port=own.port), durability="refuse")
    ledger = await RedisLedger.open(server, tmp_path / "keys", busy_wait_s=0.2)
    await opened(ledger)
    _losing_an_answer(ledger, monkeypatch, then=own.stop)
    receipts = await ledger.transfer(paying("t1"), paying("t2", payee=ALICE), paying("", "1"))
    assert [(receipt.status, receipt.refusal) for receipt in receipts] == [
        ("unknown", None),
        ("unknown", None),
        ("refused", "id"),
    ]
    with pytest.raises(StoreBusy):  # nothing of this was sent
        await pay(ledger, paying("t3"))
    own.start(own.port)
    assert (await ledger.receipt("t1")) == await pay(ledger, paying("t1"))
    assert (await pay(ledger, paying("t2", payee=ALICE))).refusal == "self"
    assert await ledger.receipt("t3") is None
    assert await balance(ledger, BOB) == "110.0"
    assert (await ledger.verify()).is_sound
    await ledger.aclose()
    await server.aclose()


async def test_a_wallet_that_may_be_open_is_an_error(
    own: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it is new cannot be said; asking again later is harmless."""
    server = await RedisServer.open(RedisAddress(host="127.0.0.1", port=own.port), durability="refuse")
    ledger = await RedisLedger.open(server, tmp_path / "keys", busy_wait_s=0.2)
    _losing_an_answer(ledger, monkeypatch, then=own.stop)
    with pytest.raises(StoreBusy, match="unknown"):
        await opened(ledger, ALICE)
    own.start(own.port)
    assert await ledger.open_wallets(Opening(name=ALICE, initial=amount("5"))) == [False]
    await ledger.aclose()
    await server.aclose()


async def test_a_refused_head_is_read_and_judged_again(
    ledger: RedisLedger, redis_place: RedisPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading and appending another process spends the money: the order is judged by what is left."""
    other = await RedisLedger.open(redis_place.server, redis_place.keys)
    append = ledger._writer._append

    async def late(**words: Any) -> Any:
        monkeypatch.setattr(ledger._writer, "_append", append)
        assert (await pay(other, paying("theirs", "60"))).is_paid
        return await append(**words)

    monkeypatch.setattr(ledger._writer, "_append", late)
    receipt = await pay(ledger, paying("ours", "60"))
    assert (receipt.refusal, receipt.why) == ("funds", "alice has 40.0 CREDIT, not 60.0 CREDIT")
    await other.aclose()


async def test_what_the_server_refuses_is_an_error_and_not_done(
    ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answered, so nothing is unknown; when it takes writes again, the same order is done."""

    async def full(**_: Any) -> bytes:
        raise ResponseError("MISCONF Redis is configured to save RDB snapshots, but cannot")

    with monkeypatch.context() as patch:
        patch.setattr(ledger._writer, "_append", full)
        with pytest.raises(StoreError, match="cannot write to its disk"):
            await pay(ledger, paying("t1"))
    assert await ledger.receipt("t1") is None
    assert (await pay(ledger, paying("t1"))).is_paid


async def test_whoever_is_always_too_late_brings_fewer(
    ledger: RedisLedger, redis_place: RedisPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others write quicker than many orders are judged, they are judged in smaller groups, until they fit."""
    other = await RedisLedger.open(redis_place.server, redis_place.keys)
    append, heads, sizes = ledger._writer._append, iter(range(1000)), list[int]()

    async def late(**words: Any) -> Any:
        sizes.append(words["args"][2])
        if sizes[-1] > 25:
            await pay(other, paying(f"theirs{next(heads)}", "0.001"))
        return await append(**words)

    monkeypatch.setattr(ledger._writer, "_append", late)
    receipts = await ledger.transfer(*(paying(f"t{number}", "0.1") for number in range(200)))
    assert [receipt.id for receipt in receipts] == [f"t{number}" for number in range(200)]
    assert all(receipt.is_paid for receipt in receipts)
    assert sizes[:4] == [200, 100, 50, 25]
    await other.aclose()


async def test_a_head_that_never_stands_still_is_given_up_on(
    redis_place: RedisPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time an order that was always too late ends in a line; nothing of it is done."""
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys, busy_wait_s=0.05)
    await opened(ledger)

    async def moved(**_: Any) -> bytes:
        return b"moved"

    with monkeypatch.context() as patch:
        patch.setattr(ledger._writer, "_append", moved)
        with pytest.raises(StoreBusy, match="others keep writing"):
            await pay(ledger, paying("t1"))
    assert await ledger.receipt("t1") is None
    await ledger.aclose()


async def test_a_call_that_is_cancelled_holds_nobody_up(ledger: RedisLedger) -> None:
    """What came with it is done, and closing waits for it."""
    calls = [asyncio.ensure_future(pay(ledger, paying(f"t{number}", "1"))) for number in range(10)]
    await asyncio.sleep(0)
    calls[3].cancel()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [number == 3 for number in range(10)]
    await check_conserved(ledger)


async def test_a_server_that_went_back_is_not_written_to(redis_place: RedisPlace) -> None:
    """What this process knows to be written is gone: nobody pays on what is left, and the audit names the first."""
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys)
    await opened(ledger)
    kept = await redis_place.copy()
    await pay(ledger, paying("t1"))
    await redis_place.restore(kept)
    with pytest.raises(Rewound, match="it had 4 records"):
        await pay(ledger, paying("t2"))
    first = (await ledger.verify()).findings[0]
    assert (first.what, first.seq) == ("cut", 4)
    await ledger.aclose()


async def test_nothing_is_built_on_a_head_that_somebody_else_made(redis_place: RedisPlace) -> None:
    """An order is refused with an error while the head is not sealed by the key, or records lie beyond it."""
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys)
    await opened(ledger)
    head = await redis_place.client.get(redis_place.base + "head")
    await redis_place.client.set(redis_place.base + "head", head[:-1] + bytes([head[-1] ^ 1]))
    with pytest.raises(StoreError, match="not written by the holder"):
        await pay(ledger, paying("t1"))
    await redis_place.client.set(redis_place.base + "head", head)
    await redis_place.client.xadd(redis_place.base + "records", {"body": "x"}, id="9-0")
    with pytest.raises(StoreError, match="after the newest one"):
        await pay(ledger, paying("t1"))
    assert await ledger.receipt("t1") is None
    await ledger.aclose()


async def test_a_second_machine_needs_the_key(ledger: RedisLedger, redis_place: RedisPlace, tmp_path: Path) -> None:
    """Without it, or with one of its own, it is told what to copy; with a copy it pays. The key is never in Redis."""
    there = tmp_path / "there"
    with pytest.raises(StoreError, match="not in") as missing:
        await RedisLedger.open(redis_place.server, there)
    assert missing.value.hint == f"copy `keys/` of the machine that made the ledger to {there}"
    assert not there.exists()
    shutil.copytree(redis_place.keys, there)
    other = await RedisLedger.open(redis_place.server, there)
    assert other.public_key == ledger.public_key
    assert (await pay(other, paying("t1"))).is_paid
    await other.aclose()
    seed = (redis_place.keys / "ledger.key").read_text().strip()
    for dump in (await redis_place.copy()).values():
        assert seed.encode() not in dump
        assert bytes.fromhex(seed) not in dump


async def test_two_machines_that_begin_at_once_make_one_ledger(redis_place: RedisPlace, tmp_path: Path) -> None:
    """The key of the first to be there is the ledger's; the other is told so."""
    opening = (RedisLedger.open(redis_place.server, tmp_path / name) for name in ("one", "other"))
    first, second = await asyncio.gather(*opening, return_exceptions=True)
    assert sorted(type(one).__name__ for one in (first, second)) == ["RedisLedger", "StoreError"]


async def test_what_is_not_ours_is_left_alone(redis_place: RedisPlace) -> None:
    """Keys of somebody else's under our names, and data of a later version, are refused by name."""
    await redis_place.client.set(redis_place.base + "records", "x")
    with pytest.raises(StoreError, match="records' is not ours"):
        await redis_place.open()
    await redis_place.client.delete(redis_place.base + "records")
    await redis_place.client.hset(redis_place.base + "meta", "schema", "3")
    with pytest.raises(NewerFormat, match="schema '3'"):
        await redis_place.open()
    assert not redis_place.keys.exists()


async def test_checkpoints_come_by_themselves(redis_place: RedisPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every so many records one is signed, of all that is there; each of them is checked."""
    monkeypatch.setattr(redis_writing, "LEDGER_CHECKPOINT_RECORDS", 5)
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys)
    assert (await ledger.checkpoint()).count == 0
    await opened(ledger)
    for number in range(23):
        await pay(ledger, paying(f"t{number}", "1"))
    checkpoint = (await redis_place.audit()).checkpoint
    assert checkpoint is not None
    assert checkpoint.count == 25
    newest = await asyncio.gather(ledger.checkpoint(), ledger.checkpoint())
    assert newest[0] == newest[1] == await ledger.checkpoint()
    assert newest[0].count == 26
    await ledger.aclose()
    audit = await redis_place.audit()
    assert (audit.findings, audit.checkpoint) == ((), newest[0])


async def test_an_audit_looks_at_one_moment_whoever_writes(
    ledger: RedisLedger, redis_place: RedisPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payments that come while it looks are no findings."""
    monkeypatch.setattr("p2engine.ledgers.redis_audit.PAGE_RECORDS", 7)
    audits: list[Audit] = []

    async def look() -> None:
        audits.extend([await redis_place.audit() for _ in range(10)])

    looking = asyncio.ensure_future(look())
    number = 0
    while not looking.done():
        await ledger.transfer(paying(f"a{number}", "1"), paying(f"b{number}", "1", BOB, CAROL))
        await ledger.transfer(paying(f"c{number}", "1", CAROL, ALICE))
        number += 1
    await looking
    assert [audit.findings for audit in audits] == [()] * 10
    assert audits[-1].records > audits[0].records


async def test_long_histories_are_read_in_pages(ledger: RedisLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """From either end, of an account or of all, whatever a page holds."""
    monkeypatch.setattr(redis_reading, "PAGE_RECORDS", 3)
    await ledger.transfer(*(paying(f"t{number}", "1", *(ALICE, BOB)[:: 1 - 2 * (number % 2)]) for number in range(20)))
    for account in (None, ALICE):
        newest = await ledger.records(RecordQuery(account=account, types=("transfer",), limit=8))
        assert [record.id for record in newest] == [f"t{number}" for number in range(12, 20)]
        oldest = await ledger.records(RecordQuery(account=account, types=("transfer",), limit=8, newest=False))
        assert [record.id for record in oldest] == [f"t{number}" for number in range(8)]


async def test_a_closed_ledger_says_so(redis_place: RedisPlace) -> None:
    """And what was given to it before is done."""
    ledger = await RedisLedger.open(redis_place.server, redis_place.keys)
    opening = asyncio.ensure_future(opened(ledger))
    await asyncio.sleep(0)
    await ledger.aclose()
    await ledger.aclose()
    await opening
    with pytest.raises(StoreError, match="is closed"):
        await pay(ledger, paying("t1"))
