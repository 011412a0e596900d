"""Two hosts on one machine: network namespaces with a line between them that can be cut. Linux, root, iproute2.

The first host has a second line, to this process, so that a test can look at what runs there.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from tests.servers import PERSISTENT, server_program

READY_S = 20.0


class Hosts:
    """`first` has a Redis at `address`, which `second` reaches as well while the line between them holds."""

    def __enter__(self) -> Self:
        tag = uuid4().hex[:6]
        self.first, self.second = f"p2a{tag}", f"p2b{tag}"
        self._line, self._look = f"v{tag}", f"w{tag}"
        net = f"10.{64 + os.getpid() % 64}.{int(tag[:2], 16)}"
        self.address, self.port = f"{net}.1", 6379
        self._folder = tempfile.TemporaryDirectory(prefix="p2engine-hosts-")
        self._server: subprocess.Popen[bytes] | None = None
        try:
            for host in (self.first, self.second):
                ip("netns", "add", host)
                ip("-n", host, "link", "set", "lo", "up")
            self._connect(net)
            self._serve()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def cut(self) -> None:
        """Nothing passes between the hosts any more; nobody is told."""
        ip("-n", self.first, "link", "set", self._line, "down")

    def mend(self) -> None:
        """As before."""
        ip("-n", self.first, "link", "set", self._line, "up")

    def _connect(self, net: str) -> None:
        """Redis listens at net.1 on the first host: .2 is the second, and this process has a line of its own."""
        ip(
            "link",
            "add",
            self._line,
            "netns",
            self.first,
            "type",
            "veth",
            "peer",
            "name",
            self._line,
            "netns",
            self.second,
        )
        ip("-n", self.first, "addr", "add", f"{net}.1/30", "dev", self._line)
        ip("-n", self.second, "addr", "add", f"{net}.2/30", "dev", self._line)
        for host in (self.first, self.second):
            ip("-n", host, "link", "set", self._line, "up")
        ip("link", "add", self._look, "type", "veth", "peer", "name", self._look, "netns", self.first)
        ip("addr", "add", f"{net}.5/30", "dev", self._look)
        ip("-n", self.first, "addr", "add", f"{net}.6/30", "dev", self._look)
        ip("link", "set", self._look, "up")
        ip("-n", self.first, "link", "set", self._look, "up")
        ip("route", "add", f"{net}.1/32", "via", f"{net}.6")

    def _serve(self) -> None:
        place = ("--port", str(self.port), "--dir", self._folder.name, "--protected-mode", "no")
        program = ("ip", "netns", "exec", self.first, server_program())
        with (Path(self._folder.name) / "server.log").open("ab") as log:
            self._server = subprocess.Popen([*program, *place, *PERSISTENT], stdout=log, stderr=log)
        end = time.monotonic() + READY_S
        while subprocess.run(["ip", "netns", "exec", self.first, *_PING], capture_output=True, check=False).returncode:
            assert time.monotonic() < end, log
            time.sleep(0.05)  # a server that starts tells nobody

    def _remove(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        for host in (self.first, self.second):  # its lines go with it
            subprocess.run(["ip", "netns", "delete", host], capture_output=True, check=False)
        self._folder.cleanup()


_PING = ("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/6379")


def ip(*arguments: str) -> None:
    """Raises CalledProcessError."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
