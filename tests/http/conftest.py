"""What the HTTP behaviour suite shares: targets, accounts and a repository per test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.http.client import Client, Repository
from tests.http.targets import Deployed, InProcess, Node, Target
from tests.support.balanced import COUNT, BalancedServers
from tests.support.forgetful import ForgetfulDatabase
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.replicas import Replicas
from tests.support.seaweed import RunningS3
from tests.support.server import RunningServer

from dtr.database import open_database, open_postgresql
from dtr.storage import BlobStore, FilesystemBlobStore, open_blob_store
from dtr.testing.registry import ADMIN, ALICE, BOB, Administration

# Every test shares one address with all others, so logins are slowed down late.
SETTINGS = {"log": {"access": False}, "auth": {"failed_logins_before_delay": 1000}}
ENVIRONMENT = {
    "DTR_SERVER__WORKERS": "2",
    "DTR_SERVER__BODY_IDLE_SECONDS": "0.5",
    "DTR_SERVER__HEADER_READ_SECONDS": "1",
    "DTR_SERVER__DRAIN_SECONDS": "1",
    "DTR_AUTH__FAILED_LOGINS_BEFORE_DELAY": "1000",
}
IN_PROCESS = (
    "memory",
    "files",
    pytest.param("on_postgresql", marks=pytest.mark.postgresql),
    pytest.param("forgetful", marks=pytest.mark.postgresql),
    pytest.param("on_s3", marks=[pytest.mark.postgresql, pytest.mark.s3]),
)
PROCESSES = (
    pytest.param("node", marks=pytest.mark.server),
    pytest.param("balanced", marks=[pytest.mark.server, pytest.mark.postgresql]),
    pytest.param("balanced_s3", marks=[pytest.mark.server, pytest.mark.postgresql, pytest.mark.s3]),
    pytest.param("on_replicated", marks=[pytest.mark.server, pytest.mark.postgresql]),
)

PARSING = pytest.mark.parametrize("target", [IN_PROCESS[0], *PROCESSES], indirect=True)
"""For what is refused before anything is shared: two processes say it no other way than one."""

OpenRegistry = Callable[..., InProcess]
Connect = Callable[[Target], Client]


@pytest.fixture(scope="session")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """Give one application with its blobs in memory."""
    target = InProcess.open(tmp_path_factory.mktemp("memory"), settings=SETTINGS)
    yield target
    asyncio.run(target.close())


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """Give two applications on one directory, asked in turns."""
    target = InProcess.open_files(tmp_path_factory.mktemp("files"), SETTINGS)
    yield target
    asyncio.run(target.close())


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory of all tests' blobs where the metadata are in PostgreSQL."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def database_of_files(postgresql: RunningPostgresql, registry_template: str) -> Iterator[str]:
    """Give the URL of the database that knows what is in the shared directory."""
    with temporary_database(postgresql, registry_template) as url:
        yield url


@pytest.fixture(scope="session")
def database_of_s3(postgresql: RunningPostgresql, registry_template: str) -> Iterator[str]:
    """Give the URL of the database that knows what is in the bucket."""
    with temporary_database(postgresql, registry_template) as url:
        yield url


@pytest.fixture
async def on_postgresql(database_of_files: str, shared_directory: Path) -> AsyncIterator[InProcess]:
    """Give two applications on one database and one directory, asked in turns.

    They are a test's own, for their connections belong to its event loop.
    """
    target = InProcess.open_files(shared_directory, SETTINGS, database_url=database_of_files)
    yield target
    await target.close()


@pytest.fixture
async def forgetful(database_of_files: str, shared_directory: Path) -> AsyncIterator[InProcess]:
    """Give two applications on a database that loses its answer to every unit of work once."""
    stores: list[BlobStore] = [FilesystemBlobStore(shared_directory) for _ in range(2)]
    target = InProcess.open(
        shared_directory,
        stores,
        SETTINGS,
        open_database=lambda: ForgetfulDatabase(database_of_files, wait_seconds=30),
    )
    yield target
    await target.close()


@pytest.fixture
async def on_s3(
    database_of_s3: str, shared_directory: Path, s3: RunningS3
) -> AsyncIterator[InProcess]:
    """Give two applications on one database and one bucket, asked in turns."""
    stores = [open_blob_store(s3.url, shared_directory) for _ in range(2)]
    target = InProcess.open(shared_directory, stores, SETTINGS, database_url=database_of_s3)
    yield target
    await target.close()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """Give a real server with two workers."""
    directory = tmp_path_factory.mktemp("node")
    with RunningServer(directory, environment=ENVIRONMENT) as server:
        database = open_database(server.data_dir / "dtr.db", wait_seconds=5)
        administration = Administration(database)
        administration.add_user(*ALICE)
        administration.add_user(*BOB)
        yield Node(server, administration)
        database.close()


@pytest.fixture(scope="session")
def balanced(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: RunningPostgresql,
    registry_template: str,
) -> Iterator[Deployed]:
    """Give three servers on one database and one directory, each request to the next of them."""
    directory = tmp_path_factory.mktemp("balanced")
    with temporary_database(postgresql, registry_template) as url:
        yield from deployed(directory, url)


@pytest.fixture(scope="session")
def balanced_s3(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: RunningPostgresql,
    registry_template: str,
    s3: RunningS3,
) -> Iterator[Deployed]:
    """Give three servers on one database and one bucket, each request to the next of them."""
    directory = tmp_path_factory.mktemp("balanced-s3")
    with temporary_database(postgresql, registry_template) as url:
        yield from deployed(directory, url, s3)


@pytest.fixture(scope="session")
def on_replicated(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: RunningPostgresql,
    registry_template: str,
) -> Iterator[Deployed]:
    """Give three servers on one database, each with blobs on a disk of its own."""
    directory = tmp_path_factory.mktemp("replicated")
    replicas = Replicas(directory, COUNT)
    with temporary_database(postgresql, registry_template) as url:
        yield from deployed(directory, url, replicas=replicas)


def deployed(
    directory: Path, url: str, s3: RunningS3 | None = None, replicas: Replicas | None = None
) -> Iterator[Deployed]:
    """Run three servers behind a balancer."""
    servers = BalancedServers(
        directory,
        database_url=url,
        storage_url=s3.url_of("balanced") if s3 else "",
        environment={**ENVIRONMENT, "DTR_SERVER__WORKERS": "1", **(s3.environment if s3 else {})},
        own_environments=[each.environment for each in replicas.machines] if replicas else (),
    )
    database = open_postgresql(url, wait_seconds=5)
    try:
        with servers:
            yield Deployed(
                servers.url,
                Administration(database),
                processes=len(servers.servers),
                server_url=servers.servers[0].url,
            )
    finally:
        database.close()


@pytest.fixture(params=[*IN_PROCESS, *PROCESSES])
def target(request: pytest.FixtureRequest) -> Target:
    """Give each deployment in turn; a further one (a cluster) joins in `PROCESSES`."""
    found: Target = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def anonymous(target: Target) -> AsyncIterator[Client]:
    """Give a client without an account."""
    async with connected(target) as http:
        yield Client(http)


@pytest.fixture
def admin(anonymous: Client) -> Client:
    """Give the administrator."""
    return anonymous.login(*ADMIN)


@pytest.fixture
def alice(anonymous: Client) -> Client:
    """Give a user, who owns what the tests push."""
    return anonymous.login(*ALICE)


@pytest.fixture
def bob(anonymous: Client) -> Client:
    """Give another user, who has no rights on what is Alice's."""
    return anonymous.login(*BOB)


@pytest.fixture
def repository(alice: Client) -> Repository:
    """Give a private repository of Alice's that only this test knows; a push creates it."""
    return alice.new_repository()


@pytest.fixture
async def open_registry(tmp_path: Path) -> AsyncIterator[OpenRegistry]:
    """Give a way to open registries of a test's own, with settings of its own."""
    opened: list[InProcess] = []

    def open_one(settings: Mapping[str, Any] | None = None, **rest: Any) -> InProcess:
        directory = tmp_path / f"registry-{len(opened)}"
        directory.mkdir()
        opened.append(InProcess.open(directory, settings=settings, **rest))
        return opened[-1]

    yield open_one
    for target in opened:
        await target.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Give clients without an account for registries of a test's own."""
    clients: list[httpx.AsyncClient] = []

    def client(target: Target) -> Client:
        clients.append(connected(target))
        return Client(clients[-1])

    yield client
    for each in clients:
        await each.aclose()


def connected(target: Target) -> httpx.AsyncClient:
    """Return a connection that follows nothing and knows no proxy."""
    return httpx.AsyncClient(
        transport=target.transport(), base_url=target.url, trust_env=False, timeout=20
    )
