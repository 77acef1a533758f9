"""Rights are looked at again in the unit of work that writes: a body may take minutes to arrive.

Something changes between the moment at which a request was let in and the moment at which it
writes. Every writing route is tried with every such change: the request is refused, nothing has
changed, and no bytes are left behind.
"""

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import MagicMock

import pytest
from sqlalchemy import select
from tests.http.client import Client, Repository, assert_error, image
from tests.http.conftest import connected
from tests.http.targets import InProcess, Target
from tests.support.forgetful import ForgetfulDatabase
from tests.support.postgresql import RunningPostgresql, temporary_database

from dtr.accounts.manage import add_user
from dtr.database import Database, Reader
from dtr.database.postgresql.attempts import Attempts
from dtr.database.postgresql.errors import UnknownOutcomeError
from dtr.database.schema import manifests, repositories, repository_blobs, tags
from dtr.database.sqlite.database import SqliteDatabase
from dtr.model.access import Door, Level, Visibility
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_MANIFEST
from dtr.registry.context import RegistryContext
from dtr.registry.routes import registry_routes
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import ALICE, open_state

CHANGED = (repositories, manifests, repository_blobs, tags)


class Meddling(Database):
    """A database that something happens to just before the next unit writes."""

    meddle: Callable[[], object] | None = None

    def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        """Let it happen first."""
        self._happen()
        return super().write(unit, *args, **kwargs)  # type: ignore[safe-super]

    def write_soon(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        """Let it happen first."""
        self._happen()
        return super().write_soon(unit, *args, **kwargs)  # type: ignore[safe-super]

    def _happen(self) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()


class MeddlingSqlite(Meddling, SqliteDatabase):
    """The same in a file."""


class MeddlingForgetful(Meddling, ForgetfulDatabase):
    """The same in PostgreSQL, where the answer to every commit is lost once."""


class Late(Meddling, ForgetfulDatabase):
    """It happens after a commit whose answer is lost."""

    def write(self, unit: Any, *args: Any, **kwargs: Any) -> Any:
        """Let nothing happen before."""
        return ForgetfulDatabase.write(self, unit, *args, **kwargs)

    def _write_once(self, body: Any, attempts: Attempts, *arguments: Any) -> Any:
        try:
            return super()._write_once(body, attempts, *arguments)
        except UnknownOutcomeError:
            self._happen()
            raise


@dataclass
class Stage:
    """A registry, and somebody who may write to one repository of Alice's."""

    target: InProcess
    database: Meddling
    store: MemoryBlobStore
    owner: Repository
    user: str = ""
    token: tuple[int, str] = (0, "")
    client: Client = field(init=False)

    def login(self) -> Client:
        """Return the user with the access token."""
        return self.owner.client.login(self.user, self.token[1])

    @property
    def repository(self) -> Repository:
        """The repository as the user sees it, by a bearer token of an access token."""
        return Repository(self.client, self.owner.name)

    def content(self) -> dict[str, list[Any]]:
        """Return what is in the tables that writing routes change."""

        def read(reader: Reader) -> dict[str, list[Any]]:
            return {t.name: sorted(reader.execute(select(t)).all(), key=repr) for t in CHANGED}

        return self.database.read_now(read)


Change = Callable[[Stage], object]
Ask = Callable[[], Any]


def revoke_grant(stage: Stage) -> None:
    """Take the grant away."""
    stage.target.administration.grant(stage.owner.name, stage.user, Level.NONE)


def lower_grant(stage: Stage) -> None:
    """Leave the right to read."""
    stage.target.administration.grant(stage.owner.name, stage.user, Level.READ_ONLY)


def disable(stage: Stage) -> None:
    """Disable the user."""
    stage.target.administration.set_active(stage.user, is_active=False)


def disable_and_enable(stage: Stage) -> None:
    """Void what the user logged in with."""
    disable(stage)
    stage.target.administration.set_active(stage.user, is_active=True)


def remove_user(stage: Stage) -> None:
    """Remove the user."""
    stage.target.administration.remove_user(stage.user)


def revoke_token(stage: Stage) -> None:
    """Revoke the access token that the bearer token came from."""
    stage.target.administration.revoke_token(stage.user, stage.token[0])


def let_token_expire(stage: Stage) -> None:
    """Let the access token end by its own date."""
    stage.target.clock.advance(3600)


def remove_repository(stage: Stage) -> None:
    """Remove the repository."""
    stage.target.administration.remove_repository(stage.owner.name)


def replace_repository(stage: Stage) -> None:
    """Make another one under its name, where the user may write, too."""
    remove_repository(stage)
    stage.target.administration.create_repository(stage.owner.name)
    stage.target.administration.grant(stage.owner.name, stage.user, Level.READ_WRITE)


CHANGES: Mapping[Change, tuple[int, str]] = {
    revoke_grant: (403, "DENIED"),
    lower_grant: (403, "DENIED"),
    disable: (401, "UNAUTHORIZED"),
    disable_and_enable: (401, "UNAUTHORIZED"),
    remove_user: (401, "UNAUTHORIZED"),
    revoke_token: (401, "UNAUTHORIZED"),
    let_token_expire: (401, "UNAUTHORIZED"),
    remove_repository: (404, "NAME_UNKNOWN"),
    replace_repository: (404, "NAME_UNKNOWN"),
}


async def put_manifest(stage: Stage) -> Ask:
    """Move a tag."""
    return lambda: stage.repository.put_manifest(image(b"another"), "latest")


async def delete_tag(stage: Stage) -> Ask:
    """Delete a tag."""
    return lambda: stage.client.delete(stage.owner.manifest("latest"))


async def delete_manifest(stage: Stage) -> Ask:
    """Delete a manifest."""
    pushed = await stage.owner.push_image("latest")
    return lambda: stage.client.delete(stage.owner.manifest(pushed.digest))


async def open_session(stage: Stage) -> Ask:
    """Open an upload session."""
    return lambda: stage.client.post(stage.owner.uploads)


async def push_whole(stage: Stage) -> Ask:
    """Push a blob with its POST."""
    content = secrets.token_bytes(50)
    parameters = {"digest": Digest.of(content)}
    return lambda: stage.client.post(stage.owner.uploads, params=parameters, content=content)


async def mount(stage: Stage) -> Ask:
    """Mount a blob of a repository that everybody may read."""
    source = stage.owner.client.new_repository()
    digest = await source.push_blob(secrets.token_bytes(50))
    stage.target.administration.set_visibility(source.name, Visibility.PUBLIC)
    names = (stage.owner.name, source.name)
    wide = await stage.login().scoped(*(f"repository:{name}:pull,push" for name in names))
    parameters = {"mount": digest, "from": source.name}
    return lambda: wide.post(stage.owner.uploads, params=parameters)


async def append(stage: Stage) -> Ask:
    """Send a chunk."""
    location = await stage.repository.start_upload()
    return lambda: stage.client.patch(location, content=b"chunk")


async def finish(stage: Stage) -> Ask:
    """Send the last chunk."""
    content = secrets.token_bytes(50)
    location = await stage.repository.start_upload()
    parameters = {"digest": Digest.of(content)}
    return lambda: stage.client.put(location, params=parameters, content=content)


async def cancel(stage: Stage) -> Ask:
    """Cancel a session."""
    location = await stage.repository.start_upload()
    return lambda: stage.client.delete(location)


async def delete_blob(stage: Stage) -> Ask:
    """Delete a blob."""
    digest = await stage.owner.push_blob(secrets.token_bytes(50))
    return lambda: stage.client.delete(stage.owner.blob(digest))


WAYS: Mapping[tuple[str, str], list[Callable[[Stage], Any]]] = {
    ("/v2/{name}/manifests/{reference}", "PUT"): [put_manifest],
    ("/v2/{name}/manifests/{reference}", "DELETE"): [delete_tag, delete_manifest],
    ("/v2/{name}/blobs/uploads/", "POST"): [open_session, push_whole, mount],
    ("/v2/{name}/blobs/uploads", "POST"): [],  # the same handler
    ("/v2/{name}/blobs/uploads/{upload}", "PATCH"): [append],
    ("/v2/{name}/blobs/uploads/{upload}", "PUT"): [finish],
    ("/v2/{name}/blobs/uploads/{upload}", "DELETE"): [cancel],
    ("/v2/{name}/blobs/{digest}", "DELETE"): [delete_blob],
}
EVERY_WAY = list(itertools.chain(*WAYS.values()))


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("forgetful", marks=pytest.mark.postgresql),
    ]
)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Meddling]]:
    """Give a way to open a registry's metadata that something can happen to."""
    if request.param == "sqlite":
        open_state(tmp_path).database.close()
        yield lambda: MeddlingSqlite(tmp_path / "dtr.db", wait_seconds=5)
        return
    server: RunningPostgresql = request.getfixturevalue("postgresql")
    template: str = request.getfixturevalue("registry_template")
    with temporary_database(server, template) as url:
        yield lambda: MeddlingForgetful(url, wait_seconds=5)


