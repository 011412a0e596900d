"""Bodies by content hash, each a key named after it. Expires nothing, and writes no key but those of bodies."""

import re
import uuid
from typing import Any, Final

from p2engine.domain.ids import BlobRef, blob_ref
from p2engine.errors import StoreError, UsageError
from p2engine.limits import ARTIFACT_BYTES_MAX
from p2engine.stores.redis_server import RedisServer

PIECE_BYTES: Final = 4 * 1024 * 1024  # in one command: larger ones hold others up, and a slow network times them out
PART_LIFE_S: Final = 3600  # of a body that was not sent to its end
_DROP: Final = """
local idle = redis.pcall('OBJECT', 'IDLETIME', KEYS[1])
if type(idle) ~= 'number' or idle < tonumber(ARGV[1]) then
  return 0
end
local length = redis.call('STRLEN', KEYS[1])
redis.call('UNLINK', KEYS[1])
return length
"""
_REF = re.compile(r"b2:([0-9a-f]{32})")


class RedisBlobs:
    """Implements `ports.BlobStore`. A body is as safe as the server's persistence. piece_bytes: most in one command."""

    def __init__(self, server: RedisServer, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._server = server
        self._client = server.client
        self._prefix = f"{server.address.prefix}:blob:"
        self._piece_bytes = piece_bytes
        server.has_bodies = True

    async def put(self, body: bytes) -> BlobRef:
        """Raises UsageError above ARTIFACT_BYTES_MAX, StoreError when the server does not take it."""
        if len(body) > ARTIFACT_BYTES_MAX:
            raise UsageError(f"a body of {len(body)} bytes; at most {ARTIFACT_BYTES_MAX} are kept")
        ref = blob_ref(body)
        await self._server.patiently(lambda: self._put(self._key(ref), body))
        return ref

    async def get(self, ref: BlobRef) -> bytes:
        """Raises StoreError when it is missing, unreadable, or not what its name says."""
        key = self._key(ref)
        body = await self._server.patiently(lambda: self._get(key))
        if body is None:
            raise StoreError(f"there is no body {ref} in {self._server.address}")
        if blob_ref(body) != ref:
            raise StoreError(
                f"{key} in {self._server.address} is damaged: its bytes do not match its name",
                hint="restore it from a copy",
            )
        return body

    async def has(self, ref: BlobRef) -> bool:
        key = self._key(ref)
        return bool(await self._server.patiently(lambda: self._client.exists(key)))

    async def drop(self, ref: BlobRef, *, unused_s: float) -> int:
        """Forget a body that nobody has put or got for so long; how many bytes it had, 0 where it stays."""
        key = self._key(ref)
        return int(await self._server.patiently(lambda: self._client.eval(_DROP, 1, key, str(int(unused_s)))))

    async def _put(self, key: str, body: bytes) -> None:
        if len(body) > self._piece_bytes:
            if await self._get(key) != body:
                await self._put_in_pieces(key, body)
            return
        found = await self._client.set(key, body, nx=True, get=True)
        if found not in (None, body):
            await self._client.set(key, body)  # a damaged one is mended

    async def _put_in_pieces(self, key: str, body: bytes) -> None:
        """All of the body under its name, or nothing."""
        part = f"{self._prefix}part:{uuid.uuid4().hex}"
        for start in range(0, len(body), self._piece_bytes):
            async with self._client.pipeline(transaction=True) as both:
                both.append(part, body[start : start + self._piece_bytes])
                both.expire(part, PART_LIFE_S)
                await both.execute()
        async with self._client.pipeline(transaction=True) as both:
            both.persist(part)
            both.rename(part, key)
            await both.execute()

    async def _get(self, key: str) -> bytes | None:
        """The body under this key, None where there is none."""
        async with self._client.pipeline(transaction=True) as first:
            first.getrange(key, 0, self._piece_bytes - 1)
            first.strlen(key)
            first.exists(key)
            piece, length, there = await first.execute()
        rest = range(self._piece_bytes, length, self._piece_bytes)
        pieces: list[Any] = [await self._client.getrange(key, start, start + self._piece_bytes - 1) for start in rest]
        return b"".join([piece, *pieces]) if there else None

    def _key(self, ref: BlobRef) -> str:
        return self._prefix + hash_of(ref)


def hash_of(ref: BlobRef) -> str:
    """The digits by which a key is named. Raises StoreError for what is no ref."""
    parts = _REF.fullmatch(ref)
    if parts is None:
        raise StoreError(f"{ref!r} names no body")
    return parts[1]
