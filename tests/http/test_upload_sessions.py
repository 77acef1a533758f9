"""Whose an upload session is (CVE-2026-32589 is why that is checked)."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.http.asgi import ask
from tests.http.client import Client, Repository, assert_error
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import Target

from dtr.model.access import Level
from dtr.model.digest import Digest
from dtr.testing.registry import ALICE, BOB

REQUESTS = ("GET", "PATCH", "PUT", "DELETE")


async def use(client: Client, method: str, location: str) -> tuple[int, str]:
    """Use a session in one of the four ways; return status and code."""
    parameters = {"digest": Digest.of(b"x")} if method == "PUT" else None
    answer = await client.request(method, location, params=parameters, content=b"x")
    return answer.status_code, answer.json()["errors"][0]["code"]


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_session_is_unknown_to_others_who_may_push(
    target: Target, repository: Repository, bob: Client, admin: Client, method: str
) -> None:
    """Not even an administrator or a colleague with every right can touch it."""
    location = await repository.start_upload()
    target.administration.grant(repository.name, "bob", Level.ADMIN)
    for other in (bob, admin):
        assert await use(other, method, location) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await repository.client.get(location)).status_code == 204


@pytest.mark.parametrize("method", REQUESTS)
async def test_a_session_is_unknown_in_another_repository(alice: Client, method: str) -> None:
    """The same person cannot carry a session over."""
    one, other = alice.new_repository(), alice.new_repository()
    location = await one.start_upload()
    await other.start_upload()
    moved = other.uploads + location.rpartition("/")[2]
    assert await use(alice, method, moved) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await alice.get(location)).status_code == 204


@pytest.mark.parametrize(
    "upload",
    ["0ea37341-358f-4706-b6e3-fc7551381cfc", "x", "%2e%2e", "' OR 1=1 --", "0", "%00", "ü" * 40],
)
async def test_a_session_that_never_was_is_unknown(repository: Repository, upload: str) -> None:
    """Whatever stands in its place."""
    await repository.start_upload()
    for method in REQUESTS:
        path = repository.uploads + upload
        assert await use(repository.client, method, path) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_a_session_may_go_on_with_another_credential_of_its_owner(
    target: Target, repository: Repository
) -> None:
    """A bearer token that expires in the middle of an upload is replaced by a new one."""
    location = await repository.start_upload()
    scope = f"repository:{repository.name}:pull,push"
    for _ in range(2):
        client = await repository.client.scoped(scope)
        assert (await client.patch(location, content=b"x")).status_code == 202
    done = await repository.client.put(location, params={"digest": Digest.of(b"xx")})
    assert done.status_code == 201


async def test_who_loses_the_right_to_push_loses_the_session(
    target: Target, repository: Repository, bob: Client
) -> None:
    """A right is asked for at every request, not at the first."""
    await repository.push_blob(b"here")
    target.administration.grant(repository.name, "bob", Level.READ_WRITE)
    location = await repository.seen_by(bob).start_upload()
    target.administration.grant(repository.name, "bob", Level.READ_ONLY)
    assert await use(bob, "PATCH", location) == (403, "DENIED")


async def test_an_account_has_only_so_many_sessions(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """One more is 429, and when to come back; cancelling one makes room."""
    target = open_registry({"limits": {"upload_sessions_per_account": 2}})
    repository = connect(target).login(*ALICE).new_repository()
    locations = [await repository.start_upload() for _ in range(2)]
    answer = await repository.client.post(repository.uploads)
    assert_error(answer, 429, "TOOMANYREQUESTS")
    assert 1 <= int(answer.headers["Retry-After"]) <= 3601
    await repository.client.delete(locations[0])
    await repository.start_upload()


async def test_the_oldest_sessions_without_a_byte_give_way(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Not one with bytes, nor one that is being used; only where there are none is it 429."""
    target = open_registry({"limits": {"upload_sessions_per_account": 3}})
    repository = connect(target).login(*ALICE).new_repository()
    client = repository.client
    locations = []
    for content in (b"bytes", b"", b""):
        locations.append(await repository.start_upload())
        if content:
            assert (await client.patch(locations[-1], content=content)).status_code == 202
        target.clock.advance(60)
    locations.append(await repository.start_upload())
    statuses = [(await client.get(each)).status_code for each in locations]
    assert statuses == [204, 404, 204, 204]
    for location in locations[2:]:
        await client.patch(location, content=b"bytes")
    target.clock.advance(3600)
    assert_error(await client.post(repository.uploads), 429, "TOOMANYREQUESTS")


