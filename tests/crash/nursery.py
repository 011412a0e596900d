"""Gives birth to processes that live one life each, and tells how they ended. A program; `Nursery` is its client.

It has imported everything, so that a birth is a fork of a process with one thread and no open store: milliseconds.
Given a home as its argument it lives a life there itself.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.crash.cast import TASK, Place, one_turn

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "tests.crash.nursery")
LIFE_MAX_S = 30  # a process that lives longer hangs; SIGALRM ends it


class Point(NamedTuple):
    """The nth time (from 1) that a process comes to a place."""

    place: str
    nth: int

    def __str__(self) -> str:
        return f"{self.place} {self.nth}"


class Life(NamedTuple):
    """What became of a process. seconds: from its birth to the end of the turn; reached: how often each place was."""

    status: int
    said: str | None = None
    seconds: float = 0.0
    reached: dict[Place, int] = {}  # noqa: RUF012 -- a NamedTuple's default; nobody changes it

    @property
    def is_killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Nursery:
    """The process that makes the others."""

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(PROGRAM, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        self._process.communicate(timeout=LIFE_MAX_S)

    def live(self, home: Path, death: Point | None = None) -> Life:
        """A process that sets the turn in `home` going, or goes on with it, and dies at `death`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(home), death]) + "\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, "the nursery is gone"
        life = Life(**json.loads(told))
        assert life.status in (0, -signal.SIGKILL), f"it ended with {life.status} instead of {death}"
        return life


def live_cold(home: Path) -> Life:
    """The same in a process that starts from nothing and has everything to import, and that nobody kills."""
    born = time.monotonic()
    told = subprocess.run(
        [*PROGRAM, home], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIFE_MAX_S, check=True
    ).stdout
    said, ended = json.loads(told)
    return Life(0, said, ended - born)


def serve() -> None:
    """One life a line, one after the other."""
    for line in sys.stdin:
        home, death = json.loads(line)
        print(json.dumps(_bear(Path(home), Point(*death) if death else None)), flush=True)


def _bear(home: Path, death: Point | None) -> dict[str, object]:
    reading, writing = os.pipe()
    born = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LIFE_MAX_S)
        status = 1
        try:
            said, ended, reached = asyncio.run(_live(home, death))
            os.write(writing, json.dumps({"said": said, "seconds": ended - born, "reached": reached}).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as telling:
        told = telling.read()
    _, ending = os.waitpid(child, 0)
    return {"status": os.waitstatus_to_exitcode(ending), **(json.loads(told) if told else {})}


async def _live(home: Path, death: Point | None) -> tuple[str | None, float, dict[Place, int]]:
    """Open the conversation; go on with its turn, or say the task where nothing was said yet; close."""
    reached: Counter[Place] = Counter()

    def reach(place: Place) -> None:
        reached[place] += 1
        if death == (place, reached[place]):
            os.kill(os.getpid(), signal.SIGKILL)

    engine = await one_turn(home, reach)
    await engine.start()
    conversation = await engine.conversation("demo", agent="boss")
    reply = await conversation.resume()
    if not (await conversation.stack()).turn:
        reply = await conversation.say(TASK)
    ended = time.monotonic()
    await engine.aclose()
    return reply.text if reply else None, ended, dict(reached)


def main() -> None:
    if len(sys.argv) == 1:
        serve()
    else:
        said, ended, _ = asyncio.run(_live(Path(sys.argv[1]), None))
        print(json.dumps([said, ended]))


if __name__ == "__main__":
    main()
