"""`ledger …`: wallets are opened once, payments are made once, and the audit finds what was done to the file."""

import csv
import json
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from p2engine.cli.ledger_audit import _word
from p2engine.domain.money import Proof
from p2engine.ledgers.auditing import check_proof
from p2engine.testing.server import OpenAIServer, Reply, echo
from tests.cli.project import Project, Run


@pytest.fixture
def paying(project: Project) -> Project:
    """A project whose agents pay."""
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
    assert set(line) == {
        *("id", "book", "at", "type", "payer", "payee", "amount", "instrument", "reason", "why", "status", "cause")
    }
    assert (line["id"], line["payer"], line["reason"], line["cause"]) == (receipt["id"], "alpha", "work", "operator")
    assert [row["type"] for row in json.loads(here("ledger", "audit", "--type", "transfer", "--json").out)] == [
        "transfer"
    ]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("transfer", "alpha", "beta", "1e3"), 2, "expected an amount such as 12.5, not '1e3'"),
        (("transfer", "alpha", "beta", "१०"), 2, "expected an amount such as 12.5, not '१०'"),
        (("transfer", "alpha", "beta", "NaN"), 2, "expected an amount such as 12.5, not 'NaN'"),
        (("transfer", "alpha", "beta", "1,5"), 2, "expected an amount such as 12.5, not '1,5'"),
        (("transfer", "alpha", "beta", ""), 2, "expected an amount such as 12.5, not ''"),
        (("transfer", "alpha", "beta", "0." + "1" * 30), 2, "at most 10 digits after the point"),
        (("transfer", "alpha", "beta", "1" * 30), 2, "at most 28 digits before the point"),
        (("transfer", "alpha", "beta", "--", "-5"), 2, "not negative"),
        (("transfer", "alpha", "beta", "-5"), 2, "an amount is more than zero"),
        (("transfer", "alpha", "beta", "5", "--resaon", "x"), 2, "no such option: --resaon"),
        (("transfer", "alpha", "nobody", "5"), 1, "'nobody' has no wallet"),
        (("transfer", "nobody", "alpha", "5"), 1, "'nobody' has no wallet"),
        (("transfer", "alpha", "", "5"), 1, "nobody is named"),
        (("transfer", "alpha", "escrow:CREDIT", "5"), 1, "by releasing it"),
        (("transfer", "alpha", "a:b", "5"), 1, "is no account"),
        (("transfer", "alpha", "beta", "5", "--reason", "x" * 2000), 1, "at most 1000 bytes"),
        (("transfer", "alpha", "beta", "0"), 2, "more than zero"),
        (("transfer", "alpha", "beta", "500"), 1, "alpha has 100.0 CREDIT, not 500.0 CREDIT"),
        (("transfer", "alpha", "poor", "5"), 1, "'poor' has no wallet"),
        (("transfer", "alpha", "alpha", "5"), 1, "payer and payee are the same"),
        (("balance", "nobody"), 2, "'nobody' has no wallet"),
        (("init", "--agent", "nobody"), 2, "no agent 'nobody'"),
        (("init", "--agent", "poor", "--balance", "5"), 2, "'poor' is to have no wallet: agents.yml says"),
        (("init", "--balance", "1e3"), 2, "expected an amount such as 12.5, not '1e3'"),
        (("init", "--balance", "inf"), 2, "expected an amount such as 12.5, not 'inf'"),
        (("history", "nobody"), 2, "'nobody' has no wallet"),
        (("balance", "alpha", "--book", "trial"), 2, "no book 'trial' (known: main)"),
        (("overview", "--book", "nope"), 2, "no book 'nope' (known: main)"),
        (("overview", "--book", "man"), 2, "no book 'man' (did you mean main?)"),
        (("history", "alpha", "--book", "nope"), 2, "no book 'nope'"),
        (("metrics", "--book", "nope"), 2, "no book 'nope'"),
        (("audit", "--book", "nope"), 2, "no book 'nope'"),
        (("proof", ""), 2, "nothing is called ''"),
        (("proof", "open:main"), 2, "ambiguous reference 'open:main'"),
        (("export", "--format", "xml"), 2, "no format 'xml'; there is jsonl and csv"),
        (("export", "config"), 2, "'config' is a folder"),
        (("export", "config/agents.yml"), 2, "is there already"),
        (("verify", "--proof", "config/agents.yml", "--key", "0" * 64), 2, "is no proof"),
        (("verify", "--proof", "nowhere", "--key", "0" * 64), 1, "nowhere"),
        (("verify", "--checkpoint", "config/agents.yml"), 2, "is no checkpoint"),
        (("verify", "--checkpoint", "nowhere"), 1, "nowhere"),
        (("verify", "--checkpoint", "nowhere", "--proof", "nowhere"), 2, "one of --proof and --checkpoint"),
        (("verify", "--key", "0" * 64), 2, "--key is for --proof"),
        (("verify", "--proof", "config/agents.yml"), 2, "there is no public key to check by"),
        (("verify", "--proof", "config/agents.yml", "--key", "abc"), 2, "there is no public key to check by"),
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
    assert json.loads(here("ledger", "checkpoint", "--print").out)["count"] == 4
    assert here("ledger", "checkpoint").out.startswith("signed 4 records at ")
    assert here("ledger", "proof", "nothing").status == 2