async def test_sessions_of_the_tokens_own_repository_give_way_first(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """A token for one repository costs another one a session only where it has none itself."""
    target = open_registry({"limits": {"upload_sessions_per_account": 2}})
    alice = connect(target).login(*ALICE)
    own, other = alice.new_repository(), alice.new_repository()
    locations = []
    for repository in (other, own):
        locations.append(await repository.start_upload())
        target.clock.advance(60)
    narrow = own.seen_by(await alice.scoped(f"repository:{own.name}:pull,push"))
    locations.append(await narrow.start_upload())
    assert [(await alice.get(each)).status_code for each in locations] == [204, 404, 204]
    assert (await narrow.client.patch(locations[2], content=b"x")).status_code == 202
    locations.append(await narrow.start_upload())
    assert [(await alice.get(each)).status_code for each in locations] == [404, 404, 204, 204]


async def test_a_session_without_a_byte_ends_early(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """After a quarter of an hour; one with bytes lives a day."""
    target = open_registry()
    repository = connect(target).login(*ALICE).new_repository()
    empty, begun = [await repository.start_upload() for _ in range(2)]
    await repository.client.patch(begun, content=b"x")
    target.clock.advance(901)
    assert await use(repository.client, "PATCH", empty) == (404, "BLOB_UPLOAD_UNKNOWN")
    assert (await repository.client.get(begun)).status_code == 204


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_an_old_session_is_kept_from_its_first_bytes_on(
    open_registry: OpenRegistry, connect: Connect, method: str
) -> None:
    """One that waited for its turn does not give way in the first seconds of its body."""
    target = open_registry({"limits": {"upload_sessions_per_account": 1}})
    repository = connect(target).login(*ALICE).new_repository()
    location = await repository.start_upload()
    target.clock.advance(60)
    tried = []

    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        for _ in range(3):
            yield b"x"
            tried.append((await repository.client.post(repository.uploads)).status_code)

    parameters = {"digest": Digest.of(b"xxxx")} if method == "PUT" else None
    answer = await repository.client.request(method, location, params=parameters, content=body())
    assert answer.is_success, answer.text
    assert tried == [429] * 3


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_session_does_not_end_while_its_bytes_arrive(
    open_registry: OpenRegistry, connect: Connect, method: str
) -> None:
    """However long they take: neither by its time nor to make room."""
    target = open_registry({"limits": {"upload_sessions_per_account": 1}})
    repository = connect(target).login(*ALICE).new_repository()
    location = await repository.start_upload()
    tried = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x"
            target.clock.advance(600)
            yield b"y"
            tried.append((await repository.client.post(repository.uploads)).status_code)
            tried.append((await repository.client.get(location)).status_code)

    content, params = b"xy" * 5, {"digest": Digest.of(b"xy" * 5)}
    answer = await repository.client.request(method, location, content=body(), params=params)
    assert answer.status_code in {201, 202}
    assert tried == [429, 204] * 5
    assert len(content) == 10


async def test_who_loses_the_right_to_push_is_cut_while_bytes_arrive(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Within a minute, and not only when the whole layer is here."""
    target = open_registry()
    repository = connect(target).login(*ALICE).new_repository()
    await repository.push_blob(b"here")
    target.administration.grant(repository.name, "bob", Level.READ_WRITE)
    bob = connect(target).login(*BOB)
    location = await repository.seen_by(bob).start_upload()

    def pieces() -> Iterator[bytes]:
        target.administration.grant(repository.name, "bob", Level.NONE)
        for _ in range(10):
            yield b"x"
            target.clock.advance(15)
        raise AssertionError("the body was taken to its end")

    headers = [(b"authorization", bob.authorization.encode())]
    answer = await ask(target.application, "PATCH", location, headers=headers, body=pieces())
    assert answer.status == 403


async def test_a_deleted_repository_takes_its_sessions_along(
    target: Target, repository: Repository
) -> None:
    """A session of a repository that was made anew under the same name is another one's."""
    location = await repository.start_upload()
    target.administration.remove_repository(repository.name)
    assert await use(repository.client, "PATCH", location) == (404, "BLOB_UPLOAD_UNKNOWN")
    await repository.push_blob(b"made anew")
    assert await use(repository.client, "PATCH", location) == (404, "BLOB_UPLOAD_UNKNOWN")
