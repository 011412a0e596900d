"""What the machine itself can do: raw SQLite commits, raw asyncio tasks, a raw HTTP loop. Knows nothing of P2Engine."""

import asyncio
import sqlite3
import time
from pathlib import Path

import aiohttp

PAGE_BYTES = 1024
CHECKPOINT_PAGES = 4096


class RawCommits:
    """Rows of `bytes_n` bytes into one table of one file, with the pragmas of our store."""

    def __init__(self, path: Path | str, *, sync: str, bytes_n: int) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute(f"PRAGMA synchronous={sync}")
        self._db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._db.execute("CREATE TABLE IF NOT EXISTS row(id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        self._body = bytes(bytes_n)

    def run(self, commits: int) -> tuple[float, float]:
        """That many commits of one row each. Returns CPU and wall time of one, in milliseconds."""
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(commits):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO row(body) VALUES (?)", (self._body,))
            self._db.execute("COMMIT")
        return (time.process_time() - cpu) * 1e3 / commits, (time.perf_counter() - wall) * 1e3 / commits

    def close(self) -> None:
        """Close the file."""
        self._db.close()


async def task_switch(times: int) -> float:
    """CPU milliseconds to start a task and to wait for it."""

    async def nothing() -> None:
        pass

    cpu = time.process_time()
    for _ in range(times):
        await asyncio.create_task(nothing())
    return (time.process_time() - cpu) * 1e3 / times


async def sleepers(conversations: int, at_once: int, naps: int, nap_s: float) -> float:
    """Wall seconds of so many conversations that only ever sleep."""
    left = iter(range(conversations))

    async def one_after_another() -> None:
        for _ in left:
            for _ in range(naps):
                await asyncio.sleep(nap_s)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return time.perf_counter() - began


async def raw_http(url: str, body: bytes, calls: int, at_once: int = 1) -> float:
    """CPU milliseconds of one POST and its answer, by aiohttp alone."""
    left = iter(range(calls))

    async def one(session: aiohttp.ClientSession) -> None:
        async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
            await response.read()

    async def one_after_another(session: aiohttp.ClientSession) -> None:
        for _ in left:
            await one(session)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(one(session) for _ in range(at_once)))  # opens the connections
        cpu = time.process_time()
        await asyncio.gather(*(one_after_another(session) for _ in range(at_once)))
        return (time.process_time() - cpu) * 1e3 / calls
