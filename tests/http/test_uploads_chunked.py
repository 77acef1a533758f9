"""Uploads in chunks: order, ranges, breaks, and going on elsewhere (distribution-spec end-5)."""

import asyncio
import secrets

import httpx
import pytest
from tests.http.client import Client, Repository, assert_error
from tests.http.targets import Target
from tests.http.test_uploads import pieces, read

from dtr.model.digest import Digest


async def patch(
    client: Client, location: str, content: bytes, start: int | None = None
) -> httpx.Response:
    """Send a chunk, with its Content-Range where it says where it starts."""
    headers = {}
    if start is not None:
        headers["Content-Range"] = f"{start}-{start + len(content) - 1}"
    return await client.patch(location, content=content, headers=headers)


async def offset_after_cut(client: Client, location: str) -> int:
    """Return where an upload is whose request broke off, once the registry has noticed."""
    async with asyncio.timeout(10):
        while True:
            status = await client.get(location)
            assert status.status_code == 204
            end = int(status.headers["Range"].partition("-")[2])
            if end > 0:
                return end + 1
            await asyncio.sleep(0.02)


async def test_chunks_in_order_make_a_blob(repository: Repository) -> None:
    """Each answer says how far the upload is and where to go on."""
    content = secrets.token_bytes(2_400_000)
    client, location = repository.client, await repository.start_upload()
    for start in range(0, len(content), 800_000):
        chunk = content[start : start + 800_000]
        answer = await patch(client, location, chunk, start)
        assert answer.status_code == 202
        assert answer.headers["Range"] == f"0-{start + len(chunk) - 1}"
        location = answer.headers["Location"]
    done = await client.put(location, params={"digest": Digest.of(content)})
    assert done.status_code == 201
    assert await read(repository, Digest.of(content)) == content


async def test_the_last_chunk_may_come_with_the_put(repository: Repository) -> None:
    """With its Content-Range or without."""
    client = repository.client
    for headers in ({}, {"Content-Range": "4-8"}):
        location = (await patch(client, await repository.start_upload(), b"some", 0)).headers[
            "Location"
        ]
        digest = Digest.of(b"some more")
        done = await client.put(
            location, params={"digest": digest}, content=b" more", headers=headers
        )
        assert done.status_code == 201
        assert await read(repository, digest) == b"some more"


async def test_a_stream_without_content_range_is_appended(repository: Repository) -> None:
    """Docker sends one PATCH with the whole blob and neither length nor range."""
    content = secrets.token_bytes(1_700_000)
    location = await repository.start_upload()
    answer = await repository.client.patch(location, content=pieces(content[:1_000_000]))
    assert answer.headers["Range"] == "0-999999"
    answer = await repository.client.patch(
        answer.headers["Location"], content=pieces(content[1_000_000:])
    )
    assert answer.headers["Range"] == "0-1699999"
    done = await repository.client.put(
        answer.headers["Location"], params={"digest": Digest.of(content)}
    )
    assert done.status_code == 201
    assert await read(repository, Digest.of(content)) == content


@pytest.mark.parametrize("start", [1, 4, 6, 100, 2**62])
async def test_a_chunk_out_of_order_is_416_with_the_true_range(
    repository: Repository, start: int
) -> None:
    """A gap, an overlap or a repetition is refused; the answer says where to go on."""
    client, location = repository.client, await repository.start_upload()
    location = (await patch(client, location, b"01234", 0)).headers["Location"]
    for method in ("PATCH", "PUT"):
        answer = await client.request(
            method,
            location,
            content=b"56789",
            headers={"Content-Range": f"{start}-{start + 4}"},
            params={"digest": Digest.of(b"0123456789")} if method == "PUT" else None,
        )
        assert_error(answer, 416, "BLOB_UPLOAD_INVALID")
        assert answer.headers["Range"] == "0-4"
        assert answer.headers["Location"] == location
    assert (await patch(client, location, b"56789", 5)).status_code == 202
    done = await client.put(location, params={"digest": Digest.of(b"0123456789")})
    assert done.status_code == 201


async def test_the_first_chunk_begins_at_zero(repository: Repository) -> None:
    """A first chunk elsewhere is out of order."""
    location = await repository.start_upload()
    answer = await patch(repository.client, location, b"x", 1)
    assert_error(answer, 416, "BLOB_UPLOAD_INVALID")


@pytest.mark.parametrize("text", ["x", "5", "-", "4-0", "0-", "0-4-5", "bytes */*"])
async def test_a_content_range_that_is_none_is_refused(repository: Repository, text: str) -> None:
    """400, and the session goes on."""
    location = await repository.start_upload()
    answer = await repository.client.patch(
        location, content=b"01234", headers={"Content-Range": text}
    )
    assert_error(answer, 400, "BLOB_UPLOAD_INVALID")
    assert (await patch(repository.client, location, b"01234", 0)).status_code == 202


