"""What the tests of the SQLite store have a second process do. It says on stdout where it is, and goes on at a line of
stdin; it is run as a program, never imported.
"""

import asyncio
import os
import sqlite3
import sys

from p2engine.domain.ids import OwnerId
from p2engine.domain.records import Batch
from p2engine.domain.states import UserMessage
from p2engine.errors import HeadMoved
from p2engine.stores.sqlite import SqliteStore
from p2engine.testing.histories import answering, asking, conversation, grown, opening, ref, thought


def say(word: str) -> None:
    print(word, flush=True)


def wait() -> None:
    sys.stdin.readline()


async def write(path: str, sync: str, name: str, turns: str) -> None:
    """A conversation of its own, and as many entries on the stack that everybody grows."""
    store = await SqliteStore.open(path, sync=sync)  # type: ignore[arg-type]
    say("open")
    wait()
    await store.write(opening(name))
    for turn in range(int(turns)):
        await store.write(answering(name, head=4 * turn + 2))
        await store.write(asking(name, head=4 * turn + 4))
        await push(store, f"{name} {turn}")
    await store.aclose()


async def push(store: SqliteStore, text: str) -> None:
    """One entry on the shared stack, however often others are first."""
    while True:
        head = await store.head(ref("shared"))
        batch = Batch(conversation=conversation("shared").id, writes=(grown("shared", head, [UserMessage(text=text)]),))
        try:
            await store.write(batch)
        except HeadMoved:
            continue
        return


async def own(path: str) -> None:
    """Hold an effect that has begun to run, until killed."""
    store = await SqliteStore.open(path, sync="NORMAL")
    await store.write(opening("demo", owner=store.owner))
    await store.write(Batch(conversation=conversation("demo").id, starts=(thought("demo"),), owner=store.owner))
    say(store.owner)
    wait()


async def fork(path: str) -> None:
    """Hold an effect, and leave a child process behind that was forked meanwhile."""
    store = await SqliteStore.open(path, sync="NORMAL")
    await store.write(opening("demo", owner=store.owner))
    if os.fork() == 0:
        say(str(os.getpid()))
        wait()
        os._exit(0)
    wait()


async def stream(path: str, sync: str) -> None:
    """Say the length of a stack after each commit, until killed."""
    store = await SqliteStore.open(path, sync=sync)  # type: ignore[arg-type]
    await store.write(opening("shared"))
    number = 0
    while True:
        await push(store, "x" * (number % 3000))
        number += 1
        say(str(2 + number))


async def lock(path: str) -> None:
    """Hold SQLite's write lock."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    say("locked")
    wait()
    db.execute("ROLLBACK")
    say("free")
    wait()
    db.close()


async def make(path: str) -> None:
    """Open a file that may not be there yet."""
    say("ready")
    wait()
    store = await SqliteStore.open(path)
    await store.write(opening(f"p{os.getpid()}", owner=OwnerId("nobody")))
    await store.aclose()


async def fill(path: str) -> None:
    """Write until the file system takes no more; then go on once it does."""
    import resource

    from p2engine.errors import StoreError

    store = await SqliteStore.open(path)
    await store.write(opening())
    written = head = 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    try:
        while True:
            states = [UserMessage(text="x" * 10_000)]
            await store.write(Batch(conversation=conversation("demo").id, writes=(grown("demo", head, states),)))
            head += 1
    except StoreError as error:
        say(str(error))
    written = await store.head(ref("demo"))
    say("kept" if written == head else f"{head} were acknowledged, {written} are there")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.write(
        Batch(conversation=conversation("demo").id, writes=(grown("demo", head, [UserMessage(text="y")]),))
    )
    say(f"{await store.head(ref('demo')) - head} more; {await store.check()}")
    await store.aclose()


if __name__ == "__main__":
    commands = {command.__name__: command for command in (write, own, fork, stream, lock, make, fill)}
    asyncio.run(commands[sys.argv[1]](*sys.argv[2:]))
