"""Drivers that keep everything in this process's memory, for tests and simulations."""

import time

from p2engine.domain.ids import BlobRef, blob_ref
from p2engine.errors import StoreError, UsageError
from p2engine.limits import ARTIFACT_BYTES_MAX


class MemoryBlobs:
    """Implements `ports.BlobStore`."""

    def __init__(self) -> None:
        self._bodies: dict[BlobRef, bytes] = {}
        self._put_at: dict[BlobRef, float] = {}

    async def put(self, body: bytes) -> BlobRef:
        if len(body) > ARTIFACT_BYTES_MAX:
            raise UsageError(f"a body of {len(body)} bytes; at most {ARTIFACT_BYTES_MAX} are kept")
        ref = blob_ref(body)
        self._bodies[ref] = bytes(body)
        self._put_at[ref] = time.monotonic()
        return ref

    async def get(self, ref: BlobRef) -> bytes:
        if ref not in self._bodies:
            raise StoreError(f"there is no body {ref}")
        return self._bodies[ref]

    async def has(self, ref: BlobRef) -> bool:
        return ref in self._bodies

    async def drop(self, ref: BlobRef, *, unused_s: float) -> int:
        if time.monotonic() - self._put_at.get(ref, 0.0) < unused_s:
            return 0
        return len(self._bodies.pop(ref, b""))
