"""Requests that meet on one upload: whatever happens, a digest never names other bytes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.http.client import Client, Repository
from tests.http.targets import InProcess

from dtr.model.digest import Digest
from dtr.testing.registry import ADMIN

FIRST, SECOND = b"first" * 20, b"other" * 20


class Meeting:
    """Two processes of one registry, and a repository as each of them shows it."""

    def __init__(self, target: InProcess, clients: list[httpx.AsyncClient]) -> None:
        self.target = target
        self.repositories = [
            Repository(Client(http).login(*ADMIN), "admin/races") for http in clients
        ]

    async def stored(self, digest: Digest) -> bytes | None:
        """Return what is pulled under a digest."""
        repository = self.repositories[0]
        answer = await repository.client.get(repository.blob(digest))
        return answer.content if answer.status_code == 200 else None


@pytest.fixture
async def meeting(tmp_path: Path) -> AsyncIterator[Meeting]:
    """Give two applications on one directory."""
    target = InProcess.open_files(tmp_path)
    clients = [
        httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=target.url)
        for application in target.applications
    ]
    yield Meeting(target, clients)
    for client in clients:
        await client.aclose()
    await target.close()


class Halting:
    """A body whose second half waits to be let go."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.is_under_way = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        half = len(self._content) // 2
        yield self._content[:half]
        self.is_under_way.set()
        await self.go_on.wait()
        yield self._content[half:]


@pytest.mark.parametrize("slow", [0, 1])
@pytest.mark.parametrize("finisher", [0, 1])
@pytest.mark.parametrize("length", [100, 60])
async def test_a_second_first_chunk_is_kept_off_until_the_first_is_here(
    meeting: Meeting, slow: int, finisher: int, length: int
) -> None:
    """Two first chunks, the slower of which began before: one is taken, and it alone.

    Both taken, the bytes of one were put under the digest of the other, for everybody to pull.
    """
    late, quick = meeting.repositories[slow], meeting.repositories[1 - slow]
    location, content = await quick.start_upload(), FIRST[:length]
    body = Halting(content)
    slow_patch = asyncio.create_task(late.client.patch(location, content=aiter(body)))
    await body.is_under_way.wait()
    assert (await quick.client.patch(location, content=SECOND)).status_code == 409
    body.go_on.set()
    assert (await slow_patch).status_code == 202

    client = meeting.repositories[finisher].client
    answer = await client.put(location, params={"digest": Digest.of(content)})
    assert answer.status_code == 201
    assert await meeting.stored(Digest.of(content)) == content
    assert await meeting.stored(Digest.of(SECOND)) is None


@pytest.mark.parametrize("slow", [0, 1])
async def test_an_upload_is_not_finished_under_a_chunk_on_its_way(
    meeting: Meeting, slow: int
) -> None:
    """Who would finish it is told to come back, and can once the chunk is here."""
    late, quick = meeting.repositories[slow], meeting.repositories[1 - slow]
    location, digest = await quick.start_upload(), Digest.of(FIRST)
    body = Halting(FIRST)
    slow_patch = asyncio.create_task(late.client.patch(location, content=aiter(body)))
    await body.is_under_way.wait()
    answer = await quick.client.put(location, params={"digest": digest}, content=SECOND)
    assert answer.status_code == 409
    assert answer.headers["Retry-After"] == "1"
    body.go_on.set()
    assert (await slow_patch).status_code == 202
    assert (await quick.client.put(location, params={"digest": digest})).status_code == 201
    assert await meeting.stored(digest) == FIRST


async def test_two_ends_of_one_upload_are_one(meeting: Meeting) -> None:
    """A client that lost its answer asks again elsewhere, while the first is at work."""
    one, two = meeting.repositories
    location, digest = await one.start_upload(), Digest.of(SECOND)
    answers = await asyncio.gather(
        *(
            repository.client.put(location, params={"digest": digest}, content=SECOND)
            for repository in (one, two, one, two)
        )
    )
    statuses = {answer.status_code for answer in answers}
    assert 201 in statuses
    assert statuses <= {201, 404, 409}
    assert await meeting.stored(digest) == SECOND


async def test_many_push_one_blob_and_one_tag(meeting: Meeting) -> None:
    """All succeed, the bytes are kept once, and the tag is on one of the manifests."""
    pushes = [
        meeting.repositories[number % 2].push_image("latest", b"the same layer" * 1000)
        for number in range(24)
    ]
    images = await asyncio.gather(*pushes)
    repository = meeting.repositories[0]
    found = await repository.client.get(repository.manifest("latest"))
    assert found.content in {image.payload for image in images}
    for image in images:
        assert await meeting.stored(image.layers[0]) == b"the same layer" * 1000
        answer = await repository.client.get(repository.manifest(image.digest))
        assert answer.content == image.payload


async def test_the_same_manifest_at_once(meeting: Meeting) -> None:
    """The second of two equal pushes finds what the first made."""
    one, two = meeting.repositories
    image = await one.push_image("first")
    await asyncio.gather(
        *(
            repository.push_manifest(image.payload, f"t{number}")
            for number in range(20)
            for repository in (one, two)
        )
    )
    answer = await one.client.get(one.tags)
    assert len(answer.json()["tags"]) == 21
