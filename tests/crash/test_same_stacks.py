"""One play, in one process on SQLite and as workers on Redis: the stacks are the same, ids and all."""

import random
from pathlib import Path

import msgspec

from p2engine.ports import Archive
from p2engine.settings import Settings
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_address import RedisAddress
from p2engine.stores.redis_server import RedisServer
from p2engine.wiring import Engine
from tests.crash.crew import Crew
from tests.crash.project import Project, over
from tests.crash.roles import Orders, dress
from tests.servers import ValkeyServer

PLAYS = 8
TASKS = ("begin", "go on", "and once more", "what came of it?")


async def everything(store: Archive) -> dict[str, list[object]]:
    """Every stack that there is, entry by entry with its cause; without the times."""
    (conversation,) = await store.conversations()
    return {
        f"{branch.agent} {branch.ref} {branch.parent} {branch.at}": [
            (placed.seq, placed.commit.cause, placed.commit.usage, msgspec.to_builtins(placed.commit.states))
            for placed in await store.load(branch.ref)
        ]
        for branch in await store.branches(conversation.id, delegates=True)
    }


async def in_one_process(home: Path, seed: str) -> dict[str, list[object]]:
    """SQLite and inline, as wiring builds it."""
    orders = Orders(key="", role="", told="", home=str(home), port=0, prefix="", seed=seed)
    async with Engine.open(settings=Settings.load(home=home, environ={}), project_code=False) as engine:
        dress(engine, orders, lambda _: None)
        conversation = await engine.conversation("demo", agent="eve")
        for task in TASKS:
            await conversation.say(task)
        return await everything(engine.world.store)


async def in_several(crew: Crew, server: ValkeyServer, home: Path, seed: str) -> dict[str, list[object]]:
    """Redis and Celery: a client, a worker of `ticks`, and one of everything."""
    project = Project(crew, server.port, home, seed=seed)
    await project.worker(queues=("ticks",))
    await project.worker()
    client = await project.client(agent="eve", tasks=TASKS)
    await over(client)
    assert not client.errors
    await project.rests()
    await project.end()
    address = RedisAddress(host="127.0.0.1", port=server.port, prefix=project.prefix)
    opened = await RedisServer.open(address, durability="warn")
    try:
        store = await RedisStore.open(opened)
        found = await everything(store)
        await store.aclose()
    finally:
        await opened.aclose()
    return found


async def test_a_play_gives_the_same_stacks_in_either_mode(tmp_path: Path) -> None:
    """Tools of all classes, bad calls, delegation and memory of it, over several turns: entry by entry the same."""
    first = random.getrandbits(32)
    delegated = 0
    with ValkeyServer() as server:
        async with Crew() as crew:
            for seed in map(str, range(first, first + PLAYS)):
                print(f"seed {seed}")
                apart = await in_several(crew, server, tmp_path / f"several {seed}", seed)
                together = await in_one_process(tmp_path / f"one {seed}", seed)
                assert apart == together
                delegated += len(together) > 1
    assert delegated, "no play had a delegate"
