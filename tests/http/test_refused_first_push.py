"""A first push of which nothing came leaves no repository behind."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.http.client import Client, assert_error
from tests.http.conftest import Connect, OpenRegistry

from dtr.collect.collector import Collector, CollectSettings
from dtr.model.access import Level, Visibility
from dtr.model.digest import Digest
from dtr.model.names import RepositoryName
from dtr.registry import manage, records
from dtr.server.app import collect_settings
from dtr.server.settings import Settings
from dtr.storage import FilesystemBlobStore
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import ALICE, BOB

CONTENT = b"a first blob"
DIGEST = str(Digest.of(CONTENT))


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[FilesystemBlobStore]:
    """Give a storage that keeps more room free than there is."""
    store = FilesystemBlobStore(tmp_path / "blobs", reserve_bytes=1 << 60)
    yield store
    await store.close()


async def names(client: Client) -> list[str]:
    """Return the catalog."""
    found: list[str] = (await client.get("/v2/_catalog")).json()["repositories"]
    return found


async def test_without_room_nothing_is_begun(
    open_registry: OpenRegistry, connect: Connect, full: FilesystemBlobStore
) -> None:
    """Neither by a session nor by a blob that comes with its request; it is said at once."""
    alice = connect(open_registry(stores=[full])).login(*ALICE)
    repository = alice.new_repository()
    for parameters, content in (({}, None), ({"digest": DIGEST}, CONTENT)):
        answer = await alice.post(repository.uploads, params=parameters, content=content)
        assert answer.status_code == 507
    assert await names(alice) == []
    assert_error(await alice.get(repository.tags), 404, "NAME_UNKNOWN")


async def test_a_session_that_expires_takes_its_empty_repository_along(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Clients that are refused rarely cancel; what a push would not make again just so stays."""
    store = MemoryBlobStore()
    target = open_registry(stores=[store])
    alice = connect(target).login(*ALICE)
    database = target.administration._database
    for kind in ("public", "granted"):
        visibility = Visibility.PUBLIC if kind == "public" else Visibility.PRIVATE
        name = RepositoryName(f"alice/{kind}")
        database.write_now(manage.create_repository, name, visibility)
    database.write_now(manage.grant, "alice/granted", "bob", Level.READ_ONLY, whole_namespace=False)
    pushed = alice.repository("alice/pushed")
    await pushed.push_image("v1")
    for kind in ("public", "granted", "pushed", "empty", "empty"):
        await alice.repository(f"alice/{kind}").start_upload()
    assert len(await names(alice)) == 4
    settings = CollectSettings(forget_empty=False)
    await Collector(database, store, settings, clock=lambda: 1e6).run()
    assert len(await names(alice)) == 4
    await Collector(database, store, CollectSettings(), clock=lambda: 1e12).run()
    assert await names(alice) == ["alice/granted", "alice/public", "alice/pushed"]


async def test_a_repository_stays_for_who_may_push_and_not_create(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """A colleague with read and write access to the namespace could not make it again."""
    store = MemoryBlobStore()
    target = open_registry(stores=[store])
    alice, bob = (connect(target).login(*account) for account in (ALICE, BOB))
    database = target.administration._database
    repository = bob.repository("alice/app")
    for level, status in ((Level.READ_WRITE, 202), (Level.ADMIN, 202), (Level.READ_ONLY, 403)):
        name = RepositoryName(repository.name)
        database.write_now(manage.grant, "alice", "bob", level, whole_namespace=True)
        database.write_now(records.ensure_repository, name)
        await alice.repository(repository.name).start_upload()
        await Collector(database, store, CollectSettings(), clock=lambda: 1e12).run()
        assert (await names(alice) == [repository.name]) is (level is Level.READ_WRITE)
        assert (await bob.post(repository.uploads)).status_code == status


async def test_where_pushes_make_no_repositories_none_is_forgotten(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """An administrator made it, and only an administrator could make it again."""
    store = MemoryBlobStore()
    target = open_registry({"registry": {"create_on_push": False}}, stores=[store])
    alice = connect(target).login(*ALICE)
    database = target.administration._database
    name = RepositoryName("alice/app")
    database.write_now(manage.create_repository, name, Visibility.PRIVATE)
    await alice.repository(str(name)).start_upload()
    settings = collect_settings(Settings.model_validate({"registry": {"create_on_push": False}}))
    await Collector(database, store, settings, clock=lambda: 1e12).run()
    assert await names(alice) == [str(name)]
