"""A TCP proxy that can be pointed elsewhere, held and cut: what stands between a project and its Redis in the tests."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65536


class Proxy:
    """On a free port of loopback. target: the port it leads to. late_s: how long everything takes on its way there."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.late_s = 0.0
        self._is_cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """End all connections, and let no new one through."""
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def lead_to(self, target: int) -> None:
        """From now on to this port; who is connected has to connect anew."""
        self.cut()
        self.target, self._is_cut = target, False

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        there: asyncio.StreamWriter | None = None
        try:
            if self._is_cut:
                return
            back, there = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(there)
            await asyncio.gather(self._carry(reader, there), self._carry(back, writer))
        except OSError:
            pass
        finally:
            for each in filter(None, (writer, there)):
                self._open.discard(each)
                each.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Until one side ends; then the other does."""
        with suppress(OSError):
            while data := await source.read(CHUNK):
                if self.late_s:
                    await asyncio.sleep(self.late_s)
                sink.write(data)
                await sink.drain()
        sink.close()
