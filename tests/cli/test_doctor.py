"""`doctor` on a fresh machine and on broken ones: one finding a check, each with its mend."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from p2engine.testing.server import OpenAIServer, echo
from tests.cli.project import Project, Ran, Run
from tests.cli.scenes import PARIS, say

CHECKS = ["python", "configuration", "project", "home", "format", "store", "ledger", "disk", "models.openai", "logs"]


def found(done: Ran) -> dict[str, dict[str, Any]]:
    """Check -> its finding."""
    return {row["check"]: row for row in done.document}


def test_a_fresh_machine_is_green(project: Project, here: Run) -> None:
    """No key, no state folder: every check is ok, the line that gets real answers is shown, and nothing is made."""
    before = sorted(project.folder.rglob("*"))

    done = here("doctor", "--json")

    assert done.status == 0
    assert [list(row) for row in done.document] == [["check", "status", "detail", "mend"]] * len(CHECKS)
    assert [row["check"] for row in done.document] == CHECKS
    assert {row["status"] for row in done.document} == {"ok"}
    assert "export OPENAI_API_KEY" in found(done)["models.openai"]["mend"]
    assert sorted(project.folder.rglob("*")) == before
    assert "export OPENAI_API_KEY" in here("doctor").out


def test_a_folder_that_is_no_project_is_green(project: Project, here: Run) -> None:
    """Without a project there are defaults, and the line that makes one."""
    (project.folder / "config/agents.yml").unlink()
    done = here("doctor", "--json")
    assert done.status == 0
    assert found(done)["project"]["mend"] == "p2engine init"


def test_a_used_store_is_counted_and_sound(here: Run) -> None:
    """The store is read whole."""
    say(here, "demo", PARIS, agent="agent_alpha")
    store = found(here("doctor", "--json"))["store"]
    assert store["status"] == "ok"
    assert ": 1 conversation, " in store["detail"]
    assert "sound" in store["detail"]


@pytest.fixture
def paid(project: Project, here: Run) -> Path:
    """The state folder of a project with a ledger of some records."""
    assert here("ledger", "init").status == 0
    assert here("ledger", "transfer", "agent_alpha", "treasury:CREDIT", "1").status == 0
    return project.folder / ".p2engine"


def test_a_ledger_is_opened_and_agrees_with_its_head(paid: Path, here: Run) -> None:
    """What is there is told by its count; it is looked at quickly, and nothing of it changes."""
    before = (paid / "ledger.db").read_bytes()
    done = here("doctor", "--json")
    assert done.status == 0
    assert found(done)["ledger"]["status"] == "ok"
    assert found(done)["ledger"]["detail"].endswith(" records, as far as its head says")
    assert (paid / "ledger.db").read_bytes() == before


def test_a_ledger_that_is_off_is_not_looked_at(paid: Path, project: Project) -> None:
    """Whatever became of it."""
    (paid / "ledger.db").write_bytes(b"no database at all, for it is off")
    done = project.run("doctor", "--json", env={"LEDGER_ENABLED": "false"})
    row = found(done)["ledger"]
    assert (row["status"], row["detail"]) == ("ok", "the ledger is off (environment: LEDGER_ENABLED)")


def _cut(state: Path) -> None:
    with closing(sqlite3.connect(state / "ledger.db")) as db, db:
        db.execute("DELETE FROM record WHERE seq = (SELECT max(seq) FROM record)")


def _unnamed(state: Path) -> None:
    with closing(sqlite3.connect(state / "ledger.db")) as db, db:
        db.execute("DELETE FROM meta")


DAMAGES = {
    "a tail that was cut": (_cut, "fail", "not as it was last written", "run `p2engine ledger verify`"),
    "no key": (lambda state: (state / "keys/ledger.key").unlink(), "fail", "the key of the ledger", "restore it"),
    "a file that is gone": (
        lambda state: [file.unlink() for file in state.glob("ledger.db*")],
        "fail",
        "is gone",
        "restore it; or, to begin anew",
    ),
    "a head that is damaged": (
        lambda state: (state / "keys/ledger.head").write_bytes(b""),
        "fail",
        "ledger.head cannot be read",
        "p2engine ledger verify",
    ),
    "no head": (lambda state: (state / "keys/ledger.head").unlink(), "warn", "no ledger.head lies", "p2engine ledger"),
    "a key for all to read": (
        lambda state: (state / "keys/ledger.key").chmod(0o644),
        "fail",
        "can be read by others (mode 0644)",
        "chmod 600 ",
    ),
    "a file that does not say whose it is": (_unnamed, "fail", "does not say whose ledger it is", "ledger verify"),
    "a file that was cut short": (
        lambda state: os.truncate(state / "ledger.db", 5000),
        "fail",
        "is damaged",
        "restore a copy of the file",
    ),
    "another public key": (
        lambda state: (state / "keys/ledger.pub").write_text("0" * 64),
        "fail",
        "ledger.pub is not the public key of the key beside it",
        "take it away",
    ),
    "no database": (
        lambda state: (state / "ledger.db").write_bytes(b"no database at all" * 100),
        "fail",
        "ledger.db",
        "",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_ledger_that_cannot_be_relied_on_is_named(paid: Path, here: Run, name: str) -> None:
    """What is wrong with it, and the mend; exit 1 where nobody may pay on it."""
    damage, status, says, mend = DAMAGES[name]
    damage(paid)
    done = here("doctor", "--json")
    row = found(done)["ledger"]
    assert (row["status"], done.status) == (status, int(status == "fail"))
    assert says in row["detail"]
    assert mend in row["mend"]
    assert "p2engine doctor" not in row["mend"]


def test_a_damaged_entry_is_named(project: Project, here: Run) -> None:
    """A row that cannot be read: fail, which one, exit 1."""
    say(here, "demo", PARIS, agent="agent_alpha")
    with sqlite3.connect(project.folder / ".p2engine/store.db") as db:
        db.execute("UPDATE log SET body = x'00' WHERE cursor = 3")
    db.close()

    done = here("doctor", "--json")

    assert done.status == 1
    assert found(done)["store"]["status"] == "fail"
    assert "row 3" in found(done)["store"]["detail"]


def test_a_store_that_is_none_is_told_apart(project: Project, here: Run) -> None:
    """A file of something else in the place of the store: fail with a mend, and the other checks still run."""
    say(here, "demo", PARIS, agent="agent_alpha")
    for name in ("store.db-wal", "store.db-shm"):
        (project.folder / ".p2engine" / name).unlink(missing_ok=True)
    (project.folder / ".p2engine/store.db").write_bytes(b"no database" * 100)

    done = here("doctor", "--json")

    assert done.status == 1
    assert found(done)["store"]["mend"]
    assert found(done)["disk"]["status"] == "ok"


def test_a_state_folder_of_a_later_version_is_a_fail(project: Project, here: Run) -> None:
    """The folder says which version it is of."""
    project.write(".p2engine/format", "99\n")
    done = here("doctor", "--json")
    assert (done.status, found(done)["format"]["status"]) == (1, "fail")


def test_a_wrong_configuration_is_a_fail_and_the_rest_is_checked(project: Project, here: Run) -> None:
    """The first problem, how many there are, and the command that lists them."""
    project.write("config/config.json", '{"mode": "test", "lmm": 1}')
    done = here("doctor", "--json")
    assert done.status == 1
    assert "config/config.json:1" in found(done)["configuration"]["detail"]
    assert found(done)["configuration"]["detail"].startswith("2 problems")
    assert found(done)["configuration"]["mend"] == "p2engine config check"
    assert found(done)["disk"]["status"] == "ok"


def test_a_state_folder_that_cannot_be_made_is_a_fail(project: Project, here: Run) -> None:
    """A file where the folder should be."""
    file = project.write("in_the_way", "")
    done = here("doctor", "--home", str(file / "state"), "--json")
    assert (done.status, found(done)["home"]["status"]) == (1, "fail")


def test_a_key_that_works_is_ok(project: Project) -> None:
    """With a key the provider is asked, once."""
    with OpenAIServer(echo, api_key="sk-right-key-0123456789") as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-right-key-0123456789"}
        done = project.run("doctor", "--json", env=env)
    assert found(done)["models.openai"]["status"] == "ok"
    assert "answers, a key is set" in found(done)["models.openai"]["detail"]
    assert done.status == 0


def test_a_key_that_is_refused_is_a_fail(project: Project) -> None:
    """401: fail, and the key is not shown."""
    with OpenAIServer(echo, api_key="sk-right-key-0123456789") as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "sk-wrong-key-9876543210"}
        done = project.run("doctor", "--json", env=env)
    assert done.status == 1
    assert "refuses the key" in found(done)["models.openai"]["detail"]
    assert "sk-wrong" not in done.out + done.err


def test_a_provider_that_is_not_there_is_a_fail(project: Project) -> None:
    """A key, and nobody at the address: fail within the bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        env = {"OPENAI_BASE_URL": address, "OPENAI_API_KEY": "sk-some-key-0123456789"}
        done = project.run("doctor", "--json", env=env)
    assert done.status == 1
    assert "cannot be reached" in found(done)["models.openai"]["detail"]


