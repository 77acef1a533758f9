"""Mounts: a blob of one repository linked into another (distribution-spec end-11)."""

import itertools
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.http.client import Client, Repository, assert_error
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess, Target

from dtr.accounts.records import FIND_REPOSITORY
from dtr.database import Lookup, Reader, Row
from dtr.database.sqlite.database import SqliteDatabase
from dtr.database.units import driver_of
from dtr.model.access import Level, Principal, Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.names import RepositoryName
from dtr.registry.manage import create_repository
from dtr.registry.records import link_blob, mount_sources
from dtr.testing.registry import ALICE, BOB, Administration, open_state

LATER = 4_000_000_000.0


@pytest.fixture
async def source(alice: Client) -> Repository:
    """Give a private repository of Alice's with something in it."""
    repository = alice.new_repository("source")
    await repository.push_blob(b"here")
    return repository


async def mount(
    repository: Repository, digest: str, source: Repository | str | None = None
) -> tuple[int, str]:
    """Ask for a mount; return status and Location."""
    name = source.name if isinstance(source, Repository) else source
    parameters = {"mount": digest} | ({} if name is None else {"from": name})
    answer = await repository.client.post(repository.uploads, params=parameters)
    return answer.status_code, answer.headers.get("Location", "")


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_blob_is_mounted_from_a_repository_that_one_may_pull_from(
    source: Repository, repository: Repository, algorithm: Algorithm, *, is_named: bool
) -> None:
    """With the source named or not; the blob is then the target's as well."""
    content = secrets.token_bytes(500)
    digest = await source.push_blob(content, algorithm)
    status, location = await mount(repository, digest, source if is_named else None)
    assert (status, location) == (201, repository.blob(digest))
    assert (await repository.client.get(location)).content == content
    await source.client.delete(source.blob(digest))
    assert (await repository.client.get(location)).content == content


async def test_a_mount_of_what_is_not_in_the_source_opens_an_upload(
    source: Repository, repository: Repository
) -> None:
    """202 with a session: the client pushes the blob instead."""
    content = secrets.token_bytes(100)
    status, location = await mount(repository, Digest.of(content), source)
    assert status == 202
    done = await repository.client.put(
        location, params={"digest": Digest.of(content)}, content=content
    )
    assert done.status_code == 201


@pytest.mark.parametrize("name", ["missing/one", "UPPER", "", "../etc", "a" * 300, "ü"])
async def test_a_mount_from_a_repository_that_is_none_opens_an_upload(
    source: Repository, repository: Repository, name: str
) -> None:
    """Whatever is wrong with the source, the client can go on."""
    digest = await source.push_blob(secrets.token_bytes(100))
    assert (await mount(repository, digest, name))[0] == 202


@pytest.mark.parametrize("is_named", [True, False])
async def test_a_private_blob_of_others_answers_as_if_it_were_unknown(
    source: Repository, bob: Client, *, is_named: bool
) -> None:
    """A digest that exists elsewhere tells nothing to whoever may not read it (CVE-2024-39897)."""
    digest = await source.push_blob(secrets.token_bytes(100))
    mine = bob.new_repository()
    answers = []
    for wanted in (digest, Digest.of(b"nobody has this")):
        parameters = {"mount": wanted} | ({"from": source.name} if is_named else {})
        answer = await bob.post(mine.uploads, params=parameters)
        assert answer.status_code == 202
        answers.append({k for k in answer.headers if k != "date"})
        assert_error(await bob.get(mine.blob(wanted)), 404, "BLOB_UNKNOWN")
    assert answers[0] == answers[1]


@pytest.mark.parametrize("is_named", [True, False])
async def test_a_grant_or_publicity_of_the_source_is_enough(
    target: Target, source: Repository, bob: Client, *, is_named: bool
) -> None:
    """The right to pull from the source is what a mount needs."""
    digest = await source.push_blob(secrets.token_bytes(100))
    named = source if is_named else None
    target.administration.grant(source.name, "bob", Level.READ_ONLY)
    assert (await mount(bob.new_repository(), digest, named))[0] == 201
    target.administration.grant(source.name, "bob", Level.NONE)
    other = await source.push_blob(secrets.token_bytes(100))
    assert (await mount(bob.new_repository(), other, named))[0] == 202
    target.administration.set_visibility(source.name, Visibility.PUBLIC)
    assert (await mount(bob.new_repository(), other, named))[0] == 201


async def test_a_mount_needs_the_right_to_push_into_the_target(
    source: Repository, bob: Client, anonymous: Client
) -> None:
    """Reading the source is not enough."""
    digest = await source.push_blob(secrets.token_bytes(100))
    other = bob.new_repository()
    await other.push_blob(b"here")
    alice = source.client
    assert (await mount(other.seen_by(alice), digest, source))[0] == 403
    assert (await mount(other.seen_by(anonymous), digest, source))[0] == 401


async def test_a_token_without_the_source_is_told_to_get_one_with_it(
    source: Repository, repository: Repository
) -> None:
    """The challenge names both repositories, so that the client can ask for both at once."""
    digest = await source.push_blob(secrets.token_bytes(100))
    push = f"repository:{repository.name}:pull,push"
    narrow = repository.seen_by(await repository.client.scoped(push))
    parameters = {"mount": digest, "from": source.name}
    answer = await narrow.client.post(narrow.uploads, params=parameters)
    assert_error(answer, 401, "UNAUTHORIZED")
    challenge = answer.headers["WWW-Authenticate"]
    assert f'scope="{push} repository:{source.name}:pull"' in challenge
    assert 'error="insufficient_scope"' in challenge
    assert_error(await repository.client.get(repository.blob(digest)), 404, "NAME_UNKNOWN")
    wide = repository.seen_by(
        await repository.client.scoped(push, f"repository:{source.name}:pull")
    )
    assert (await mount(wide, digest, source))[0] == 201


