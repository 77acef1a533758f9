"""Uploads of whole blobs and what becomes of them (distribution-spec end-4, end-6)."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.http.client import Client, Repository, assert_error

from dtr.model.digest import Algorithm, Digest


async def pieces(content: bytes, size: int = 70_000) -> AsyncIterator[bytes]:
    """Yield a body in pieces, so that it is sent without a Content-Length."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def read(repository: Repository, digest: Digest) -> bytes | None:
    """Return a blob, or None where there is none."""
    answer = await repository.client.get(repository.blob(digest))
    return answer.content if answer.status_code == 200 else None


async def test_post_then_put_makes_a_blob(repository: Repository) -> None:
    """The two requests that every client knows (end-4a, end-6)."""
    content = secrets.token_bytes(2_500_000)
    digest = Digest.of(content)
    client = repository.client
    started = await client.post(repository.uploads)
    assert started.status_code == 202
    assert started.headers["Range"] == "0-0"
    assert started.headers["Docker-Upload-UUID"] in started.headers["Location"]
    done = await client.put(started.headers["Location"], params={"digest": digest}, content=content)
    assert done.status_code == 201
    assert done.headers["Location"] == repository.blob(digest)
    assert done.headers["Docker-Content-Digest"] == digest
    assert await read(repository, digest) == content


async def test_one_post_with_a_body_makes_a_blob(repository: Repository) -> None:
    """The single request (end-4b)."""
    content = secrets.token_bytes(50_000)
    digest = Digest.of(content)
    done = await repository.client.post(
        repository.uploads, params={"digest": digest}, content=content
    )
    assert done.status_code == 201
    assert done.headers["Location"] == repository.blob(digest)
    assert await read(repository, digest) == content


async def test_a_body_without_a_length_is_taken_as_it_comes(repository: Repository) -> None:
    """Chunked transfer coding works in POST and in PUT."""
    content = secrets.token_bytes(1_500_000)
    digest = Digest.of(content)
    location = await repository.start_upload()
    done = await repository.client.put(location, params={"digest": digest}, content=pieces(content))
    assert done.status_code == 201
    other = content[::-1]
    done = await repository.client.post(
        repository.uploads, params={"digest": Digest.of(other)}, content=pieces(other)
    )
    assert done.status_code == 201
    assert await read(repository, digest) == content
    assert await read(repository, Digest.of(other)) == other


async def test_uploads_begin_with_and_without_the_last_slash(repository: Repository) -> None:
    """Some clients leave the slash out."""
    answer = await repository.client.post(repository.uploads.rstrip("/"))
    assert answer.status_code == 202


@pytest.mark.parametrize("way", ["post", "put", "patch"])
async def test_the_empty_blob_is_a_blob(repository: Repository, way: str) -> None:
    """Nothing at all has a digest, too."""
    digest, client = Digest.of(b""), repository.client
    if way == "post":
        done = await client.post(repository.uploads, params={"digest": digest})
    else:
        location = await repository.start_upload()
        if way == "patch":
            location = (await client.patch(location, content=b"")).headers["Location"]
        done = await client.put(location, params={"digest": digest})
    assert done.status_code == 201
    answer = await client.get(repository.blob(digest))
    assert answer.status_code == 200
    assert answer.content == b""
    assert answer.headers["Content-Length"] == "0"


