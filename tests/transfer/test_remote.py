"""A registry that is asked over the network: what it may say, and what is not believed."""

import hashlib
import json
from collections.abc import Iterable, Iterator

import pytest
from tests.support.scripted import Answer, Servers, scripted_servers

from dtr.model.digest import Digest
from dtr.model.errors import InvalidError, UnavailableError
from dtr.model.names import TagName
from dtr.remote import Credentials, Targets, client
from dtr.transfer import remote as module
from dtr.transfer.remote import RemoteRegistry
from dtr.transfer.source import SourceError

CONTENT = b"content"
DIGEST = Digest(f"sha256:{hashlib.sha256(CONTENT).hexdigest()}")
ALICE = Credentials("alice", "her secret")


def registry_at(
    url: str, credentials: Credentials | None = None, **allowed: Iterable[str]
) -> RemoteRegistry:
    """Return a client of a registry; `allowed` is what the operator allows it to name."""
    return RemoteRegistry(Targets.parse(url, **allowed), credentials=credentials)


@pytest.fixture
def servers() -> Iterator[Servers]:
    """Give what starts a server on a script."""
    with scripted_servers() as start:
        yield start


async def test_pages_are_followed_to_the_last(servers: Servers) -> None:
    """By the Link header, absolute or relative, on this server only."""
    pages = {
        "/v2/_catalog?n=1000": (["a", 5], '</v2/_catalog?last=a>; rel="next"'),
        "/v2/_catalog?last=a": (["b"], '<http://elsewhere.example/v2/_catalog?last=b>; rel="next"'),
        "/v2/_catalog?last=b": (["c"], ""),
    }

    def script(path: str, _headers: dict[str, str]) -> Answer:
        names, link = pages[path]
        body = json.dumps({"repositories": names}).encode()
        return Answer(body=body, headers={"link": link} if link else {})

    registry = registry_at(servers(script).url)
    found = [name async for name in registry.repositories()]
    assert found == ["a", "(no name: 5)", "b", "c"]
    await registry.close()


