"""Bodies by content hash, in files and in memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2engine.domain.ids import blob_ref
from p2engine.errors import StoreError
from p2engine.stores.blobs import FileBlobs
from p2engine.testing.contracts import BlobStoreContract
from p2engine.testing.memory import MemoryBlobs


class TestMemoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self) -> MemoryBlobs:
        return MemoryBlobs()


class TestFileBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> FileBlobs:
        return FileBlobs(tmp_path / "blobs")


def _file(directory: Path) -> Path:
    (path,) = [path for path in directory.rglob("*") if path.is_file()]
    return path


async def test_a_body_lies_under_its_hash(tmp_path: Path) -> None:
    """The file is named after the content and nothing else, and no half-written one stays beside it."""
    ref = await FileBlobs(tmp_path).put(b"body")
    assert _file(tmp_path) == tmp_path / ref[3:5] / ref[5:]
    assert _file(tmp_path).read_bytes() == b"body"


async def test_failure_14_a_damaged_body_is_named(tmp_path: Path) -> None:
    """One changed byte is an error that names the file, and putting the body again mends it."""
    blobs = FileBlobs(tmp_path)
    ref = await blobs.put(b"body")
    _file(tmp_path).write_bytes(b"bodY")
    with pytest.raises(StoreError, match=ref[5:]):
        await blobs.get(ref)
    assert await blobs.put(b"body") == ref
    assert await blobs.get(ref) == b"body"


async def test_failure_26_a_ref_is_no_path(tmp_path: Path) -> None:
    """A ref that climbs out of the directory reads nothing outside it."""
    (tmp_path / "secret").write_text("secret")
    blobs = FileBlobs(tmp_path / "blobs")
    for ref in ("b2:../secret", "../secret", "b2:aa/../../secret", f"b2:{'a' * 31}\n"):
        with pytest.raises(StoreError):
            await blobs.get(ref)  # type: ignore[arg-type]


async def test_failure_35_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Where the directory cannot be made, the error says which file, and nothing is left."""
    (tmp_path / "taken").write_text("a file, not a directory")
    with pytest.raises(StoreError, match="taken"):
        await FileBlobs(tmp_path / "taken").put(b"body")


FULL_DISK = """
import asyncio, resource, sys
from p2engine.stores.blobs import FileBlobs
from p2engine.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
blobs = FileBlobs(sys.argv[1])
try:
    asyncio.run(blobs.put(bytes(5000)))
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(asyncio.run(blobs.put(bytes(5000))))
"""


def test_failure_35_a_full_disk_leaves_no_half_body(tmp_path: Path) -> None:
    """When the file system takes no more, the body is not there, and later it can be put."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True)
    said, ref = done.stdout.splitlines()
    assert "cannot write" in said
    assert ref == blob_ref(bytes(5000))
    assert _file(tmp_path).stat().st_size == 5000


def test_a_body_put_again_is_young_again(tmp_path: Path) -> None:
    """A body that somebody needs anew is not collected for its age."""
    import asyncio

    asyncio.run(FileBlobs(tmp_path).put(b"body"))
    os.utime(_file(tmp_path), (1, 1))
    asyncio.run(FileBlobs(tmp_path).put(b"body"))
    assert _file(tmp_path).stat().st_mtime > 1_000_000


def test_seam_25_a_body_put_while_it_is_dropped_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever puts it between the look at its age and its end finds it, or puts it anew."""
    import asyncio

    blobs = FileBlobs(tmp_path)
    ref = asyncio.run(blobs.put(b"body"))
    replace, utime = Path.replace, os.utime

    def put_first(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", replace)
        asyncio.run(blobs.put(b"body"))
        return replace(path, target)

    utime(_file(tmp_path), (1, 1))
    monkeypatch.setattr(Path, "replace", put_first)
    assert asyncio.run(blobs.drop(ref, unused_s=3600)) == 0
    assert asyncio.run(blobs.get(ref)) == b"body"

    def drop_first(path: Path) -> None:
        monkeypatch.setattr(os, "utime", utime)
        assert asyncio.run(blobs.drop(ref, unused_s=3600)) == 4
        utime(path)

    utime(_file(tmp_path), (1, 1))
    monkeypatch.setattr(os, "utime", drop_first)
    asyncio.run(blobs.put(b"body"))
    assert asyncio.run(blobs.get(ref)) == b"body"
