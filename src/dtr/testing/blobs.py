"""What every `BlobStore` driver must keep of `dtr.storage.port`, as one suite.

A driver's test is five lines, run with pytest and pytest-asyncio in its automatic mode:

    class TestMyBlobStore(BlobStoreConformance):
        @pytest.fixture
        def store(self, tmp_path):
            return MyBlobStore(tmp_path)

`twin` is another opening of the same place, as another process would have it; a driver whose state
lives in one object leaves it as it is.
"""

import asyncio
import gc
import itertools
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    DigestInvalidError,
    UnsupportedError,
    UploadBusyError,
    UploadUnknownError,
)
from dtr.storage import BlobStore, BlobWriter, Capability, Progress

CONTENT = bytes(range(256)) * 400
DIGEST = Digest.of(CONTENT)
KEY = f"sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}.upload"
SHA256 = Algorithm.SHA256
_ODD_SIZES = (1, 7, 4097, 65_537, 1_048_577, 3)


def new_upload() -> str:
    """Return an upload's id as the registry makes them."""
    return str(uuid.uuid4())


async def stage(
    store: BlobStore, content: bytes, upload_id: str | None = None
) -> tuple[BlobWriter, Progress]:
    """Begin an upload with `content`, made durable; its writer is left open."""
    writer = await store.resume(upload_id or new_upload(), SHA256, Progress())
    await writer.append(content)
    return writer, await writer.flush()


async def push(
    store: BlobStore, content: bytes, algorithm: Algorithm = SHA256, *, upload_id: str | None = None
) -> str:
    """Upload `content` whole and return its key."""
    writer = await store.resume(upload_id or new_upload(), algorithm, Progress())
    try:
        await writer.append(content)
        return await writer.commit(Digest.of(content, algorithm))
    finally:
        await writer.close()


async def pull(store: BlobStore, key: str, *, start: int = 0, stop: int | None = None) -> bytes:
    """Return what is read."""
    return b"".join([chunk async for chunk in store.read(key, start=start, stop=stop)])


async def committed(store: BlobStore) -> dict[str, int]:
    """Return the sizes of all committed objects by key."""
    return {blob.key: blob.size async for blob in store.walk()}


async def staged(store: BlobStore) -> dict[str, int]:
    """Return the sizes of all staged uploads by id."""
    return {blob.key: blob.size async for blob in store.walk_uploads()}


async def assert_nothing_committed(store: BlobStore, upload_id: str) -> None:
    """Check that storage holds nothing but what this upload, to be decided, has brought."""
    found = [blob async for blob in store.walk()]
    if Capability.EARLY_KEYS in store.capabilities:
        assert {blob.upload_id for blob in found} <= {upload_id}
    else:
        assert found == []