@pytest.mark.parametrize("way", ["post", "put", "patch"])
async def test_a_wrong_digest_leaves_nothing_readable(repository: Repository, way: str) -> None:
    """Neither the digest that was claimed nor that of the bytes is there afterwards."""
    content = secrets.token_bytes(2_000_000)
    claimed, true = Digest.of(b"something else"), Digest.of(content)
    client = repository.client
    if way == "post":
        answer = await client.post(repository.uploads, params={"digest": claimed}, content=content)
    else:
        location, rest = await repository.start_upload(), content
        if way == "patch":
            location = (await client.patch(location, content=content)).headers["Location"]
            rest = b""
        answer = await client.put(location, params={"digest": claimed}, content=rest)
        assert_error(await client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_error(answer, 400, "DIGEST_INVALID")
    assert await read(repository, claimed) is None
    assert await read(repository, true) is None


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:abc",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha384:" + "0" * 96,
        "SHA256:" + "0" * 64,
        "sha256:" + "A" * 64,
        "sha512:" + "0" * 64,
        "sha256:" + "0" * 64 + "\n",
    ],
)
async def test_a_digest_that_is_not_canonical_is_refused(
    repository: Repository, digest: str
) -> None:
    """Unknown algorithms, wrong lengths and upper case are 400 wherever a blob may be pushed."""
    client = repository.client
    answer = await client.post(repository.uploads, params={"digest": digest}, content=b"x")
    assert_error(answer, 400, "DIGEST_INVALID")
    location = await repository.start_upload()
    answer = await client.put(location, params={"digest": digest}, content=b"x")
    assert_error(answer, 400, "DIGEST_INVALID")


async def test_a_put_without_a_digest_is_refused_and_may_be_tried_again(
    repository: Repository,
) -> None:
    """The session survives a PUT that says no digest."""
    location = await repository.start_upload()
    assert_error(await repository.client.put(location, content=b"x"), 400, "DIGEST_INVALID")
    done = await repository.client.put(location, params={"digest": Digest.of(b"x")}, content=b"x")
    assert done.status_code == 201


@pytest.mark.parametrize("is_declared", [True, False])
async def test_sha512_may_be_declared_early_or_late(
    repository: Repository, *, is_declared: bool
) -> None:
    """With `digest-algorithm` the bytes are hashed as they come; without, they are read again."""
    content = secrets.token_bytes(1_300_000)
    digest = Digest.of(content, Algorithm.SHA512)
    parameters = {"digest-algorithm": "sha512"} if is_declared else {}
    location = await repository.start_upload(**parameters)
    patched = await repository.client.patch(location, content=content[:700_000])
    done = await repository.client.put(
        patched.headers["Location"], params={"digest": digest}, content=content[700_000:]
    )
    assert done.status_code == 201
    assert done.headers["Docker-Content-Digest"] == digest
    assert await read(repository, digest) == content
    assert await read(repository, Digest.of(content)) is None


async def test_a_session_declared_as_sha512_may_end_as_sha256(repository: Repository) -> None:
    """What was declared is a hint; the digest of the PUT decides."""
    location = await repository.start_upload(**{"digest-algorithm": "sha512"})
    patched = await repository.client.patch(location, content=b"some bytes")
    digest = Digest.of(b"some bytes")
    done = await repository.client.put(patched.headers["Location"], params={"digest": digest})
    assert done.status_code == 201
    assert await read(repository, digest) == b"some bytes"


async def test_an_unknown_algorithm_is_refused_at_the_start(repository: Repository) -> None:
    """Better than after a gigabyte."""
    answer = await repository.client.post(repository.uploads, params={"digest-algorithm": "sha1"})
    assert_error(answer, 400, "DIGEST_INVALID")


async def test_the_same_content_may_be_pushed_again(alice: Client) -> None:
    """Into the same repository and into another, it is one blob and every push succeeds."""
    content = secrets.token_bytes(300_000)
    one, other = alice.new_repository(), alice.new_repository()
    for repository in (one, one, other):
        digest = await repository.push_blob(content)
        assert await read(repository, digest) == content


async def test_the_same_content_may_be_pushed_by_many_at_once(repository: Repository) -> None:
    """Whoever is second finds the blob there, and is told that it was created."""
    content = secrets.token_bytes(400_000)
    digests = await asyncio.gather(*(repository.push_blob(content) for _ in range(8)))
    assert set(digests) == {Digest.of(content)}
    assert await read(repository, digests[0]) == content


async def test_nothing_is_readable_before_the_commit(repository: Repository) -> None:
    """Bytes that were sent with PATCH are private to their session (design 5.1)."""
    content = secrets.token_bytes(100_000)
    location = await repository.start_upload()
    patched = await repository.client.patch(location, content=content)
    assert await read(repository, Digest.of(content)) is None
    await repository.client.put(patched.headers["Location"], params={"digest": Digest.of(content)})
    assert await read(repository, Digest.of(content)) == content
