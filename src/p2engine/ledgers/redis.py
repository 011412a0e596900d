"""The ledger in Redis, for the processes of several machines: one key of its holder's on each, one head, one order.

Puts its parts together. The signing key stays in files, and never goes to the server.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from p2engine.domain.chain import START
from p2engine.domain.money import (
    CREDIT,
    MAIN_BOOK,
    Account,
    AccountName,
    Audit,
    BookId,
    Checkpoint,
    Hold,
    Opening,
    Proof,
    Receipt,
    Record,
    RecordQuery,
    Transfer,
)
from p2engine.errors import NewerFormat, StoreError
from p2engine.ledgers import orders, redis_audit
from p2engine.ledgers.keyless import KeylessLedger
from p2engine.ledgers.keys import IN_REDIS, Head, KeyMissing, Keys
from p2engine.ledgers.redis_reading import Books, PatientBooks
from p2engine.ledgers.redis_rows import HINT, Names, read_head
from p2engine.ledgers.redis_writing import RedisWriter
from p2engine.limits import BUSY_WAIT_S
from p2engine.stores.redis_server import RedisServer

T = TypeVar("T")

SCHEMA: Final = 2  # from 1 on, records have a part that a proof does not show
_TYPES: Final = {"meta": b"hash", "head": b"string", "records": b"stream", "ids": b"hash", "holds": b"hash"}


class RedisLedger:
    """Implements `ports.Ledger` and `ports.Auditable`. Belongs to its event loop; the server is for others to close."""

    def __init__(
        self,
        server: RedisServer,
        folder: Path,
        keys: Keys,
        noted: Head | None,
        *,
        now: Callable[[], float],
        busy_wait_s: float,
    ) -> None:
        self._server = server
        self._client: Any = server.client
        self._folder = folder
        self._keys = keys
        self._now = now
        names = Names(server.address.prefix)
        self._books = Books(server.client, names)
        self._writer = RedisWriter(server, names, keys, noted, now=now, busy_wait_s=busy_wait_s)
        self._closed = False

    @classmethod
    async def open(
        cls,
        server: RedisServer,
        keys: Path,
        *,
        now: Callable[[], float] | None = None,
        busy_wait_s: float = BUSY_WAIT_S,
    ) -> "RedisLedger":
        """The ledger under the server's prefix, its key in the folder `keys`; both made where there is neither.

        now: Unix seconds; the server's unless given. Raises StoreError where key and ledger do not belong together, or
        the ledger is not the one that this machine knows; NewerFormat.
        """
        names = Names(server.address.prefix)
        found = await server.patiently(lambda: _recognise(server, names, keys))
        noted = found.read_head()
        await server.patiently(lambda: _meet(server, names, found, noted))
        return cls(server, keys, found, noted, now=now or server.now, busy_wait_s=busy_wait_s)

    @property
    def public_key(self) -> str:
        """In hexadecimal: what its checkpoints and proofs are checked by."""
        return self._keys.public

    async def open_wallets(self, *openings: Opening) -> Sequence[bool]:
        for opening in openings:
            orders.check_opening(opening)
        return cast("Sequence[bool]", await self._do(*openings))

    async def transfer(self, *transfers: Transfer) -> Sequence[Receipt]:
        return cast("Sequence[Receipt]", await self._do(*transfers))

    async def hold(self, hold: Hold) -> Receipt:
        return cast("Receipt", (await self._do(hold))[0])

    async def release(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        return cast("Receipt", (await self._do(orders.Ending(hold, by, cause, pays=True)))[0])

    async def refund(self, hold: str, *, by: AccountName, cause: str = "") -> Receipt:
        return cast("Receipt", (await self._do(orders.Ending(hold, by, cause, pays=False)))[0])

    async def receipt(self, order: str) -> Receipt | None:
        record = await self._read(lambda: self._books.record(order))
        return None if record is None else record.receipt

    async def account(self, name: AccountName, *, book: BookId = MAIN_BOOK, instrument: str = CREDIT) -> Account | None:
        return await self._read(lambda: self._books.account(book, name, instrument))

    async def accounts(self, *, book: BookId = MAIN_BOOK) -> Sequence[Account]:
        return await self._read(lambda: self._books.accounts(book))

    async def records(self, query: RecordQuery) -> Sequence[Record]:
        return await self._read(lambda: self._books.records(query))

    async def verify(self) -> Audit:
        return await redis_audit.verify(self._server, self._folder)

    async def checkpoint(self) -> Checkpoint:
        self._check_open()
        await self._writer.sign()
        newest = await self._read(lambda: self._books.newest_checkpoint(self._keys.public))
        return newest or self._keys.sign(0, START, self._now())

    async def proof(self, order: str) -> Proof:
        newest = await self.checkpoint()
        return await self._read(lambda: redis_audit.prove(self._server, order, newest))

    async def aclose(self) -> None:
        """Do what waits. A second call waits for the first."""
        self._closed = True
        await self._writer.aclose()

    async def _do(self, *given: orders.Order) -> list[orders.Answer]:
        self._check_open()
        return await self._writer.do(given)

    async def _read(self, call: Callable[[], Awaitable[T]]) -> T:
        self._check_open()
        return await self._server.patiently(call)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the ledger in {self._server.address} is closed")


async def open_keyless(server: RedisServer, folder: Path, missing: KeyMissing) -> KeylessLedger:
    """The ledger under the server's prefix to be read only, for its key is not in `folder`. Raises StoreError."""
    client: Any = server.client
    names = Names(server.address.prefix)
    public = await server.patiently(lambda: client.hget(names.key("meta"), "ledger"))
    verify = partial(redis_audit.verify, server, folder)
    return KeylessLedger(PatientBooks(server, names), (public or b"").decode(errors="replace"), missing, verify)


