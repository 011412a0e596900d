"""Paying, in both modes: the commands and conversations of the first page, each payment once, and told why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.messages import ToolUse
from p2engine.testing.server import Answer, Fault, OpenAIServer, Reply
from tests.cli.project import Run
from tests.e2e.conftest import MODES
from tests.e2e.deployment import Deployment
from tests.servers import free_port

COMMANDS = """\
ledger init --balance 100.0
ledger balance agent_alpha
ledger metrics
ledger overview
ledger transfer agent_alpha agent_beta 25.0 --reason "Payment for services"
ledger transfer agent_beta agent_alpha 25.0 --reason "Given back"
ledger history agent_alpha --limit 20
ledger audit
ledger verify
ledger debug
"""
SHARED = "Delegate to treasurer: Please distribute 100 units equally among agent_beta, agent_helper, and child"


def _balances(here: Run) -> dict[str, Decimal]:
    return {row["agent"]: Decimal(row["balance"]) for row in here("ledger", "overview", "--json").document}


def _gained(here: Run, before: dict[str, Decimal]) -> dict[str, str]:
    """Who has more or less than before, and by how much."""
    after = _balances(here)
    assert sum(after.values()) == sum(before.values())
    return {name: f"{(after[name] - before[name]).normalize():f}" for name in after if after[name] != before[name]}


def test_the_ledger_commands_as_typed(deployment: Deployment, here: Run) -> None:
    """Every one of them works in the shell, one after the other; nothing is lost on the way."""
    before = _balances(here)
    done = deployment.cli("shell", input=COMMANDS)
    assert (done.status, "error" in done.err) == (0, False), done.err
    assert "opened 0, already open 7" in done.out
    assert "paid 25.0 CREDIT to agent_beta" in done.out
    assert "sound: " in done.out
    assert f"driver      {'redis' if deployment.is_distributed else 'embedded'}" in done.out
    assert _gained(here, before) == {}


def test_the_payment_conversation_as_typed(deployment: Deployment, here: Run, name: str) -> None:
    """An agent looks, pays, rewards, has others share equally to the last digit, and tells what it did."""
    before = _balances(here)
    lines = [
        *("Hello! What can you do?", "Check my balance", "Transfer 25 to agent_beta for helping with analysis"),
        *("Delegate to agent_helper: What's the weather in Tokyo?", "If they did well, reward them 20 units"),
        *(SHARED, "Check my balance after delegation", "Show all recent transactions"),
        "Transfer 5 to treasurer for management fees",
    ]
    done = deployment.cli("chat", "with", "agent_alpha", "--name", name, "--json", input="\n".join(lines))
    assert done.status == 0, done.err
    replies = [row["reply"] for row in done.rows]
    assert replies[1] == f"My balance: {before['agent_alpha']} CREDIT"
    assert replies[6] == f"My balance: {before['agent_alpha'] - 45} CREDIT"
    assert all(words in replies[7] for words in ("helping with analysis", "reason: reward"))
    assert _gained(here, before) == {
        "agent_alpha": "-50",
        "agent_beta": "58.3333333334",
        "agent_helper": "53.3333333333",
        "child": "33.3333333333",
        "treasurer": "-95",
    }


def test_failure_01_delegate_then_pay_pays_once(deployment: Deployment, here: Run, name: str) -> None:
    """In one turn: the answer of the other comes back, and then it is paid, once."""
    before = _balances(here)
    asked = "Delegate to agent_helper: What's the weather in Paris? Then transfer 1 to agent_helper"
    done = here("chat", "with", "agent_alpha", "--name", name, "--json", "-m", asked)
    assert "Paris: 22" in done.rows[0]["reply"]
    assert _gained(here, before) == {"agent_alpha": "-1", "agent_helper": "1"}


def test_a_payment_over_http_is_told_why(deployment: Deployment, here: Run, name: str) -> None:
    """A real model's call pays from its own agent's wallet; asked why, the log leads back to what the user said."""
    before = _balances(here)
    asked = 'call transfer_funds {"to_agent": "child", "amount": "0.1", "reason": "lunch"}'
    done = here("chat", "with", "talker", "--name", name, "--json", "-m", asked)
    assert "success" in done.rows[0]["reply"]
    assert _gained(here, before) == {"talker": "-0.1", "child": "0.1"}
    paid = here("ledger", "history", "child", "--limit", "1", "--json").document[0]
    assert (paid["payer"], paid["reason"]) == ("talker", "lunch")
    steps = here("artifact", "why", paid["id"], "--json").document
    assert [step["kind"] for step in steps] == ["ledger.transfer", "state.tool_call", "state.user_message"]
    assert [step["agent"] for step in steps] == ["talker"] * 3


def test_failures_18_and_21_over_http(deployment: Deployment, here: Run, name: str) -> None:
    """Somebody else's money, no amount, too much, oneself and nobody: results that say why; nothing is moved."""
    before = _balances(here)
    calls = {
        json.dumps({"to_agent": "child", "amount": 5, "from_agent": "treasurer"}): "from_agent",
        json.dumps({"to_agent": "child", "amount": 5, "creator_id": "treasurer", "ctx": {}}): "creator_id",
        json.dumps({"to_agent": "child", "amount": -5}): "negative",
        json.dumps({"to_agent": "child", "amount": "1e-30"}): "an amount such as",
        json.dumps({"to_agent": "child", "amount": "1e3"}): "an amount such as",
        json.dumps({"to_agent": "child", "amount": "१०"}): "an amount such as",
        json.dumps({"to_agent": "child", "amount": "0." + "3" * 30}): "at most 10 digits after the point",
        json.dumps({"to_agent": "child", "amount": 0.1 + 0.2}): "write 0.30000000000000004 as text",
        json.dumps({"to_agent": "child", "amount": None}): "amount",
        json.dumps({"to_agent": "child", "amount": 100000}): "talker has",
        json.dumps({"to_agent": "talker", "amount": 1}): "the same",
        json.dumps({"to_agent": "invented", "amount": 1}): "has no wallet",
    }
    lines = [f"call transfer_funds {call}" for call in calls]
    done = here("chat", "with", "talker", "--name", name, "--json", input="\n".join(lines))
    for row, why in zip(done.rows, calls.values(), strict=True):
        assert why in row["reply"]
    assert _gained(here, before) == {}


