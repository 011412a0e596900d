"""Bodies by content hash, each a file named after it. A path is made from a hash and nothing else."""

import asyncio
import os
import re
import tempfile
import time
from pathlib import Path

from p2engine.domain.ids import BlobRef, blob_ref
from p2engine.errors import StoreError, UsageError
from p2engine.limits import ARTIFACT_BYTES_MAX

_REF = re.compile(r"b2:([0-9a-f]{2})([0-9a-f]{30})")


class FileBlobs:
    """Implements `ports.BlobStore` in a directory, which is made when the first body comes."""

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)

    async def put(self, body: bytes) -> BlobRef:
        """Durable when it returns. Raises UsageError above ARTIFACT_BYTES_MAX, StoreError when it cannot be written."""
        if len(body) > ARTIFACT_BYTES_MAX:
            raise UsageError(f"a body of {len(body)} bytes; at most {ARTIFACT_BYTES_MAX} are kept")
        return await asyncio.to_thread(self._put, body)

    async def get(self, ref: BlobRef) -> bytes:
        """Raises StoreError when it is missing, unreadable, or not what its name says."""
        return await asyncio.to_thread(self._get, ref)

    async def has(self, ref: BlobRef) -> bool:
        return self._path(ref).exists()

    async def drop(self, ref: BlobRef, *, unused_s: float) -> int:
        """Forget a body that nobody has put for so long; how many bytes it had, 0 where it stays or is not there."""
        return await asyncio.to_thread(self._drop, self._path(ref), unused_s)

    def _drop(self, path: Path, unused_s: float) -> int:
        dying = path.with_suffix(".dying")
        try:
            if time.time() - path.stat().st_mtime < unused_s:
                return 0
            path.replace(dying)
            found = dying.stat()
            if time.time() - found.st_mtime < unused_s:  # put again just now
                dying.replace(path)
                return 0
            dying.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise StoreError(
                f"cannot remove {path}: {error.strerror}", hint="check the directory and its permissions"
            ) from error
        return found.st_size

    def _put(self, body: bytes) -> BlobRef:
        ref = blob_ref(body)
        path = self._path(ref)
        try:
            if not _young_again(path, ref):
                _write(path, body)
        except OSError as error:
            raise StoreError(
                f"cannot write {path}: {error.strerror}", hint="check the directory, its permissions and the disk"
            ) from error
        return ref

    def _get(self, ref: BlobRef) -> bytes:
        path = self._path(ref)
        try:
            body = path.read_bytes()
        except FileNotFoundError as error:
            raise StoreError(f"there is no body {ref} in {self._directory}") from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
        if blob_ref(body) != ref:
            raise StoreError(f"{path} is damaged: its bytes do not match its name", hint="restore it from a copy")
        return body

    def _path(self, ref: BlobRef) -> Path:
        parts = _REF.fullmatch(ref)
        if parts is None:
            raise StoreError(f"{ref!r} names no body")
        return self._directory / parts[1] / parts[2]


def _young_again(path: Path, ref: BlobRef) -> bool:
    """Whether the body is there, and from now on left alone by whoever drops old ones."""
    try:
        if not path.exists() or blob_ref(path.read_bytes()) != ref:
            return False
        os.utime(path)
    except FileNotFoundError:  # dropped meanwhile
        return False
    return True


def _write(path: Path, body: bytes) -> None:
    """All of the body under its name, or nothing; and still so after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    _sync(path.parent)
    _sync(path.parent.parent)  # the folder itself may be new


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
