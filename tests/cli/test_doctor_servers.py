"""`doctor` on a project that works with servers: one finding for each thing that can be wrong with them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from p2engine.cli.health import Finding
from p2engine.cli.health_servers import blobs_finding, redis_findings
from p2engine.settings import Settings
from tests.cli.project import Project, Run
from tests.servers import ValkeyServer, free_port

CHECKS = ["redis", "redis.durability", "redis.memory", "redis.latency", "redis.clock"]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture(autouse=True)
def no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings are, the test says."""
    monkeypatch.chdir(tmp_path)


def settings(server: ValkeyServer, **more: Any) -> Settings:
    redis = {"host": "127.0.0.1", "port": server.port, **more.pop("redis", {})}
    return Settings.load(environ={}, redis=redis, **{"store": "redis", **more})


async def found(told: Settings) -> dict[str, Finding]:
    """Check -> its finding."""
    return {finding.check: finding for finding in await redis_findings(told)}


def test_a_project_on_redis_is_looked_over(project: Project, here: Run, valkey: ValkeyServer) -> None:
    """Every check of the Redis is there with what it is, and the bodies; the SQLite file is not looked for."""
    redis = {"host": "127.0.0.1", "port": valkey.port}
    project.write("config/config.json", json.dumps({"store": "redis", "redis": redis}))
    done = here("doctor", "--json")
    rows = {row["check"]: row for row in done.document}
    assert [check for check in rows if check.startswith("redis")] == CHECKS
    assert "store" not in rows
    assert f"redis://127.0.0.1:{valkey.port}/0: " in rows["redis"]["detail"]
    assert {rows[check]["status"] for check in [*CHECKS, "blobs"]} <= {"ok", "warn"}


def test_a_ledger_in_redis_is_looked_at(project: Project, here: Run, valkey: ValkeyServer) -> None:
    """None yet; one that is as far as its head says; one whose tail was cut; one whose key is not here."""
    redis = {"host": "127.0.0.1", "port": valkey.port, "prefix": "doctor-ledger"}
    project.write("config/config.json", json.dumps({"store": "redis", "redis": {**redis, "durability": "warn"}}))

    def row() -> dict[str, Any]:
        found: dict[str, Any] = {row["check"]: row for row in here("doctor", "--json").document}["ledger"]
        return found

    assert (row()["status"], row()["detail"][-23:]) == ("ok", "(made by its first use)")
    assert not (project.folder / ".p2engine/keys").exists()
    assert here("ledger", "init").status == 0
    assert (row()["status"], row()["detail"][-32:]) == ("ok", "records, as far as its head says")
    with Redis(host="127.0.0.1", port=valkey.port) as client:
        client.delete("doctor-ledger:ledger:head")
    assert (row()["status"], "was cut, changed or replaced" in row()["detail"]) == ("fail", True)
    (project.folder / ".p2engine/keys/ledger.key").unlink()
    assert (row()["status"], row()["mend"][:14]) == ("fail", "copy `keys/` o")


def test_failure_27_a_redis_that_is_not_there_is_a_fail(project: Project, here: Run) -> None:
    """Unreachable: one line with the mend, exit 1, no password, and the other checks still run."""
    redis = {"host": "127.0.0.1", "port": free_port()}
    project.write("config/config.json", json.dumps({"dispatch": "celery", "redis": redis}))
    project.write(".env", "REDIS_PASSWORD=hidden-word\n")
    done = here("doctor", "--json")
    rows = {row["check"]: row for row in done.document}
    assert done.status == 1
    assert rows["redis"]["status"] == "fail"
    assert "cannot be reached" in rows["redis"]["detail"]
    assert "REDIS_HOST" in rows["redis"]["mend"]
    assert {"store", "disk", "logs"} <= set(rows)
    assert {rows[check]["status"] for check in ("workers", "queues", "owed")} == {"fail"}
    assert rows["owed"]["detail"] == "not known: the Redis cannot be used"
    assert "hidden-word" not in done.out + done.err


def test_a_store_that_cannot_be_opened_is_no_fault_of_the_workers(project: Project, here: Run) -> None:
    """Of a later version, or full: that is said of the store; what can still be asked of the broker is."""
    with ValkeyServer() as server:
        redis = {"host": "127.0.0.1", "port": server.port}
        project.write("config/config.json", json.dumps({"store": "redis", "dispatch": "celery", "redis": redis}))
        with Redis(port=server.port) as client:
            client.hset("p2engine:meta", "schema", "999")
            newer = {row["check"]: row for row in here("doctor", "--json").document}
            client.delete("p2engine:meta")
            client.config_set("maxmemory", "1mb")
            full = {row["check"]: row for row in here("doctor", "--json").document}
    assert "schema '999'" in newer["store"]["detail"]
    assert newer["store"]["mend"] == "update P2Engine"
    assert "is full" in full["store"]["detail"]
    for rows in (newer, full):
        assert rows["store"]["status"] == "fail"
        assert (rows["workers"]["status"], rows["workers"]["mend"]) == ("warn", "p2engine worker")
        assert rows["queues"]["detail"] == "empty"
        assert (rows["owed"]["status"], rows["owed"]["detail"]) == ("fail", "not known: the store cannot be opened")


