"""What the shared store knows of what its server has lost, and who it takes for dead after the server was silent."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2engine.domain.effects import CallTool
from p2engine.domain.ids import BlobRef
from p2engine.domain.records import Batch, Perform, Query
from p2engine.errors import BodiesLost, Rewound
from p2engine.settings import Settings
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_blobs import RedisBlobs
from p2engine.testing.histories import answering, asking, conversation, fact, noting, opening, owing, ref, thought
from p2engine.wiring import ALL, Engine
from tests.servers import ValkeyServer
from tests.stores.conftest import Open

LEASE_S = 0.4
PAY = CallTool(id=thought("demo", 5), call_id="c", tool="pay", repeat="never")


@pytest.fixture(scope="module")
def shared() -> Iterator[ValkeyServer]:
    """A server that may be told to be silent."""
    with ValkeyServer("--save", "", "--appendonly", "no", "--enable-debug-command", "yes") as server:
        yield server


class Past:
    """A server that can be set back to what it was when this was made."""

    def __init__(self, server: ValkeyServer, kept: Path) -> None:
        self._server, self._kept = server, kept
        server.stop()
        shutil.copytree(server.folder, kept)

    async def come_back(self) -> None:
        self._server.stop()
        shutil.rmtree(self._server.folder)
        shutil.copytree(self._kept, self._server.folder)
        await asyncio.to_thread(self._server.start, self._server.port)


@pytest.fixture
def past(own: ValkeyServer, tmp_path: Path) -> Open:
    """Remembers what the test's own server has at the moment of the call."""

    async def remember() -> Past:
        remembered = Past(own, tmp_path / "past")
        await asyncio.to_thread(own.start, own.port)
        return remembered

    return remember


# Bodies


async def lose(store: RedisStore, body: BlobRef) -> None:
    """As a fail-over to a server that did not have it yet."""
    assert await store.server.client.delete(f"{store.server.address.prefix}:blob:{body[3:]}") == 1


async def test_a_batch_that_relies_on_a_lost_body_is_refused(shared: ValkeyServer, opened: Open) -> None:
    """The refusal names it and nothing is written; when it was put again, all of the batch is."""
    store = await opened(shared)
    blobs = RedisBlobs(store.server)
    bodies = tuple([await blobs.put(body) for body in (b"one", b"two", b"three")])
    batch = Batch(**{**{name: getattr(opening(), name) for name in Batch.__struct_fields__}, "bodies": bodies})
    await lose(store, bodies[1])
    with pytest.raises(BodiesLost) as lost:
        await store.write(batch)
    assert lost.value.refs == [bodies[1]]
    assert await store.conversation(conversation("demo").id) is None
    await blobs.put(b"two")
    await store.write(batch)
    assert await store.head(ref("demo")) == 2


async def test_bodies_that_are_kept_elsewhere_are_not_looked_for(shared: ValkeyServer, opened: Open) -> None:
    """Where no bodies are in this Redis, a batch that names some is written."""
    store = await opened(shared)
    await store.write(opening())
    await store.write(
        Batch(conversation=conversation("demo").id, facts=(fact("f"),), bodies=(BlobRef("b2:" + "0" * 32),))
    )


async def test_instructions_that_were_lost_are_put_again(own: ValkeyServer, prefix: str, tmp_path: Path) -> None:
    """What a process keeps of an agent outlives the server's copy of it: the next conversation has it again."""
    redis = {"host": "127.0.0.1", "port": own.port, "prefix": prefix}
    settings = Settings.load(home=tmp_path, environ={}, store="redis", redis=redis, llm={"offline": "always"})
    async with Engine.open(settings=settings, part=ALL, project_code=False) as engine:
        one = await engine.conversation("one", agent="agent_alpha")
        assert (await one.say("hello")).text
        store = engine.world.store
        assert isinstance(store, RedisStore)
        for key in [key async for key in store.server.client.scan_iter(f"{prefix}:blob:*")]:
            await store.server.client.delete(key)
        two = await engine.conversation("two", agent="agent_alpha")
        assert (await two.say("hello")).text
        setup = (await two.stack()).setup
        assert setup.instructions is not None
        assert await engine.world.blobs.has(setup.instructions)


# Silence


async def silence(store: RedisStore, seconds: float) -> None:
    """The server answers nobody for so long; leases run out meanwhile, by its clock."""
    client: Any = store.server.client
    await client.execute_command("DEBUG", "SLEEP", seconds)


