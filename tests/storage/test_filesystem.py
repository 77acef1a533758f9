"""The filesystem driver keeps the port's promises."""

from pathlib import Path

import pytest

from dtr.storage import BlobStore, FilesystemBlobStore
from dtr.testing.blobs import BlobStoreConformance


class TestFilesystemBlobStore(BlobStoreConformance):
    """All of the suite; two instances on one directory stand for two processes."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        """Return an empty store."""
        return FilesystemBlobStore(tmp_path)

    @pytest.fixture
    def twin(self, tmp_path: Path) -> BlobStore:
        """Return another opening of the directory."""
        return FilesystemBlobStore(tmp_path)
