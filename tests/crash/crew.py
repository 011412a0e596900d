"""Processes of a distributed project, as a test holds them. Knows processes and what they say, not what it means.

As a program it gives birth to them: it has imported everything, so that a birth is a fork of a process with one thread.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from tests.crash.nursery import ROOT, Point

PATIENCE_S = 60.0  # a test that waits longer for a word hangs
LIFE_MAX_S = 600  # SIGALRM ends a process that nobody ended


class Hand:
    """One process. reached: how often it came to each place."""

    def __init__(self, crew: "Crew", key: str, names: tuple[str, ...]) -> None:
        self._crew = crew
        self.key = key
        self.names = names
        self.pid = 0
        self.owner = ""
        self.reached: Counter[str] = Counter()
        self.said: dict[str, str | None] = {}
        self.errors: dict[str, str] = {}
        self.failed = ""
        self.stops_at: tuple[str, int] | None = None
        self.is_over = False
        self.ended = asyncio.Event()
        self._heard = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None

    @property
    def is_ready(self) -> bool:
        """Whether its engine is open."""
        return bool(self.owner)

    async def until(self, seen: Any, patience_s: float = PATIENCE_S) -> None:
        """Wait until `seen(hand)` or its end."""
        async with asyncio.timeout(patience_s), self._heard:
            await self._heard.wait_for(lambda: seen(self) or self.ended.is_set())

    async def ready(self) -> None:
        await self.until(lambda hand: hand.is_ready)

    async def dies(self, patience_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(patience_s):
            await self.ended.wait()

    def go(self) -> None:
        """Let it go on from where it stops."""
        assert self._writer is not None
        self.stops_at = None
        self._writer.write(b"go\n")

    async def send(self, number: int) -> None:
        """A signal."""
        await self._crew.signal(self, number)

    async def kill(self) -> None:
        """At once."""
        await self.send(signal.SIGKILL)
        await self.dies()

    async def listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        async for line in reader:
            async with self._heard:
                self._hear(json.loads(line))
                self._heard.notify_all()
        writer.close()
        self.ended.set()
        async with self._heard:
            self._heard.notify_all()

    def _hear(self, word: dict[str, Any]) -> None:
        match word:
            case {"at": place}:
                self.reached[place] += 1
            case {"stops": [place, nth]}:
                self.stops_at = place, nth
            case {"owner": owner}:
                self.owner = owner
            case {"name": name, "said": said}:
                self.said[name] = said
            case {"name": name, "error": error}:
                self.errors[name] = error
            case {"failed": error}:
                self.failed = error
            case _:
                self.is_over = True


class Crew:
    """All processes of a test, and the one that gives birth to them. Whatever a test does, each is ended."""

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="p2c")
        self._path = str(Path(self._folder.name) / "told")
        self._hands: dict[str, Hand] = {}
        self._talking = asyncio.Lock()
        self._listening = await asyncio.start_unix_server(self._meet, self._path)
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.crash.crew", cwd=ROOT, stdin=pipe, stdout=pipe
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listening.close()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        self._folder.cleanup()

    async def bear(self, role: str, *, death: Point | None = None, **orders: Any) -> Hand:
        """A process; back when it was born. orders: those of `roles.Orders`."""
        key = f"{role}-{len(self._hands)}"
        hand = self._hands[key] = Hand(self, key, orders.get("names", ("demo",)))
        told = {"key": key, "role": role, "told": self._path, "death": death, **orders}
        hand.pid = await self._ask(msgspec.to_builtins(told))
        return hand

    async def signal(self, hand: Hand, number: int) -> None:
        """Send a signal; to one that has ended: nothing."""
        await self._ask({"signal": number, "pid": hand.pid})

    async def _ask(self, word: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._talking:
            self._process.stdin.write(json.dumps(word).encode() + b"\n")
            answer = await self._process.stdout.readline()
        assert answer, "the crew is gone"
        return int(answer)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())["hello"]
        await self._hands[hello].listen(reader, writer)


def serve() -> None:
    """One order a line; answers with a number. At the end of the orders everybody is killed and reaped."""
    alive: set[int] = set()
    for line in sys.stdin:
        word = json.loads(line)
        for child in tuple(alive):
            if os.waitpid(child, os.WNOHANG)[0]:
                alive.discard(child)
        if "signal" in word:
            if word["pid"] in alive:
                os.kill(word["pid"], word["signal"])
            print(0, flush=True)
            continue
        alive.add(_bear(line))
    for child in alive:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _bear(line: str) -> int:
    from tests.crash.roles import Orders, live

    child = os.fork()
    if child == 0:
        signal.alarm(LIFE_MAX_S)
        status = 1
        try:
            sys.stdin.close()
            live(msgspec.json.decode(line, type=Orders))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    print(child, flush=True)
    return child


if __name__ == "__main__":
    serve()
