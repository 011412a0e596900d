"""What clients send to a Redis, as MONITOR tells it: commands, round trips, and what scripts do inside the server.

Knows lines of MONITOR; nothing of what the commands are for.
"""

import re
import socket
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import redis

LINE = re.compile(rb'^\+?([0-9.]+) \[\d+ ([^\]]+)\] "([^"]*)"')
LUA = b"lua"
PATIENCE_S = 10.0


@dataclass(slots=True)
class Seen:
    """Commands by name. round_trips: commands of clients, where what stands in one transaction counts once.

    Clients send a transaction as a whole and wait once; all else is sent one at a time and waited for.
    """

    sent: Counter[str] = field(default_factory=Counter)
    scripts: Counter[str] = field(default_factory=Counter)
    round_trips: int = 0

    @property
    def commands(self) -> int:
        """What clients sent, in all."""
        return self.sent.total()


def read(lines: Iterable[bytes]) -> Seen:
    """What these lines say."""
    seen, inside = Seen(), set[bytes]()
    for line in lines:
        found = LINE.match(line)
        if not found:
            continue
        who, name = found[2], found[3].upper()
        if who == LUA:
            seen.scripts[name.decode()] += 1
            continue
        seen.sent[name.decode()] += 1
        if name == b"MULTI":
            inside.add(who)
        seen.round_trips += name == b"EXEC" or who not in inside
        if name == b"EXEC":
            inside.discard(who)
    return seen


class Watched:
    """Everything that a server is sent from the beginning of a `with` on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._said = b""

    def so_far(self) -> Seen:
        """What was sent since this was last asked."""
        marker = uuid.uuid4().hex.encode() + b'"\r\n'
        self._asking.echo(marker[:32])
        while marker not in self._said:
            self._said += self._socket.recv(1 << 20)
        before, _, self._said = self._said.partition(marker)
        return read(before.split(b"\r\n")[:-1])

    def __enter__(self) -> Self:
        self._asking = redis.Redis(port=self._port)
        self._asking.ping()
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_S)
        self._socket.sendall(b"MONITOR\r\n")
        if not self._socket.recv(1 << 10).startswith(b"+OK"):
            raise RuntimeError("MONITOR was refused")
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._asking.close()
