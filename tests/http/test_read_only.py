"""An administrator has the registry serve pulls only: what is refused then, and what goes on."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.http.client import Client, image
from tests.http.conftest import Connect, OpenRegistry

from dtr.accounts.gate import Gate
from dtr.database import Database
from dtr.model.digest import Digest
from dtr.model.read_only import ReadOnlyMode
from dtr.registry.read_only import ReadOnly
from dtr.registry.records.read_only import set_read_only
from dtr.server import read_only
from dtr.testing.registry import ADMIN, ALICE

MODE = "/api/v0/meta/read_only"
REASON = "the storage moves until 18:00"


def on(reason: str = REASON) -> bytes:
    """Return the body that turns the mode on."""
    return json.dumps({"reason": reason}).encode()


@pytest.fixture
def anybody(open_registry: OpenRegistry, connect: Connect) -> Client:
    """Give a client of a registry of the test's own: what it is told concerns all who use it."""
    return connect(open_registry())


@pytest.fixture
def admin(anybody: Client) -> Client:
    """Give the administrator."""
    return anybody.login(*ADMIN)


@pytest.fixture
def alice(anybody: Client) -> Client:
    """Give a user."""
    return anybody.login(*ALICE)


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other processes, of which there are none."""
    monkeypatch.setattr(read_only, "_SETTLE_SECONDS", 0.0)


def assert_refused(answer: httpx.Response) -> None:
    """Find the envelope of the specification, with the reason, and when to try again."""
    assert answer.status_code == 503, answer.text
    (error,) = answer.json()["errors"]
    assert error["code"] == "UNAVAILABLE"
    assert REASON in error["message"]
    assert error["detail"] == {"reason": REASON}
    assert int(answer.headers["retry-after"]) >= 1


async def test_whatever_changes_content_is_refused_and_pulls_go_on(
    admin: Client, alice: Client
) -> None:
    """Each endpoint that writes says why; nothing changes until the mode is off again."""
    repository = alice.new_repository()
    pushed = await repository.push_image("v1")
    location = await repository.start_upload()
    assert (await admin.put(MODE, content=on())).status_code == 200
    payload = json.dumps(image(b"config", b"layer")).encode()
    digest = str(Digest.of(b"new"))
    for answer in (
        await alice.post(repository.uploads),
        await alice.post(repository.uploads, params={"digest": digest}, content=b"new"),
        await alice.post(repository.uploads, params={"mount": str(pushed.config)}),
        await alice.post(alice.new_repository().uploads),
        await alice.patch(location, content=b"new"),
        await alice.put(location, params={"digest": digest}, content=b"new"),
        await alice.delete(location),
        await repository.put_manifest(payload, "v2"),
        await alice.delete(repository.manifest("v1")),
        await alice.delete(repository.manifest(pushed.digest)),
        await alice.delete(repository.blob(pushed.config)),
    ):
        assert_refused(answer)
    for path in (repository.manifest("v1"), repository.blob(pushed.config), repository.tags):
        assert (await alice.get(path)).status_code == 200
    assert (await alice.get(location)).status_code == 204
    assert await alice.token(f"repository:{repository.name}:pull")
    assert (await admin.delete(MODE)).json() == {"read_only": False}
    await repository.push_image("v2")


async def test_a_push_whose_body_ends_too_late_is_refused(admin: Client, alice: Client) -> None:
    """It began before; what it brought is not there afterwards."""
    repository = alice.new_repository()
    first = await repository.push_image("v1")
    payload = json.dumps(image(b"config", b"layer")).encode()
    content, digest = b"a blob that comes slowly", Digest.of(b"a blob that comes slowly")
    location = await repository.start_upload()

    async def slowly(whole: bytes) -> AsyncIterator[bytes]:
        yield whole[:5]
        await admin.put(MODE, content=on())
        yield whole[5:]

    for method, path, params, body in (
        ("PUT", repository.manifest("v1"), {}, payload),
        ("POST", repository.uploads, {"digest": str(digest)}, content),
        ("PATCH", location, {}, content),
        ("PUT", location, {"digest": str(digest)}, content),
    ):
        assert_refused(await alice.request(method, path, params=params, content=slowly(body)))
        await admin.delete(MODE)
    assert (await alice.head(repository.blob(digest))).status_code == 404
    assert (await alice.get(repository.manifest("v1"))).content == first.payload
    # The session is where it was, and goes on.
    done = await alice.put(location, params={"digest": str(digest)}, content=content)
    assert done.status_code == 201


async def test_the_mode_is_shown_and_is_for_administrators(
    admin: Client, alice: Client, anybody: Client
) -> None:
    """Who turned it on, when and why; another reason replaces the one before."""
    assert (await admin.get(MODE)).json() == {"read_only": False}
    await admin.put(MODE, content=on("first"))
    await admin.put(MODE, content=on())
    found = (await admin.get(MODE)).json()
    assert (found["read_only"], found["reason"], found["by"]) == (True, REASON, ADMIN[0])
    assert found["since"] > 0
    for client, status in ((alice, 403), (anybody, 401)):
        for method in ("GET", "PUT", "DELETE"):
            assert (await client.request(method, MODE, content=on())).status_code == status
    assert (await admin.get(MODE)).json() == found


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"reason": 5}', b'{"reason": " "}', b'{"reason": "a\\u0007"}']
)
async def test_a_mode_without_a_reason_is_refused(admin: Client, body: bytes) -> None:
    """Whoever pushes is to know what to wait for."""
    assert (await admin.put(MODE, content=body)).status_code == 400
    assert (await admin.get(MODE)).json() == {"read_only": False}


async def test_health_says_that_pushes_are_refused_and_is_good(admin: Client) -> None:
    """So that a status shows it, and no balancer takes the server out."""
    assert (await admin.get("/health")).json() == {"Error": "", "Healthy": True}
    assert (await admin.put(MODE, content=on())).status_code == 200
    async with asyncio.timeout(20):
        while True:
            answer = await admin.get("/health")
            assert answer.status_code == 200
            if answer.json()["Error"]:  # each component is asked once a second
                break
            await asyncio.sleep(0.05)
    said = "pushes: refused, in read-only mode"
    assert answer.json() == {"Error": said, "Healthy": True, "ReadOnly": True}
    assert REASON not in answer.text


async def test_nothing_is_written_once_the_mode_is_there(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by a process that has not heard of it: each write looks in its own transaction."""
    target = open_registry()
    alice = connect(target).login(*ALICE)
    database: Database = target.administration._database
    repository = alice.new_repository()
    pushed = await repository.push_image("v1")
    locations = [await repository.start_upload() for _ in range(3)]

    async def hear_nothing(_self: ReadOnly) -> None:
        """Take it for as it was."""

    written = Gate._written

    async def write(*arguments: Any) -> Any:
        database.write_now(set_read_only, ReadOnlyMode(REASON, 1.0, "root"))
        return await written(*arguments)

    digest = {"digest": str(Digest.of(b"new"))}
    payload = json.dumps(image(b"config", b"layer")).encode()
    monkeypatch.setattr(ReadOnly, "require", hear_nothing)
    monkeypatch.setattr(Gate, "_written", write)
    for method, path, params, content in (
        ("POST", repository.uploads, {}, b""),
        ("POST", repository.uploads, digest, b"new"),
        ("POST", repository.uploads, {"mount": str(pushed.config)}, b""),
        ("PATCH", locations[0], {}, b"new"),
        ("PUT", locations[1], digest, b"new"),
        ("DELETE", locations[2], {}, b""),
        ("PUT", repository.manifest("v2"), {}, payload),
        ("DELETE", repository.manifest("v1"), {}, b""),
        ("DELETE", repository.manifest(pushed.digest), {}, b""),
        ("DELETE", repository.blob(pushed.config), {}, b""),
    ):
        database.write_now(set_read_only, None)
        assert_refused(await alice.request(method, path, params=params, content=content))
    assert (await alice.get(repository.manifest("v1"))).content == pushed.payload
    assert (await alice.head(repository.blob(digest["digest"]))).status_code == 404


async def test_health_and_metrics_show_the_mode(admin: Client, anybody: Client) -> None:
    """The server stays healthy, for pulls go on; not the reason, which is for who pushes."""
    for is_on in (False, True, False):
        await admin.request("PUT" if is_on else "DELETE", MODE, content=on())
        answer = await anybody.get("/health")
        found = answer.json()
        assert (answer.status_code, found["Healthy"]) == (200, True)
        assert found.get("ReadOnly", False) is is_on
        assert REASON not in answer.text
        assert f"dtr_read_only {int(is_on)}\n" in (await admin.get("/metrics")).text
