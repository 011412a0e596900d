"""Opens the ledger when it is first asked for: most commands never do. Knows which driver is whose."""

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from p2engine.domain.money import Audit, Checkpoint
from p2engine.errors import StoreError
from p2engine.ledgers.keys import KeyMissing
from p2engine.ports import AuditableLedger

if TYPE_CHECKING:
    from p2engine.stores.redis_server import RedisServer


class LedgerDoor:
    """Called, it gives the ledger, the same one each time. place: its file, or the Redis that it is kept in."""

    def __init__(self, place: "Path | RedisServer", keys: Path) -> None:
        self._place = place
        self._keys = keys
        self._opening: asyncio.Task[AuditableLedger] | None = None

    async def __call__(self) -> AuditableLedger:
        """Raises StoreError; the next time it is tried again."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(_open(self._place, self._keys))
        try:
            return await asyncio.shield(self._opening)
        except StoreError:
            self._opening = None
            raise

    async def verify(self, published: Checkpoint | None = None) -> Audit:
        """Look through it without opening it, so also where it is too damaged for that. Raises StoreError.

        published: a checkpoint that was kept elsewhere, which its records must be those of.
        """
        if isinstance(self._place, Path):
            from p2engine.ledgers import embedded_audit

            return await asyncio.to_thread(embedded_audit.verify, self._place, self._keys, published)
        from p2engine.ledgers import redis_audit

        return await redis_audit.verify(self._place, self._keys, published)

    async def aclose(self) -> None:
        if self._opening is not None:
            with suppress(StoreError):  # one that could not be opened need not be closed
                await (await self._opening).aclose()


async def _open(place: "Path | RedisServer", keys: Path) -> AuditableLedger:
    """One whose key is not there can be read, and whatever would be written is refused."""
    if isinstance(place, Path):
        from p2engine.ledgers import embedded

        try:
            return await embedded.EmbeddedLedger.open(place, keys)
        except KeyMissing as missing:
            return await embedded.open_keyless(place, keys, missing)
    from p2engine.ledgers import redis

    try:
        return await redis.RedisLedger.open(place, keys)
    except KeyMissing as missing:
        return await redis.open_keyless(place, keys, missing)
