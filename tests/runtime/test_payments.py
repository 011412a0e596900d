"""Agents pay from their own wallets, once for each call, within the caps of every turn that they work for."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2engine.domain.decisions import Delegate, Move, Say, ToolOutcome, UseTool
from p2engine.domain.ids import AgentId
from p2engine.domain.money import AccountName, Amount, Caps, Opening, Receipt, RecordQuery, Transfer
from p2engine.errors import StoreError
from p2engine.ledgers.embedded import EmbeddedLedger
from p2engine.ports import AgentView, ToolContext
from p2engine.runtime.engine import Engine
from p2engine.tools.function import FunctionTool, function_tool
from p2engine.tools.payments import payment_tools
from p2engine.tools.registry import Registry
from p2engine.tools.running import Runner
from tests.runtime.conftest import Stage

TOOLS = {tool.spec.name: tool.tool for tool in payment_tools()}
REPEATS = {name: tool.spec.repeat for name, tool in TOOLS.items()}


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[EmbeddedLedger]:
    ledger = await EmbeddedLedger.open(tmp_path / "ledger.db", tmp_path / "keys")
    for name in ("boss", "worker", "treasurer"):
        await ledger.open_wallets(Opening(name=AccountName(name), initial=Amount.parse(100)))
    yield ledger
    await ledger.aclose()


def _engine(stage: Stage, ledger: EmbeddedLedger, agents: dict[str, Any], caps: Caps = Caps()) -> Engine:  # noqa: B008
    engine = stage.engine(agents, repeats=REPEATS)
    engine.world.tools = Runner(Registry(payment_tools(), withheld={}), now=stage.clock.now)
    engine.world.caps = caps

    async def door() -> EmbeddedLedger:
        return ledger

    engine.world.ledger = door
    return engine


async def _balance(ledger: EmbeddedLedger, name: str) -> str:
    account = await ledger.account(AccountName(name))
    assert account is not None
    return str(account.balance)


def _pays(*moves: Move) -> Any:
    """An agent that makes its moves once, and then is done."""
    asked: list[AgentView] = []

    async def decide(view: AgentView) -> list[Move]:
        asked.append(view)
        return list(moves) if len(asked) == 1 else [Say("done")]

    return decide


async def test_failure_18_no_argument_says_who_pays(stage: Stage, ledger: EmbeddedLedger) -> None:
    """A model that names another payer is refused for its arguments; the wallet that pays is the caller's."""
    forged = UseTool("transfer_funds", {"to_agent": "worker", "amount": 5, "from_agent": "treasurer"})
    plain = UseTool("transfer_funds", {"to_agent": "worker", "amount": "5"})
    engine = _engine(stage, ledger, {"boss": _pays(forged, plain)})
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    assert await _balance(ledger, "treasurer") == "100.0"
    assert (await _balance(ledger, "boss"), await _balance(ledger, "worker")) == ("95.0", "105.0")
    (record,) = await ledger.records(RecordQuery(types=("transfer",)))
    assert record.id == record.cause


async def test_a_call_that_is_done_again_pays_once(stage: Stage, ledger: EmbeddedLedger) -> None:
    """The effect's id is the order's: a process that died after paying pays no second time."""
    seen: list[ToolContext] = []
    transfer = TOOLS["transfer_funds"]

    async def twice(arguments: dict[str, Any], ctx: ToolContext) -> ToolOutcome:
        seen.append(ctx)
        first = await transfer(arguments, ctx)
        assert ctx.wallet is not None
        again = type(ctx.wallet)(engine.world, ctx.wallet._stack, ctx.idempotency_key)  # type: ignore[attr-defined,call-arg]
        second = await transfer(arguments, msgspec.structs.replace(ctx, wallet=again))
        assert first == second
        return second

    engine = stage.engine(
        {"boss": _pays(UseTool("transfer_funds", {"to_agent": "worker", "amount": 5}))},
        {"transfer_funds": twice},  # type: ignore[dict-item]
        {"transfer_funds": "idempotent"},
    )

    async def door() -> EmbeddedLedger:
        return ledger

    engine.world.ledger = door
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    assert len(seen) == 1
    assert await _balance(ledger, "boss") == "95.0"


