"""Whoever prunes is killed at any moment: the conversation is there wholly or not at all, and pruning again ends it."""

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from p2engine.domain.records import Query
from p2engine.ports import Archive
from p2engine.stores import redis_prune
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.histories import conversation, ref
from tests.crash import pruner
from tests.crash.nursery import ROOT
from tests.servers import ValkeyServer


def _victims(*words: str) -> list[str]:
    """Where each worked. All but the last were killed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.pruner", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {status for _, status in lines[:-1]} == {-signal.SIGKILL}
    return [place for place, _ in lines]


async def _ids(store: Archive) -> list[str]:
    return [event.id for event in await store.events(Query(limit=10_000))]


async def _judge(store: Archive, before: list[str]) -> bool:
    """All of it is there, or nothing; whatever it is, pruning then ends with nothing. Whether it was there."""
    there = await store.conversation(conversation("demo").id) is not None
    found = await _ids(store)
    after = [each for each in before if not each.startswith(ref("demo")) and not each.startswith("demo-")]
    if there:
        assert found == before
        assert await store.head(ref("demo")) == 4 * pruner.TURNS
        await store.prune(await pruner.plan_of(store))
        found = await _ids(store)
    assert found[:-1] == after
    assert found[-1].startswith("pruned-")
    assert await store.branches(conversation("demo").id) == []
    assert len(await store.load(ref("other"))) == 2 * pruner.TURNS
    return there


async def test_seam_25_killed_at_any_statement_it_is_all_or_nothing(tmp_path: Path) -> None:
    """SQLite: before the commit nothing has gone, after it everything; the file is sound either way."""
    store = await SqliteStore.open(tmp_path / "store.db")
    await pruner.fill(store)
    before = await _ids(store)
    await store.aclose()
    (tmp_path / "dead").mkdir()
    there = []
    for place in _victims(str(tmp_path / "store.db"), str(tmp_path / "dead")):
        store = await SqliteStore.open(place)
        there.append(await _judge(store, before))
        assert await store.check() == []
        await store.aclose()
    assert there[0]
    assert not there[-1]
    assert len(there) > 10


async def test_seam_25_killed_around_any_script_it_is_out_of_sight_or_there() -> None:
    """Redis: what one script has hidden stays hidden; the next who prunes anything takes the rest out of the log."""
    with ValkeyServer() as server:
        prefix = f"t{uuid.uuid4().hex[:8]}-"
        there = []
        for place in _victims(str(server.port), prefix):
            store = await pruner.open_redis(server.port, place)
            client = store.server.client
            before = [
                each
                for name in ("demo", "other")
                for each in (
                    *(f"{ref(name)}:{n}" for n in range(4 * pruner.TURNS)),
                    *(f"{name}-{n}" for n in range(10)),
                    f"t-{name}",
                )
            ]
            there.append(await _judge(store, before))
            await redis_prune.Pruner(store.server, store._scripts).drain()
            assert [key async for key in client.scan_iter(f"{place}:*pruned*")] == []
            assert [key async for key in client.scan_iter(f"{place}:*{ref('demo')}*")] == []
            assert await client.xlen(f"{place}:log") == 2 * pruner.TURNS + 10 + 3
            assert await client.scard(f"{place}:facts") == 10 + 3
            await pruner.close_redis(store)
        assert there[0]
        assert not there[-1]
        assert len(there) >= 10