@asynccontextmanager
async def staged(open_one: Callable[[], Meddling], directory: Path) -> AsyncIterator[Stage]:
    """Give a registry of a test's own; `another` gives each way a user and a repository."""
    database, store = open_one(), MemoryBlobStore()
    target = InProcess.open(directory, [store], open_database=lambda: database)
    async with connected(target) as http:
        owner = Client(http).login(*ALICE).new_repository()
        yield Stage(target, database, store, owner)
    await target.close()


async def another(stage: Stage) -> Stage:
    """Give the same registry with a new user and a new repository."""
    administration = stage.target.administration
    owner = stage.owner.client.new_repository()
    await owner.push_image("latest", b"a layer")
    await owner.push_blob(b"another")
    user = f"user-{secrets.token_hex(4)}"
    stage.database.write_now(add_user, user, "nobody's password")
    administration.grant(owner.name, user, Level.READ_WRITE)
    token = administration.create_token(user, lifetime_seconds=1800)
    made = replace(stage, owner=owner, user=user, token=token)
    made.client = await made.login().scoped(f"repository:{owner.name}:pull,push,delete")
    return made


def test_every_writing_route_is_tried() -> None:
    """A new route needs a way here."""
    routes = registry_routes(cast("RegistryContext", MagicMock()))
    assert set(WAYS) == {
        (route.template, method)
        for route in routes
        for method, endpoint in route.endpoints.items()
        if method != "GET" and endpoint.access.door is Door.REPOSITORY
    }


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_a_right_that_ends_before_the_write_is_no_right(
    database: Callable[[], Meddling], tmp_path: Path, change: Change
) -> None:
    """401, 403 or 404, and nothing has changed; without the change the same request succeeds."""
    status, code = CHANGES[change]
    async with staged(database, tmp_path) as registry:
        for way in EVERY_WAY:
            stage = await another(registry)
            ask = await way(stage)
            keys = await stored(stage)
            after: list[Any] = []

            def happen(stage: Stage = stage, after: list[Any] = after) -> None:
                change(stage)
                after.append(stage.content())

            stage.database.meddle = happen
            answer = await ask()
            assert after, way
            assert_error(answer, status, code)
            assert ("WWW-Authenticate" in answer.headers) is (status == 401)
            assert [stage.content()] == after, way
            assert await stored(stage) == keys, way
            if change is let_token_expire:
                stage.target.clock.advance(-3600)