def test_failure_19_an_invented_agent_has_no_wallet(deployment: Deployment, here: Run, name: str) -> None:
    """Chatting with any name opens no wallet, and gives it no tools to pay with."""
    before = _balances(here)
    here("chat", "with", f"x-{name}", "--name", name, "-m", "Transfer 25 to agent_beta")
    assert _gained(here, before) == {}
    assert here("ledger", "balance", f"x-{name}").status == 2


def test_two_conversations_pay_each_other(deployment: Deployment, here: Run, name: str) -> None:
    """Opposite payments from two terminals at the same time: both are made, and the sum stays."""
    before = _balances(here)

    def talk(agent: str, line: str) -> str:
        done = deployment.cli("chat", "with", agent, "--name", f"{name}-{agent}", input=f"{line}\n" * 5)
        return done.out

    with ThreadPoolExecutor() as pool:
        lines = {"agent_alpha": "Transfer 3 to agent_beta", "agent_beta": "Transfer 2 to agent_alpha"}
        said = list(pool.map(talk, lines, lines.values()))
    assert [out.count("balance: ") for out in said] == [5, 5]
    assert _gained(here, before) == {"agent_alpha": "-5", "agent_beta": "5"}


# The same sentences, said to a model over HTTP

Step = list[tuple[str, dict[str, Any]]]
"""The calls of one reply."""


class Cashier:
    """A model of manners: for each sentence it makes the calls that it asks for, one reply after the other.

    Amounts come as whole numbers, as text and as floats. The first answer after each payment is an error of the server.
    """

    def __init__(self) -> None:
        self.failed: set[str] = set()

    def __call__(self, body: dict[str, Any]) -> Answer:
        messages = body["messages"]
        last = max(at for at, message in enumerate(messages) if message["role"] == "user")
        results = [message for message in messages[last + 1 :] if message["role"] == "tool"]
        replies = [message for message in messages[last + 1 :] if message["role"] != "tool"]
        steps = _steps(messages[last]["content"])
        if len(replies) < len(steps):
            calls = enumerate(steps[len(replies)])
            return Reply(calls=tuple(ToolUse(f"call_{len(messages)}_{at}", name, given) for at, (name, given) in calls))
        paid = re.search(r'"id": ?"([^"]+)", ?"payee"', str(results))
        if paid and paid[1] not in self.failed:
            self.failed.add(paid[1])
            return Fault(status=500)
        return " | ".join(str(message["content"]) for message in results) or "I can pay."


