"""Where things are kept: the state folder, the store, blobs, the ledger; and whose clock and dice are used."""

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from p2engine.domain.ids import ConversationId, StackRef
from p2engine.errors import NewerFormat, StoreError
from p2engine.limits import HANDED_OUT_S
from p2engine.models.limiter import LocalLimiter
from p2engine.ports import BlobStore, Clock, Limiter
from p2engine.settings import Settings
from p2engine.stores.blobs import FileBlobs
from p2engine.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from p2engine.ledgers.door import LedgerDoor
    from p2engine.stores.redis import RedisStore
    from p2engine.stores.redis_server import RedisServer

FORMAT = 1  # of the state folder
"""The layout of the state folder; a folder of a later one is refused."""


class SystemClock:
    """ports.Clock of this machine."""

    def now(self) -> float:
        return time.time()


class RandomIds:
    """ports.Ids from the system's randomness."""

    def branch(self) -> StackRef:
        return StackRef(uuid.uuid4().hex[:12])

    def conversation(self) -> ConversationId:
        return ConversationId(uuid.uuid4().hex[:12])

    def fact(self) -> str:
        return uuid.uuid4().hex[:16]


def state_folder(home: Path) -> None:
    """Make the state folder, or check that we may use it. Raises StoreError, NewerFormat."""
    mark = home / "format"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if mark.exists() and (found := mark.read_text().strip()):  # empty: a start that a full disk or a kill cut short
            if not found.isdigit() or int(found) > FORMAT:
                raise NewerFormat(f"{home} has format {found!r}; this version knows {FORMAT}: use a later version")
            return
        (home / ".gitignore").write_text("*\n")
        mark.write_text(f"{FORMAT}\n")
    except OSError as error:
        hint = "mend its permissions or choose another folder with --home"
        raise StoreError(f"cannot use the state folder {home}: {error.strerror}", hint=hint) from error


class Kept(NamedTuple):
    """Where things are kept, whose clock says when, and who counts the calls of models.

    server: that the store is in, where it is in one.
    """

    store: "SqliteStore | RedisStore"
    blobs: BlobStore
    clock: Clock
    limiter: Limiter
    notes: Sequence[str] = ()
    server: "RedisServer | None" = None


async def keep(settings: Settings, closing: AsyncExitStack) -> Kept:
    files, limits = FileBlobs(settings.layout.blobs), settings.limits
    local = LocalLimiter(at_once=limits.concurrency, per_minute=limits.per_minute)
    if "redis" not in (settings.store, settings.blobs):
        return Kept(await _sqlite(settings, closing), files, SystemClock(), local)
    from p2engine.stores.redis import RedisStore
    from p2engine.stores.redis_blobs import RedisBlobs
    from p2engine.stores.redis_limiter import RedisLimiter
    from p2engine.stores.redis_server import RedisServer

    server = await RedisServer.open(settings.redis_address, durability=settings.redis.durability)
    closing.push_async_callback(server.aclose)
    blobs = RedisBlobs(server) if settings.blobs == "redis" else files
    if settings.store == "sqlite":
        return Kept(await _sqlite(settings, closing), blobs, SystemClock(), local, server.notes)
    store = await RedisStore.open(server)
    closing.push_async_callback(store.aclose)
    alone = LocalLimiter(at_once=limits.concurrency)
    shared = RedisLimiter(server, alone, at_once=limits.concurrency, per_minute=limits.per_minute)
    closing.push_async_callback(shared.aclose)
    return Kept(store, blobs, server, shared, server.notes, server)


async def _sqlite(settings: Settings, closing: AsyncExitStack) -> SqliteStore:
    sync: Literal["FULL", "NORMAL"] = "FULL" if settings.sqlite.synchronous == "full" else "NORMAL"
    handed_out_s = HANDED_OUT_S if settings.dispatch == "celery" else 0.0
    store = await SqliteStore.open(settings.layout.store, sync=sync, handed_out_s=handed_out_s)
    closing.push_async_callback(store.aclose)
    return store


def ledger_door(settings: Settings, server: "RedisServer | None") -> "LedgerDoor | None":
    """server: the one that the store is in. None where the ledger is off."""
    if not settings.ledger.enabled:
        return None
    from p2engine.ledgers.door import LedgerDoor

    return LedgerDoor(server or settings.layout.ledger, settings.layout.keys)


@asynccontextmanager
async def ledger_by_itself(settings: Settings) -> AsyncIterator["LedgerDoor"]:
    """The ledger's door without an engine, for those who look whether it is as it was written."""
    from p2engine.ledgers.door import LedgerDoor

    if settings.store == "sqlite":
        yield LedgerDoor(settings.layout.ledger, settings.layout.keys)
        return
    from p2engine.stores.redis_server import RedisServer

    server = await RedisServer.open(settings.redis_address, durability=settings.redis.durability)
    try:
        yield LedgerDoor(server, settings.layout.keys)
    finally:
        await server.aclose()


def has_ledger(settings: Settings) -> bool:
    """Whether there is one that this machine may write, as far as that is known without opening it."""
    if settings.store == "sqlite":
        return settings.layout.ledger.exists()
    return (settings.layout.keys / "ledger.key").exists()
