"""A turn that one process cancels while another asks the model for it: the model call is stopped there."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from p2engine.domain.ids import EffectId
from p2engine.domain.records import Perform
from p2engine.domain.states import Finished
from p2engine.ports import AgentView
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.runtime.conftest import Stage
from tests.servers import ValkeyServer


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    server = ValkeyServer("--save", "", "--appendonly", "no").start()
    yield server
    server.remove()


@pytest.fixture
async def stores(valkey: ValkeyServer) -> AsyncIterator[list[RedisStore]]:
    address = RedisAddress(host="127.0.0.1", port=valkey.port)
    opened = [await RedisStore.open(await RedisServer.open(address, durability="warn")) for _ in range(2)]
    yield opened
    for store in opened:
        await store.aclose()
        await store.server.aclose()


async def test_seam_07_cancelling_reaches_the_process_that_works(stage: Stage, stores: list[RedisStore]) -> None:
    """Its agent is interrupted, and nothing of it is left: no money is spent on what nobody waits for."""
    asked = asyncio.Event()
    stopped: list[EffectId] = []

    async def boss(view: AgentView) -> str:
        asked.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            stopped.append(view.effect)
            raise
        return "never"

    worker, client = (stage.engine({"boss": boss}, store=store, is_local=False) for store in stores)
    for engine, store in zip((worker, client), stores, strict=True):
        engine.world.owner = store.owner
    worker.world.keeps = lambda _: True
    await worker.start()
    conversation = await client.conversation("demo", agent="boss")
    saying = asyncio.ensure_future(conversation.say("go"))
    while not await stores[0].owed(conversation.record.current):
        await asyncio.sleep(0)
    (effect,) = await stores[0].owed(conversation.record.current)
    await worker.world.here.submit(Perform(effect, "think"))
    await asked.wait()

    assert await conversation.cancel()
    assert (await saying).finished == "cancelled"
    while worker.world.busy:
        await asyncio.sleep(0)
    assert stopped == [effect]
    assert isinstance((await conversation.stack()).ground, Finished)