@pytest.mark.parametrize("last", [3, 5, 100])
async def test_a_chunk_that_is_not_as_long_as_announced_is_not_taken(
    repository: Repository, last: int
) -> None:
    """Content-Range and body must agree; what disagrees leaves the upload as it was."""
    client, location = repository.client, await repository.start_upload()
    answer = await client.patch(location, content=b"01234", headers={"Content-Range": f"0-{last}"})
    assert_error(answer, 400, "SIZE_INVALID")
    assert (await patch(client, location, b"other", 0)).status_code == 202
    done = await client.put(location, params={"digest": Digest.of(b"other")})
    assert done.status_code == 201


async def test_status_tells_where_the_upload_is(repository: Repository) -> None:
    """GET of the session answers 204 with Location and Range (end-13)."""
    client, location = repository.client, await repository.start_upload()
    before = await client.get(location)
    assert (before.status_code, before.headers["Range"]) == (204, "0-0")
    await patch(client, location, b"01234", 0)
    after = await client.get(location)
    assert (after.status_code, after.headers["Range"]) == (204, "0-4")
    assert after.headers["Location"] == location
    assert after.content == b""


async def test_a_cancelled_upload_is_gone(repository: Repository) -> None:
    """DELETE of the session answers 204; what follows is 404 (end-14)."""
    client, location = repository.client, await repository.start_upload()
    await patch(client, location, b"01234", 0)
    assert (await client.delete(location)).status_code == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = await client.request(
            method,
            location,
            params={"digest": Digest.of(b"01234")} if method == "PUT" else None,
        )
        assert_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")
    assert await read(repository, Digest.of(b"01234")) is None


async def test_a_finished_session_is_gone(repository: Repository) -> None:
    """A session ends with its PUT, and can neither be used nor cancelled afterwards."""
    client, location = repository.client, await repository.start_upload()
    digest = Digest.of(b"01234")
    done = await client.put(location, params={"digest": digest}, content=b"01234")
    assert done.status_code == 201
    assert_error(await client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_error(await client.delete(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert await read(repository, digest) == b"01234"


async def test_an_upload_goes_on_after_a_broken_patch(
    target: Target, repository: Repository
) -> None:
    """What arrived before the connection broke is kept, and the client may ask how much it was."""
    content = secrets.token_bytes(600_000)
    client, location = repository.client, await repository.start_upload()
    await target.cut("PATCH", location, client.authorization, content[:400_000])
    offset = await offset_after_cut(client, location)
    assert offset == 400_000
    answer = await patch(client, location, content[offset:], offset)
    done = await client.put(answer.headers["Location"], params={"digest": Digest.of(content)})
    assert done.status_code == 201
    assert await read(repository, Digest.of(content)) == content


async def test_an_upload_goes_on_after_a_broken_put(target: Target, repository: Repository) -> None:
    """A PUT that broke has committed nothing and lost nothing."""
    content = secrets.token_bytes(300_000)
    digest = Digest.of(content)
    client, location = repository.client, await repository.start_upload()
    await target.cut("PUT", f"{location}?digest={digest}", client.authorization, content[:100_000])
    offset = await offset_after_cut(client, location)
    assert offset == 100_000
    assert await read(repository, digest) is None
    done = await client.put(location, params={"digest": digest}, content=content[offset:])
    assert done.status_code == 201
    assert await read(repository, digest) == content


async def test_requests_of_one_upload_may_go_to_different_processes(
    target: Target, repository: Repository
) -> None:
    """POST, PATCH and PUT meet whichever process is there; the digest is right all the same."""
    content = secrets.token_bytes(1_200_000)
    client, location = repository.client, await repository.start_upload()
    processes = set()
    for start in range(0, len(content), 100_000):
        answer = await patch(client, location, content[start : start + 100_000], start)
        assert answer.status_code == 202
        processes.add(answer.headers["X-Request-Id"][:8])
        location = answer.headers["Location"]
    done = await client.put(location, params={"digest": Digest.of(content)})
    assert done.status_code == 201
    assert await read(repository, Digest.of(content)) == content
    assert (len(processes) > 1) is (target.processes > 1), "all met one process: nothing is proved"


async def test_an_expired_session_is_unknown(target: Target, repository: Repository) -> None:
    """Nobody continued it for a day; each chunk gives it a day anew."""
    client, location = repository.client, await repository.start_upload()
    await patch(client, location, b"0123", 0)
    await target.wait(80_000)
    await patch(client, location, b"4", 4)
    await target.wait(80_000)
    assert (await client.get(location)).status_code == 204
    await target.wait(86_401)
    assert_error(await client.get(location), 404, "BLOB_UPLOAD_UNKNOWN")
    assert_error(await patch(client, location, b"5", 5), 404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_last_chunk_of_another_length_costs_nothing(repository: Repository) -> None:
    """Content-Range and body differ: the chunk is refused, the upload stays where it was."""
    client, location = repository.client, await repository.start_upload()
    assert (await patch(client, location, b"01234", 0)).status_code == 202
    answer = await client.put(
        location,
        params={"digest": Digest.of(b"0123456789")},
        content=b"567",
        headers={"Content-Range": "5-9"},
    )
    assert answer.status_code == 400
    status = await client.get(location)
    assert status.headers["Range"] == "0-4"
    assert (await patch(client, location, b"56789", 5)).status_code == 202
    done = await client.put(location, params={"digest": Digest.of(b"0123456789")})
    assert done.status_code == 201
