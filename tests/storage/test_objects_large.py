"""Large uploads to a real S3 server: in parts, by turns, against each other, through restarts."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator

import pytest
from tests.support.seaweed import RunningS3

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import DigestInvalidError, UnavailableError, UploadUnknownError
from dtr.storage import BlobWriter, Progress, StorageLocation
from dtr.storage.objects import ObjectBlobStore
from dtr.storage.parts import MIB, SMALL_BYTES
from dtr.testing.blobs import committed, new_upload, pull, push, staged

pytestmark = pytest.mark.s3

SHA256 = Algorithm.SHA256


@pytest.fixture(params=[True, False], ids=["multipart", "stream"])
async def stores(
    request: pytest.FixtureRequest, s3_url: str
) -> AsyncIterator[tuple[ObjectBlobStore, ObjectBlobStore]]:
    """Give two openings of one prefix, with S3's multipart requests and without."""
    location = StorageLocation.parse(s3_url)
    opened = tuple(ObjectBlobStore(location, has_multipart=request.param) for _ in range(2))
    yield opened[0], opened[1]
    for store in opened:
        await store.close()


@pytest.fixture
async def store(s3_url: str) -> AsyncIterator[ObjectBlobStore]:
    """Give an empty place that is asked again for twenty seconds."""
    opened = ObjectBlobStore(StorageLocation.parse(s3_url), patience_seconds=20)
    yield opened
    await opened.close()


async def patch(
    store: ObjectBlobStore, upload_id: str, progress: Progress, content: bytes
) -> Progress:
    """Take a chunk as a PATCH does, and record it."""
    writer = await store.resume(upload_id, SHA256, progress)
    for start in range(0, len(content), MIB):
        await writer.append(content[start : start + MIB])
    progress = await writer.flush()
    await writer.recorded()
    await writer.close()
    return progress


@pytest.mark.parametrize(
    "sizes",
    [
        (SMALL_BYTES,),
        (SMALL_BYTES - 1, 1, 1),
        (3 * SMALL_BYTES + 5, 7),
        (7, 2 * SMALL_BYTES, 9, 3 * SMALL_BYTES, 1),
        (SMALL_BYTES, SMALL_BYTES, SMALL_BYTES),
    ],
)
async def test_any_process_goes_on_with_any_sizes(
    stores: tuple[ObjectBlobStore, ObjectBlobStore], sizes: tuple[int, ...]
) -> None:
    """Every request lands elsewhere; what commits is whole, and nothing else is left."""
    upload_id, progress, content = new_upload(), Progress(), b""
    for number, size in enumerate(sizes):
        chunk = os.urandom(size)
        progress = await patch(stores[number % 2], upload_id, progress, chunk)
        content += chunk
    assert progress.offset == len(content)
    writer = await stores[len(sizes) % 2].resume(upload_id, SHA256, progress)
    with pytest.raises(DigestInvalidError):
        await writer.commit(Digest.of(b"something else"))
    key = await writer.commit(Digest.of(content))
    await writer.recorded()
    assert await pull(stores[0], key) == content
    assert await committed(stores[1]) == {key: len(content)}
    assert await staged(stores[0]) == {}


async def test_one_request_is_the_blob_itself(store: ObjectBlobStore) -> None:
    """The object that the PATCH made is the one that the PUT commits, elsewhere, unread."""
    upload_id, content = new_upload(), os.urandom(3 * SMALL_BYTES + 5)
    progress = await patch(store, upload_id, Progress(), content)
    assert progress.digest == Digest.of(content)
    before = await committed(store)
    writer = await store.resume(upload_id, SHA256, progress)
    key = await writer.commit(Digest.of(content))
    assert await committed(store) == before == {key: len(content)}


