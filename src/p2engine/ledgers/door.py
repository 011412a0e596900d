"""Opens the embedded ledger when it is first asked for: most commands never do."""

import asyncio
from contextlib import suppress
from pathlib import Path

from p2engine.domain.money import Audit
from p2engine.errors import StoreError
from p2engine.ledgers.auditing import verify
from p2engine.ledgers.embedded import EmbeddedLedger


class LedgerDoor:
    """Called, it gives the ledger, the same one each time."""

    def __init__(self, path: Path, keys: Path) -> None:
        self._path = path
        self._keys = keys
        self._opening: asyncio.Task[EmbeddedLedger] | None = None

    async def __call__(self) -> EmbeddedLedger:
        """Raises StoreError; the next time it is tried again."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(EmbeddedLedger.open(self._path, self._keys))
        try:
            return await asyncio.shield(self._opening)
        except StoreError:
            self._opening = None
            raise

    async def verify(self) -> Audit:
        """Look through it without opening it, so also where it is too damaged for that. Raises StoreError."""
        return await asyncio.to_thread(verify, self._path, self._keys)

    async def aclose(self) -> None:
        if self._opening is not None:
            with suppress(StoreError):  # one that could not be opened need not be closed
                await (await self._opening).aclose()
