"""If-Match and If-None-Match on requests that write (RFC 9110 13.1): nothing happens, or 412."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import cast
from unittest.mock import MagicMock

import httpx
import pytest
from tests.http.client import Client, Repository, assert_error, image
from tests.http.conftest import IN_PROCESS

from dtr.asgi.conditions import Conditions
from dtr.model.digest import Digest
from dtr.model.errors import PreconditionFailedError
from dtr.model.manifests import OCI_MANIFEST
from dtr.registry.context import RegistryContext
from dtr.registry.routes import registry_routes

OTHER = Digest.of(b"other content")
NEW_ONLY = {"If-None-Match": "*"}
CLIENTS = 8


async def put(
    repository: Repository, reference: str, payload: bytes, condition: Mapping[str, str]
) -> httpx.Response:
    """PUT a manifest on a condition."""
    headers = {"Content-Type": OCI_MANIFEST, **condition}
    return await repository.client.put(
        repository.manifest(reference), content=payload, headers=headers
    )


def new_manifest() -> bytes:
    """Return a manifest that nobody has seen."""
    return json.dumps(image(secrets.token_bytes(20))).encode()


async def digest_of(repository: Repository, reference: str) -> str | None:
    """Return the digest that a reference leads to, or None."""
    answer = await repository.client.head(repository.manifest(reference))
    found: str | None = answer.headers.get("Docker-Content-Digest")
    return found


async def test_a_tag_is_made_only_if_it_is_new(repository: Repository) -> None:
    """`If-None-Match: *` makes a tag once; the second push is refused and moves nothing."""
    first = new_manifest()
    assert (await put(repository, "v1", first, NEW_ONLY)).status_code == 201
    second = new_manifest()
    error = assert_error(await put(repository, "v1", second, NEW_ONLY), 412, "DENIED")
    assert error["detail"] == {"digest": Digest.of(first)}
    assert error["message"] == "the content is not what If-Match or If-None-Match asks for"
    assert await digest_of(repository, "v1") == Digest.of(first)
    assert await digest_of(repository, Digest.of(second)) is None


@pytest.mark.parametrize("target", [IN_PROCESS[0], IN_PROCESS[3]], indirect=True)
@pytest.mark.parametrize(
    ("name", "value", "there", "absent"),
    [
        ("If-Match", '"{digest}"', 201, 412),
        ("If-Match", '"x", "{digest}"', 201, 412),
        ("If-Match", "{digest}", 201, 412),
        ("If-Match", "*", 201, 412),
        ("If-Match", 'W/"{digest}"', 412, 412),
        ("If-Match", f'"{OTHER}"', 412, 412),
        ("If-Match", "", 412, 412),
        ("If-None-Match", "*", 412, 201),
        ("If-None-Match", "*, *", 412, 201),
        ("If-None-Match", '"{digest}"', 412, 201),
        ("If-None-Match", 'W/"{digest}"', 412, 201),
        ("If-None-Match", f'"{OTHER}"', 201, 201),
        ("If-None-Match", "", 201, 201),
        ("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT", 201, 201),
    ],
)
async def test_every_condition_is_kept_to(
    repository: Repository, name: str, value: str, there: int, absent: int
) -> None:
    """For a tag and for a digest, of what is here and of what is not, to push and to delete.

    Also where each answer of the database is lost once: what the first attempt wrote does not
    make the condition of the second one false.
    """
    payload = new_manifest()
    digest = Digest.of(payload)
    condition = {name: value.replace("{digest}", digest)}
    for reference in ("here", digest):
        missing = await put(repository, reference, payload, condition)
        assert missing.status_code == absent, (reference, missing.text)
        assert await digest_of(repository, reference) == (digest if absent == 201 else None)
        await repository.push_manifest(payload, reference)
        found = await put(repository, reference, payload, condition)
        assert found.status_code == there, (reference, found.text)
        answer = await repository.client.delete(repository.manifest(reference), headers=condition)
        assert answer.status_code == (202 if there == 201 else there), (reference, answer.text)
        if there == 412:
            assert_error(answer, 412, "DENIED")
            assert await digest_of(repository, reference) == digest
        await repository.client.delete(repository.manifest(digest))


async def test_what_is_not_here_is_not_found_on_any_condition(repository: Repository) -> None:
    """A request that is refused for another reason is refused for that (RFC 9110 13.2.1)."""
    await repository.push_manifest(new_manifest(), "here")
    for condition in ({"If-Match": "*"}, {"If-Match": f'"{OTHER}"'}, NEW_ONLY):
        for reference in ("gone", OTHER):
            path = repository.manifest(reference)
            answer = await repository.client.delete(path, headers=condition)
            assert_error(answer, 404, "MANIFEST_UNKNOWN")


async def test_of_clients_that_make_one_tag_one_succeeds(
    alice: Client, repository: Repository
) -> None:
    """However they meet, the tag is what the one who was told 201 has pushed."""
    await repository.push_manifest(new_manifest(), "made")
    payloads = [new_manifest() for _ in range(CLIENTS)]
    answers = await asyncio.gather(
        *(put(Repository(alice, repository.name), "v1", each, NEW_ONLY) for each in payloads)
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [412] * (CLIENTS - 1)
    [winner] = [Digest.of(p) for p, a in zip(payloads, answers, strict=True) if a.is_success]
    assert await digest_of(repository, "v1") == winner


async def test_of_clients_that_move_one_tag_from_one_digest_one_succeeds(
    alice: Client, repository: Repository
) -> None:
    """`If-Match` with a digest is a compare-and-swap, with deletions among the writers."""
    before = await repository.push_manifest(new_manifest(), "v1")
    condition = {"If-Match": f'"{before}"'}
    payloads = [new_manifest() for _ in range(CLIENTS)]
    answers = await asyncio.gather(
        alice.delete(repository.manifest("v1"), headers=condition),
        *(put(Repository(alice, repository.name), "v1", each, condition) for each in payloads),
    )
    assert sum(answer.is_success for answer in answers) == 1, answers
    assert {answer.status_code for answer in answers} <= {201, 202, 404, 412}
    now = await digest_of(repository, "v1")
    assert now in {None, *map(Digest.of, payloads)}


async def test_a_condition_is_about_the_tag_in_the_path(repository: Repository) -> None:
    """A push by digest with tags is about the manifest: its tags may exist."""
    await repository.push_manifest(new_manifest(), "v1")
    payload = new_manifest()
    path = f"{repository.manifest(Digest.of(payload))}?tag=v1"
    headers = {"Content-Type": OCI_MANIFEST, **NEW_ONLY}
    client = repository.client
    assert (await client.put(path, content=payload, headers=headers)).status_code == 201
    assert await digest_of(repository, "v1") == Digest.of(payload)
    assert_error(await client.put(path, content=payload, headers=headers), 412, "DENIED")


async def test_a_refused_first_push_makes_no_repository(repository: Repository) -> None:
    """Nothing at all is left of it."""
    answer = await put(repository, "v1", new_manifest(), {"If-Match": "*"})
    assert assert_error(answer, 412, "DENIED")["detail"] == {"digest": None}
    answer = await repository.client.get(repository.tags)
    assert_error(answer, 404, "NAME_UNKNOWN")


async def test_a_blob_is_deleted_on_condition(repository: Repository) -> None:
    """412 for another digest, and the blob stays."""
    digest = await repository.push_blob(secrets.token_bytes(20))
    path, client = repository.blob(digest), repository.client
    for condition in ({"If-Match": f'"{OTHER}"'}, NEW_ONLY, {"If-None-Match": f'"{digest}"'}):
        assert_error(await client.delete(path, headers=condition), 412, "DENIED")
        assert (await client.head(path)).status_code == 200
    answer = await client.delete(path, headers={"If-Match": f'"{digest}"'})
    assert answer.status_code == 202


async def test_where_there_is_no_etag_none_matches(repository: Repository) -> None:
    """An upload session has none: `If-Match` with one is refused, and so is `If-None-Match: *`."""
    content = secrets.token_bytes(20)
    client, digest = repository.client, Digest.of(content)
    for condition in ({"If-Match": f'"{digest}"'}, NEW_ONLY):
        parameters = {"digest": digest}
        answer = await client.post(
            repository.uploads, params=parameters, content=content, headers=condition
        )
        assert_error(answer, 412, "DENIED")
        location = await repository.start_upload()
        for method in ("PATCH", "PUT", "DELETE"):
            answer = await client.request(
                method, location, params=parameters, content=content, headers=condition
            )
            assert_error(answer, 412, "DENIED")
        assert (await client.get(location)).headers["Range"] == "0-0"
        assert (await client.head(repository.blob(digest))).status_code == 404
    holds = {"If-Match": "*", "If-None-Match": f'"{digest}"'}
    location = await repository.start_upload()
    answer = await client.put(location, params=parameters, content=content, headers=holds)
    assert answer.status_code == 201


def test_every_route_that_writes_and_has_etags_keeps_to_conditions() -> None:
    """Those of a GET that gives an ETag; all others refuse what they cannot compare."""
    routes = registry_routes(cast("RegistryContext", MagicMock()))
    writing = {
        (route.template, method): endpoint.has_etags
        for route in routes
        for method, endpoint in route.endpoints.items()
        if method != "GET"
    }
    assert {key for key, has_etags in writing.items() if has_etags} == {
        ("/v2/{name}/manifests/{reference}", "PUT"),
        ("/v2/{name}/manifests/{reference}", "DELETE"),
        ("/v2/{name}/blobs/{digest}", "DELETE"),
    }


@pytest.mark.parametrize("text", ["*", " * ", '"x", *', "*,*"])
def test_a_star_in_a_list_is_a_star(text: str) -> None:
    """Two lines of `If-None-Match: *` are one list, and must not hold where something is."""
    conditions = Conditions.of({b"if-none-match": text.encode()})
    assert conditions is not None
    with pytest.raises(PreconditionFailedError):
        conditions.require(OTHER)
    with pytest.raises(PreconditionFailedError):
        conditions.require_without_etag()
    conditions.require(None)
