"""What one user sends does not fill a process: bodies that are read whole, and bearer tokens."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

from tests.http.asgi import Answer, ask
from tests.http.client import basic
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess

from dtr.asgi.request import Message
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_MANIFEST
from dtr.storage import FilesystemBlobStore
from dtr.testing.registry import ALICE, BOB

LARGE = b"x" * ((4 << 20) - 1)
MANY = 40
MOST_OF_ONE = 64 << 20
SOON = 20.0


async def leave_unfinished(target: InProcess, user: tuple[str, str], *, place: str) -> int:
    """Send a manifest but for its last byte, for ever; return what it is answered all the same."""
    answer = Answer()
    has_sent = False

    async def receive() -> Message:
        nonlocal has_sent
        if has_sent:
            await asyncio.Event().wait()
        has_sent = True
        return {"type": "http.request", "body": LARGE, "more_body": True}

    async def send(message: Message) -> None:
        answer.status = message.get("status", answer.status)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": f"/v2/{place}/manifests/latest",
        "query_string": b"",
        "headers": [
            (b"host", b"a.test"),
            (b"authorization", basic(*user).encode()),
            (b"content-type", OCI_MANIFEST.encode()),
            (b"expect", b"100-continue"),
        ],
        "client": ("127.0.0.1", "40000"),
        "server": ("127.0.0.1", 5000),
    }
    await target.application(scope, receive, send)
    return answer.status


@asynccontextmanager
async def crowd(target: InProcess, user: tuple[str, str]) -> AsyncIterator[list[asyncio.Task[int]]]:
    """Have many manifests of a user on their way; give those, once all have been looked at."""
    tasks = [
        asyncio.create_task(leave_unfinished(target, user, place=f"{user[0]}/held-{number}"))
        for number in range(MANY)
    ]
    waiting = set(tasks)
    async with asyncio.timeout(SOON):
        while len(waiting) > MOST_OF_ONE // len(LARGE):
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def put(target: InProcess, user: tuple[str, str], body: bytes) -> int:
    """Send a manifest that is none, whole; return the answer's status."""
    answer = await ask(
        target.application,
        "PUT",
        f"/v2/{user[0]}/whole/manifests/latest",
        headers=[
            (b"authorization", basic(*user).encode()),
            (b"content-type", OCI_MANIFEST.encode()),
        ],
        body=[body],
    )
    return answer.status


async def test_what_one_account_leaves_unfinished_is_bounded(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """The rest gets 429; its small manifests and others' large ones pass; all ends with it."""
    target = open_registry()
    for user in (ALICE, BOB):  # a login each, whose passwords are then not verified again
        assert (await connect(target).login(*user).get("/v2/")).status_code == 200
    async with crowd(target, ALICE) as tasks:
        refused = [task.result() for task in tasks if task.done()]
        assert set(refused) == {429}
        assert (MANY - len(refused)) * len(LARGE) <= MOST_OF_ONE
        assert await put(target, ALICE, b"x" * 2000) == 400
        assert await put(target, ALICE, LARGE) == 429
        assert await put(target, BOB, LARGE) == 400
    assert await put(target, ALICE, LARGE) == 400


async def large_token(target: InProcess, number: int) -> bytes:
    """Get a token for many repositories with long names, which need not exist."""
    names = [f"alice/{number}-{each}-{'x' * 180}" for each in range(80)]
    form = [
        ("grant_type", "password"),
        ("username", ALICE[0]),
        ("password", ALICE[1]),
        *(("scope", f"repository:{name}:pull") for name in names),
    ]
    body = [urlencode(form).encode()]
    answer = await ask(target.application, "POST", "/auth/token", body=body)
    return str(answer.json()["token"]).encode()


async def test_large_bearer_tokens_do_not_stay_in_memory(open_registry: OpenRegistry) -> None:
    """Whoever owns a namespace may have any number of them, each for repositories to come."""
    target = open_registry()
    tokens = [await large_token(target, number) for number in range(20)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for token in tokens:
            headers = [(b"authorization", b"Bearer " + token)]
            assert (await ask(target.application, "GET", "/v2/", headers=headers)).status == 200
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < sum(map(len, tokens)) / 2


async def test_a_body_of_tiny_pieces_takes_little_more_than_its_bytes(
    open_registry: OpenRegistry, tmp_path: Path
) -> None:
    """Two bytes each would take twenty times as much until they are written."""
    target = open_registry(stores=[FilesystemBlobStore(tmp_path / "blobs")])
    content = b"".join(b"%02d" % (number % 100) for number in range(200_000))
    pieces = (content[start : start + 2] for start in range(0, len(content), 2))
    tracemalloc.start()
    try:
        answer = await ask(
            target.application,
            "POST",
            "/v2/alice/tiny/blobs/uploads/",
            query=f"digest={Digest.of(content)}".encode(),
            headers=[(b"authorization", basic(*ALICE).encode())],
            body=pieces,
        )
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answer.status == 201
    assert most < 3 << 20
