"""What the Redis store does besides its contract while something is pruned: for those who read meanwhile, and after."""

from collections.abc import Iterator

import pytest

from p2engine.domain.records import Cursor, Query
from p2engine.errors import UsageError
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_prune import Pruner
from p2engine.testing.contracts.pruning import pruning
from p2engine.testing.histories import answering, asking, conversation, fact, noting, opening, ref
from tests.servers import ValkeyServer
from tests.stores.conftest import Open

OTHER = [f"{ref('other')}:{n}" for n in range(4)]


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "no", "--save", "") as server:
        yield server


async def _fill(store: RedisStore) -> None:
    for name in ("demo", "other"):
        await store.write(opening(name))
        await store.write(answering(name))
    await store.write(noting(fact("noted", of="demo"), fact("paid", "ledger.transfer", of="demo")))


async def _hide(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune `demo` as one does who dies before its rows are out of the log."""

    async def die(pruner: Pruner) -> None: ...

    with monkeypatch.context() as patched:
        patched.setattr(Pruner, "drain", die)
        await store.prune(await pruning(store))


async def test_seam_25_what_is_hidden_is_read_by_nobody(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the script that hides it and those that remove it from the log: not even by who had read it before."""
    here, there = await opened(shared), await opened(shared)
    await _fill(here)
    tail = there.tail(Cursor())
    read = [(await anext(tail)).id for _ in range(10)]
    assert read[4:] == [*OTHER, "noted", "paid"]
    await _hide(here, monkeypatch)
    left = [*OTHER, "paid", "p-demo"]
    for store in (here, there, await opened(shared)):
        assert [event.id for event in await store.events(Query())] == left
        assert await store.events(Query(conversation=conversation("demo").id)) == []
        assert await store.events(Query(ref=ref("demo"))) == []
        fresh = store.tail(Cursor())
        assert [(await anext(fresh)).id for _ in left] == left
        (paid,) = await store.events(Query(kinds=("ledger.",)))
        assert (paid.conversation, paid.ref) == (None, None)
    assert (await anext(tail)).id == "p-demo"


async def test_a_page_of_nothing_but_hidden_rows_is_passed(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail goes on behind them, and finds what comes."""
    store = await opened(shared)
    await store.write(opening())
    for turn in range(300):
        await store.write(answering(head=4 * turn + 2))
        await store.write(asking(head=4 * turn + 4))
    await store.write(answering(head=1202))
    await _hide(store, monkeypatch)
    tail = store.tail(Cursor())
    assert (await anext(tail)).id == "p-demo"
    await store.write(opening("next"))
    assert (await anext(tail)).id == f"{ref('next')}:0"


async def test_the_next_pruning_ends_what_was_begun(
    shared: ValkeyServer, opened: Open, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Of whatever conversation: no row and no key of the first is left."""
    store = await opened(shared)
    await _fill(store)
    await _hide(store, monkeypatch)
    with pytest.raises(UsageError, match="no conversation"):
        await pruning(store)
    client = store.server.client
    assert await client.hlen(f"{prefix}:pruned") == 1
    await store.prune(await pruning(store, "other"))
    keys = [key.decode() async for key in client.scan_iter(f"{prefix}:*")]
    assert [key for key in keys if "demo" in key or "other" in key or "pruned" in key] == []
    assert await client.xlen(f"{prefix}:log") == 3  # what the ledger said, and that both were pruned
    assert await client.smembers(f"{prefix}:facts") == {b"paid", b"p-demo", b"p-other"}
