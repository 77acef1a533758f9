"""The object store driver keeps the port's promises, on a real S3 server."""

import os
from collections.abc import AsyncIterator

import pytest

from dtr.model.digest import Digest
from dtr.model.errors import ContentDamagedError
from dtr.model.location import StorageLocation
from dtr.storage import BlobStore
from dtr.storage.objects import ObjectBlobStore
from dtr.testing.blobs import BlobStoreConformance, pull

pytestmark = pytest.mark.s3


class TestS3(BlobStoreConformance):
    """All of the suite; two instances on one prefix stand for two processes."""

    @pytest.fixture
    def store(self, s3_url: str) -> BlobStore:
        """Return an empty store."""
        return ObjectBlobStore(StorageLocation.parse(s3_url))

    @pytest.fixture
    def twin(self, s3_url: str) -> BlobStore:
        """Return another opening of the prefix."""
        return ObjectBlobStore(StorageLocation.parse(s3_url))


class TestWithoutMultipart(BlobStoreConformance):
    """What Azure and Google are written with, without S3's multipart requests, on S3."""

    @pytest.fixture
    def store(self, s3_url: str) -> BlobStore:
        """Return an empty store."""
        return ObjectBlobStore(StorageLocation.parse(s3_url), has_multipart=False)

    @pytest.fixture
    def twin(self, s3_url: str) -> BlobStore:
        """Return another opening of the prefix."""
        return ObjectBlobStore(StorageLocation.parse(s3_url), has_multipart=False)


@pytest.mark.parametrize("size", [10, 20 << 20])
@pytest.mark.parametrize("has_multipart", [True, False])
async def test_a_wrong_copy_is_not_there_for_a_moment(
    s3_url: str, size: int, *, has_multipart: bool
) -> None:
    """A crash could leave it, of the right size: the copy that goes on would take it for done."""
    store = ObjectBlobStore(StorageLocation.parse(s3_url), has_multipart=has_multipart)
    content = os.urandom(size)
    digest = Digest.of(content)
    key = f"sha256/{digest.encoded[:2]}/{digest.encoded}.upload"

    async def pieces(of: bytes) -> AsyncIterator[bytes]:
        for start in range(0, size, 1 << 20):
            yield of[start : start + (1 << 20)]

    try:
        await store.adopt(key, pieces(content), size, digest)
        with pytest.raises(ContentDamagedError):
            await store.adopt(key, pieces(bytes(size)), size, digest)
        assert await pull(store, key) == content
    finally:
        await store.close()