@pytest.mark.parametrize("dispatch", ["inline", "celery"])
@pytest.mark.parametrize(("key", "check"), [("meta", "store"), ("log", "store"), ("celery:tools", "queues")])
def test_failure_27_a_foreign_key_in_the_way_is_a_fail(
    project: Project, here: Run, valkey: ValkeyServer, dispatch: str, key: str, check: str
) -> None:
    """Once, named with its type and the mend, where what it is in the way of is used; the rest is still looked at."""
    prefix = f"foreign-{dispatch}-{key.replace(':', '-')}"
    redis = {"host": "127.0.0.1", "port": valkey.port, "prefix": prefix}
    project.configure(store="redis", dispatch=dispatch, redis=redis)
    with Redis(port=valkey.port) as client:
        client.set(f"{prefix}:{key}", "mine")
    rows = here("doctor", "--json").document
    says = f"key '{prefix}:{key}' is not ours (a string)"
    wrong = [(row["check"], row["mend"]) for row in rows if says in row["detail"]]
    is_used = check == "store" or dispatch == "celery"
    assert wrong == ([(check, "choose another redis.prefix or redis.db")] if is_used else [])
    assert [row["check"] for row in rows if row["check"].startswith("redis")] == CHECKS
    assert dispatch == "inline" or {"workers", "queues", "owed"} <= {row["check"] for row in rows}


async def test_a_good_server_is_green(valkey: ValkeyServer) -> None:
    """Reachable, durable, with room, and with the same time."""
    rows = await found(settings(valkey))
    assert list(rows) == CHECKS
    assert {row.status for check, row in rows.items() if check != "redis.latency"} == {"ok"}
    assert "ms" in rows["redis.latency"].detail


@pytest.mark.parametrize(("durability", "status"), [("refuse", "fail"), ("warn", "warn")])
async def test_settings_that_can_lose_writes_are_named_with_their_lines(durability: str, status: str) -> None:
    """It is a failure where the project will not start for it, else a warning."""
    with ValkeyServer("--appendfsync", "always", "--maxmemory-policy", "allkeys-lru") as server:
        row = (await found(settings(server, redis={"durability": durability})))["redis.durability"]
    assert row.status == status
    assert "appendonly is no" in row.detail
    assert "maxmemory-policy is allkeys-lru" in row.detail
    assert "`CONFIG SET appendonly yes`" in row.mend


@pytest.mark.parametrize(("part", "status"), [(0.9, "warn"), (2, "fail")])
async def test_a_server_with_little_room_is_told(part: float, status: str) -> None:
    """More than four fifths of maxmemory in use is a warning; all of it a failure, since nothing can be written."""
    with ValkeyServer() as server:
        with Redis(port=server.port) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"] / part))
        row = (await found(settings(server)))["redis.memory"]
    assert row.status == status
    assert row.mend == "raise its maxmemory, or prune old conversations"


@pytest.mark.parametrize(("off_s", "way"), [(60, "ahead of"), (-60, "behind")])
async def test_a_clock_that_is_off_is_told_and_does_not_matter(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, off_s: float, way: str
) -> None:
    """A minute either way: a warning that says whose clock counts."""
    wrong = time.time() + off_s
    monkeypatch.setattr("p2engine.stores.redis_server.time.time", lambda: wrong)
    row = (await found(settings(valkey)))["redis.clock"]
    assert row.status == "warn"
    assert f"60 s {way} the server's, which counts" in row.detail


def test_bodies_that_other_hosts_do_not_see_are_a_fail() -> None:
    """`blobs: fs` beside `store: redis` fails unless the folder is declared shared."""
    redis = Settings.load(environ={}, store="redis")
    fs = Settings.load(environ={}, store="redis", blobs="fs")
    shared = Settings.load(environ={}, store="redis", blobs="fs", blobs_shared=True)
    assert [blobs_finding(each).status for each in (redis, fs, shared)] == ["ok", "fail", "ok"]
    assert "blobs_shared: true" in blobs_finding(fs).mend
