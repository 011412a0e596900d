"""Paying, in both modes: the commands and conversations of the first page, each payment once, and told why."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from tests.cli.project import Run
from tests.e2e.deployment import Deployment

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