async def _recognise(server: RedisServer, names: Names, folder: Path) -> Keys:
    """The key of the ledger that lies there; made, and noted there, where there is no ledger. Raises StoreError."""
    client: Any = server.client
    await _check_ours(client, names, server)
    meta = names.key("meta")
    schema, public = await client.hmget(meta, "schema", "ledger")
    if schema is not None and (not schema.isdigit() or int(schema) > SCHEMA):
        what = f"the ledger in {server.address} has schema {schema.decode(errors='replace')!r}"
        raise NewerFormat(f"{what}; this version knows {SCHEMA}", hint="update P2Engine")
    keys = await asyncio.to_thread(Keys.found, folder, head=IN_REDIS)
    where = f"the ledger in {server.address}"
    mend = f"copy `keys/` of the machine that made the ledger to {folder}"
    if public is None:
        keys, public = await _begin(client, meta, keys, folder, where)
    if keys is None:
        raise KeyMissing(f"the key of {where} is not in {folder}", hint=mend)
    if public != keys.public.encode():
        keys.check_public()
        raise StoreError(f"{where} has another key than the one in {folder}", hint=mend)
    if schema is not None and int(schema) < SCHEMA:
        await client.hset(meta, "schema", str(SCHEMA))
    return keys


async def _begin(client: Any, meta: str, keys: Keys | None, folder: Path, where: str) -> tuple[Keys, bytes]:
    """A new ledger, and whose it is: another machine may be first. Raises StoreError where one was there before."""
    head = keys.read_head() if keys else None
    if keys and head is not None and head.seq:
        hint = f"restore its data; or, to begin anew, take {keys.head_file} away on each machine: the key stays"
        raise StoreError(f"{where} is gone: it had {head.seq} records by {folder}", hint=hint)
    made = keys if keys is not None else await asyncio.to_thread(Keys.at, folder, head=IN_REDIS)
    made.check_public()
    await client.hsetnx(meta, "ledger", made.public)
    await client.hsetnx(meta, "schema", str(SCHEMA))
    return made, await client.hget(meta, "ledger")


async def _check_ours(client: Any, names: Names, server: RedisServer) -> None:
    """Raises StoreError for keys of somebody else's under our names."""
    for kind, type_ in _TYPES.items():
        found = await client.type(names.key(kind))
        if found not in (b"none", type_):
            raise StoreError(
                f"{server.address}: key {names.key(kind)!r} is not ours (a {found.decode()})",
                hint="choose another redis.prefix or redis.db",
            )


async def _meet(server: RedisServer, names: Names, keys: Keys, noted: Head | None) -> None:
    """Raises StoreError where the ledger is not the one that this machine knows, or has lost some of it."""
    client: Any = server.client
    top = read_head(await client.get(names.key("head")), keys).top
    known = [(top.seq, top.link), *([noted] if noted is not None else [])]
    for seq, link in known:
        found = await client.xrange(names.key("records"), f"{seq}-0", f"{seq}-0") if seq else [(b"", {b"link": link})]
        if seq > top.seq or not found or found[0][1].get(b"link") != link:
            what = f"the ledger in {server.address} is not as it was last written"
            loss = f"; to accept the loss, take {keys.head_file} away on each machine" if seq > top.seq else ""
            raise StoreError(f"{what}: record {seq} was cut, changed or replaced", hint=HINT + loss)
