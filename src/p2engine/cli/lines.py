"""What comes in on standard input, a line at a time, without ever standing in the way of the loop.

Shared by the shell and the chats inside it, so that a script on a pipe is read in order and once.
"""

import asyncio
import codecs
import io
import os
import sys
import threading
from typing import TextIO

from p2engine.errors import UsageError
from p2engine.limits import MESSAGE_BYTES_MAX

_PIECE_BYTES = 65536
_ENOUGH = 64  # pieces read ahead of whoever takes the lines


class Lines:
    """The lines of a stream. `is_terminal`: a person types them, so they are to be prompted for."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdin
        self.is_terminal = self._stream is not None and not self._stream.closed and self._stream.isatty()
        self._reading: threading.Thread | None = None
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(_ENOUGH)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""
        self._is_over = False

    async def next(self, label: str = "") -> str | None:
        """The next line, without its end; None when there are no more. Raises UsageError for one that never ends.

        label: what a person is shown who types it, on standard error.
        """
        if self.is_terminal and label:
            sys.stderr.write(label)
            sys.stderr.flush()
        while "\n" not in self._rest and not self._is_over:
            if len(self._rest) > MESSAGE_BYTES_MAX:
                raise UsageError(f"a line on standard input has more than {MESSAGE_BYTES_MAX} bytes")
            await self._more()
        line, newline, self._rest = self._rest.partition("\n")
        return line.removesuffix("\r") if line or newline else None

    async def peek(self) -> str | None:
        """The next line that is not blank, which stays the next one; None when there is none."""
        while (line := await self.next()) is not None:
            if line.strip():
                self._rest = f"{line}\n{self._rest}"
                return line
        return None

    async def _more(self) -> None:
        try:
            descriptor = self._stream.fileno()
        except (AttributeError, ValueError, io.UnsupportedOperation):  # closed, or no file at all
            self._rest += self._stream.read() if self._stream and not self._stream.closed else ""
            self._is_over = True
            return
        if self._reading is None:
            # A thread of our own, since that of an executor would be waited for at exit; it reads the descriptor, since
            # a buffered reader that is still reading cannot be torn down.
            loop = asyncio.get_running_loop()
            self._reading = threading.Thread(target=self._read, args=(descriptor, loop), daemon=True)
            self._reading.start()
        piece = await self._pieces.get()
        self._room.release()
        self._is_over = not piece
        self._rest += self._decoder.decode(piece, final=not piece)

    def _read(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            self._room.acquire()
            try:
                piece = os.read(descriptor, _PIECE_BYTES)
            except OSError:
                piece = b""
            try:
                loop.call_soon_threadsafe(self._pieces.put_nowait, piece)
            except RuntimeError:  # the loop is closed: nobody reads any more
                return
            if not piece:
                return
