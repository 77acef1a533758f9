"""The object store driver keeps the port's promises, on a real S3 server."""

import pytest

from dtr.model.location import StorageLocation
from dtr.storage import BlobStore
from dtr.storage.objects import ObjectBlobStore
from dtr.testing.blobs import BlobStoreConformance

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
