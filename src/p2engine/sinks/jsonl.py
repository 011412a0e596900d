"""Events as JSON lines in a file: one event a line, appended, flushed as they come."""

import asyncio
from pathlib import Path
from typing import IO

import msgspec

from p2engine.domain.records import Event

_encode = msgspec.json.Encoder(order="sorted").encode


def line_of(event: Event) -> bytes:
    """One event as a line of JSON, without the line's end. Times are Unix seconds."""
    return _encode(
        {
            "cursor": str(event.cursor),
            "id": event.id,
            "kind": event.kind,
            "cause": event.cause,
            "at": event.at,
            "conversation": event.conversation,
            "agent": event.agent,
            "branch": event.branch,
            "index": event.index,
            "group": event.group,
            "body": event.body,
        }
    )


class JsonLinesSink:
    """Appends to `path`. Raises OSError where it cannot be written; whoever feeds it counts that."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    async def emit(self, event: Event) -> None:
        await asyncio.to_thread(self._append, line_of(event) + b"\n")

    async def aclose(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab")
        self._file.write(line)
        self._file.flush()
