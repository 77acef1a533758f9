"""Pulls from storage that is far away: by redirect, through the registry, from a local cache."""

import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.http.client import Client, Repository
from tests.support.seaweed import RunningS3

from dtr.model.digest import Digest
from dtr.server.app import build_application
from dtr.server.drivers import Drivers
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.storage import BlobCache, BlobStore, open_blob_store
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import ALICE, BOB, open_state

CONTENT = os.urandom(300_000)
DIGEST = Digest.of(CONTENT)

Open = Callable[..., Awaitable[Repository]]


@pytest.fixture
async def open_repository(tmp_path: Path) -> AsyncIterator[Open]:
    """Give a way to make a registry on some storage that has `CONTENT` in it."""
    async with AsyncExitStack() as opened:

        async def open_one(
            store: BlobStore,
            *,
            cache: BlobCache | None = None,
            settings: dict[str, object] | None = None,
        ) -> Repository:
            state = open_state(tmp_path, store=store)
            drivers = Drivers(state.database, state.store, cache)
            parsed = Settings.model_validate({"log": {"access": False}, "storage": settings or {}})
            application = build_application(parsed, drivers, Metrics(), clock=state.clock)
            opened.push_async_callback(application.close)
            transport = httpx.ASGITransport(application)
            http = httpx.AsyncClient(transport=transport, base_url="http://registry.test")
            repository = Client(await opened.enter_async_context(http)).login(*ALICE)
            found = repository.repository("alice/far")
            assert await found.push_blob(CONTENT) == DIGEST
            return found

        yield open_one


class CountingStore(MemoryBlobStore):
    """Memory that is far away: every read of it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Count, and read."""
        self.reads += 1
        return super().read(key, start=start, stop=stop)


async def test_the_second_pull_comes_from_the_disk(tmp_path: Path, open_repository: Open) -> None:
    """Whole and in part; the store is asked once, and both are counted."""
    seen: list[bool] = []
    store = CountingStore()
    cache = BlobCache(tmp_path / "cache", 1 << 30, observe=seen.append)
    repository = await open_repository(store, cache=cache)
    for _ in range(3):
        answer = await repository.client.get(repository.blob(DIGEST))
        assert answer.status_code == 200
        assert answer.content == CONTENT
    part = await repository.client.get(repository.blob(DIGEST), headers={"Range": "bytes=9-99"})
    assert (part.status_code, part.content) == (206, CONTENT[9:100])
    assert part.headers["Content-Range"] == f"bytes 9-99/{len(CONTENT)}"
    assert store.reads == 1
    assert seen == [False, True, True, True]


async def test_a_range_of_what_is_not_cached_passes_through(
    tmp_path: Path, open_repository: Open
) -> None:
    """A part cannot be verified, so it is not kept."""
    store = CountingStore()
    repository = await open_repository(store, cache=BlobCache(tmp_path / "cache", 1 << 30))
    for count in (1, 2):
        answer = await repository.client.get(repository.blob(DIGEST), headers={"Range": "bytes=-5"})
        assert (answer.status_code, answer.content) == (206, CONTENT[-5:])
        assert store.reads == count


async def test_ranges_that_lie_close_are_read_at_once(
    tmp_path: Path, open_repository: Open
) -> None:
    """From the store; from the cache, where the blob is there, without the store."""
    store = CountingStore()
    cache = BlobCache(tmp_path / "cache", 1 << 30)
    repository = await open_repository(store, cache=cache)
    path, ranges = repository.blob(DIGEST), {"Range": "bytes=0-99,1000-1099,200000-200099"}
    for reads in (2, 3, 3):
        answer = await repository.client.get(path, headers=ranges)
        assert answer.status_code == 206
        for start in (0, 1000, 200000):
            assert CONTENT[start : start + 100] in answer.content
        assert len(answer.content) < 1000
        if reads == 2:
            assert store.reads == 2
            assert (await repository.client.get(path)).content == CONTENT
    assert store.reads == 3


