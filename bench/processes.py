"""The processes of a distributed project: a server, workers, a sweeper; and what each of them has spent so far.

Run it as `python -m bench.processes COMMAND …`: `p2engine COMMAND …` as it is shipped, but for the model; or as
`python -m bench.processes nothing URL`: a Celery worker whose jobs do nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import redis

from tests.servers import CHOICE, ValkeyServer, free_port

ROOT = Path(__file__).parents[1]
READY_S = 30.0
LOOK_S = 0.02
SURE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
LAZY = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
DONE = "bench:done"  # the list that a worker of nothing pushes to, now and then
NOTHINGS = 500  # jobs between two pushes
NOTHING = "bench-nothing"  # the prefix of their queues


@dataclass(frozen=True, slots=True)
class Running:
    """A process of ours."""

    pid: int

    def cpu_s(self) -> float:
        """CPU seconds so far, user and system, of all its threads."""
        return cpu_s(self.pid)

    def resident_mb(self) -> float:
        """Its memory in RAM."""
        return int(shown(self.pid, "rss")) * 1024 / 1e6


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far. Where there is no /proc, as finely as `ps` says it."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        words = stat.read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
    total = 0.0
    for part in shown(pid, "time").split(":"):
        total = 60 * total + float(part)
    return total


def shown(pid: int, what: str) -> str:
    """What `ps` says of a process."""
    return subprocess.run(["ps", "-o", f"{what}=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[ValkeyServer]:
    """A server of our own while the block runs."""
    with ValkeyServer(*arguments) as made:
        yield made


@contextlib.contextmanager
def process(project: Path, *arguments: str) -> Iterator[Running]:
    """`p2engine ARGUMENTS` for that project while the block runs, from when it is ready. Raises RuntimeError."""
    port = free_port()
    command = [sys.executable, "-m", "bench.processes", *arguments, "--health", str(port), "--project", str(project)]
    with started(command, project / f"{arguments[0]}.log") as child:
        deadline = time.monotonic() + READY_S
        while not is_ready(port):
            if child.poll() is not None or time.monotonic() > deadline:
                said = (project / f"{arguments[0]}.log").read_text(errors="replace").strip()
                raise RuntimeError(f"{arguments[0]} is not ready: {said.splitlines()[-1:]}")
            time.sleep(LOOK_S)
        yield Running(child.pid)


@contextlib.contextmanager
def nothings(made: ValkeyServer) -> Iterator[Running]:
    """A Celery worker with our settings, and jobs that do nothing."""
    command = [sys.executable, "-m", "bench.processes", "nothing", made.url]
    with started(command, made.folder / "nothing.log") as child:
        yield Running(child.pid)


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A child that is asked to end with the block, and killed where it does not."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            command, cwd=ROOT, env=clean(os.environ), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would say where a Redis is, or which project."""
    ours = ("REDIS_", "P2ENGINE_")
    return {name: value for name, value in environment.items() if not name.startswith(ours) or name == CHOICE}


def is_ready(port: int) -> bool:
    """Whether the process with its probes at this port takes work."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def do_nothing(url: str) -> None:
    """Take jobs until a signal comes; push to a list each time that NOTHINGS of them are done."""
    from p2engine.dispatch.celery import PERFORM, QUEUES, Broker, celery_app

    app = celery_app(Broker(url=url, shown=url, prefix=NOTHING), QUEUES)
    client, numbers = redis.Redis.from_url(url), count(1)

    def nothing(*_: str) -> None:
        number = next(numbers)  # jobs run in threads
        if number % NOTHINGS == 0:
            client.lpush(DONE, number)

    app.task(name=PERFORM, shared=False)(nothing)
    worker = app.Worker(
        queues=["ticks"],
        quiet=True,
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()


def main(arguments: list[str]) -> int:
    """What stands at the top of this file."""
    if arguments[0] == "nothing":
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        do_nothing(arguments[1])
        return 0
    import p2engine.wiring.engine
    from bench.model import models

    p2engine.wiring.engine.models_of = models
    from p2engine.cli.main import run

    sys.argv = ["p2engine", *arguments]
    run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