@pytest.mark.parametrize("first", ["claim", "due"])
async def test_who_could_not_renew_its_lease_is_not_taken_for_dead(
    shared: ValkeyServer, opened: Open, first: str
) -> None:
    """After a silence that outlasts every lease the living have a lease's time to be heard, whoever asks first."""
    living = await opened(shared, lease_s=LEASE_S)
    store = await opened(shared, lease_s=LEASE_S, handed_out_s=0)
    await living._lease.end()  # its next renewal is late
    await store._lease.end()
    await living.write(opening(owner=living.owner))
    await living._lease._set()
    await silence(store, 2 * LEASE_S)
    if first == "due":
        assert await store.due(limit=10) == []
    assert await store.claim(thought("demo"), store.owner) is None
    assert await store.backlog() == (0, None)
    await living._lease._set()
    assert await store.claim(thought("demo"), store.owner) is None


@pytest.mark.parametrize("first", ["claim", "due"])
async def test_who_is_silent_after_the_silence_is_dead(shared: ValkeyServer, opened: Open, first: str) -> None:
    """A lease's time after the server was heard again what the dead held is due, and may be claimed."""
    dead = await opened(shared, lease_s=LEASE_S)
    store = await opened(shared, lease_s=LEASE_S, handed_out_s=0)
    await dead._lease.end()
    await dead.write(opening(owner=dead.owner))
    await silence(store, 2 * LEASE_S)
    if first == "claim":
        while (claimed := await store.claim(thought("demo"), store.owner)) is None:
            await asyncio.sleep(0)
        assert claimed.tries == 1
        return
    while not (due := await store.due(limit=10)):
        await asyncio.sleep(0)
    assert due == [Perform(thought("demo"), "think")]


# Marks, and who notices


async def test_a_call_whose_mark_was_lost_counts_as_begun(own: ValkeyServer, opened: Open, past: Open) -> None:
    """Who takes it up in the new epoch is told so, and so is who takes it up after that one."""
    store = await opened(own, lease_s=LEASE_S)
    await store.write(opening())
    await store.write(owing("demo", PAY, owner=store.owner))
    before = await past()
    await store.write(Batch(conversation=conversation("demo").id, starts=(PAY.id,), owner=store.owner))
    await before.come_back()
    with pytest.raises(Rewound):
        await store.due(limit=10)
    await store._lease.end()  # it dies
    for _ in range(2):
        other = await opened(own, lease_s=LEASE_S)
        while (claimed := await other.claim(PAY.id, other.owner)) is None:
            await asyncio.sleep(0)
        assert claimed.started
        await other._lease.end()


async def test_a_call_of_the_new_epoch_has_not_begun(own: ValkeyServer, opened: Open, past: Open) -> None:
    """What was decided after the loss is as it was before any; what waited on a queue meanwhile may have begun."""
    store = await opened(own)
    before = await past()
    await store.write(opening("lost"))
    await before.come_back()
    with pytest.raises(Rewound):
        await store.write(opening())
    await store.write(opening())
    await store.write(owing("demo", PAY))
    claimed = await store.claim(PAY.id, store.owner)
    assert claimed is not None
    assert not claimed.started


async def test_what_others_write_does_not_hide_a_loss(own: ValkeyServer, opened: Open, past: Open) -> None:
    """Whoever wrote what is gone notices, also where the log has grown as long again before it asks."""
    store, other = await opened(own), await opened(own)
    await store.write(opening())
    before = await past()
    await store.write(answering())
    await before.come_back()
    await other.write(noting(fact("f1")))
    await other.write(noting(fact("f2")))
    with pytest.raises(Rewound):
        await store.write(asking(head=4))
    assert (await other.newest()).row >= 2**40
    with pytest.raises(Rewound):
        await other.write(noting(fact("f3")))
    await store.write(answering())


@pytest.mark.parametrize("lost", ["stack", "branch"])
async def test_a_row_that_is_lost_while_it_is_read_is_an_error_of_the_store(
    shared: ValkeyServer, opened: Open, lost: str
) -> None:
    """The log said that there is one, and where it should lie nothing is any more."""
    store = await opened(shared)
    await store.write(opening())
    await store.server.client.delete(f"{store.server.address.prefix}:{lost}:{ref('demo')}")
    with pytest.raises(Rewound, match="row 1 was lost"):
        await store.events(Query())