async def test_what_storage_lost_is_not_committed(
    stores: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    """An upload whose bytes somebody deleted is unknown, whether it goes on or ends."""
    upload_id, content = new_upload(), os.urandom(100)
    progress = await patch(stores[0], upload_id, Progress(), content)
    await stores[0].discard(upload_id, progress)
    writer = await stores[1].resume(upload_id, SHA256, progress)
    with pytest.raises(UploadUnknownError):
        await writer.commit(Digest.of(content))
    writer = await stores[1].resume(upload_id, SHA256, progress)
    await writer.append(b"more")
    with pytest.raises(UploadUnknownError):
        await writer.flush()
    await writer.close()


async def test_large_writers_race_and_the_recorded_one_is_whole(
    stores: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    """All write parts at once; the others give up, and what was recorded loses no byte."""
    upload_id, first = new_upload(), os.urandom(SMALL_BYTES + 3)
    progress = await patch(stores[0], upload_id, Progress(), first)
    contents = [os.urandom(2 * SMALL_BYTES + number) for number in range(4)]
    writers = [await stores[n % 2].resume(upload_id, SHA256, progress) for n in range(4)]

    async def write(number: int) -> Progress:
        for start in range(0, len(contents[number]), MIB):
            await writers[number].append(contents[number][start : start + MIB])
        return await writers[number].flush()

    found = await asyncio.gather(*map(write, range(4)))
    for number in (0, 2, 3):
        await writers[number].cancel()
    await writers[1].recorded()
    await writers[1].close()
    writer = await stores[0].resume(upload_id, SHA256, found[1])
    key = await writer.commit(Digest.of(first + contents[1]))
    await writer.recorded()
    assert await pull(stores[1], key) == first + contents[1]
    assert await committed(stores[0]) == {key: len(first) + len(contents[1])}


async def test_a_writer_that_is_let_go_leaves_nothing(
    stores: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    """Parts that were sent and never flushed are thrown away."""
    writer = await stores[0].begin(new_upload(), SHA256)
    for _ in range(3):
        await writer.append(bytes(SMALL_BYTES))
    await writer.close()
    assert await staged(stores[0]) == {}
    assert await committed(stores[0]) == {}


async def test_a_session_that_ends_ends_its_parts(store: ObjectBlobStore) -> None:
    """A DELETE on another process aborts what is under way, which then is an unknown upload."""
    upload_id = new_upload()
    writer = await store.begin(upload_id, SHA256)
    await writer.append(bytes(SMALL_BYTES))
    assert set(await staged(store)) == {upload_id}
    await store.discard(upload_id)
    assert await staged(store) == {}
    await _fill(writer, SMALL_BYTES)
    with pytest.raises(UploadUnknownError):
        await writer.flush()
    await writer.close()


async def test_the_server_restarts_in_the_middle_of_a_push(
    store: ObjectBlobStore, s3: RunningS3
) -> None:
    """The upload waits until the server is back, and goes on."""
    content = os.urandom(6 * SMALL_BYTES)
    writer = await store.begin(new_upload(), SHA256)
    restart: asyncio.Future[None] | None = None
    for start in range(0, len(content), MIB):
        if start == 2 * SMALL_BYTES:
            restart = asyncio.ensure_future(asyncio.to_thread(s3.restart, down_seconds=1))
        await writer.append(content[start : start + MIB])
    key = await writer.commit(Digest.of(content))
    assert restart is not None
    await restart
    assert await pull(store, key) == content


async def test_the_server_restarts_in_the_middle_of_a_pull(
    store: ObjectBlobStore, s3: RunningS3
) -> None:
    """The answer goes on at the byte where it broke."""
    content = os.urandom(64 * MIB)
    key = await push(store, content)
    found = bytearray()
    async for chunk in store.read(key, start=1, stop=len(content) - 1):
        if not found:
            await asyncio.to_thread(s3.restart)
        found += chunk
    assert found == content[1:-1]


async def test_a_server_that_stays_away_is_unavailable(s3_url: str, s3: RunningS3) -> None:
    """After the time that was asked for, and no sooner than the pauses allow."""
    store = ObjectBlobStore(StorageLocation.parse(s3_url), patience_seconds=1)
    key = await push(store, b"content")
    s3.kill()
    try:
        with pytest.raises(UnavailableError):
            await store.size(key)
        with pytest.raises(UnavailableError):
            await push(store, b"other")
        with pytest.raises(UnavailableError):
            await pull(store, key)
        with pytest.raises(UnavailableError):
            await store.check()
    finally:
        s3.start()
    assert await pull(store, key) == b"content"
    await store.close()


async def test_memory_is_bounded(store: ObjectBlobStore) -> None:
    """300 MB pass through a few parts' worth of memory, up and down."""
    writer = await store.begin(new_upload(), SHA256)
    hasher = SHA256.hasher()
    piece = os.urandom(MIB)
    await _fill(writer, 4 * SMALL_BYTES)
    hasher.update(bytes(4 * SMALL_BYTES))
    before = _peak_bytes()
    for _ in range(300):
        hasher.update(piece)
        await writer.append(piece)
    key = await writer.commit(Digest(f"sha256:{hasher.hexdigest()}"))
    size = 0
    async for chunk in store.read(key):
        size += len(chunk)
    assert size == 4 * SMALL_BYTES + 300 * MIB
    assert _peak_bytes() - before < 96 * MIB


async def _fill(writer: BlobWriter, size: int) -> None:
    for _ in range(size // MIB):
        await writer.append(bytes(MIB))


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