async def test_a_token_without_a_private_source_of_others_learns_nothing(
    source: Repository, bob: Client
) -> None:
    """Who may not read the source is not asked for a wider token: 202, as if it did not exist."""
    digest = await source.push_blob(secrets.token_bytes(100))
    mine = bob.new_repository()
    narrow = await bob.scoped(f"repository:{mine.name}:pull,push")
    for name in (source.name, "alice/there-is-none"):
        assert (await mount(mine.seen_by(narrow), digest, name))[0] == 202


async def test_a_blob_deleted_from_its_last_repository_is_not_mounted(
    source: Repository, repository: Repository
) -> None:
    """A condemned blob is nobody's; the client pushes it again."""
    content = secrets.token_bytes(100)
    digest = await source.push_blob(content)
    await source.client.delete(source.blob(digest))
    assert (await mount(repository, digest, source))[0] == 202
    assert (await mount(repository, digest))[0] == 202
    await repository.push_blob(content)
    assert (await repository.client.get(repository.blob(digest))).content == content


async def test_a_mount_of_no_digest_is_refused(repository: Repository) -> None:
    """A malformed digest is 400, with a source or without."""
    for digest in ("", "sha256:abc", "latest"):
        answer = await repository.client.post(repository.uploads, params={"mount": digest})
        assert_error(answer, 400, "DIGEST_INVALID")


async def test_without_a_source_a_token_mounts_from_what_it_names(
    source: Repository, repository: Repository
) -> None:
    """A token for one repository reaches no other one of its owner's, by whatever digest."""
    content = secrets.token_bytes(100)
    digest = await source.push_blob(content)
    await repository.push_blob(b"here")
    push = f"repository:{repository.name}:pull,push"
    narrow = repository.seen_by(await repository.client.scoped(push))
    assert (await mount(narrow, digest))[0] == 202
    assert_error(await narrow.client.get(repository.blob(digest)), 404, "BLOB_UNKNOWN")
    deaf = await repository.client.scoped(push, f"repository:{source.name}:push")
    assert (await mount(repository.seen_by(deaf), digest))[0] == 202
    wide = await repository.client.scoped(push, f"repository:{source.name}:pull")
    assert (await mount(repository.seen_by(wide), digest))[0] == 201


async def test_where_others_have_a_digest_no_more_is_asked_than_where_nobody_has_it(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """The same statements with the same steps: time tells nothing about what others have."""
    target = open_registry()
    alice, bob = (connect(target).login(*who) for who in (ALICE, BOB))
    contents = [secrets.token_bytes(50) for _ in range(2)]
    for _ in range(20):
        await alice.new_repository().push_blob(contents[0])
    digests = [Digest.of(content) for content in contents]
    mine = bob.new_repository()
    for name in range(5):
        await bob.repository(f"bob/other-{name}").push_blob(b"mine")
    steps = []
    for client in (bob, await bob.scoped(f"repository:{mine.name}:pull,push")):
        for digest in digests:
            principal = await _principal(target, client)
            steps.append(target.administration._database.read_now(_steps, digest, principal))
    assert steps[0] == steps[1] > 0
    assert steps[2] == steps[3] > 0


def _steps(reader: Reader, digest: Digest, principal: Principal) -> int:
    """Return how many steps of SQLite's machine the search for sources takes."""
    count = itertools.count()
    driver = driver_of(reader._connection)
    driver.set_progress_handler(lambda: next(count) < 0, 1)
    try:
        assert mount_sources(reader, digest, principal) == []
    finally:
        driver.set_progress_handler(None, 1)
    return next(count)


async def _principal(target: InProcess, client: Client) -> Principal:
    identity = target.application._gate._identity
    return (await identity.identify(client.authorization, "127.0.0.1")).principal


class RemadeMeanwhile(SqliteDatabase):
    """A database in which a repository is made anew once it was looked up by its name."""

    name_remade = ""
    remade = 0

    async def lookup(self, lookup: Lookup, parameters: Mapping[str, Any]) -> Row | None:
        """Look up, and then let it happen."""
        found = await super().lookup(lookup, parameters)
        if lookup is FIND_REPOSITORY and parameters["name"] == self.name_remade:
            self.remade += 1
            administration, self.name_remade = Administration(self), ""
            administration.remove_repository(str(parameters["name"]))
            name = RepositoryName(parameters["name"])
            made = self.write_now(create_repository, name, Visibility.PRIVATE)
            self.write_now(link_blob, made.id, Digest.of(b"here"), LATER)
        return found


async def test_a_source_that_is_made_anew_meanwhile_is_not_mounted_from(
    open_registry: OpenRegistry, connect: Connect, tmp_path: Path
) -> None:
    """The token is for the one that had the name: by its id, from the first look to the last."""
    open_state(tmp_path).database.close()
    database = RemadeMeanwhile(tmp_path / "dtr.db", wait_seconds=5)
    alice = connect(open_registry(open_database=lambda: database)).login(*ALICE)
    source, target = alice.new_repository("source"), alice.new_repository("target")
    digest = await source.push_blob(b"here")
    await alice.new_repository("other").push_blob(b"here")  # so its bytes stay
    client = await alice.scoped(
        f"repository:{source.name}:pull", f"repository:{target.name}:pull,push"
    )
    database.name_remade = source.name
    status, _ = await mount(Repository(client, target.name), digest, source)
    assert (status, database.remade) == (202, 1)
