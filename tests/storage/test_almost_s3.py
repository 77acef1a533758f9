"""Stores that speak S3 but for one operation: found at the start, or gone round."""

import os
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs
from tests.storage.test_objects_large import patch
from tests.support.almost_s3 import AlmostS3, almost_s3
from tests.support.seaweed import RunningS3

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import UnavailableError
from dtr.storage import Progress, StorageLocation
from dtr.storage.objects import ObjectBlobStore
from dtr.storage.parts import SMALL_BYTES
from dtr.testing.blobs import committed, new_upload, pull

pytestmark = pytest.mark.s3

NEEDED = [
    *("PutObject", "GetObject", "GetObject with Range", "HeadObject", "ListObjectsV2"),
    *("DeleteObjects", "CreateMultipartUpload", "UploadPart", "ListMultipartUploads"),
    *("ListParts", "CompleteMultipartUpload", "AbortMultipartUpload"),
]
REFUSALS = [(501, "NotImplemented"), (405, "MethodNotAllowed"), (403, "AccessDenied")]


@pytest.fixture
async def proxy(s3: RunningS3) -> AsyncIterator[AlmostS3]:
    """Give a proxy before the S3 server."""
    async with almost_s3(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture
async def store(s3: RunningS3, s3_url: str, proxy: AlmostS3) -> AsyncIterator[ObjectBlobStore]:
    """Give an empty place that is reached through it."""
    location = StorageLocation.parse(s3_url.replace(s3.endpoint, proxy.endpoint))
    store = ObjectBlobStore(location, patience_seconds=2)
    yield store
    await store.close()


async def test_the_start_tries_every_operation_that_is_used(
    proxy: AlmostS3, store: ObjectBlobStore
) -> None:
    """And leaves nothing in the bucket."""
    await store.check_by_use()
    assert set(proxy.asked) >= {*NEEDED, "UploadPartCopy"}
    assert [found async for found in store.bucket.walk("check")] == []
    assert store._multiparts is not None
    assert [found async for found in store._multiparts.walk("check")] == []


@pytest.mark.parametrize("operation", NEEDED)
async def test_a_store_without_an_operation_is_refused_with_its_name(
    proxy: AlmostS3, store: ObjectBlobStore, operation: str
) -> None:
    """At once: that a store does not know something is no outage to wait for."""
    proxy.refuses = operation
    with pytest.raises(UnavailableError, match=rf"\({operation}\)") as failed:
        await store.check_by_use()
    assert "501" in str(failed.value)
    assert proxy.asked.count(operation) <= 9  # obstore tries thrice, and so does what cleans up


@pytest.mark.parametrize(("status", "code"), REFUSALS)
@pytest.mark.parametrize("is_checked", [True, False])
async def test_without_copies_of_parts_an_upload_is_streamed_together(
    proxy: AlmostS3,
    store: ObjectBlobStore,
    status: int,
    code: str,
    is_checked: bool,  # noqa: FBT001
) -> None:
    """Each process finds out by itself, also one that did not make the check, and says so once."""
    proxy.refuses, proxy.status, proxy.code = "UploadPartCopy", status, code
    content = os.urandom(3 * SMALL_BYTES)
    with capture_logs() as log:
        if is_checked:
            await store.check_by_use()
        proxy.asked.clear()
        for _ in range(2):
            upload_id, progress = new_upload(), Progress()
            for start in range(0, len(content), SMALL_BYTES):
                chunk = content[start : start + SMALL_BYTES]
                progress = await patch(store, upload_id, progress, chunk)
            writer = await store.resume(upload_id, Algorithm.SHA256, progress)
            key = await writer.commit(Digest.of(content))
            await writer.recorded()
            await writer.close()
            assert await pull(store, key) == content
            await store.delete(key)
    assert len([each for each in log if "UploadPartCopy" in each["event"]]) == 1
    assert ("UploadPartCopy" in proxy.asked) is not is_checked
    assert await committed(store) == {}


async def test_a_store_that_fails_at_copies_is_refused_at_the_start(
    proxy: AlmostS3, store: ObjectBlobStore
) -> None:
    """A failure may pass; which way to take cannot be known."""
    proxy.refuses, proxy.status, proxy.code = "UploadPartCopy", 500, "InternalError"
    with pytest.raises(UnavailableError, match=r"\(UploadPartCopy\)"):
        await store.check_by_use()