async def test_a_turn_counts_what_its_delegates_pay(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Spending through a delegate is spending: the cap of the turn that asked holds for all of them together."""
    pay = UseTool("transfer_funds", {"to_agent": "treasurer", "amount": 30})
    engine = _engine(
        stage,
        ledger,
        {"boss": _pays(pay, Delegate(AgentId("worker"), "pay as well")), "worker": _pays(pay)},
        Caps(per_turn=Amount.parse(50)),
    )
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    assert await _balance(ledger, "treasurer") == "130.0"
    (refused,) = await ledger.records(RecordQuery(types=("refusal",)))
    assert (refused.refusal, refused.amount) == ("limit", "30.0")


@pytest.mark.parametrize(
    ("caps", "paid"),
    [
        (Caps(per_transfer=Amount.parse(4)), 0),
        (Caps(per_day=Amount.parse(10)), 2),
        (Caps(per_agent=Amount.parse(5)), 1),
        (Caps(per_minute=1), 1),
        (Caps(per_turn=Amount(0)), 0),
        (Caps(), 3),
    ],
)
async def test_caps_hold(stage: Stage, ledger: EmbeddedLedger, caps: Caps, paid: int) -> None:
    """At once, a day, in all, a minute: what is over a cap is a result that the model sees, with the reason."""
    moves = [UseTool("transfer_funds", {"to_agent": "worker", "amount": 5, "reason": str(n)}) for n in range(3)]
    engine = _engine(stage, ledger, {"boss": _pays(*moves)}, caps)
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    assert len(await ledger.records(RecordQuery(types=("transfer",)))) == paid
    assert await _balance(ledger, "boss") == f"{100 - 5 * paid}.0"


async def test_a_cap_on_one_payment_says_nothing_of_others(stage: Stage, ledger: EmbeddedLedger) -> None:
    """What was spent before does not count for it, so the refusal does not speak of that."""
    pay = UseTool("transfer_funds", {"to_agent": "worker", "amount": 21})
    engine = _engine(stage, ledger, {"boss": _pays(pay)}, Caps(per_transfer=Amount.parse(20)))
    await (await engine.conversation("pay", agent=AgentId("boss"))).say("pay")
    (record,) = await ledger.records(RecordQuery(types=("refusal",)))
    assert record.why == "boss may pay at most 20.0 at once"


async def test_who_has_no_wallet_is_told_what_opens_one(stage: Stage, ledger: EmbeddedLedger) -> None:
    """The operator, unless the agent is to have none."""
    engine = _engine(stage, ledger, {"boss": _pays(UseTool("check_balance", {"agent_id": "nobody"}))})
    await (await engine.conversation("look", agent=AgentId("boss"))).say("look")
    (event,) = await stage.events("state.tool_result")
    assert "opens it with `p2engine ledger init`, unless agents.yml says `wallet: false`" in event.body["content"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"to_agent": "worker", "amount": "1e3"}, "expected an amount"),
        ({"to_agent": "worker", "amount": "१०"}, "expected an amount"),
        ({"to_agent": "worker", "amount": "NaN"}, "expected an amount"),
        ({"to_agent": "worker", "amount": -5}, "not negative"),
        ({"to_agent": "worker", "amount": 0}, "more than zero"),
        ({"to_agent": "worker", "amount": "0." + "1" * 30}, "10 digits"),
        ({"to_agent": "worker", "amount": True}, "amount"),
        ({"to_agent": "worker", "amount": [5]}, "amount"),
        ({"to_agent": "worker", "amount": 100.5}, "boss has 100.0 CREDIT, not 100.5 CREDIT"),
        ({"to_agent": "boss", "amount": 1}, "payer and payee are the same"),
        ({"to_agent": "nobody", "amount": 1}, "'nobody' has no wallet"),
        ({"to_agent": "treasury:CREDIT", "amount": 1}, "'treasury:CREDIT' is no agent"),
        ({"to_agent": "spend:boss", "amount": 1}, "'spend:boss' is no agent"),
        ({"to_agent": "", "amount": 1}, "to_agent"),
    ],
)
async def test_failure_21_what_cannot_be_paid_is_a_result(
    stage: Stage, ledger: EmbeddedLedger, arguments: dict[str, Any], says: str
) -> None:
    """The call failed and the model reads why; nothing was moved and nobody has a new wallet."""
    engine = _engine(stage, ledger, {"boss": _pays(UseTool("transfer_funds", arguments))})
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "error"
    assert says in event.body["content"]
    accounts = {account.name: str(account.balance) for account in await ledger.accounts() if account.kind == "wallet"}
    assert accounts == {"boss": "100.0", "worker": "100.0", "treasurer": "100.0"}


async def test_a_refused_payment_is_written_down_with_whom_it_was_to_pay(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Also where that is no agent: who looks through the ledger sees what was tried."""
    pay = UseTool("transfer_funds", {"to_agent": "treasury:CREDIT", "amount": 1})
    engine = _engine(stage, ledger, {"boss": _pays(pay)})
    await (await engine.conversation("pay", agent=AgentId("boss"))).say("pay")
    (record,) = await ledger.records(RecordQuery(types=("refusal",)))
    assert (record.payer, record.payee, record.refusal) == ("boss", "treasury:CREDIT", "account")


@pytest.mark.parametrize("name", ["treasury:CREDIT", "escrow:CREDIT", "spend:boss"])
async def test_agents_look_up_balances_of_agents_only(stage: Stage, ledger: EmbeddedLedger, name: str) -> None:
    """What the treasury has given out is not for a model to know."""
    engine = _engine(stage, ledger, {"boss": _pays(UseTool("check_balance", {"agent_id": name}))})
    await (await engine.conversation("look", agent=AgentId("boss"))).say("look")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "error"
    assert f"{name!r} is no agent" in event.body["content"]


async def test_a_broken_ledger_is_told_to_the_model_without_its_whereabouts(
    stage: Stage, ledger: EmbeddedLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where files and servers are is for whoever runs this: that stands in the log."""
    engine = _engine(stage, ledger, {"boss": _pays(UseTool("check_balance"))})

    async def door() -> EmbeddedLedger:
        raise StoreError(f"the ledger {tmp_path}/ledger.db is gone", hint=f"restore {tmp_path}/keys")

    engine.world.ledger = door
    await (await engine.conversation("look", agent=AgentId("boss"))).say("look")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "error"
    assert str(tmp_path) not in event.body["content"]
    assert f"{tmp_path}/ledger.db is gone (restore {tmp_path}/keys)" in caplog.text


async def test_failure_22_a_balance_after_a_transfer_is_the_new_one(stage: Stage, ledger: EmbeddedLedger) -> None:
    """Looked up, paid, looked up again in one turn: the second answer is another."""
    moves: list[Move] = [
        UseTool("check_balance"),
        UseTool("reward_agent", {"agent_id": "worker"}),
        UseTool("check_balance", {"agent_id": "boss"}),
        UseTool("transaction_history"),
    ]

    async def decide(view: AgentView) -> list[Move]:
        done = sum(1 for event in done_calls if event)
        done_calls.append(True)
        return [moves[done]] if done < len(moves) else [Say("done")]

    done_calls: list[bool] = []
    engine = _engine(stage, ledger, {"boss": decide})
    talk = await engine.conversation("pay", agent=AgentId("boss"))
    await talk.say("pay")
    results = [msgspec.json.decode(event.body["content"]) for event in await stage.events("state.tool_result")]
    assert [result.get("balance") for result in results] == ["100.0", "90.0", "90.0", None]
    assert [line["reason"] for line in results[3]["transactions"]] == ["", "reward"]


class Mute:
    """A ledger that does as it is told, and to some orders never answers: then the attempt's time is over."""

    def __init__(self, ledger: EmbeddedLedger, *silent: int) -> None:
        self._ledger = ledger
        self._silent = silent
        self._limit: asyncio.Timeout | None = None
        self.orders: list[str] = []

    def limit(self, _seconds: float) -> asyncio.Timeout:
        """What bounds an attempt, in place of `asyncio.timeout`: it expires when there is no answer, and only then."""
        self._limit = asyncio.timeout(None)
        return self._limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        self.orders += [transfer.id for transfer in transfers]
        receipts = await self._ledger.transfer(*transfers)
        if len(self.orders) in self._silent:
            assert self._limit is not None
            self._limit.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
        return receipts


def _muted(stage: Stage, mute: Mute, tools: Sequence[FunctionTool[..., Any]], *moves: Move) -> Engine:
    engine = stage.engine({"boss": _pays(*moves)}, repeats={tool.tool.spec.name: "idempotent" for tool in tools})

    async def at_once(_seconds: float) -> None: ...

    registry = Registry(tools, withheld={})
    engine.world.tools = Runner(registry, now=stage.clock.now, sleep=at_once, limit=mute.limit)

    async def door() -> Any:
        return mute

    engine.world.ledger = door
    return engine


PAY = UseTool("transfer_funds", {"to_agent": "worker", "amount": 5})


async def test_a_payment_without_an_answer_is_asked_for_again_and_made_once(
    stage: Stage, ledger: EmbeddedLedger
) -> None:
    """The time of the attempt is over, the ledger had paid: the next attempt gives the same order, and is told so."""
    mute = Mute(ledger, 1)
    engine = _muted(stage, mute, payment_tools(), PAY)
    await (await engine.conversation("pay", agent=AgentId("boss"))).say("pay")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "ok"
    assert len(mute.orders) == 2
    assert len(set(mute.orders)) == 1
    assert await _balance(ledger, "boss") == "95.0"


async def test_a_payment_that_is_never_answered_has_an_unknown_outcome(stage: Stage, ledger: EmbeddedLedger) -> None:
    """The model is not told that it failed, for it may not have: it was made, once."""
    engine = _muted(stage, Mute(ledger, 1, 2, 3), payment_tools(), PAY)
    await (await engine.conversation("pay", agent=AgentId("boss"))).say("pay")
    (event,) = await stage.events("state.tool_result")
    assert event.body["status"] == "timeout"
    assert "outcome unknown" in event.body["content"]
    assert await _balance(ledger, "boss") == "95.0"


async def test_another_attempt_of_several_payments_pays_each_once(stage: Stage, ledger: EmbeddedLedger) -> None:
    """A tool that pays two, and is repeated after the second of them gave no answer, has paid each of them once."""

    @function_tool(idempotent=True, retries=1)
    async def pay_both(ctx: ToolContext) -> str:
        assert ctx.wallet is not None
        for payee, units in (("worker", 5), ("treasurer", 7)):
            await ctx.wallet.pay(payee, Amount.parse(units))
        return "both"

    mute = Mute(ledger, 2)
    engine = _muted(stage, mute, [pay_both], UseTool("pay_both", {}))
    await (await engine.conversation("pay", agent=AgentId("boss"))).say("pay")
    assert (mute.orders[0:2], len(mute.orders)) == (mute.orders[2:4], 4)
    balances = [await _balance(ledger, name) for name in ("boss", "worker", "treasurer")]
    assert balances == ["88.0", "105.0", "107.0"]