def test_a_published_checkpoint_is_kept_to(paying: Project, here: Run) -> None:
    """What was printed holds for all that comes after; with the state folder put back to before, it is told."""
    here("ledger", "init")
    state, kept = paying.folder / ".p2engine", paying.folder / "kept"
    shutil.copytree(state, kept)
    here("ledger", "transfer", "alpha", "beta", "1")
    paying.write("published.json", here("ledger", "checkpoint", "--print").out)
    here("ledger", "transfer", "alpha", "beta", "1")
    ran = here("ledger", "verify", "--checkpoint", "published.json")
    assert (ran.status, ran.out) == (
        0,
        "sound: 5 records, 4 accounts\nthe first 4 records are those of the published checkpoint\n",
    )
    shutil.rmtree(state)
    kept.rename(state)
    assert here("ledger", "verify").status == 0
    ran = here("ledger", "verify", "--checkpoint", "published.json", "--json")
    (finding,) = ran.document["findings"]
    assert (ran.status, finding["what"], finding["record"]) == (1, "cut", 4)


def test_what_configuration_says_of_wallets_holds(paying: Project, here: Run) -> None:
    """What they are opened with, exactly, and what agents may pay: a cap is told to the model, and written down."""
    paying.configure(ledger={"initial_balance": 7.1, "caps": {"per_turn": "1.5", "per_agent": 2.5}})
    assert here("ledger", "balance", "alpha").out == "7.1 CREDIT\n"
    asked = [f"-mtransfer {units} to beta" for units in ("1.6", "1.5", "1", "1")]
    said = here("chat", "with", "alpha", "--json", *asked)
    for row, why in zip(said.rows, ("at most 1.5", "5.6", "4.6", "at most 2.5 in all"), strict=True):
        assert why in row["reply"]
    refused = here("ledger", "audit", "--type", "refusal", "--json").document
    assert [row["amount"] for row in refused] == ["1.6", "1.0"]
    assert here("ledger", "transfer", "alpha", "beta", "4").status == 0  # the operator's


def test_an_agent_pays_in_a_conversation(paying: Project, here: Run) -> None:
    """The offline stand-in is told to pay, and pays; its answer has the new balance."""
    here("ledger", "init")
    ran = here("chat", "with", "alpha", "-m", "transfer 5 to beta for lunch")
    assert "95.0" in ran.out
    (line,) = json.loads(here("ledger", "history", "beta", "--limit", "1", "--json").out)
    assert (line["payer"], line["amount"], line["reason"]) == ("alpha", "5.0", "lunch")
    assert line["cause"] == line["id"]