async def test_pages_without_an_end_are_given_up(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server could send us in a circle."""
    monkeypatch.setattr(module, "_MOST_PAGES", 20)
    link = {"link": '</v2/_catalog?last=a>; rel="next"'}
    page = Answer(body=b'{"repositories": null}', headers=link)
    registry = registry_at(servers(lambda _p, _h: page).url)
    with pytest.raises(SourceError, match="no last page"):
        _ = [name async for name in registry.repositories()]
    await registry.close()


async def test_a_token_is_got_with_the_password_and_used_for_its_scope(
    servers: Servers,
) -> None:
    """The password goes to the token service, the token to the registry; a new one when it ends."""
    issued = 0

    def tokens(_path: str, _headers: dict[str, str]) -> Answer:
        nonlocal issued
        issued += 1
        return Answer(body=json.dumps({"token": f"t{issued}"}).encode())

    service = servers(tokens)
    expired = {"t1"}

    def script(_path: str, headers: dict[str, str]) -> Answer:
        token = headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in expired:
            return Answer(body=CONTENT)
        challenge = f'Bearer realm="{service.url}/token",service="s",scope="repository:a/b:pull"'
        return Answer(401, headers={"www-authenticate": challenge})

    registry_server = servers(script)
    registry = registry_at(registry_server.url, ALICE, token_services=[service.url])
    for _ in range(3):
        found = await registry.manifest("a/b", TagName("v1"), limit=100)
        assert found.digest == DIGEST
    await registry.close()
    assert [path for path, _ in service.requests] == [
        "/token?service=s&scope=repository:a/b:pull"
    ] * 2
    assert all(given.startswith("Basic ") for _, given in service.requests)
    assert not any(given.startswith("Basic ") for _, given in registry_server.requests)
    assert [given for _, given in registry_server.requests][-1] == "Bearer t2"


async def test_a_refusal_is_not_repeated_for_ever(servers: Servers) -> None:
    """A server could ask for new tokens without an end."""
    count = 0

    def script(path: str, _headers: dict[str, str]) -> Answer:
        nonlocal count
        count += 1
        if path.startswith("/token"):
            return Answer(body=json.dumps({"token": f"t{count}"}).encode())
        challenge = f'Bearer realm="{server.url}/token"'
        return Answer(401, headers={"www-authenticate": challenge})

    server = servers(script)
    registry = registry_at(server.url, ALICE)
    with pytest.raises(SourceError, match="answers 401"):
        await registry.check()
    await registry.close()
    assert count < 10


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ('Bearer realm="file:///etc/passwd"', "no usable token service"),
        ('Bearer realm="gopher://x/"', "no usable token service"),
        ('Bearer realm="http://a:b@127.0.0.1/"', "no usable token service"),
        ("Bearer", "no usable token service"),
        ("Negotiate", "answers 401"),
    ],
)
async def test_a_strange_challenge_is_refused(servers: Servers, challenge: str, said: str) -> None:
    """And the password is not sent anywhere."""
    server = servers(lambda _p, _h: Answer(401, headers={"www-authenticate": challenge}))
    registry = registry_at(server.url, ALICE)
    with pytest.raises(SourceError, match=said):
        await registry.check()
    await registry.close()
    assert {given for _, given in server.requests} == {""}


async def test_a_redirect_to_another_server_gets_no_password(
    servers: Servers,
) -> None:
    """Registries redirect to where their blobs are; that is somebody else."""
    elsewhere = servers(lambda _p, _h: Answer(body=CONTENT))

    def script(path: str, headers: dict[str, str]) -> Answer:
        if "authorization" not in headers:
            return Answer(401, headers={"www-authenticate": 'Basic realm="r"'})
        return Answer(307, headers={"location": f"{elsewhere.url}{path}"})

    registry = registry_at(servers(script).url, ALICE, networks=["127.0.0.1"])
    assert b"".join([chunk async for chunk in registry.blob("a/b", DIGEST)]) == CONTENT
    await registry.close()
    assert elsewhere.requests == [(f"/v2/a/b/blobs/{DIGEST}", "")]


async def test_a_failure_is_never_taken_for_no_referrers(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One subject's failure is that subject's; the next one is asked for as before."""
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    page = json.dumps({"manifests": [{"digest": DIGEST}, {"digest": "none"}, 5]}).encode()
    answers = iter([Answer(500), Answer(403), Answer(body=page), Answer(404), Answer(body=b"{}")])
    registry = registry_at(servers(lambda _p, _h: next(answers)).url)

    found: list[Digest] = []

    async def failure() -> str:
        try:
            async for each in registry.referrers("a/b", DIGEST):
                found.append(each)  # noqa: PERF401 - what came before the failure counts
        except SourceError as error:
            return str(error)
        return ""

    assert "answers 500" in await failure()
    assert "answers 403" in await failure()
    assert found == []
    assert "2 entries" in await failure()
    assert found == [DIGEST]
    assert "answers 404" in await failure()  # it has just shown that it has the API
    assert "no list of manifests" in await failure()
    await registry.close()


async def test_404_says_that_there_is_no_referrers_api(servers: Servers) -> None:
    """The specification's way to say it; such registries keep referrers under tags."""
    registry = registry_at(servers(lambda _p, _h: Answer(404)).url)
    assert [each async for each in registry.referrers("a/b", DIGEST)] == []
    await registry.close()


async def test_a_list_that_is_none_is_not_an_empty_one(servers: Servers) -> None:
    """Else a proxy's `{}` would be a registry without repositories."""
    registry = registry_at(servers(lambda _p, _h: Answer()).url)
    with pytest.raises(SourceError, match="no list of repositories"):
        _ = [name async for name in registry.repositories()]
    with pytest.raises(SourceError, match="no list of tags"):
        _ = [name async for name in registry.tags("a/b")]
    await registry.close()


async def test_bodies_are_bounded_and_verified(servers: Servers) -> None:
    """A manifest that is too large or another one, a list that is none."""
    registry = registry_at(servers(lambda _p, _h: Answer(body=CONTENT)).url)
    with pytest.raises(SourceError, match="more than 3 bytes"):
        await registry.manifest("a/b", TagName("v1"), limit=3)
    with pytest.raises(SourceError, match="are others"):
        await registry.manifest("a/b", Digest.of(b"another"), limit=100)
    with pytest.raises(SourceError, match="JSON object"):
        _ = [name async for name in registry.tags("a/b")]
    await registry.close()


async def test_a_blob_that_breaks_off_is_continued(servers: Servers) -> None:
    """From where it broke off, as often as there is progress."""

    def script(_path: str, headers: dict[str, str]) -> Answer:
        start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        rest = CONTENT[start:]
        return Answer(206 if start else 200, rest[:1], length=len(rest))

    registry = registry_at(servers(script).url)
    assert b"".join([chunk async for chunk in registry.blob("a/b", DIGEST)]) == CONTENT
    await registry.close()


async def test_a_registry_that_is_busy_is_asked_again(servers: Servers) -> None:
    """And one that stays so, or is not there, is said to be away."""
    refusals = 2

    def script(_path: str, _headers: dict[str, str]) -> Answer:
        nonlocal refusals
        refusals -= 1
        return Answer(503) if refusals >= 0 else Answer()

    registry = registry_at(servers(script).url)
    await registry.check()
    await registry.close()
    short = servers(lambda _p, _h: Answer(body=b"", length=100))
    registry = registry_at(short.url)
    with pytest.raises(UnavailableError, match="broke off"):
        _ = [chunk async for chunk in registry.blob("a/b", DIGEST)]
    await registry.close()


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://alice:secret@x", "registry"])
def test_only_plain_addresses_of_registries_are_taken(url: str) -> None:
    """A password in a URL would be in the list of processes, and in logs."""
    with pytest.raises(InvalidError, match="without a user") as failed:
        Targets.parse(url)
    assert "secret" not in str(failed.value)
