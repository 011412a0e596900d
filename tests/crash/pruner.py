"""Processes that prune and kill themselves: each at its own moment. A program; `test_pruning` reads what it prints.

    python -m tests.crash.pruner FILE FOLDER     copies FILE for each, and kills at each statement of SQLite
    python -m tests.crash.pruner PORT PREFIX     fills a prefix for each, and kills around each script of Redis

Each is forked from this one, which has everything imported. The last is not killed. Printed: where they worked, a line
each, and how each ended.
"""

import asyncio
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from p2engine.domain.records import Pruning
from p2engine.ports import Archive
from p2engine.stores import redis_prune
from p2engine.stores.redis import RedisStore
from p2engine.stores.redis_server import RedisAddress, RedisServer
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.histories import answering, asking, conversation, fact, noting, opening

TURNS = 40


async def fill(store: Archive) -> None:
    """Two conversations at rest, the first of which is to be pruned, and what the ledger said of it."""
    for name in ("demo", "other"):
        await store.write(opening(name))
        for turn in range(TURNS):
            await store.write(answering(name, head=4 * turn + 2))
            if turn + 1 < TURNS:
                await store.write(asking(name, head=4 * turn + 4))
        facts = [fact(f"{name}-{number}", of=name) for number in range(10)]
        await store.write(noting(*facts, fact(f"t-{name}", "ledger.transfer", of=name), of=name))


async def plan_of(store: Archive) -> Pruning:
    """Taking `demo` away."""
    demo = conversation("demo").id
    weight = await store.weigh(demo)
    said = fact(f"pruned-{weight.row}", "conversation.pruned")
    return Pruning(conversation=demo, fact=said, row=weight.row, branches=weight.branches)


class Death:
    """Comes at the Nth moment."""

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, *_: object) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


async def prune_file(path: str, death: Death) -> None:
    store = await SqliteStore.open(path)
    plan = await plan_of(store)
    store._db.set_trace_callback(death)
    await store.prune(plan)
    store._db.set_trace_callback(None)
    await store.aclose()


async def open_redis(port: int, prefix: str) -> RedisStore:
    server = await RedisServer.open(RedisAddress(host="127.0.0.1", port=port, prefix=prefix), durability="warn")
    return await RedisStore.open(server)


async def close_redis(store: RedisStore) -> None:
    await store.aclose()
    await store.server.aclose()


async def prune_redis(port: int, prefix: str, death: Death) -> None:
    redis_prune.DRAINED_AT_ONCE = 20  # type: ignore[misc]
    store = await open_redis(port, prefix)
    plan = await plan_of(store)
    once = store._scripts.once

    async def dying(name: str, *arguments: str | bytes | int) -> Any:
        death()
        answer = await once(name, *arguments)
        death()
        return answer

    store._scripts.once = dying  # type: ignore[method-assign]
    await store.prune(plan)
    store._scripts.once = once  # type: ignore[method-assign]
    await close_redis(store)


async def fill_redis(port: int, prefix: str) -> None:
    store = await open_redis(port, prefix)
    await fill(store)
    await close_redis(store)


def fork(doing: Callable[[], Awaitable[None]]) -> int:
    """The exit status of a process that does this, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        asyncio.run(doing())  # type: ignore[arg-type]
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(where: str, into: str) -> None:
    for number in itertools.count(1):
        death = Death(number)
        if where.isdigit():
            place = f"{into}{number}"
            asyncio.run(fill_redis(int(where), place))
            status = fork(lambda place=place, death=death: prune_redis(int(where), place, death))  # type: ignore[misc]
        else:
            place = str(Path(into) / f"{number}.db")
            shutil.copy(where, place)
            status = fork(lambda place=place, death=death: prune_file(place, death))  # type: ignore[misc]
        print(json.dumps([place, status]), flush=True)
        if status == 0:
            return


if __name__ == "__main__":
    main(*sys.argv[1:])