@pytest.mark.parametrize("command", ["overview", "verify", "metrics", "init", "export"])
def test_failure_28_without_a_ledger_the_commands_say_how_to_switch_it_on(
    project: Project, here: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Off, nothing is opened, and the state folder has no ledger."""
    monkeypatch.setenv("LEDGER_ENABLED", "false")
    ran = here("ledger", command)
    assert ran.status == 2
    assert "LEDGER_ENABLED=true" in ran.err
    assert "the ledger is off (environment: LEDGER_ENABLED)" in ran.err
    assert not (project.folder / ".p2engine" / "ledger.db").exists()


def test_a_proof_is_checked_by_the_public_key_alone(paying: Project, here: Run, tmp_path: Path) -> None:
    """In another folder, with nothing but the two files; a word changed in it, or another key, is no proof."""
    order = here("ledger", "transfer", "alpha", "beta", "1", "--reason", "work", "--json").document["id"]
    here("ledger", "transfer", "beta", "alpha", "2", "--reason", "secret")
    proof = here("ledger", "proof", order[:16]).out
    assert "secret" not in bytes.fromhex(json.loads(proof)["body"]).decode()
    public = (paying.folder / ".p2engine/keys/ledger.pub").read_text().strip()
    elsewhere = Project(tmp_path / "elsewhere")
    elsewhere.write("proof.json", proof)
    told = elsewhere.run("ledger", "verify", "--proof", "proof.json", "--key", public)
    assert (told.status, told.out.splitlines()[0][:45]) == (
        0,
        f"proved: alpha → beta 1.0 CREDIT, transfer {order}"[:45],
    )
    assert not (elsewhere.folder / ".p2engine/ledger.db").exists()
    changed = json.loads(proof)
    changed["body"] = changed["body"].replace(b"work".hex(), b"walk".hex())
    elsewhere.write("changed.json", json.dumps(changed))
    ran = elsewhere.run("ledger", "verify", "--proof", "changed.json", "--key", public, "--json")
    assert (ran.status, ran.document["proved"]) == (1, False)
    assert elsewhere.run("ledger", "verify", "--proof", "proof.json", "--key", "0" * 64).status == 1


def test_a_proof_does_not_show_what_the_payer_has(paying: Project, here: Run) -> None:
    """Neither in the file nor where it is checked; its help says what it shows."""
    order = here("ledger", "transfer", "alpha", "beta", "1", "--reason", "work", "--json").document["id"]
    proof = here("ledger", "proof", order).out
    shown = bytes.fromhex(json.loads(proof)["body"]).decode()
    assert '"reason":"work"' in shown
    assert "left" not in shown
    assert "990000000000" not in shown
    paying.write("proof.json", proof)
    record = here("ledger", "verify", "--proof", "proof.json", "--json").document["record"]
    assert (record["payer"], record["reason"], record["left"], record["cause"]) == ("alpha", "work", None, "")
    assert "not what the payer has left" in " ".join(here("ledger", "proof", "--help").out.split())


def test_a_refusal_is_listed_with_its_reason_and_why(here: Run, paying: Project) -> None:
    """Programs get both: what it was for, and why it was not paid; people see why."""
    here("ledger", "transfer", "alpha", "beta", "500", "--reason", "work")
    for words in (("history", "alpha", "--limit", "1"), ("audit", "--type", "refusal")):
        (row,) = here("ledger", *words, "--json").document
        assert (row["reason"], row["why"]) == ("work", "alpha has 100.0 CREDIT, not 500.0 CREDIT")
        assert "alpha has 100.0 CREDIT" in here("ledger", *words).out


@pytest.mark.parametrize("payer", ["provider:openai", "spend:alpha", "treasury:USD"])
def test_money_comes_out_of_the_treasury_only(here: Run, paying: Project, payer: str) -> None:
    """What counts real spending, and the treasury of another instrument, pay no agent."""
    ran = here("ledger", "transfer", payer, "alpha", "5", "--json")
    assert (ran.status, ran.document["status"]) == (1, "refused")
    assert here("ledger", "balance", "alpha", "--json").document["balance"] == "100.0"


def test_a_ledger_without_its_key_is_looked_at(here: Run, paying: Project) -> None:
    """What it holds is told, with a word that nobody can pay; whoever would pay or sign is refused."""
    here("ledger", "transfer", "alpha", "beta", "1", "--reason", "work")
    (paying.folder / ".p2engine/keys/ledger.key").unlink()
    for words in (
        ("overview",),
        ("balance", "alpha"),
        ("history", "alpha"),
        ("audit",),
        ("metrics",),
        ("export", "out.jsonl"),
    ):
        ran = here("ledger", *words)
        assert ran.status == 0, ran.err
        assert ran.err.count("nobody can pay, only look: the key of the ledger") == 1
        assert ran.err.count("the key of the ledger") == 1
    assert here("ledger", "balance", "beta", "--json").document["balance"] == "101.0"
    assert len((paying.folder / "out.jsonl").read_text().splitlines()) == 4
    for writes in ("transfer alpha beta 1", "init", "checkpoint"):
        ran = here("ledger", *writes.split())
        assert (ran.status, "restore it; without it nobody can pay" in ran.err) == (1, True), ran.err
    assert here("ledger", "verify").out.endswith("the key is not here: seals and head were not checked\n")
    assert not (paying.folder / ".p2engine/keys/ledger.key").exists()


def test_that_the_key_is_not_here_is_said_once(here: Run, paying: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a cost is still to be booked, which nobody can do without it."""
    here("ledger", "init")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key")
    with OpenAIServer(echo) as server:
        paying.configure(llm={"api_base": server.base_url, "models": {"default_model": "openai/gpt-4o"}})
        here("chat", "with", "alpha", "-m", "one")
    (paying.folder / ".p2engine/keys/ledger.key").unlink()
    for words in (("overview",), ("metrics",)):
        ran = here("ledger", *words)
        assert (ran.status, ran.err.count("the key of the ledger")) == (0, 1), ran.err


def test_verify_goes_on_without_a_head_that_can_be_read(here: Run, paying: Project) -> None:
    """A damaged one is a finding that says what to do; with none it says what could not be told."""
    here("ledger", "init")
    head = paying.folder / ".p2engine/keys/ledger.head"
    head.write_bytes(b"")
    ran = here("ledger", "verify", "--json")
    assert (ran.status, ran.document["records"], len(ran.document["findings"])) == (1, 3, 1)
    refused = here("ledger", "overview")
    assert f"where it finds nothing else, take {head} away" in " ".join(refused.err.split())
    head.unlink()
    ran = here("ledger", "verify")
    assert (ran.status, ran.out.splitlines()[0]) == (0, "sound: 3 records, 4 accounts")
    assert "an older copy, could not be told" in ran.out
    assert here("ledger", "verify", "--json").document["noted"] is False


def test_a_proved_refusal_does_not_read_as_a_payment(paying: Project, here: Run) -> None:
    """It says that it was refused and why; programs get its type and the reason."""
    order = here("ledger", "transfer", "alpha", "beta", "500", "--json").document["id"]
    paying.write("refused.json", here("ledger", "proof", order).out)
    told = here("ledger", "verify", "--proof", "refused.json")
    why = "alpha has 100.0 CREDIT, not 500.0 CREDIT"
    assert told.out.startswith(f"proved: this payment was refused: {why}\nno money moved: refusal {order} at ")
    assert "→" not in told.out
    record = here("ledger", "verify", "--proof", "refused.json", "--json").document["record"]
    assert (record["type"], record["status"], record["why"]) == ("refusal", "refused", why)


def test_books_are_told_apart(paying: Project, here: Run) -> None:
    """A trial's payments have their book in the audit, and the main book's own pages say that there are others."""
    assert "book" not in here("ledger", "audit").out.splitlines()[0]
    assert "--book" not in here("ledger", "overview").err
    paying.write(
        "rollout.yml",
        "teams:\n  pay:\n    initial_message: transfer 5 to beta\n    base: {agent_id: alpha}\n"
        "    variants: [{id: a}]\n    checks: [no_error]\n",
    )
    started = here("rollout", "start", "rollout.yml")
    assert started.status == 0, started.err
    book = next(row["book"] for row in here("ledger", "audit", "--json").document if row["type"] == "transfer")
    assert book != "main"
    assert here("ledger", "audit").out.splitlines()[0].split()[:4] == ["id", "at", "book", "type"]
    rows = here("ledger", "audit", "--book", book, "--json").document
    assert {row["book"] for row in rows} == {book}
    assert "book" not in here("ledger", "audit", "--book", book).out.splitlines()[0].split()
    for words in (("overview",), ("history", "alpha")):
        assert f"money moved in another book too: --book {book}" in here("ledger", *words).err
        assert "money moved" not in here("ledger", *words, "--quiet").err
        assert "money moved" not in here("ledger", *words, "--book", book).err


def test_many_books_are_counted() -> None:
    """Debug names the first few, the main one before all; programs get every one."""
    assert _word([]) == "none"
    assert _word(["main", "b"]) == "main, b"
    assert _word(["main", *"abcdefg"]) == "8: main, a, b, c, d, …"


def test_a_payment_is_explained_at_once(paying: Project, here: Run) -> None:
    """By the id that the ledger gave it, whole or its beginning: paid by a call, made for a message of the user."""
    here("ledger", "init")
    here("chat", "with", "alpha", "-m", "transfer 5 to beta for lunch")
    by_agent = here("ledger", "history", "beta", "--limit", "1", "--json").document[0]["id"]
    by_operator = here("ledger", "transfer", "alpha", "beta", "1", "--json").document["id"]
    steps = here("artifact", "why", by_agent, "--json").document
    assert [step["kind"] for step in steps] == ["ledger.transfer", "state.tool_call", "state.user_message"]
    assert steps[0]["ref"].startswith(f"{by_agent}@")
    assert steps[-1]["summary"] == "transfer 5 to beta for lunch"
    assert here("artifact", "why", by_agent[:6] + by_agent[12:], "--json").document == steps
    (alone,) = here("artifact", "why", by_operator[:18], "--json").document
    assert (alone["kind"], alone["cause"]) == ("ledger.transfer", "operator")


def test_real_spend_is_in_the_metrics(paying: Project, here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model cost is paid by its agent to its provider, in dollars, beside the money of the agents."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key")
    with OpenAIServer(echo) as server:
        paying.configure(llm={"api_base": server.base_url, "models": {"default_model": "openai/gpt-4o"}})
        said = here("chat", "with", "alpha", "--json", "-m", "one", "-m", "two").rows
    here("ledger", "transfer", "alpha", "beta", "12.5")
    here("ledger", "transfer", "alpha", "beta", "900")
    seen = here("ledger", "metrics", "--json").document
    cost = Decimal(str(sum(Decimal(str(row["cost_usd"])) for row in said)))
    assert cost > 0
    assert Decimal(seen["spend"]["total"]) == round(cost, 10)
    assert seen["spend"]["agents"] == [{"agent": "alpha", "amount": seen["spend"]["total"], "calls": 2}]
    assert seen["spend"]["providers"] == [{"provider": "openai", "amount": seen["spend"]["total"], "calls": 2}]
    (credit,) = seen["instruments"]
    assert credit == {
        "instrument": "CREDIT",
        "wallets": 3,
        "supply": "1200.5",
        "held": "0.0",
        "transfers": 1,
        "transferred": "12.5",
    }
    assert seen["refusals"] == 1
    cost, *_, paid = here("ledger", "audit", "--type", "transfer", "--json").document
    assert (cost["instrument"], paid["instrument"]) == ("USD", "CREDIT")
    shown = here("ledger", "audit", "--type", "transfer").out
    assert f"{cost['amount']} USD" in shown
    assert "CREDIT" not in shown
    assert here("artifact", "why", cost["id"], "--json").document[0]["kind"] == "model.reply"
    assert "models cost: " in here("ledger", "metrics").out


def test_what_a_judge_cost_is_in_the_metrics(paying: Project, here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside what agents cost, by the evaluator's name, once; and the payment leads back to the verdict."""
    here("chat", "with", "alpha", "--name", "one", "-m", "hello")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-key")
    with OpenAIServer([Reply(text='{"score": 0.5, "comment": "so"}', tokens_in=500, tokens_out=20)]) as server:
        paying.configure(llm={"api_base": server.base_url, "models": {"default_model": "openai/gpt-4o"}})
        for _ in range(2):
            here("eval", "run", "gpt4_judge", "one", "--rubric", "joke_quality")
    spend = here("ledger", "metrics", "--json").document["spend"]
    assert Decimal(spend["total"]) > 0
    assert spend["agents"] == [{"agent": "judge/gpt4_judge", "amount": spend["total"], "calls": 1}]
    assert spend["providers"] == [{"provider": "openai", "amount": spend["total"], "calls": 1}]
    order = here("ledger", "audit", "--type", "transfer", "--json").document[0]["id"]
    steps = here("artifact", "why", order, "--json").document
    assert [step["kind"] for step in steps][:2] == ["eval.verdict", "state.assistant_message"]
    assert here("artifact", "why", "spend:nothing").status == 2
    assert "by judge/gpt4_judge: " in here("ledger", "metrics").out


def test_the_ledger_is_exported_whole(paying: Project, here: Run) -> None:
    """Every record a line; a cell that a spreadsheet would work out is one no more."""
    here("ledger", "transfer", "alpha", "beta", "1", "--reason", "=SUM(A1)")
    lines = here("ledger", "export").rows
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert (lines[3]["reason"], lines[3]["left"], lines[3]["book"]) == ("=SUM(A1)", "99.0", "main")
    assert here("ledger", "export", "out.csv", "--format", "csv").out == "wrote 4 records to out.csv\n"
    rows = list(csv.DictReader((paying.folder / "out.csv").read_text().splitlines()))
    assert (rows[3]["reason"], rows[0]["left"], len(rows)) == ("'=SUM(A1)", "-100.0", 4)
    assert here("ledger", "export", "out.csv").status == 2
    assert here("ledger", "export", "out.csv", "--force").status == 0


def test_debug_tells_how_the_ledger_is(paying: Project, here: Run) -> None:
    """Before there is one, with one, and with one that cannot be used: then it exits with 1 and says why."""
    fresh = here("ledger", "debug", "--json").document
    assert (fresh["enabled"], fresh["records"], fresh["problem"]) == (True, 0, None)
    assert not (paying.folder / ".p2engine/ledger.db").exists()
    here("ledger", "init")
    there = here("ledger", "debug", "--json").document
    assert (there["driver"], there["records"], there["books"]) == ("embedded", 3, ["main"])
    assert there["public_key"] == (paying.folder / ".p2engine/keys/ledger.pub").read_text().strip()
    assert there["checkpoint"]["records"] == 3
    (paying.folder / ".p2engine/ledger.db").write_bytes(b"no database at all")
    broken = here("ledger", "debug", "--json")
    assert broken.status == 1
    assert "ledger.db" in broken.document["problem"]


def test_a_wallet_is_shown_with_its_agent(paying: Project, here: Run) -> None:
    """What it has, or what it would be opened with; an agent that is to have none has none."""
    opens = {"initial": "1000.5", "balance": None, "owner": "operator"}
    assert here("agent", "show", "rich", "--json").document["wallet"] == opens
    assert not (paying.folder / ".p2engine/ledger.db").exists()
    here("ledger", "transfer", "rich", "beta", "0.5")
    assert here("agent", "show", "rich", "--json").document["wallet"] == opens | {"balance": "1000.0"}
    assert here("agent", "show", "poor", "--json").document["wallet"] is None
    assert "1000.0 CREDIT, owner operator" in here("agent", "show", "rich").out
    assert here("agent", "show", "alpha", "--json").document["wallet"]["owner"] == "ann"


def test_an_agent_is_shown_with_who_switched_the_ledger_off(
    paying: Project, here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its wallet, and at the tools that it does not get."""
    monkeypatch.setenv("LEDGER_ENABLED", "false")
    lines = here("agent", "show", "alpha").out.splitlines()
    off = "the ledger is off (environment: LEDGER_ENABLED)"
    assert [line.split()[0] for line in lines if off in line] == ["withheld", "wallet"]


def test_two_terminals_pay_each_other(paying: Project, here: Run) -> None:
    """Opposite transfers at the same time: all are made, and no money comes or goes."""
    here("ledger", "init")
    lines = {
        "alpha": "".join("ledger transfer alpha rich 1.1\n" for _ in range(25)),
        "rich": "".join("ledger transfer rich alpha 0.7\n" for _ in range(25)),
    }
    terminals = [paying.process("shell") for _ in lines]
    with ThreadPoolExecutor() as pool:
        ends = pool.map(
            lambda pair: pair[0].communicate(pair[1], timeout=60), zip(terminals, lines.values(), strict=True)
        )
    assert [err for _, err in ends if "not paid" in err] == []
    assert [terminal.returncode for terminal in terminals] == [0, 0]
    balances = {row["agent"]: row["balance"] for row in here("ledger", "overview", "--json").document}
    assert balances == {"alpha": "90.0", "beta": "100.0", "rich": "1010.5"}
    assert here("ledger", "verify").status == 0
    assert len([line for line in here("ledger", "export").rows if line["type"] == "transfer"]) == 50
