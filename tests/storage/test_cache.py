"""The cache of blobs on the local disk."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dtr.model.digest import Algorithm, Digest
from dtr.storage.cache import BlobCache


async def chunks(content: bytes, pause: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """Stream in pieces, after the event where one is given."""
    for start in range(0, len(content), 1000):
        yield content[start : start + 1000]
        if pause is not None:
            await pause.wait()


async def pull(cache: BlobCache, digest: Digest, content: bytes) -> bytes:
    """Pull through the cache as a miss does."""
    stream = cache.filled_by(digest, len(content), chunks(content))
    return b"".join([chunk async for chunk in stream])


def age(path: Path, seconds: float) -> None:
    """Let a file look as if nobody had used it for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(directory: Path) -> set[str]:
    """Name every file but the lock."""
    return {path.name for path in directory.glob("*/*")}


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_the_first_pull_fills_and_the_next_is_a_file(
    tmp_path: Path, algorithm: Algorithm, size: int
) -> None:
    """Another process sees it as well, also after a restart; both are counted."""
    seen: list[bool] = []
    cache = BlobCache(tmp_path, 1 << 20, observe=seen.append)
    content = os.urandom(size)
    digest = Digest.of(content, algorithm)
    assert cache.find(digest, size) is None
    assert await pull(cache, digest, content) == content
    await cache.close()
    other = BlobCache(tmp_path, 1 << 20, observe=seen.append)
    found = other.find(digest, size)
    assert found is not None
    assert found.read_bytes() == content
    part = [chunk async for chunk in other.read(found, size // 3, size // 2)]
    assert b"".join(part) == content[size // 3 : size // 2]
    assert other.find(digest, size + 1) is None
    assert seen == [False, True, False]
    await other.close()


async def test_content_with_another_digest_is_passed_on_and_not_kept(tmp_path: Path) -> None:
    """Damage in storage is not made to last."""
    cache = BlobCache(tmp_path, 1 << 20)
    content = b"x" * 5000
    assert await pull(cache, Digest.of(b"other"), content) == content
    assert names(tmp_path) == set()
    await cache.close()


async def test_a_pull_that_breaks_off_keeps_nothing(tmp_path: Path) -> None:
    """Neither the part that came, nor a file descriptor; the next pull fills again."""
    cache = BlobCache(tmp_path, 1 << 20)
    content = os.urandom(5000)
    digest = Digest.of(content)
    stream = cache.filled_by(digest, 5000, chunks(content))
    assert await anext(stream) == content[:1000]
    await stream.aclose()  # type: ignore[attr-defined]
    assert names(tmp_path) == set()
    await pull(cache, digest, content)
    assert cache.find(digest, 5000) is not None
    await cache.close()


async def test_what_was_used_longest_ago_makes_room(tmp_path: Path) -> None:
    """The limit counts bytes; a hit keeps a file."""
    cache = BlobCache(tmp_path, 25_000)
    contents = [os.urandom(10_000) for _ in range(3)]
    digests = [Digest.of(content) for content in contents]
    for content, digest in zip(contents[:2], digests[:2], strict=True):
        await pull(cache, digest, content)
        found = cache.find(digest, 10_000)
        assert found is not None
        age(found, 500)
    assert cache.find(digests[0], 10_000) is not None
    await pull(cache, digests[2], contents[2])
    kept = [cache.find(digest, 10_000) is not None for digest in digests]
    assert kept == [True, False, True]
    await cache.close()


async def test_a_blob_larger_than_the_cache_empties_nothing(tmp_path: Path) -> None:
    """It is passed on, and the others stay."""
    cache = BlobCache(tmp_path, 20_000)
    small, large = os.urandom(10_000), os.urandom(20_001)
    await pull(cache, Digest.of(small), small)
    assert await pull(cache, Digest.of(large), large) == large
    assert cache.find(Digest.of(small), len(small)) is not None
    assert cache.find(Digest.of(large), len(large)) is None
    await cache.close()


async def test_two_pulls_at_once_fill_once(tmp_path: Path) -> None:
    """The second is served and does not write the same again."""
    cache = BlobCache(tmp_path, 1 << 20)
    content, go = os.urandom(5000), asyncio.Event()
    digest = Digest.of(content)
    first = cache.filled_by(digest, 5000, chunks(content, go))
    taken = await anext(first)
    assert await pull(cache, digest, content) == content
    assert len(list((tmp_path / "partial").iterdir())) <= 1
    go.set()
    assert taken + b"".join([chunk async for chunk in first]) == content
    assert len(names(tmp_path)) == 1
    await cache.close()


async def test_two_processes_that_fill_the_same_do_no_harm(tmp_path: Path) -> None:
    """Each writes a file of its own; what appears is whole whoever is last."""
    caches = [BlobCache(tmp_path, 1 << 20) for _ in range(4)]
    content = os.urandom(200_000)
    digest = Digest.of(content)
    await asyncio.gather(*(pull(cache, digest, content) for cache in caches))
    for cache in caches:
        found = cache.find(digest, len(content))
        assert found is not None
        assert found.read_bytes() == content
        await cache.close()
    assert len(names(tmp_path)) == 1


async def test_a_full_disk_only_stops_filling(tmp_path: Path) -> None:
    """The pull goes on, and the room that is reserved stays free."""
    cache = BlobCache(tmp_path, 1 << 20, reserve_bytes=1 << 60)
    content = os.urandom(50_000)
    assert await pull(cache, Digest.of(content), content) == content
    assert names(tmp_path) == set()
    await cache.close()


async def test_what_a_dead_process_was_filling_is_cleared(tmp_path: Path) -> None:
    """After an hour, by whoever makes room next."""
    cache = BlobCache(tmp_path, 1 << 20)
    for name, seconds in (("dead", 4000.0), ("busy", 10.0)):
        path = tmp_path / "partial" / name
        path.write_bytes(b"half")
        age(path, seconds)
    content = os.urandom(100)
    await pull(cache, Digest.of(content), content)
    assert {path.name for path in (tmp_path / "partial").iterdir()} == {"busy"}
    await cache.close()
