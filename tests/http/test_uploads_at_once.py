"""Several writers of one upload: no byte that was acknowledged is lost (design 5.1, 5.2, 5.5)."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.http.client import Repository
from tests.http.test_uploads import pieces, read
from tests.http.test_uploads_chunked import patch

from dtr.model.digest import Digest


async def test_two_writers_at_once_never_mix_their_bytes(repository: Repository) -> None:
    """One of them is told to wait or that its range is wrong; what commits has its digest."""
    contents = [secrets.token_bytes(3_000_000), secrets.token_bytes(2_000_000)]
    client, location = repository.client, await repository.start_upload()
    answers = await asyncio.gather(
        *(client.patch(location, content=pieces(content, 1 << 18)) for content in contents)
    )
    taken = [i for i, answer in enumerate(answers) if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code != 202]
    for answer in refused:
        assert answer.status_code in {404, 409, 416}, answer.text
    status = await client.get(location)
    assert status.status_code == 204
    size = int(status.headers["Range"].partition("-")[2]) + 1
    # One that began when the other was done went on from there: its answer says so.
    taken.sort(key=lambda i: int(answers[i].headers["Range"].partition("-")[2]))
    content = b"".join(contents[i] for i in taken)
    assert len(content) == size
    done = await client.put(location, params={"digest": Digest.of(content)})
    assert done.status_code == 201
    assert await read(repository, Digest.of(content)) == content


@pytest.mark.parametrize("size", [5, 10, 20])
async def test_a_late_writer_takes_nothing_away(repository: Repository, size: int) -> None:
    """A PATCH that began before another was acknowledged must not undo that one's bytes."""
    client, location = repository.client, await repository.start_upload()
    has_begun, first_is_done = asyncio.Event(), asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"L" * (size - 1)
        has_begun.set()
        await first_is_done.wait()
        yield b"L"

    second = asyncio.create_task(client.patch(location, content=late()))
    await has_begun.wait()
    first = await patch(client, location, b"0123456789", 0)
    first_is_done.set()
    answers = first, await second
    assert first.status_code == 202 or answers[1].status_code == 202
    # The bytes of the late one may still have been on their way when the first was done: then it
    # did not begin before, and went on from there.
    parts = (b"0123456789", b"L" * size)
    acknowledged = b"".join(
        part for part, answer in zip(parts, answers, strict=True) if answer.status_code == 202
    )
    if len(acknowledged) > len(max(parts, key=len)):
        assert answers[1].headers["Range"] == f"0-{len(acknowledged) - 1}"
    digest = Digest.of(acknowledged)
    done = await client.put(location, params={"digest": digest})
    assert done.status_code == 201
    assert await read(repository, digest) == acknowledged
