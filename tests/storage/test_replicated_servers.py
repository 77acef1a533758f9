"""Three real servers with blobs on their own disks: one is killed while clients push and pull."""

import asyncio
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.processes import wait_until
from tests.support.replicas import Replicas
from tests.support.server import RunningServer

from dtr.model.digest import Digest
from dtr.testing.registry import ADMIN

pytestmark = [pytest.mark.server, pytest.mark.postgresql]

SIZE = 6 << 20
MOST_TRIES = 5
START_SECONDS = 120.0


@pytest.fixture
def replicas(tmp_path: Path) -> Replicas:
    """Give three machines, whose endpoints the servers run."""
    return Replicas(tmp_path, 3)


@pytest.fixture
def servers(
    replicas: Replicas, postgresql: RunningPostgresql, registry_template: str
) -> Iterator[list[RunningServer]]:
    """Give one server for each of them."""
    with temporary_database(postgresql, registry_template) as url:
        servers = []
        for machine in replicas.machines:
            server = RunningServer(
                machine.directory / "server",
                database_url=url,
                environment={**machine.environment, "DTR_SERVER__WORKERS": "1"},
            )
            machine.data = server.data_dir
            servers.append(server)
        with ExitStack() as stack, ThreadPoolExecutor() as threads:
            for server in servers:
                stack.callback(server.stop)
            for starting in [threads.submit(each.start, seconds=START_SECONDS) for each in servers]:
                starting.result()
            yield servers


async def ask(
    clients: list[httpx.AsyncClient], method: str, url: str, *, content: bytes = b""
) -> httpx.Response:
    """Ask any server, as through a balancer: one that cannot be connected to is passed over.

    Without that a push, which has four requests, would meet the dead one of three servers four
    times out of five, and now and then as often as anybody is willing to try.
    """
    for client in random.sample(clients, len(clients)):
        with suppress(httpx.ConnectError):
            return await client.request(method, url, content=content)
    raise httpx.ConnectError("no server can be connected to")


async def push_once(clients: list[httpx.AsyncClient], content: bytes) -> None:
    """Push a blob in chunks, each request perhaps to another server.

    Raises:
        httpx.HTTPError: a server broke off.
        AssertionError: a server answered something else than it should have.

    """
    half, session = len(content) // 2, "/v2/admin/app/blobs/uploads/"
    close = f"?digest={Digest.of(content)}"
    for method, part, status in (
        ("POST", b"", 202),
        ("PATCH", content[:half], 202),
        ("PATCH", content[half:], 202),
        ("PUT", b"", 201),
    ):
        url = session + close if method == "PUT" else session
        answer = await ask(clients, method, url, content=part)
        assert answer.status_code == status, f"{method}: {answer.status_code} {answer.text}"
        session = answer.headers["location"]


async def upload(clients: list[httpx.AsyncClient], content: bytes) -> None:
    """Push until it is acknowledged: once more where a server dies with a request in its hands."""
    failures: list[str] = []
    while len(failures) < MOST_TRIES:
        try:
            return await push_once(clients, content)
        except (httpx.HTTPError, AssertionError) as error:
            failures.append(repr(error))
    raise AssertionError(f"a push was never acknowledged: {failures}")


async def test_nothing_acknowledged_is_lost_with_a_replica(
    replicas: Replicas, servers: list[RunningServer]
) -> None:
    """Killed with all its processes: pushes go on at the others, and every blob is pulled there."""
    clients = [
        httpx.AsyncClient(base_url=server.url, auth=ADMIN, timeout=90, trust_env=False)
        for server in servers
    ]
    contents = [os.urandom(SIZE) for _ in range(12)]
    try:
        await asyncio.gather(*(upload(clients, content) for content in contents[:4]))
        pushing = asyncio.gather(*(upload(clients, content) for content in contents[4:]))
        while not replicas.machines[0].staged():  # it dies in the middle of uploads
            assert not pushing.done()
            await asyncio.sleep(0.01)
        await asyncio.to_thread(servers[0].kill)
        await pushing
        for client in clients[1:]:
            for content in contents:
                answer = await client.get(f"/v2/admin/app/blobs/{Digest.of(content)}")
                assert answer.status_code == 200, answer.text
                assert answer.content == content
        # Back again, it is brought up to date, and every replica has everything.
        await asyncio.to_thread(servers[0].start, seconds=START_SECONDS)
        await asyncio.to_thread(
            wait_until, lambda: counts(replicas) == [12] * 3, "every blob everywhere", seconds=120
        )
    finally:
        for client in clients:
            await client.aclose()


def counts(replicas: Replicas) -> list[int]:
    """Return how many different blobs of our size each machine has."""
    found = []
    for machine in replicas.machines:
        files = machine.files()
        found.append(len({key.split(".")[0] for key, size in files.items() if size == SIZE}))
    return found
