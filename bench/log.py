"""Reading the one log when it is long: its last events, and opening a store of a million."""

import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.rows import Row
from bench.work import converse, engine
from p2engine.domain.ids import MAIN, AgentId, ConversationId, StackRef
from p2engine.domain.records import Batch, Branch, Conversation, Placed, Query, StackWrite
from p2engine.stores.sqlite import SqliteStore

AGENT = AgentId("alpha")
LAST = 100
READS = 21


async def tail(*, quick: bool) -> list[Row]:
    """The last 100 events of 100,000, of all and of one conversation; opening a store of 1,000,000."""
    events_n = 20_000 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="p2engine-bench-") as name:
        path = Path(name) / "store.db"
        pattern, each = await recorded(Path(name) / "pattern")
        store = await SqliteStore.open(path, sync="OFF")
        names = await fill(store, pattern, 0, events_n // each)
        everything = Query(limit=LAST, newest=True)
        one = Query(limit=LAST, newest=True, conversation=names[len(names) // 2])
        of_all = await wall_ms(lambda: store.events(everything))
        of_one = await wall_ms(lambda: store.events(one))
        rows = [
            Row(bench="tail", what=f"last {LAST} of {events_n:,} events", unit="wall ms", values=of_all, target=5),
            Row(bench="tail", what=f"last {LAST} of one conversation", unit="wall ms", values=of_one, target=5),
        ]
        if not quick:
            await fill(store, pattern, len(names), 1_000_000 // each - len(names))
        await store.aclose()
        opened = [await open_and_look(path, everything) for _ in range(5)]
    size = "1,000,000" if not quick else f"{events_n:,}"
    what = f"open a store of {size} events and read the last {LAST}"
    return [*rows, Row(bench="tail", what=what, unit="wall ms", values=opened, target=1000)]


async def recorded(folder: Path) -> tuple[list[Placed], int]:
    """The commits of one conversation of 11 steps as an engine wrote them, and how many events they are."""
    async with engine(folder) as made:
        conversation = await converse(made, "pattern")
        events = await made.query(Query(limit=1000))
        return list(await conversation.commits()), len(events)


async def fill(store: SqliteStore, pattern: list[Placed], first: int, conversations: int) -> list[ConversationId]:
    """Write so many conversations like that one. Returns their ids."""
    ids = []
    for number in range(first, first + conversations):
        uid, ref = ConversationId(f"c{number:011x}"), StackRef(f"{number:012x}")
        ids.append(uid)
        opens = Conversation(id=uid, name=f"work-{number}", agent=AGENT, current=ref, created_at=float(number))
        branch = Branch(ref=ref, conversation=uid, agent=AGENT, name=MAIN, created_at=float(number))
        await store.write(Batch(conversation=uid, opens=opens, branches=(branch,)))
        for placed in pattern:
            await store.write(Batch(conversation=uid, writes=(StackWrite(ref, placed.seq, placed.commit),)))
    return ids


async def wall_ms(read: Callable[[], Awaitable[object]]) -> list[float]:
    """Milliseconds of each of some reads; the first, which warms up, aside."""
    found = []
    for _ in range(READS + 1):
        began = time.perf_counter()
        await read()
        found.append((time.perf_counter() - began) * 1e3)
    return found[1:]


async def open_and_look(path: Path, query: Query) -> float:
    """Milliseconds from nothing to the last events."""
    began = time.perf_counter()
    store = await SqliteStore.open(path, sync="NORMAL")
    await store.events(query)
    taken_ms = (time.perf_counter() - began) * 1e3
    await store.aclose()
    return taken_ms
