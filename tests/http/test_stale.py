"""What clients see while no primary answers: old tags that say so, content, and a wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest
from tests.http.client import Client, Repository
from tests.http.conftest import SETTINGS, Connect
from tests.http.targets import InProcess
from tests.support.postgresql import RunningPostgresql

from dtr.database import open_postgresql
from dtr.testing.registry import ALICE, make_registry

pytestmark = [pytest.mark.postgresql, pytest.mark.outage]

WARNING = '110 - "Response is Stale"'
READ_ONLY = "metadata: no primary answers; pulls go on, pushes wait"


@pytest.fixture
def pair() -> Iterator[tuple[RunningPostgresql, RunningPostgresql]]:
    """Give a primary and the standby that its commits wait for."""
    with ExitStack() as stack:
        primary = stack.enter_context(RunningPostgresql(is_durable=True))
        yield primary, stack.enter_context(primary.standby())


@pytest.fixture
async def registry(
    pair: tuple[RunningPostgresql, RunningPostgresql], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[InProcess]:
    """Give a registry whose database is on either."""
    primary, standby = pair
    url = primary.url_of(primary.create_database().rpartition("/")[2], standby)
    database = open_postgresql(url)
    make_registry(database)
    database.close()
    target = InProcess.open(
        tmp_path_factory.mktemp("registry"),
        settings=SETTINGS,
        open_database=lambda: open_postgresql(url, wait_seconds=30, stale_after_seconds=0.5),
    )
    yield target
    await target.close()


async def test_pulls_go_on_without_a_primary_and_pushes_wait_for_one(
    pair: tuple[RunningPostgresql, RunningPostgresql], registry: InProcess, connect: Connect
) -> None:
    """A tag may be old by then, and the answer says so; nothing is refused."""
    primary, standby = pair
    client = connect(registry).login(*ALICE)
    repository = client.new_repository()
    pushed = await repository.push_image("latest", b"layer")
    later = await repository.push_image(None, b"layer", b"more")
    assert await _warnings(repository, pushed.digest) == []
    assert await _health(client) == (200, {"Error": "", "Healthy": True})

    await asyncio.to_thread(primary.kill)
    registry.clock.advance(10)  # what is remembered of accounts is asked again
    # Content by its digest cannot be old, but what a client may pull can.
    assert await _warnings(repository, pushed.digest) == ["tag", "digest", "tags"]
    await asyncio.sleep(1)  # for which a health is remembered
    assert await _health(client) == (200, {"Error": READ_ONLY, "Healthy": True})
    pushing = asyncio.ensure_future(repository.put_manifest(later.payload, "latest"))
    await asyncio.sleep(1)
    assert not pushing.done()

    await asyncio.to_thread(standby.promote)
    assert (await pushing).status_code == 201
    assert await _warnings(repository, later.digest) == []
    await asyncio.sleep(1)
    assert await _health(client) == (200, {"Error": "", "Healthy": True})


async def test_health_answers_in_two_seconds_where_no_database_does(
    pair: tuple[RunningPostgresql, RunningPostgresql], registry: InProcess, connect: Connect
) -> None:
    """After three failures it is 503 and names the metadata; a frozen database is as bad."""
    client = connect(registry).login(*ALICE)
    assert await _health(client) == (200, {"Error": "", "Healthy": True})
    for server in pair:
        server.freeze()
    answers: list[tuple[int, dict[str, object]]] = []
    async with asyncio.timeout(60):
        while not answers or answers[-1][0] == 200:
            await asyncio.sleep(1)
            started = time.monotonic()
            answers.append(await _health(client))
            assert time.monotonic() - started < 2.5
    assert answers[-1] == (503, {"Error": "metadata: no answer", "Healthy": False})
    assert len(answers) >= 3
    for server in pair:
        server.thaw()
    async with asyncio.timeout(60):
        while answers[-1][0] != 200:
            await asyncio.sleep(0.5)
            answers.append(await _health(client))


async def _warnings(repository: Repository, digest: str) -> list[str]:
    """Pull in every way; return which answers say that they may be old."""
    asked = {
        "tag": repository.manifest("latest"),
        "digest": repository.manifest(digest),
        "tags": repository.tags,
    }
    found = []
    for what, path in asked.items():
        answer = await repository.client.get(path)
        assert answer.status_code == 200
        if what == "tag":
            assert answer.headers["docker-content-digest"] == digest
        if answer.headers.get("warning") == WARNING:
            found.append(what)
    return found


async def _health(client: Client) -> tuple[int, dict[str, object]]:
    answer = await client.get("/health")
    return answer.status_code, answer.json()
