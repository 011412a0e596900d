"""The log and the ledger are kept in step: every record is one event with its cause, every cost is booked once."""

import logging
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from p2engine.domain.decisions import Decision, Say, UseTool
from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId
from p2engine.domain.messages import Usage
from p2engine.domain.money import (
    USD,
    AccountName,
    Amount,
    BookId,
    Hold,
    Opening,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.domain.records import Batch, Event, Fact
from p2engine.domain.setup import Spent
from p2engine.domain.verdicts import Subject, Verdict
from p2engine.errors import StoreError
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.ports import AgentView
from p2engine.runtime import bookkeeper
from p2engine.runtime.bookkeeper import MARKED, Bookkeeper
from p2engine.runtime.engine import Engine
from p2engine.runtime.judging import VERDICT, judge_now
from p2engine.testing.doubles import FunctionJudges
from p2engine.tools.payments import payment_tools
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from tests.runtime.conftest import Stage, until

TOOLS = {tool.spec.name: tool.tool for tool in payment_tools()}
REPEATS = {name: tool.spec.repeat for name, tool in TOOLS.items()}
SPENT = Spent(1, 90, 8, 0.02)
BOSS, WORKER = AccountName("boss"), AccountName("worker")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[EmbeddedLedger]:
    ledger = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys")
    for name in (BOSS, WORKER):
        await ledger.open_wallets(Opening(name=name, initial=Amount.parse(100)))
    yield ledger
    await ledger.aclose()


class Watched:
    """A ledger as its driver is, but for keeping what was asked of it, and for failing when it is told to."""

    def __init__(self, ledger: EmbeddedLedger) -> None:
        self._ledger = ledger
        self.asked: list[RecordQuery] = []
        self.orders: list[Transfer] = []
        self.broken = False

    public_key = property(lambda self: self._ledger.public_key)

    async def records(self, query: RecordQuery) -> Any:
        if self.broken:
            raise StoreError("the ledger is gone")
        self.asked.append(query)
        return await self._ledger.records(query)

    async def accounts(self, **book: Any) -> Any:
        return await self._ledger.accounts(**book)

    async def transfer(self, *transfers: Transfer) -> Any:
        self.orders += transfers
        return await self._ledger.transfer(*transfers)


def _engine(stage: Stage, ledger: Any, agents: dict[str, Any] | None = None) -> Engine:
    engine = stage.engine(agents or {"boss": _says("done")}, repeats=REPEATS)
    engine.world.tools = Runner(Registry(payment_tools(), withheld={}), now=stage.clock.now)

    async def door() -> Any:
        return ledger

    engine.world.ledger = door
    engine.bookkeeper.books = True
    return engine


def _says(text: str, **usage: Any) -> Any:
    async def decide(_: AgentView) -> Decision:
        return Decision((Say(text),), Usage(model="gpt-4o-2024", **usage))

    return decide


def _paying() -> Any:
    asked: list[AgentView] = []

    async def decide(view: AgentView) -> list[Any]:
        asked.append(view)
        return [UseTool("transfer_funds", {"to_agent": "worker", "amount": 5})] if len(asked) == 1 else [Say("done")]

    return decide


async def _pay(ledger: EmbeddedLedger, order: str, units: str = "1", **more: Any) -> None:
    await ledger.transfer(Transfer(id=order, payer=BOSS, payee=WORKER, amount=Amount.parse(units), **more))


async def _told(stage: Stage) -> list[str]:
    return [event.body["id"] for event in await stage.events("ledger.transfer", "ledger.refused")]


async def test_seam_14_a_payment_is_an_event_of_its_conversation(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Without a sweep the log has it, once, caused by the call that paid, and with what the ledger wrote."""
    engine = _engine(stage, ledger, {"boss": _paying()})
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")

    async def is_told() -> bool:
        return bool(await stage.events("ledger.transfer"))

    await until(is_told)
    (event,) = await stage.events("ledger.transfer")
    (record,) = await ledger.records(RecordQuery(types=("transfer",)))
    assert (event.cause, event.body["id"], event.at) == (record.id, record.id, record.at)
    assert (event.conversation, event.agent) == (talk.record.id, "boss")
    assert event.body == {
        "seq": record.seq,
        "id": record.id,
        "book": "main",
        "payer": "boss",
        "payee": "worker",
        "amount": "5.0",
        "instrument": "CREDIT",
        "left": "95.0",
    }
    assert record.salt not in str(event)


async def test_every_record_has_its_kind(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Wallets that are opened, payments, refusals, and what is held and becomes of it, of every book."""
    hold = Hold(id="h1", payer=BOSS, payee=WORKER, amount=Amount.parse(1), authority=BOSS)
    await ledger.hold(hold)
    await ledger.release("h1", by=BOSS)
    await ledger.hold(Hold(id="h2", payer=BOSS, payee=WORKER, amount=Amount.parse(1), authority=BOSS))
    await ledger.refund("h2", by=BOSS, cause="somebody")
    await _pay(ledger, "t1")
    await _pay(ledger, "t2", "1000")
    await ledger.open_wallets(Opening(name=BOSS, initial=Amount.parse(1), book=BookId("trial")))
    await _engine(stage, ledger).bookkeeper.catch_up()
    kinds = [(event.kind.removeprefix("ledger."), event.cause) for event in await stage.events("ledger.")]
    assert kinds == [
        *(("opened", "operator"), ("opened", "operator"), ("held", "boss"), ("released", "boss")),
        *(("held", "boss"), ("refunded", "somebody"), ("transfer", "operator"), ("refused", "operator")),
        ("opened", "operator"),
    ]


async def test_what_was_not_told_before_a_crash_is_told_after_it(stage: Stage, ledger: EmbeddedLedger) -> None:
    """The ledger committed and the process died: whoever sweeps next tells it; telling twice is telling once."""
    await _pay(ledger, "t1")
    dead = _engine(stage, ledger)
    await stage.kill(dead)
    first, second = _engine(stage, ledger), _engine(stage, ledger)
    await first.bookkeeper.sweep()
    await _pay(ledger, "t2")
    await second.bookkeeper.sweep()
    await first.bookkeeper.sweep()
    assert await _told(stage) == ["t1", "t2"]


@pytest.mark.parametrize("sweeps", [True, False])
async def test_whoever_sweeps_keeps_the_books(stage: Stage, ledger: EmbeddedLedger, sweeps: bool) -> None:
    """A started engine that looks for what others left tells what they paid; one that does not leaves it to others."""
    engine = _engine(stage, ledger)
    engine.sweeper.period_s = 0
    await engine.start(sweeps=sweeps)
    assert engine.bookkeeper.books is sweeps
    await _pay(ledger, "t1")
    other = _engine(stage, ledger)
    other.sweeper.period_s = 0

    async def is_told() -> bool:
        return await _told(stage) == ["t1"]

    if not sweeps:
        await stage.kill(engine)
        assert not await is_told()
        await other.start()
    await until(is_told)


async def test_who_begins_later_begins_at_the_mark(
    stage: Stage, ledger: EmbeddedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither ledger nor log is read from the beginning again: a mark in the log tells how far both are in step."""
    monkeypatch.setattr(bookkeeper, "MARK_RECORDS", 5)
    for number in range(10):
        await _pay(ledger, f"t{number}")
    await _engine(stage, ledger).bookkeeper.sweep()
    (mark,) = await stage.events(MARKED)
    assert (mark.body["seq"], mark.conversation) == (12, None)
    watched = Watched(ledger)
    later = _engine(stage, watched)
    await _pay(ledger, "new")
    await later.bookkeeper.sweep()
    await later.bookkeeper.sweep()
    assert [query.after for query in watched.asked] == [11, 12, 13]
    assert await _told(stage) == [*(f"t{number}" for number in range(10)), "new"]
    assert len(await stage.events(MARKED)) == 1


async def test_a_new_ledger_beside_an_old_log_is_told_whole(
    stage: Stage, ledger: EmbeddedLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote has ids of its own, though the orders of both have the same names."""
    monkeypatch.setattr(bookkeeper, "MARK_RECORDS", 1)
    await _pay(ledger, "t1")
    await _engine(stage, ledger).bookkeeper.sweep()
    another = await EmbeddedLedger.open(tmp_path / "new" / "ledger.db", tmp_path / "new" / "keys")
    await another.open_wallets(Opening(name=BOSS, initial=Amount.parse(7)))
    await _engine(stage, another).bookkeeper.sweep()
    await another.aclose()
    opened = [event.body["left"] for event in await stage.events("ledger.opened") if event.body["payee"] == "boss"]
    assert opened == ["-100.0", "-7.0"]


async def test_a_shorter_ledger_is_told_again(stage: Stage, ledger: EmbeddedLedger) -> None:
    """A mark beyond its end, as after a server lost its newest records, does not hide those that come next."""
    body = {"ledger": ledger.public_key[:8], "seq": 50, "cursor": [0, 0]}
    mark = Fact(id="mark", kind=MARKED, cause="engine", at=1.0, body=body)
    await stage.store.write(Batch(conversation=None, facts=(mark,)))
    await _pay(ledger, "t1")
    await _engine(stage, ledger).bookkeeper.sweep()
    assert await _told(stage) == ["t1"]


async def test_what_a_model_cost_is_booked_once(stage: Stage, ledger: EmbeddedLedger) -> None:
    """From the agent's tally to the provider's, in dollars, to the last digit; also by a second process."""
    watched = Watched(ledger)
    engine = _engine(stage, watched, {"boss": _says("hi", cost_usd=0.1 + 0.2, provider="openai", tokens_in=7)})
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("hello")
    await engine.bookkeeper.sweep()
    await _engine(stage, watched).bookkeeper.sweep()
    (reply,) = await stage.events("model.reply")
    (record,) = await ledger.records(RecordQuery(types=("transfer",)))
    assert (record.id, record.cause) == (f"spend:{reply.cause}", reply.cause)
    assert (record.payer, record.payee, record.money) == ("spend:boss", "provider:openai", Amount.parse("0.3", USD))
    assert record.reason == "gpt-4o-2024: 7 tokens in, 0 out"
    assert len(watched.orders) == 2
    assert not await stage.events("ledger.transfer")  # it came from the log: `model.reply` is its event


def _judging(stage: Stage, ledger: Any, spent: Spent = SPENT) -> Engine:
    """Whose evaluator is a model that says what it cost."""

    async def judged(subject: Subject) -> Verdict:
        told = {"model": "gpt-4o-2024", "provider": "openai", "spent": spent}
        return structs.replace(Verdict(evaluator="strict", version="1", subject=subject.event, score=0.5), **told)

    engine = _engine(stage, ledger, {"boss": _says("hi", cost_usd=0.0)})
    engine.world.judges = FunctionJudges({"strict": judged})
    return engine


@pytest.mark.parametrize("when", ["finish", "step"])
async def test_what_a_judge_cost_is_booked_once(stage: Stage, ledger: EmbeddedLedger, when: Any) -> None:
    """From the evaluator's tally to the provider's, by the id of the verdict; also by a second process."""
    watched = Watched(ledger)
    engine = _judging(stage, watched)
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.override({"evaluations": [Evaluation(evaluator="strict", when=when)]})
    await talk.say("hello")

    async def judged() -> bool:
        return bool(await stage.events(VERDICT))

    await until(judged)
    await engine.bookkeeper.sweep()
    await _engine(stage, watched).bookkeeper.sweep()
    (verdict,) = await stage.events(VERDICT)
    (record,) = await ledger.records(RecordQuery(types=("transfer",)))
    assert (record.id, record.cause, record.book) == (f"spend:{verdict.id}", verdict.id, "main")
    assert (record.payer, record.payee) == ("spend:judge/strict", "provider:openai")
    assert (record.money, record.reason) == (Amount.parse("0.02", USD), "gpt-4o-2024: 90 tokens in, 8 out")
    assert len(watched.orders) == 2
    assert not await stage.events("ledger.transfer")  # it came from the log: the verdict is its event


async def test_a_verdict_that_was_there_is_not_booked_again(stage: Stage, ledger: EmbeddedLedger) -> None:
    """By hand, the same judge is not asked the same twice; where it is told to, each answer costs what it cost."""
    engine = _judging(stage, ledger)
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("hello")
    for again in (False, False, True):
        await judge_now(engine.world, talk.record.current, Evaluation(evaluator="strict"), again=again)
    await engine.bookkeeper.sweep()
    tally = await ledger.account(AccountName("spend:judge/strict"), instrument=USD)
    assert tally is not None
    assert (tally.balance.units, tally.transfers) == (-2 * Amount.parse("0.02", USD).units, 2)


@pytest.mark.parametrize("spent", [Spent(), Spent(1, 9, 9, 0.0, unpriced=1), Spent(usd=math.inf), Spent(usd=-1.0)])
async def test_a_verdict_that_cost_nothing_is_not_booked(stage: Stage, ledger: EmbeddedLedger, spent: Spent) -> None:
    """A check, an unpriced model, and no amount at all."""
    watched = Watched(ledger)
    engine = _judging(stage, watched, spent=spent)
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("hello")
    await judge_now(engine.world, talk.record.current, Evaluation(evaluator="strict"))
    await engine.bookkeeper.sweep()
    assert watched.orders == []


@pytest.mark.parametrize(
    "usage",
    [
        {"cost_usd": None, "provider": "openai"},
        {"cost_usd": 0.0, "provider": "openai"},
        {"cost_usd": 1e-12, "provider": "openai"},
        {"cost_usd": 0.5, "offline": True},
    ],
)
async def test_what_cost_nothing_is_not_booked(stage: Stage, ledger: EmbeddedLedger, usage: dict[str, Any]) -> None:
    """Offline, free and unpriced calls leave no trace in the ledger; it is not even opened for them."""
    watched = Watched(ledger)
    engine = _engine(stage, watched, {"boss": _says("hi", **usage)})
    engine.world.has_ledger = lambda: False
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("hello")
    await engine.bookkeeper.sweep()
    await engine.aclose()
    assert (watched.orders, watched.asked) == ([], [])


async def test_an_engine_that_ends_books_and_tells_first(on_file: Stage, ledger: EmbeddedLedger) -> None:
    """Closed before any sweep, it leaves its costs in the ledger and its payments in the log."""
    agent = _paying()

    async def decide(view: AgentView) -> Decision:
        return Decision(tuple(await agent(view)), Usage(model="m", cost_usd=0.25, provider="openai"))

    engine = _engine(on_file, ledger, {"boss": decide})
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("pay")
    on_file.engines.remove(engine)
    engine.world.store, kept = await on_file.another_store(), engine.world.store
    await engine.aclose()
    assert kept is on_file.store
    assert len(await on_file.events("ledger.transfer")) == 1
    account = await ledger.account(AccountName("provider:openai"), instrument=USD)
    assert account is not None
    assert account.balance == Amount.parse("0.5", USD)


async def test_a_ledger_that_is_gone_stops_nobody(
    stage: Stage, ledger: EmbeddedLedger, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once; what was missed is told once the ledger is back."""
    watched = Watched(ledger)
    engine = _engine(stage, watched)
    await _pay(ledger, "t1")
    watched.broken = True
    with caplog.at_level(logging.WARNING, "p2engine.runtime"):
        await engine.bookkeeper.sweep()
        await engine.bookkeeper.sweep()
    assert [line.getMessage() for line in caplog.records] == ["log and ledger are not in step: the ledger is gone"]
    watched.broken = False
    await engine.bookkeeper.sweep()
    assert await _told(stage) == ["t1"]


async def test_without_a_ledger_nothing_is_done(stage: Stage) -> None:
    """Off, neither the log nor anything else is looked at."""
    engine = stage.engine({"boss": _says("hi", cost_usd=1.0, provider="openai")})
    talk = await engine.conversation("talk", agent=AgentId("boss"))
    await talk.say("hello")
    await Bookkeeper(engine.world).catch_up()
    events: list[Event] = await stage.events("ledger.")
    assert events == []


def test_a_record_hides_what_is_nobodys_to_know() -> None:
    """The salt, by which alone its hash could be guessed, and the limits it counts for."""
    record = Record(
        seq=3,
        salt="5a17",
        id="t",
        type="transfer",
        book=BookId("main"),
        at=1.0,
        payer=BOSS,
        payee=WORKER,
        amount="1.0",
        scopes=("turn:secret:1",),
    )
    fact = bookkeeper.fact_of(record, "abcdef01")
    assert fact.id == "t@abcdef01"
    assert set(fact.body) == {"seq", "id", "book", "payer", "payee", "amount", "instrument"}
