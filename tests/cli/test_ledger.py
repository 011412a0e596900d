"""`ledger …`: wallets are opened once, payments are made once, and the audit finds what was done to the file."""

import json
import sqlite3
from contextlib import closing

import msgspec
import pytest

from p2engine.domain.money import Proof
from p2engine.ledgers.auditing import check_proof
from tests.cli.project import Project, Run


@pytest.fixture
def paying(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a ledger."""
    monkeypatch.setenv("LEDGER_ENABLED", "true")
    project.write(
        "config/agents.yml",
        "agents:\n"
        "- {id: alpha, tools: [check_balance, transfer_funds, transaction_history, reward_agent], owner: ann}\n"
        "- {id: beta}\n"
        "- {id: rich, wallet: {initial: 1000.5}}\n"
        "- {id: poor, wallet: false}\n",
    )
    return project


def test_the_first_command_opens_what_is_missing_and_tops_nothing_up(paying: Project, here: Run) -> None:
    """Wallets come from agents.yml, with what it or the configuration says; init again opens none."""
    assert here("ledger", "balance", "alpha").out == "100.0 CREDIT\n"
    assert here("ledger", "init", "--balance", "7").out.startswith("opened 0, already open 3")
    balances = {row["agent"]: row["balance"] for row in json.loads(here("ledger", "overview", "--json").out)}
    assert balances == {"alpha": "100.0", "beta": "100.0", "rich": "1000.5"}


def test_a_payment_is_made_and_told(paying: Project, here: Run) -> None:
    """Both wallets, the history and the overview say the same."""
    ran = here("ledger", "transfer", "alpha", "beta", "12.50", "--reason", "work", "--json")
    receipt = json.loads(ran.out)
    assert (ran.status, receipt["status"], receipt["amount"], receipt["balance"]) == (0, "paid", "12.5", "87.5")
    assert json.loads(here("ledger", "balance", "beta", "--json").out) == {
        "agent": "beta",
        "balance": "112.5",
        "instrument": "CREDIT",
    }
    (line,) = json.loads(here("ledger", "history", "beta", "--limit", "1", "--json").out)
    assert set(line) == {"id", "at", "type", "payer", "payee", "amount", "reason", "status", "cause"}
    assert (line["id"], line["payer"], line["reason"], line["cause"]) == (receipt["id"], "alpha", "work", "operator")
    assert [row["type"] for row in json.loads(here("ledger", "audit", "--type", "transfer", "--json").out)] == [
        "transfer"
    ]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("transfer", "alpha", "beta", "1e3"), 2, "expected an amount such as 12.5, not '1e3'"),
        (("transfer", "alpha", "beta", "0"), 2, "more than zero"),
        (("transfer", "alpha", "beta", "500"), 1, "alpha has 100.0 CREDIT, not 500.0 CREDIT"),
        (("transfer", "alpha", "poor", "5"), 1, "'poor' has no wallet"),
        (("transfer", "alpha", "alpha", "5"), 1, "payer and payee are the same"),
        (("balance", "nobody"), 2, "'nobody' has no wallet"),
        (("init", "--agent", "nobody"), 2, "no agent 'nobody'"),
        (("audit", "--type", "gift"), 2, "no type 'gift'"),
        (("audit", "--since", "noon"), 2, "is no time"),
    ],
)
def test_what_cannot_be_is_one_line(paying: Project, here: Run, words: tuple[str, ...], status: int, said: str) -> None:
    """Wrong words exit with 2, a refused payment with 1; either says why."""
    ran = here("ledger", *words)
    assert ran.status == status
    assert said in ran.out + ran.err


def test_failure_23_verify_names_what_was_changed(paying: Project, here: Run) -> None:
    """Sound before, and after one byte is changed exit 1 with the record's number."""
    here("ledger", "transfer", "alpha", "beta", "1", "--reason", "weather")
    assert here("ledger", "verify").out == "sound: 4 records, 4 accounts\n"
    with closing(sqlite3.connect(paying.folder / ".p2engine" / "ledger.db")) as db, db:
        db.execute("UPDATE record SET body = replace(body, 'weather', 'Weather') WHERE seq = 4")
    ran = here("ledger", "verify", "--json")
    (finding,) = json.loads(ran.out)["findings"]
    assert (ran.status, finding["what"], finding["record"]) == (1, "changed", 4)


def test_a_transfer_can_be_proved_to_others(paying: Project, here: Run) -> None:
    """The proof is a document that the public key alone confirms; a checkpoint says how many records there are."""
    order = json.loads(here("ledger", "transfer", "alpha", "beta", "1", "--json").out)["id"]
    proof = msgspec.json.decode(here("ledger", "proof", order).out, type=Proof)
    public = (paying.folder / ".p2engine" / "keys" / "ledger.pub").read_text().strip()
    assert check_proof(proof, public).id == order
    assert json.loads(here("ledger", "checkpoint", "--json").out)["count"] == 4
    assert here("ledger", "proof", "nothing").status == 2


def test_an_agent_pays_in_a_conversation(paying: Project, here: Run) -> None:
    """The offline stand-in is told to pay, and pays; its answer has the new balance."""
    here("ledger", "init")
    ran = here("chat", "with", "alpha", "-m", "transfer 5 to beta for lunch")
    assert "95.0" in ran.out
    (line,) = json.loads(here("ledger", "history", "beta", "--limit", "1", "--json").out)
    assert (line["payer"], line["amount"], line["reason"]) == ("alpha", "5.0", "lunch")
    assert line["cause"] == line["id"]


def test_without_a_ledger_the_commands_say_how_to_switch_it_on(project: Project, here: Run) -> None:
    """Off, nothing is opened, and the state folder has no ledger."""
    ran = here("ledger", "overview")
    assert ran.status == 2
    assert "LEDGER_ENABLED=true" in ran.err
    assert not (project.folder / ".p2engine" / "ledger.db").exists()