async def test_without_a_change_every_way_succeeds(
    database: Callable[[], Meddling], tmp_path: Path
) -> None:
    """What the other test refuses is refused for the change alone."""
    async with staged(database, tmp_path) as registry:
        for way in EVERY_WAY:
            stage = await another(registry)
            assert (await (await way(stage))()).is_success, way


async def test_a_repository_that_appears_meanwhile_is_asked_for_its_rights(
    database: Callable[[], Meddling], tmp_path: Path
) -> None:
    """Two layers of one first push make it together; a stranger's does not open it."""
    async with staged(database, tmp_path) as registry:
        stage = await another(registry)
        administration = stage.target.administration
        mine = stage.login().new_repository()
        stage.database.meddle = lambda: administration.create_repository(mine.name)
        await mine.push_blob(b"a layer")
        administration.grant("alice", stage.user, Level.ADMIN, whole_namespace=True)
        new = stage.owner.client.new_repository().seen_by(stage.login())

        def happen() -> None:
            administration.grant("alice", stage.user, Level.NONE, whole_namespace=True)
            administration.create_repository(new.name)

        stage.database.meddle = happen
        assert_error(await new.put_manifest(image(b"x"), "latest"), 403, "DENIED")
        content = b"of a first push that is refused"
        administration.remove_repository(new.name)
        administration.grant("alice", stage.user, Level.ADMIN, whole_namespace=True)
        stage.database.meddle = lambda: administration.set_active(stage.user, is_active=False)
        answer = await new.client.post(
            new.uploads, params={"digest": Digest.of(content)}, content=content
        )
        assert_error(answer, 401, "UNAUTHORIZED")
        assert_error(
            await stage.owner.client.get(new.tags), 404, "NAME_UNKNOWN"
        )  # nothing was made for it


