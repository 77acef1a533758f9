"""A first push of which nothing came leaves no repository behind."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.http.client import Client, Repository, assert_error, image
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess, Target

from dtr.accounts.gate import Gate
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
        name = RepositoryName(f"alice/{kind}")
        database.write_now(records.ensure_repository, name, is_provisional=True)
    database.write_now(manage.create_repository, RepositoryName("alice/made"), Visibility.PRIVATE)
    database.write_now(manage.set_visibility, RepositoryName("alice/public"), Visibility.PUBLIC)
    database.write_now(manage.grant, "alice/granted", "bob", Level.READ_ONLY, whole_namespace=False)
    pushed = alice.repository("alice/pushed")
    await pushed.push_image("v1")
    for kind in ("public", "granted", "made", "pushed", "empty", "empty"):
        await alice.repository(f"alice/{kind}").start_upload()
    assert len(await names(alice)) == 5
    settings = CollectSettings(forget_empty=False)
    await Collector(database, store, settings, clock=lambda: 1e6).run()
    assert len(await names(alice)) == 5
    await Collector(database, store, CollectSettings(), clock=lambda: 1e12).run()
    assert await names(alice) == ["alice/granted", "alice/made", "alice/public", "alice/pushed"]


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
        database.write_now(records.ensure_repository, name, is_provisional=True)
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


async def is_there(repository: Repository) -> bool:
    """Tell whether there is such a repository."""
    return (await repository.client.get(repository.tags)).status_code == 200


async def test_the_last_session_that_is_cancelled_takes_its_repository_along(
    target: Target, alice: Client
) -> None:
    """Not the first of two, not one that was made on purpose, and none that had a manifest."""
    made, pushed, first = (alice.new_repository() for _ in range(3))
    target.administration.create_repository(made.name)
    await pushed.push_image("v1")
    for repository, is_kept in ((made, True), (pushed, True), (first, False)):
        sessions = [await repository.start_upload() for _ in range(2)]
        for number, location in enumerate(sessions):
            assert (await alice.delete(location)).status_code == 204
            assert await is_there(repository) is (is_kept or number == 0)
        assert (await alice.post(repository.uploads)).status_code == 202


async def test_a_refused_first_blob_takes_its_repository_along(alice: Client) -> None:
    """Its session is over, so there is nothing left; a push that goes well makes it again."""
    repository = alice.new_repository()
    location = await repository.start_upload()
    answer = await alice.put(location, params={"digest": DIGEST}, content=b"other bytes")
    assert_error(answer, 400, "DIGEST_INVALID")
    assert not await is_there(repository)
    await repository.push_image("v1")
    assert await is_there(repository)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_first_push_that_fills_the_disk_takes_its_repository_along(
    open_registry: OpenRegistry, connect: Connect, tmp_path: Path, method: str
) -> None:
    """And what it staged; one that was made on purpose stays, and its session can be continued."""
    store = FilesystemBlobStore(tmp_path / "blobs")
    target = open_registry(stores=[store])
    alice = connect(target).login(*ALICE)
    target.administration.create_repository("alice/made")
    sessions = {}
    for name in ("alice/made", "alice/first"):
        sessions[name] = await alice.repository(name).start_upload()
        assert (await alice.patch(sessions[name], content=CONTENT[:5])).status_code == 202
    store._reserve_bytes = 1 << 60
    for location in sessions.values():
        parameters = {"digest": DIGEST} if method == "PUT" else {}
        answer = await alice.request(method, location, params=parameters, content=CONTENT[5:])
        assert answer.status_code == 507
    assert await names(alice) == ["alice/made"]
    store._reserve_bytes = 0
    assert_error(await alice.get(sessions["alice/first"]), 404, "BLOB_UPLOAD_UNKNOWN")
    answer = await alice.put(sessions["alice/made"], params={"digest": DIGEST}, content=CONTENT[5:])
    assert answer.status_code == 201, answer.text
    await store.close()


async def test_a_push_that_has_begun_outlives_the_end_of_another(
    target: Target, alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was let in while the repository was there, which went before it wrote; nobody notices."""
    if not isinstance(target, InProcess):
        pytest.skip("the moment can be met in one process only")
    config = b"{}"
    asks: list[Callable[[Repository], Awaitable[httpx.Response]]] = [
        lambda there: there.client.post(there.uploads),
        lambda there: there.client.post(there.uploads, params={"digest": DIGEST}, content=CONTENT),
        lambda there: there.put_manifest(image(config), "v1"),
    ]
    written = Gate._written
    for ask in asks:
        repository = alice.new_repository()
        left = [await repository.start_upload()]

        async def write(*arguments: Any, left: list[str] = left) -> Any:
            if left:
                assert (await alice.delete(left.pop())).status_code == 204
            return await written(*arguments)

        for client in (alice, await alice.scoped(f"repository:{repository.name}:pull,push")):
            left[:] = left or [await repository.start_upload()]
            monkeypatch.setattr(Gate, "_written", write)
            answer = await ask(repository.seen_by(client))
            monkeypatch.setattr(Gate, "_written", written)
            assert left == []
            assert answer.status_code in {201, 202}, answer.text
            assert await is_there(repository)
            target.administration.remove_repository(repository.name)


async def test_a_repository_that_had_a_manifest_stays(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Also when it is empty again; one whose first push was abandoned goes with its last blob."""
    store = MemoryBlobStore()
    target = open_registry(stores=[store])
    alice = connect(target).login(*ALICE)
    database = target.administration._database
    used, abandoned = (alice.repository(name) for name in ("alice/used", "alice/abandoned"))
    pushed = await used.push_image("v1")
    assert (await alice.delete(used.manifest(pushed.digest))).status_code == 202
    await abandoned.push_blob(CONTENT)
    await Collector(database, store, CollectSettings(), clock=lambda: 1e12).run()
    assert await names(alice) == ["alice/used"]
    assert (await alice.delete(await used.start_upload())).status_code == 204
    assert await names(alice) == ["alice/used"]


async def test_empty_sessions_that_give_way_take_their_repository_along(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Where nothing else is in it."""
    target = open_registry({"limits": {"upload_sessions_per_account": 2}})
    alice = connect(target).login(*ALICE)
    for name in ("alice/one", "alice/two"):
        await alice.repository(name).start_upload()
    target.clock.advance(60)
    await alice.repository("alice/three").start_upload()
    assert await names(alice) == ["alice/three", "alice/two"]
