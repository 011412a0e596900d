"""The command line on a Redis that has no room: everything that only looks works, and pruning makes room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from tests.cli.project import Project, Run
from tests.cli.scenes import PARIS, TOKYO, say
from tests.servers import ValkeyServer

LOOKS = [
    "conversation list",
    "conversation show demo",
    "conversation stack demo",
    "conversation branches demo",
    "conversation export demo",
    "artifact show demo",
    "rollout list",
    "eval list",
    "ledger overview",
    "ledger balance agent_alpha",
    "ledger audit",
    "ledger verify",
]


@pytest.fixture
def full(project: Project, here: Run) -> Iterator[Run]:
    """Two conversations and a ledger, on a server that was filled up since."""
    with ValkeyServer() as server:
        project.configure(store="redis", redis={"host": "127.0.0.1", "port": server.port})
        say(here, "demo", PARIS, TOKYO, agent="agent_alpha")
        say(here, "other", PARIS, agent="agent_alpha")
        assert here("ledger", "init").status == 0
        with Redis(port=server.port) as client:
            client.config_set("maxmemory", "1mb")
        yield here


def test_failure_35_a_full_server_is_looked_at_and_pruned(full: Run) -> None:
    """What would add something is refused with two mends, of which pruning is one that works there."""
    for look in LOOKS:
        done = full(*look.split())
        assert (done.status, "error: " in done.err) == (0, False), (look, done.err)
    for adds in ("chat with agent_alpha -m hello", "ledger transfer agent_alpha agent_helper 1"):
        refused = full(*adds.split())
        assert refused.status == 1
        assert "is full; nothing was written\n  raise its maxmemory, or prune old conversations" in refused.err
    memory = next(row for row in full("doctor", "--json").document if row["check"] == "redis.memory")
    assert memory["status"] == "fail"
    assert memory["mend"] == "raise its maxmemory, or prune old conversations"

    assert full("conversation", "prune", "demo", "--yes").out.splitlines()[-1].startswith("pruned 1 conversation")
    assert full("conversation", "prune", "--older-than", "0s", "--yes").status == 0
    assert full("conversation", "list", "--json").document == []
