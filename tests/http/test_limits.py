"""Limits are stated, and past them is a clear error (design 5.9)."""

import pytest
from tests.http.client import Client, Repository, assert_error
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import Node
from tests.http.wire import head, say

from dtr.model.digest import Digest
from dtr.testing.registry import ALICE


async def test_an_address_that_is_too_long_is_414(alice: Client) -> None:
    """Path and query together, 8 KiB by default; exactly that many are read."""
    path = "/v2/alice/never-pushed/tags/list"
    room = 8192 - len(path) - len("last=")
    answer = await alice.get(f"{path}?last={'x' * (room + 1)}")
    assert_error(answer, 414, "UNSUPPORTED")
    answer = await alice.get("/v2/" + "x" * 9000)
    assert_error(answer, 414, "UNSUPPORTED")
    answer = await alice.get(f"{path}?unused={'x' * (room - 3)}")
    assert answer.status_code == 404


async def test_a_credential_that_is_too_long_is_431(anonymous: Client) -> None:
    """32 KiB by default, checked before anything is parsed (CVE-2025-30204)."""
    for scheme in ("Bearer", "Basic"):
        client = Client(anonymous.http, "", f"{scheme} {'x' * 32768}")
        for path in ("/v2/", "/auth/token", "/v2/alice/app/tags/list"):
            assert_error(await client.get(path), 431, "UNSUPPORTED")


async def test_any_header_that_is_too_long_is_431(alice: Client) -> None:
    """Whatever it is called, and also where nobody would read it."""
    for name in ("Accept", "X-Nothing", "Cookie"):
        for path in ("/v2/", "/_ping"):
            answer = await alice.get(path, headers={name: "x" * 32769})
            assert_error(answer, 431, "UNSUPPORTED")
    assert (await alice.get("/v2/", headers={"Accept": "x" * 32768})).status_code == 200


async def test_an_open_route_ignores_what_it_does_not_need(anonymous: Client) -> None:
    """A health check is not disturbed by a credential, good or bad."""
    client = Client(anonymous.http, "", "Bearer nonsense")
    assert (await client.get("/_ping")).status_code == 200


async def test_a_blob_that_is_too_large_is_413(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """In one piece, in many, announced or not; and the session is as it was."""
    target = open_registry({"limits": {"blob_bytes": 1000}})
    repository = connect(target).login(*ALICE).new_repository()
    client = repository.client
    await repository.push_blob(b"x" * 1000)
    large = b"x" * 1001
    parameters = {"digest": Digest.of(large)}
    answer = await client.post(repository.uploads, params=parameters, content=large)
    assert_error(answer, 413, "SIZE_INVALID")
    location = await repository.start_upload()
    await client.patch(location, content=b"y" * 600)
    assert_error(await client.patch(location, content=b"y" * 401), 413, "SIZE_INVALID")
    answer = await client.put(location, params=parameters, content=b"y" * 401)
    assert_error(answer, 413, "SIZE_INVALID")
    assert (await client.get(location)).headers["Range"] == "0-599"
    whole = b"y" * 1000
    done = await client.put(location, params={"digest": Digest.of(whole)}, content=b"y" * 400)
    assert done.status_code == 201


async def test_a_form_that_is_too_large_is_413(anonymous: Client) -> None:
    """A login fits into 64 KiB."""
    answer = await anonymous.post("/auth/token", content=b"x" * 65537)
    assert_error(answer, 413, "SIZE_INVALID")


async def test_too_many_query_parameters_are_refused(repository: Repository) -> None:
    """A hundred are enough for everything that is specified."""
    await repository.push_blob(b"x")
    answer = await repository.client.get(f"{repository.tags}?{'&'.join(['a=b'] * 101)}")
    assert_error(answer, 400, "UNSUPPORTED")


async def test_a_query_that_is_no_utf_8_is_refused(repository: Repository) -> None:
    """Nothing is guessed."""
    await repository.push_blob(b"x")
    answer = await repository.client.get(f"{repository.tags}?last=%ff")
    assert_error(answer, 400, "UNSUPPORTED")


@pytest.mark.server
async def test_a_head_beyond_all_measure_is_refused_by_the_server(node: Node) -> None:
    """Half a megabyte of headers is 431 before any of our code runs."""
    heard = say(node.url, head("GET", "/v2/", [(f"X-{n}", "x" * 4000) for n in range(150)]))
    assert heard.status in {400, 431}
    heard = say(node.url, head("GET", "/v2/", [(f"X-{n}", "x") for n in range(5000)]))
    assert heard.status in {400, 431}
    heard = say(node.url, head("GET", "/" + "x" * 500_000))
    assert heard.status in {400, 414, 431}