def test_a_server_of_ones_own_needs_no_key(project: Project) -> None:
    """An address of one's own and no key: it is asked without one."""
    with OpenAIServer(echo) as server:
        done = project.run("doctor", "--json", env={"OPENAI_BASE_URL": server.base_url})
    assert (done.status, found(done)["models.openai"]["status"]) == (0, "ok")
    assert "answers, no key is set" in found(done)["models.openai"]["detail"]


def test_a_server_of_ones_own_that_is_not_there_is_a_fail(project: Project) -> None:
    """An address of one's own, no key, and nobody there: fail, as a chat would."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = project.run("doctor", "--json", env={"OPENAI_BASE_URL": address})
    assert done.status == 1
    assert "cannot be reached" in found(done)["models.openai"]["detail"]


def test_a_server_that_wants_a_key_is_a_fail(project: Project) -> None:
    """401 without a key: fail, and it says that there is none."""
    with OpenAIServer(echo, api_key="sk-right-key-0123456789") as server:
        done = project.run("doctor", "--json", env={"OPENAI_BASE_URL": server.base_url})
    assert done.status == 1
    assert "wants a key (401)" in found(done)["models.openai"]["detail"]


def test_a_model_that_nobody_may_answer_is_a_fail(project: Project) -> None:
    """offline: never and no key: fail with the line that mends it."""
    done = project.run("doctor", "--json", env={"P2ENGINE_OFFLINE": "never"})
    assert done.status == 1
    assert "export OPENAI_API_KEY" in found(done)["models.openai"]["mend"]


def test_models_are_listed_with_the_line_that_enables_them(project: Project, here: Run) -> None:
    """OpenAI first, the stand-in last; a key is yes or no and never shown."""
    rows = here("models", "--json").document
    assert list(rows[0]) == ["provider", "driver", "key", "base", "offline", "enable"]
    assert (rows[0]["provider"], rows[0]["key"], rows[0]["enable"]) == ("openai", False, "export OPENAI_API_KEY=…")
    assert rows[-1]["provider"] == "offline"

    done = project.run("models", env={"OPENAI_API_KEY": "sk-some-key-0123456789"})
    assert "sk-some" not in done.out
    assert done.out.splitlines()[1].split()[2] == "yes"
