"""What every BlobStore does."""

import pytest

from p2engine.domain.ids import BlobRef, blob_ref
from p2engine.errors import StoreError, UsageError
from p2engine.limits import ARTIFACT_BYTES_MAX
from p2engine.ports import BlobStore


class BlobStoreContract:
    """A subclass gives the fixture `blobs`, an empty store."""

    @pytest.mark.parametrize("body", [b"", b"text", bytes(range(256)) * 1000])
    async def test_what_is_put_is_got(self, blobs: BlobStore, body: bytes) -> None:
        """A body comes back byte for byte under the name of its content."""
        ref = await blobs.put(body)
        assert ref == blob_ref(body)
        assert await blobs.get(ref) == body
        assert await blobs.has(ref)

    async def test_the_same_body_is_one(self, blobs: BlobStore) -> None:
        """Putting a body again gives the same ref and harms nothing."""
        assert await blobs.put(b"twice") == await blobs.put(b"twice")
        assert await blobs.get(blob_ref(b"twice")) == b"twice"

    async def test_a_missing_body_is_an_error(self, blobs: BlobStore) -> None:
        """What was never put is not there, and getting it says which."""
        ref = blob_ref(b"never put")
        assert not await blobs.has(ref)
        with pytest.raises(StoreError, match=ref):
            await blobs.get(ref)

    async def test_too_much_is_refused(self, blobs: BlobStore) -> None:
        """A body above ARTIFACT_BYTES_MAX is refused and not kept."""
        body = bytes(ARTIFACT_BYTES_MAX + 1)
        with pytest.raises(UsageError, match=str(ARTIFACT_BYTES_MAX)):
            await blobs.put(body)
        assert not await blobs.has(blob_ref(body))

    async def test_seam_25_only_what_nobody_has_put_for_long_is_dropped(self, blobs: BlobStore) -> None:
        """A young body stays, an old one goes and says how large it was; what is not there is nothing."""
        ref = await blobs.put(b"an artifact")
        assert await blobs.drop(ref, unused_s=3600) == 0
        assert await blobs.get(ref) == b"an artifact"
        assert await blobs.drop(ref, unused_s=0) == len(b"an artifact")
        assert not await blobs.has(ref)
        assert await blobs.drop(ref, unused_s=0) == 0
        assert await blobs.put(b"an artifact") == ref
        assert await blobs.get(ref) == b"an artifact"

    @pytest.mark.parametrize("ref", ["", "b2:", "../../etc/passwd", "b2:../../../../etc/passwd", "b2:" + "A" * 32])
    async def test_a_name_that_is_none_reads_nothing(self, blobs: BlobStore, ref: str) -> None:
        """A ref that is no hash is never taken for a path."""
        with pytest.raises(StoreError):
            await blobs.get(BlobRef(ref))