async def test_what_leaves_the_cache_meanwhile_comes_from_the_store(
    tmp_path: Path, open_repository: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was found and is then cleared away fails no request."""
    cache = BlobCache(tmp_path / "cache", 1 << 30)
    repository = await open_repository(CountingStore(), cache=cache)
    monkeypatch.setattr(cache, "find", lambda *_: tmp_path / "cleared away")
    answer = await repository.client.get(repository.blob(DIGEST), headers={"Range": "bytes=9-99"})
    assert (answer.status_code, answer.content) == (206, CONTENT[9:100])


async def test_the_cache_lets_nobody_in(tmp_path: Path, open_repository: Open) -> None:
    """Whoever may not pull a blob may not pull it from the cache either, nor when it is deleted."""
    repository = await open_repository(
        CountingStore(), cache=BlobCache(tmp_path / "cache", 1 << 30)
    )
    client, path = repository.client, repository.blob(DIGEST)
    assert (await client.get(path)).status_code == 200
    assert (await client.login(*BOB).get(path)).status_code in {403, 404}
    assert (await client.delete(path)).status_code == 202
    assert (await client.get(path)).status_code == 404


@pytest.mark.s3
class TestRedirects:
    """Clients are sent to the object store with a signed URL."""

    @pytest.fixture
    async def repository(self, s3: RunningS3, tmp_path: Path, open_repository: Open) -> Repository:
        """Give a registry that redirects."""
        url = s3.url_of(f"redirect/{uuid.uuid4().hex}")
        settings = {"url": url, "redirect": True}
        return await open_repository(open_blob_store(url, tmp_path), settings=settings)

    async def test_a_client_that_follows_gets_the_bytes(self, repository: Repository) -> None:
        """Whole, and in part: the range goes with the client."""
        answer = await repository.client.get(repository.blob(DIGEST))
        assert answer.status_code == 307
        assert answer.headers["Docker-Content-Digest"] == DIGEST
        assert "no-store" in answer.headers["Cache-Control"]
        assert answer.content == b""
        async with httpx.AsyncClient(trust_env=False) as elsewhere:
            whole = await elsewhere.get(answer.headers["Location"])
            part = await elsewhere.get(
                answer.headers["Location"], headers={"Range": "bytes=100-199"}
            )
        assert (whole.status_code, whole.content) == (200, CONTENT)
        assert (part.status_code, part.content) == (206, CONTENT[100:200])

    async def test_several_ranges_are_answered_here(self, repository: Repository) -> None:
        """Object storage answers one at a time, and the client would get the whole."""
        path = repository.blob(DIGEST)
        answer = await repository.client.get(path, headers={"Range": "bytes=0-99,-100"})
        assert answer.status_code == 206
        assert answer.headers["Content-Type"].startswith("multipart/byteranges")
        assert CONTENT[:100] in answer.content
        assert CONTENT[-100:] in answer.content
        one = await repository.client.get(path, headers={"Range": "bytes=0-99"})
        assert one.status_code == 307

    async def test_what_needs_no_bytes_is_answered_here(self, repository: Repository) -> None:
        """HEAD, what the client has already, and ranges that cannot be."""
        path = repository.blob(DIGEST)
        head = await repository.client.head(path)
        assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(CONTENT)))
        condition = {"If-None-Match": f'"{DIGEST}"'}
        assert (await repository.client.get(path, headers=condition)).status_code == 304
        beyond = await repository.client.get(path, headers={"Range": "bytes=300000-"})
        assert beyond.status_code == 416

    async def test_only_who_may_pull_is_sent(self, repository: Repository) -> None:
        """The URL is a key of its own, so nobody else is given one."""
        stranger = repository.client.login(*BOB)
        answer = await stranger.get(repository.blob(DIGEST))
        assert answer.status_code in {403, 404}
        assert "Location" not in answer.headers

    async def test_the_url_is_good_for_this_blob_only_and_ends(
        self, repository: Repository
    ) -> None:
        """A changed one is refused, and it carries when it expires: within minutes."""
        answer = await repository.client.get(repository.blob(DIGEST))
        url = httpx.URL(answer.headers["Location"])
        assert int(url.params["X-Amz-Expires"]) <= 300
        signed_at = time.strptime(url.params["X-Amz-Date"], "%Y%m%dT%H%M%SZ")
        assert abs(time.mktime(signed_at) - time.mktime(time.gmtime())) < 60
        other = url.copy_with(path=f"{url.path[:-1]}{'0' if url.path[-1] != '0' else '1'}")
        async with httpx.AsyncClient(trust_env=False) as elsewhere:
            assert (await elsewhere.get(other)).status_code == 403


@pytest.mark.parametrize(
    "settings",
    [
        {"redirect": True},
        {"redirect": True, "url": "file:///srv/blobs"},
        {"cache_bytes": 1 << 30},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object]) -> None:
    """Clients cannot reach a directory, and a disk needs no copy of itself."""
    with pytest.raises(ValueError, match="needs"):
        Settings.model_validate({"storage": settings})
