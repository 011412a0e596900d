"""The keys that a Redis store has once each: whose they are is found out when it is opened."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from p2engine.errors import Rewound, StoreError
from p2engine.stores.redis_keys import KINDS, recognise
from p2engine.stores.redis_prune import Pruner
from p2engine.testing.contracts.pruning import pruning
from p2engine.testing.histories import answering, fact, noting, opening, thought
from tests.servers import ValkeyServer
from tests.stores.conftest import Open


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    with ValkeyServer("--save", "", "--appendonly", "no") as server:
        yield server


@pytest.mark.parametrize("name", KINDS)
async def test_failure_27_a_foreign_key_in_the_way_is_named(
    shared: ValkeyServer, opened: Open, prefix: str, name: str
) -> None:
    """Whichever of them it is, with its type and the mend; nothing is touched, and looking for it writes nothing."""
    client = (await opened(shared)).server.client
    await client.delete(f"{prefix}:{name}")
    await client.set(f"{prefix}:{name}", "mine")
    with pytest.raises(StoreError, match=rf"key '{prefix}:{name}' is not ours \(a string\)") as refused:
        await opened(shared)
    assert refused.value.hint == "choose another redis.prefix or redis.db"
    assert await client.get(f"{prefix}:{name}") == b"mine"


async def test_all_of_them_are_looked_at(
    shared: ValkeyServer, opened: Open, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that has done everything has no other key of which there is one, and each is of the type it should be."""

    async def die(pruner: Pruner) -> None: ...

    monkeypatch.setattr(Pruner, "drain", die)
    store = await opened(shared)
    client = store.server.client
    await store.write(noting(fact("early", of="demo")))
    await client.hset(f"{prefix}:meta", "cursor", "0")
    with pytest.raises(Rewound):
        await store.write(opening("lost"))
    for name in ("gone", "demo", "rests"):
        await store.write(opening(name))
    await store.write(answering("gone"))
    await store.prune(await pruning(store, "gone"))
    await store.claim(thought("demo"), store.owner)
    await store.write(noting(replace(fact("named"), known_as=("it",))))

    keys = [key async for key in client.scan_iter(f"{prefix}:*") if key.count(b":") == 1]
    there = {key.decode().removeprefix(f"{prefix}:"): (await client.type(key)).decode() for key in keys}
    assert there == dict(KINDS)
    assert (await recognise(store.server)).epoch == 1