async def test_a_source_is_asked_for_when_it_is_mounted_from(
    database: Callable[[], Meddling], tmp_path: Path
) -> None:
    """A grant on the source that ends meanwhile is none: an upload begins instead."""
    async with staged(database, tmp_path) as registry:
        for is_named in (True, False):
            stage = await another(registry)
            source = stage.owner.client.new_repository()
            digest = await source.push_blob(secrets.token_bytes(50))
            grant = stage.target.administration.grant
            grant(source.name, stage.user, Level.READ_ONLY)
            meddle = partial(grant, source.name, stage.user, Level.NONE)
            stage.database.meddle = meddle
            mine = stage.login().repository(stage.owner.name)
            parameters = {"mount": digest} | ({"from": source.name} if is_named else {})
            answer = await mine.client.post(mine.uploads, params=parameters)
            assert answer.status_code == 202
            assert_error(await mine.client.get(mine.blob(digest)), 404, "BLOB_UNKNOWN")


async def test_bytes_are_kept_where_the_write_may_have_happened_before_the_right_ended(
    postgresql: RunningPostgresql, registry_template: str, tmp_path: Path
) -> None:
    """The answer to the commit is lost, then the right: 503, and what was committed is whole."""
    with temporary_database(postgresql, registry_template) as url:
        async with staged(lambda: Late(url, wait_seconds=5), tmp_path) as registry:
            stage = await another(registry)
            content = secrets.token_bytes(50)
            digest = Digest.of(content)
            stage.database.meddle = lambda: revoke_grant(stage)
            answer = await stage.client.post(
                stage.owner.uploads, params={"digest": digest}, content=content
            )
            assert_error(answer, 503, "UNAVAILABLE")
            assert (await stage.owner.client.get(stage.owner.blob(digest))).content == content


async def test_a_bearer_token_is_for_the_repository_that_had_the_name(
    target: Target, alice: Client
) -> None:
    """Not for another one that was made under it; one for a name without any makes it.

    A repository is one from its first manifest on: before, whatever has its name will do.
    """
    repository = alice.new_repository()
    scope = f"repository:{repository.name}:pull,push"
    early = repository.seen_by(await alice.scoped(scope))
    await early.push_image("first")
    late = repository.seen_by(await alice.scoped(scope))
    await late.push_blob(b"second")
    target.administration.remove_repository(repository.name)
    for _ in range(target.processes * 2):
        answer = await late.client.post(repository.uploads)
        assert_error(answer, 401, "UNAUTHORIZED")
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
    target.administration.create_repository(repository.name)
    answer = await late.client.get(repository.tags)
    assert_error(answer, 401, "UNAUTHORIZED")
    await early.push_blob(b"third")


async def test_a_body_that_pauses_does_not_keep_a_right(
    target: Target, repository: Repository, bob: Client
) -> None:
    """As it was seen: the grant is revoked in the middle of a manifest, and the tag stays."""
    pushed = await repository.push_image("latest")
    target.administration.grant(repository.name, "bob", Level.READ_WRITE)
    payload = json.dumps(image(b"of bob")).encode()
    was_revoked = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield payload[:10]
        target.administration.grant(repository.name, "bob", Level.NONE)
        was_revoked.set()
        yield payload[10:]

    answer = await bob.put(
        repository.manifest("latest"), content=body(), headers={"Content-Type": OCI_MANIFEST}
    )
    assert was_revoked.is_set()
    assert_error(answer, 403, "DENIED")
    kept = await repository.client.head(repository.manifest("latest"))
    assert kept.headers["Docker-Content-Digest"] == pushed.digest


async def stored(stage: Stage) -> set[str]:
    """Return the keys of all bytes that are kept."""
    return {found.key async for found in stage.store.walk()}