def open_descriptors() -> set[tuple[str, str]]:
    """Return this process's descriptors of files and what they are of, where the system tells.

    Connections are not counted: clients keep them for a while, and close them in their own time.
    """
    found = set()
    with suppress(FileNotFoundError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add((descriptor.name, str(descriptor.readlink())))
    kinds = ("/proc/", "socket:", "anon_inode:")
    return {(number, place) for number, place in found if not place.startswith(kinds)}


def running_threads() -> set[threading.Thread]:
    """Return the threads that a driver may have started: not a library's, not the loop's own."""
    others = ("Dummy-", "asyncio_")
    return {thread for thread in threading.enumerate() if not thread.name.startswith(others)}


class BlobStoreConformance:
    """The suite. Override `store`, and `twin` where two instances can share a place."""

    @pytest.fixture
    def store(self) -> BlobStore:
        """Return a fresh, empty store."""
        raise NotImplementedError("override the fixture `store` with one that makes the driver")

    @pytest.fixture
    def twin(self, store: BlobStore) -> BlobStore:
        """Return a second opening of what `store` is on."""
        return store

    @pytest.fixture(autouse=True)
    async def _nothing_left(self, store: BlobStore, twin: BlobStore) -> AsyncIterator[None]:
        """Fail a test that leaves staged bytes, descriptors or threads behind."""
        threads, descriptors = running_threads(), open_descriptors()
        yield
        left = await staged(store)
        for key in await committed(store):
            await store.delete(key)
        assert await committed(store) == {}
        await store.close()
        if twin is not store:
            await twin.close()
        gc.collect()
        assert left == {}
        assert running_threads() <= threads
        assert open_descriptors() <= descriptors

    async def test_commit_makes_bytes_readable(self, store: BlobStore) -> None:
        """What was uploaded is read back, counted and found."""
        key = await push(store, CONTENT)
        assert await pull(store, key) == CONTENT
        assert await store.size(key) == len(CONTENT)
        assert await committed(store) == {key: len(CONTENT)}
        assert await staged(store) == {}

    async def test_nothing_is_readable_before_commit(self, store: BlobStore) -> None:
        """Bytes that are durable but not committed are staged, and nowhere else."""
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        assert progress == Progress(len(CONTENT), Digest.of(CONTENT), progress.state)
        await assert_nothing_committed(store, upload_id)
        if Capability.EARLY_KEYS not in store.capabilities:
            assert await staged(store) == {upload_id: len(CONTENT)}
        await writer.cancel()
        assert await committed(store) == {}

    async def test_commit_verifies_the_digest(self, store: BlobStore) -> None:
        """Bytes with another digest than announced never become readable."""
        upload_id = new_upload()
        writer, _ = await stage(store, CONTENT, upload_id)
        with pytest.raises(DigestInvalidError):
            await writer.commit(Digest.of(b"something else"))
        await assert_nothing_committed(store, upload_id)
        await writer.cancel()
        assert await committed(store) == {}

    async def test_commit_verifies_a_digest_of_another_algorithm(self, store: BlobStore) -> None:
        """The session's algorithm is a guess; the digest at the end decides."""
        writer, _ = await stage(store, CONTENT)
        with pytest.raises(DigestInvalidError):
            await writer.commit(Digest.of(b"something else", Algorithm.SHA512))
        key = await writer.commit(Digest.of(CONTENT, Algorithm.SHA512))
        assert await pull(store, key) == CONTENT

    async def test_cancel_is_idempotent(self, store: BlobStore) -> None:
        """Cancelling twice deletes once, and the upload may begin again."""
        upload_id = new_upload()
        writer, _ = await stage(store, CONTENT, upload_id)
        await writer.cancel()
        await writer.cancel()
        await writer.close()
        assert await staged(store) == {}
        assert await pull(store, await push(store, b"again", upload_id=upload_id)) == b"again"

    async def test_cancel_after_commit_is_harmless(self, store: BlobStore) -> None:
        """A committed blob is not the upload's any more."""
        writer, _ = await stage(store, CONTENT)
        key = await writer.commit(Digest.of(CONTENT))
        await writer.cancel()
        await writer.close()
        await writer.cancel()
        assert await pull(store, key) == CONTENT

    async def test_a_commit_that_is_taken_back_takes_no_other(
        self, store: BlobStore, twin: BlobStore
    ) -> None:
        """Two requests end one session: the second, whose commit counts, has a key of its own."""
        upload_id, digest = new_upload(), Digest.of(CONTENT)
        first, _ = await stage(store, CONTENT, upload_id)
        keys = [await first.commit(digest)]
        second, _ = await stage(twin, CONTENT, upload_id)
        keys.append(await second.commit(digest))
        await first.withdraw()
        assert keys[0] != keys[1]
        assert await pull(twin, keys[1]) == CONTENT

    async def test_discard_is_idempotent(self, store: BlobStore) -> None:
        """Discarding what is not there, or is committed, changes nothing."""
        upload_id = new_upload()
        await store.discard(upload_id)
        writer, progress = await stage(store, CONTENT, upload_id)
        await writer.close()
        await store.discard(upload_id, progress)
        await store.discard(upload_id, progress)
        assert await staged(store) == {}
        assert await committed(store) == {}
        key = await push(store, CONTENT, upload_id=upload_id)
        await store.discard(upload_id)
        assert await pull(store, key) == CONTENT

    async def test_an_upload_goes_on_where_it_was(self, store: BlobStore, twin: BlobStore) -> None:
        """Chunks may be taken by different processes in turn."""
        upload_id, progress = new_upload(), Progress()
        for number in range(6):
            taker = (store, twin)[number % 2]
            writer = await taker.resume(upload_id, SHA256, progress)
            assert writer.offset == progress.offset
            await writer.append(b"%d" % number * 1000)
            progress = await writer.flush()
            await writer.recorded()
            await writer.close()
        whole = b"".join(b"%d" % number * 1000 for number in range(6))
        assert progress.offset == len(whole)
        assert progress.digest in {None, Digest.of(whole)}
        writer = await store.resume(upload_id, SHA256, progress)
        key = await writer.commit(Digest.of(whole))
        await writer.recorded()
        assert await pull(twin, key) == whole
        assert await committed(twin) == {key: len(whole)}

    async def test_resume_drops_bytes_after_the_offset(
        self, store: BlobStore, twin: BlobStore
    ) -> None:
        """What a dead process wrote beyond what it recorded is not part of the upload."""
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT[:1000], upload_id)
        await writer.append(CONTENT[1000:])
        await writer.flush()
        await writer.close()
        writer = await twin.resume(upload_id, SHA256, progress)
        await writer.append(b"tail")
        key = await writer.commit(Digest.of(CONTENT[:1000] + b"tail"))
        assert await pull(store, key) == CONTENT[:1000] + b"tail"

    async def test_resume_alone_changes_nothing(self, store: BlobStore, twin: BlobStore) -> None:
        """Whoever sees, holding it, that the upload went on meanwhile lets it go unharmed."""
        upload_id = new_upload()
        writer, first = await stage(store, CONTENT[:1000], upload_id)
        await writer.append(CONTENT[1000:])
        progress = await writer.flush()
        await writer.close()
        for seen in (Progress(), first):
            stale = await twin.resume(upload_id, SHA256, seen)
            assert stale.offset == seen.offset
            await stale.close()
        writer = await store.resume(upload_id, SHA256, progress)
        key = await writer.commit(Digest.of(CONTENT))
        assert await pull(twin, key) == CONTENT

    @pytest.mark.parametrize("size", [0, 10, 3 << 20])
    async def test_an_upload_that_nobody_else_knows(self, store: BlobStore, size: int) -> None:
        """One that begins and ends in one request is committed, or cancelled without a trace."""
        content = bytes(size)
        for is_wanted in (True, False):
            writer = await store.begin(new_upload(), SHA256)
            await writer.append(content)
            assert writer.offset == size
            if is_wanted:
                key = await writer.commit(Digest.of(content))
                assert await pull(store, key) == content
            else:
                await writer.cancel()
        assert len(await committed(store)) == 1

    async def test_resume_at_nothing_drops_everything(
        self, store: BlobStore, twin: BlobStore
    ) -> None:
        """An upload whose first chunk was never recorded begins anew."""
        upload_id = new_upload()
        writer, _ = await stage(store, CONTENT, upload_id)
        await writer.close()
        assert await pull(store, await push(twin, b"anew", upload_id=upload_id)) == b"anew"

    @pytest.mark.parametrize("there", [None, 0, 99])
    async def test_resume_needs_the_bytes(self, store: BlobStore, there: int | None) -> None:
        """An upload whose bytes are lost is unknown; nobody commits a hole."""
        upload_id = new_upload()
        if there is not None:
            writer, _ = await stage(store, bytes(there), upload_id)
            await writer.close()
        with pytest.raises(UploadUnknownError):
            await store.resume(upload_id, SHA256, Progress(100))
        await store.discard(upload_id)

    async def test_an_upload_has_one_writer(self, store: BlobStore, twin: BlobStore) -> None:
        """The second is told so, and the first goes on unharmed."""
        if Capability.LOCKS_UPLOADS not in store.capabilities:
            pytest.skip("this driver lets writers race; the next test says how")
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        for other in (store, twin):
            with pytest.raises(UploadBusyError):
                await other.resume(upload_id, SHA256, progress)
            with pytest.raises(UploadBusyError):
                await self._begin_and_flush(other, upload_id)
        key = await writer.commit(Digest.of(CONTENT))
        assert await pull(twin, key) == CONTENT

    async def test_writers_that_race_harm_nobody(self, store: BlobStore, twin: BlobStore) -> None:
        """Whoever is recorded is whole, whatever the others write, cancel and discard."""
        if Capability.LOCKS_UPLOADS in store.capabilities:
            pytest.skip("this driver lets no writers race")
        upload_id = new_upload()
        first, progress = await stage(store, CONTENT, upload_id)
        await first.close()
        winner = await store.resume(upload_id, SHA256, progress)
        losers = [await twin.resume(upload_id, SHA256, seen) for seen in (progress, Progress())]
        await winner.append(b"winner")
        for number, loser in enumerate(losers):
            await loser.append(b"loser" * (number + 1))
        recorded = await winner.flush()
        for loser in losers:
            await loser.flush()
            await loser.cancel()
        await winner.recorded()
        await winner.close()
        await twin.discard(upload_id)
        writer = await twin.resume(upload_id, SHA256, recorded)
        key = await writer.commit(Digest.of(CONTENT + b"winner"))
        await writer.recorded()
        assert await pull(store, key) == CONTENT + b"winner"
        assert await committed(store) == {key: len(CONTENT) + 6}

    async def _begin_and_flush(self, store: BlobStore, upload_id: str) -> None:
        """Begin at nothing; a driver may notice only when bytes are written."""
        writer = await store.resume(upload_id, SHA256, Progress())
        try:
            await writer.append(b"intruder")
            await writer.flush()
        finally:
            await writer.close()

    async def test_a_closed_writer_lets_the_next_one_in(
        self, store: BlobStore, twin: BlobStore
    ) -> None:
        """Closing decides nothing about the upload and may be done twice."""
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        await writer.close()
        await writer.close()
        successor = await twin.resume(upload_id, SHA256, progress)
        await writer.close()
        key = await successor.commit(Digest.of(CONTENT))
        await successor.close()
        assert await pull(store, key) == CONTENT

    async def test_progress_lets_another_process_commit(
        self, store: BlobStore, twin: BlobStore
    ) -> None:
        """The recorded digest is enough to commit with no byte more, and a wrong one is refused."""
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        await writer.close()
        successor = await twin.resume(upload_id, SHA256, progress)
        with pytest.raises(DigestInvalidError):
            await successor.commit(Digest.of(b"something else"))
        key = await successor.commit(Digest.of(CONTENT))
        assert await pull(store, key) == CONTENT

    @pytest.mark.parametrize("tail", [b"", b"tail"])
    async def test_commit_without_a_record_reads_the_bytes(
        self, store: BlobStore, twin: BlobStore, tail: bytes
    ) -> None:
        """Where no digest was recorded, whoever commits looks for itself."""
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        await writer.close()
        successor = await twin.resume(upload_id, SHA256, replace(progress, digest=None))
        await successor.append(tail)
        with pytest.raises(DigestInvalidError):
            await successor.commit(Digest.of(CONTENT + b"other"))
        key = await successor.commit(Digest.of(CONTENT + tail))
        assert await pull(store, key) == CONTENT + tail

    @pytest.mark.parametrize("algorithm", list(Algorithm))
    @pytest.mark.parametrize("content", [b"", b"x", CONTENT])
    async def test_every_algorithm_and_size(
        self, store: BlobStore, algorithm: Algorithm, content: bytes
    ) -> None:
        """The empty blob is a blob; sha512 is as good as sha256."""
        key = await push(store, content, algorithm)
        assert await pull(store, key) == content
        assert await store.size(key) == len(content)
        assert await pull(store, key, start=0, stop=len(content)) == content

    async def test_an_empty_blob_without_any_chunk(self, store: BlobStore) -> None:
        """A commit needs no append before it."""
        writer = await store.resume(new_upload(), SHA256, Progress())
        key = await writer.commit(Digest.of(b""))
        assert await pull(store, key) == b""

    async def test_a_large_blob_in_odd_chunks(self, store: BlobStore) -> None:
        """Chunk borders of the client, of the writer and of the disk never coincide."""
        content = os.urandom(5 * (1 << 20) + 17)
        writer = await store.resume(new_upload(), SHA256, Progress())
        position = 0
        for size in _odd_sizes():
            await writer.append(content[position : position + size])
            position += size
            if position >= len(content):
                break
            assert writer.offset == position
        key = await writer.commit(Digest.of(content))
        assert await pull(store, key) == content
        assert await pull(store, key, start=1_000_001, stop=4_000_003) == content[1000001:4000003]

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, 1), (0, None), (5, 5), (7, 70_000), (102_399, None), (102_400, None)],
    )
    async def test_reading_a_part(self, store: BlobStore, start: int, stop: int | None) -> None:
        """`start` is included, `stop` is not."""
        key = await push(store, CONTENT)
        assert await pull(store, key, start=start, stop=stop) == CONTENT[start:stop]

    async def test_reading_more_than_there_is(self, store: BlobStore) -> None:
        """Bytes that should be there and are not are damage, never a short answer."""
        key = await push(store, CONTENT)
        with pytest.raises(ContentDamagedError):
            await pull(store, key, stop=len(CONTENT) + 1)
        await store.delete(key)
        with pytest.raises(ContentDamagedError):
            await pull(store, key)

    async def test_a_reader_may_stop_early(self, store: BlobStore) -> None:
        """A client that goes away leaves nothing open."""
        key = await push(store, os.urandom(3 << 20))
        reader = store.read(key)
        assert len(await anext(reader)) > 0
        await reader.aclose()  # type: ignore[attr-defined]

    async def test_delete_is_idempotent(self, store: BlobStore, twin: BlobStore) -> None:
        """What is deleted is gone for everybody."""
        key = await push(store, CONTENT)
        await store.delete(key)
        await twin.delete(key)
        assert await twin.size(key) is None
        assert await committed(twin) == {}

    async def test_one_content_twice_has_two_keys(self, store: BlobStore, twin: BlobStore) -> None:
        """Bytes that are being deleted and pushed again never meet."""
        first, second = await push(store, CONTENT), await push(twin, CONTENT)
        assert first != second
        await store.delete(first)
        assert await pull(store, second) == CONTENT

    async def test_walks_find_everything(self, store: BlobStore, twin: BlobStore) -> None:
        """Committed objects and staged uploads are found with sizes and times."""
        before = time.time() - 5
        keys = {await push(store, bytes(size)): size for size in (0, 1, 5000)}
        upload_id = new_upload()
        writer, progress = await stage(store, CONTENT, upload_id)
        if Capability.EARLY_KEYS in store.capabilities:
            found = [blob async for blob in twin.walk() if blob.upload_id == upload_id]
            assert [blob.size for blob in found] == [progress.offset]
            assert await committed(twin) == {**keys, found[0].key: progress.offset}
        else:
            assert await committed(twin) == keys
            assert await staged(twin) == {upload_id: progress.offset}
        times = [blob.modified_at async for blob in twin.walk()]
        times += [blob.modified_at async for blob in twin.walk_uploads()]
        assert all(before < found < time.time() + 5 for found in times)
        await writer.cancel()

    async def test_capabilities_are_declared(self, store: BlobStore) -> None:
        """What is declared works, and what is not says so."""
        key = await push(store, CONTENT)
        if Capability.LOCAL_PATH in store.capabilities:
            assert store.path(key).read_bytes() == CONTENT
        else:
            with pytest.raises(UnsupportedError):
                store.path(key)
        path = store.local_path(key)
        assert path is None or path.read_bytes() == CONTENT
        if Capability.REDIRECT in store.capabilities:
            url = await store.redirect_url(key, 60)
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(url, headers={"Range": "bytes=7-99"})
            assert (answer.status_code, answer.content) == (206, CONTENT[7:100])
        else:
            with pytest.raises(UnsupportedError):
                await store.redirect_url(key, 60)

    @pytest.mark.parametrize("size", [0, 10, 20 << 20])
    @pytest.mark.parametrize("kind", ["sha256", "id"])
    async def test_a_key_of_another_driver_is_adopted(
        self, store: BlobStore, twin: BlobStore, kind: str, size: int
    ) -> None:
        """Bytes keep their key when they are copied from store to store, or from twin to twin."""
        content = os.urandom(size)
        digest = Digest.of(content)
        key = f"{kind}/{digest.encoded[:2]}/{digest.encoded}.upload"
        # The digest is in keys of one kind only: with the other, different bytes may follow.
        for expected in (content, content if kind == "sha256" else content[: size // 2]):
            await store.adopt(key, _pieces(expected), len(expected), Digest.of(expected))
            assert await pull(twin, key) == expected
            assert await committed(twin) == {key: len(expected)}

    async def test_a_short_copy_leaves_nothing(self, store: BlobStore) -> None:
        """Content that ends too early is not there at all."""
        with pytest.raises(ContentDamagedError):
            await store.adopt(KEY, _pieces(CONTENT), len(CONTENT) + 1, DIGEST)
        assert await committed(store) == {}
        assert await store.size(KEY) is None

    async def test_a_copy_with_other_bytes_is_not_taken(self, store: BlobStore) -> None:
        """Its size may be right: only its digest says what it is."""
        other = bytes(len(CONTENT))
        with pytest.raises(ContentDamagedError):
            await store.adopt(KEY, _pieces(other), len(other), DIGEST)
        assert await committed(store) == {}

    async def test_check_answers(self, store: BlobStore) -> None:
        """A healthy store says nothing, as often as it is asked, and keeps nothing."""
        await store.check()
        await store.check_room()
        await store.check_by_use()
        await store.check()
        assert await committed(store) == {}

    @pytest.mark.parametrize("delay", [0, 0.0005, 0.002, 0.01])
    async def test_an_interrupted_commit_is_whole_or_nothing(
        self, store: BlobStore, twin: BlobStore, delay: float
    ) -> None:
        """A request that is cancelled while it commits leaves a whole blob, or an upload."""
        upload_id, content = new_upload(), os.urandom(3 << 20)
        writer = await store.resume(upload_id, SHA256, Progress())
        await writer.append(content)
        commit = asyncio.create_task(writer.commit(Digest.of(content)))
        await asyncio.sleep(delay)
        commit.cancel()
        await asyncio.gather(commit, return_exceptions=True)
        await writer.close()
        for key in await committed(twin):
            assert await pull(twin, key) == content
        await store.discard(upload_id)
        assert await pull(twin, await push(twin, content, upload_id=new_upload())) == content


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1_000_003):
        yield content[start : start + 1_000_003]


def _odd_sizes() -> Iterator[int]:
    return itertools.cycle(_ODD_SIZES)
