"""Places where a ledger is kept, as somebody without its key can reach into them: to look, to change, to put back."""

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from p2engine.domain.money import Audit, Checkpoint
from p2engine.ledgers.door import LedgerDoor
from p2engine.ledgers.keys import IN_A_FILE, IN_REDIS
from p2engine.ports import AuditableLedger
from p2engine.stores.redis_server import RedisServer


class Line(NamedTuple):
    """A record as it is kept."""

    seq: int
    body: bytes
    link: bytes
    seal: bytes

    def saying(self, **fields: object) -> "Line":
        """With other words in its body."""
        return self._replace(body=msgspec.json.encode(msgspec.json.decode(self.body) | fields))

    @property
    def id(self) -> str:
        return str(msgspec.json.decode(self.body)["id"])


class Place(Protocol):
    """One ledger's."""

    keys: Path
    head: Path

    async def open(self) -> AuditableLedger: ...

    async def audit(self, published: Checkpoint | None = None) -> Audit: ...

    async def lines(self) -> list[Line]: ...

    async def put(self, lines: Sequence[Line]) -> None:
        """Exactly these records, found by the ids they have; whatever else is kept stays as it was."""
        ...

    async def copy(self) -> Any: ...

    async def restore(self, copy: Any) -> None: ...

    async def lose(self) -> None: ...


class FilePlace:
    """A file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ledger.db"
        self.keys = folder / "keys"
        self.head = self.keys / IN_A_FILE

    async def open(self) -> AuditableLedger:
        return await LedgerDoor(self.path, self.keys)()

    async def audit(self, published: Checkpoint | None = None) -> Audit:
        return await LedgerDoor(self.path, self.keys).verify(published)

    def run(self, sql: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.path)) as db, db:
            return db.execute(sql, values).fetchall()

    async def lines(self) -> list[Line]:
        return [Line(*row) for row in self.run("SELECT seq, body, link, seal FROM record ORDER BY seq")]

    async def put(self, lines: Sequence[Line]) -> None:
        found_by = {
            seq: by
            for seq, *by in self.run("SELECT seq, type, payer, payee, at, payer_before, payee_before FROM record")
        }
        self.run("DELETE FROM record")
        for line in lines:
            kind, payer, payee, at, *before = found_by.get(line.seq) or found_by[line.seq - 1]
            values = (line.seq, line.id, kind, payer, payee, at, line.body, line.link, line.seal, *before)
            self.run("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *values)

    async def copy(self) -> Any:
        return Path(shutil.copy(self.path, self.path.with_name("copy.db")))

    async def restore(self, copy: Any) -> None:
        await self.lose()
        shutil.copy(copy, self.path)

    async def lose(self) -> None:
        for file in self.path.parent.glob("ledger.db*"):
            file.unlink()


class RedisPlace:
    """The keys under a prefix."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.client: Any = server.client
        self.keys = folder / "keys"
        self.head = self.keys / IN_REDIS
        self.base = f"{server.address.prefix}:ledger:"

    async def open(self) -> AuditableLedger:
        return await LedgerDoor(self.server, self.keys)()

    async def audit(self, published: Checkpoint | None = None) -> Audit:
        return await LedgerDoor(self.server, self.keys).verify(published)

    async def lines(self) -> list[Line]:
        rows = await self.client.xrange(self.base + "records")
        return [
            Line(int(entry.split(b"-")[0]), *(fields[name] for name in (b"body", b"link", b"seal")))
            for entry, fields in rows
        ]

    async def put(self, lines: Sequence[Line]) -> None:
        await self.client.delete(self.base + "records", self.base + "ids")
        for line in lines:
            fields = {"body": line.body, "link": line.link, "seal": line.seal}
            await self.client.xadd(self.base + "records", fields, id=f"{line.seq}-0")
            await self.client.hset(self.base + "ids", line.id, line.seq)

    async def copy(self) -> Any:
        return {key: await self.client.dump(key) for key in await self._all()}

    async def restore(self, copy: Any) -> None:
        await self.lose()
        for key, value in copy.items():
            await self.client.restore(key, 0, value)

    async def lose(self) -> None:
        await self.client.delete(*await self._all())

    async def _all(self) -> list[bytes]:
        return [key async for key in self.client.scan_iter(match=self.base + "*")]
