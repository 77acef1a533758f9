"""The memory driver keeps the port's promises."""

import pytest

from dtr.storage import BlobStore, MemoryBlobStore
from dtr.testing.blobs import BlobStoreConformance


class TestMemoryBlobStore(BlobStoreConformance):
    """All of the suite."""

    @pytest.fixture
    def store(self) -> BlobStore:
        """Return an empty store."""
        return MemoryBlobStore()
