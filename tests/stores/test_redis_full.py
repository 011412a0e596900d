"""A server that has no room: what only reads, what frees it, and what says that somebody lives, goes on."""

import pytest

from p2engine.domain.records import Perform, Query
from p2engine.errors import StoreError
from p2engine.testing.contracts.pruning import pruning
from p2engine.testing.histories import answering, conversation, fact, noting, opening, ref, thought
from tests.servers import ValkeyServer
from tests.stores.conftest import Open


async def test_failure_35_a_full_server_is_read_and_pruned(own: ValkeyServer, opened: Open) -> None:
    """Whoever comes to it finds what is there and may take it away, which is how it gets room; nothing is added."""
    store = await opened(own)
    for name in ("demo", "other"):
        await store.write(opening(name))
        await store.write(answering(name))
    await store.write(noting(fact("noted", of="demo")))
    await store.server.client.config_set("maxmemory", "1")

    late = await opened(own)
    assert await late.lives(late.owner)
    assert [found.name for found in await late.conversations()] == ["other", "demo"]
    assert len(await late.load(ref("demo"))) == 2
    await late.prune(await pruning(late))
    await late.prune(await pruning(late, "other", keeps={ref("other"): 2}))
    assert [found.name for found in await late.conversations()] == ["other"]
    assert await late.head(ref("other")) == 2
    assert {event.conversation for event in await late.events(Query())} == {None, conversation("other").id}
    with pytest.raises(StoreError, match="is full; nothing was written"):
        await late.write(opening("more"))


async def test_failure_35_who_ends_on_a_full_server_hands_back_what_it_held(own: ValkeyServer, opened: Open) -> None:
    """Its lease was renewed to the end, and what it held is due as soon as there is room."""
    store, other = await opened(own), await opened(own, handed_out_s=0)
    await store.write(opening())
    await store.claim(thought("demo"), store.owner)
    await other.server.client.config_set("maxmemory", "1")
    await store._lease._set()
    await store.aclose()
    await other.server.client.config_set("maxmemory", "0")
    assert await other.due(limit=10) == [Perform(thought("demo"), "think")]