def _steps(asked: str) -> list[Step]:
    if found := re.fullmatch(r"Delegate to (\w+): (.+?)(?: Then (.+))?", asked):
        delegated: Step = [("delegate", {"agent_id": found[1], "message": found[2]})]
        return [delegated, *_steps(found[3] or "")]
    if found := re.match(r"[Tt]ransfer (\d+) to (\w+)(?: for (.+))?", asked):
        return [[("transfer_funds", {"to_agent": found[2], "amount": int(found[1]), "reason": found[3] or ""})]]
    if found := re.search(r"reward them (\d+) units", asked):
        return [[("reward_agent", {"agent_id": "agent_helper", "amount": found[1]})]]
    if found := re.search(r"distribute 100 units equally among (\w+), (\w+), and (\w+)", asked):
        shares = zip(found.groups(), (33.3333333334, 33.3333333333, 33.3333333333), strict=True)
        return [[("transfer_funds", {"to_agent": agent, "amount": share}) for agent, share in shares]]
    if found := re.search(r"weather in (\w+)", asked):
        return [[("get_weather", {"location": found[1]})]]
    if "balance" in asked:
        return [[("check_balance", {})]]
    return [[("transaction_history", {"limit": 20})]] if "transactions" in asked else []


class OverHTTP(Deployment):
    """Every agent is answered by a `Cashier` on a socket; nothing is offline."""

    def __init__(self, mode: str, folder: Path) -> None:
        super().__init__(mode, folder)
        port = free_port()
        self.cashier = Cashier()
        self._served = OpenAIServer(self.cashier, port=port)
        self.environment |= {"OPENAI_API_KEY": "sk-key", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}


@pytest.fixture(scope="module", params=MODES)
def over_http(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverHTTP]:
    """Both modes, one after the other."""
    deployed = OverHTTP(request.param, tmp_path_factory.mktemp(request.param))
    try:
        deployed.up()
        yield deployed
    finally:
        deployed.down()


class TestOverHTTP:
    """What holds offline holds for models elsewhere."""

    @pytest.fixture
    def deployment(self, over_http: OverHTTP) -> OverHTTP:
        return over_http

    def test_the_payment_conversation_as_typed(self, deployment: Deployment, here: Run, name: str) -> None:
        """The sentences of the first page: each payment once, though the model fails after it; its cost is booked."""
        before = _balances(here)
        cost = Decimal(here("ledger", "metrics", "--json").document["spend"]["total"])
        lines = [
            *("Hello! What can you do?", "Check my balance", "Transfer 25 to agent_beta for helping with analysis"),
            *("Delegate to agent_helper: What's the weather in Tokyo?", "If they did well, reward them 20 units"),
            *(SHARED, "Check my balance after delegation", "Show all recent transactions"),
            "Transfer 5 to treasurer for management fees",
        ]
        done = deployment.cli("chat", "with", "agent_alpha", "--name", name, "--json", input="\n".join(lines))
        assert done.status == 0, done.err
        replies = [row["reply"] for row in done.rows]
        assert f'"{before["agent_alpha"]}"' in replies[1]
        assert "Tokyo" in replies[3]
        assert f'"{before["agent_alpha"] - 45}"' in replies[6]
        assert "helping with analysis" in replies[7]
        assert _gained(here, before) == {
            "agent_alpha": "-50",
            "agent_beta": "58.3333333334",
            "agent_helper": "53.3333333333",
            "child": "33.3333333333",
            "treasurer": "-95",
        }
        assert Decimal(here("ledger", "metrics", "--json").document["spend"]["total"]) > cost
        assert here("ledger", "verify").status == 0

    def test_failure_01_delegate_then_pay_pays_once(self, deployment: OverHTTP, here: Run, name: str) -> None:
        """In one turn: the answer of the other comes back, then it is paid, and the model fails before it says so."""
        before = _balances(here)
        asked = "Delegate to agent_helper: What's the weather in Paris? Then transfer 1 to agent_helper"
        done = here("chat", "with", "agent_alpha", "--name", name, "--json", "-m", asked)
        assert "Paris" in done.rows[0]["reply"]
        assert _gained(here, before) == {"agent_alpha": "-1", "agent_helper": "1"}
        (paid,) = here("ledger", "history", "agent_helper", "--limit", "1", "--json").document
        assert paid["id"] in deployment.cashier.failed

    def test_two_conversations_pay_each_other(self, deployment: Deployment, here: Run, name: str) -> None:
        """Opposite payments from two terminals at the same time: both are made, and the sum stays."""
        before = _balances(here)

        def talk(agent: str, line: str) -> int:
            return deployment.cli("chat", "with", agent, "--name", f"{name}-{agent}", input=f"{line}\n" * 3).status

        lines = {"agent_alpha": "Transfer 3 to agent_beta", "agent_beta": "Transfer 2 to agent_alpha"}
        with ThreadPoolExecutor() as pool:
            assert list(pool.map(talk, lines, lines.values())) == [0, 0]
        assert _gained(here, before) == {"agent_alpha": "-3", "agent_beta": "3"}
