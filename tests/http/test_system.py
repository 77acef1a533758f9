"""Routes about the server itself, request ids, and the access log."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.http.asgi import ask
from tests.http.client import Client, assert_error, basic
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess, Node, Target

from dtr.model.errors import UnavailableError
from dtr.server.app import build_application
from dtr.server.drivers import Drivers
from dtr.server.logs import AccessLog
from dtr.server.metrics import Metrics
from dtr.server.settings import Settings
from dtr.storage.memory import MemoryBlobStore
from dtr.testing.registry import ADMIN, ALICE, open_state


class FailingStore(MemoryBlobStore):
    """Storage that says that it is not well, and why."""

    problem = ""

    async def check(self) -> None:
        """Answer, or fail as told."""
        if self.problem:
            raise UnavailableError(self.problem)


async def test_ping_answers_anybody(anonymous: Client) -> None:
    """In the original's shape."""
    for path in ("/_ping", "/health"):
        answer = await anonymous.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"Error": "", "Healthy": True}


async def test_health_is_503_and_names_what_fails(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """For everybody, after three failures; `_ping` is about this process only."""
    store = FailingStore()
    client = connect(open_registry(stores=[store]))
    assert (await client.get("/health")).status_code == 200
    store.problem = "the disk is on <fire>"
    expected = {"Error": "storage: the disk is on <fire>", "Healthy": False}
    for status in (200, 200, 503):
        await asyncio.sleep(1.05)
        answer = await client.get("/health")
        assert answer.status_code == status
    assert answer.json() == expected
    assert (await client.get("/_ping")).status_code == 200
    page = await client.get("/load_balancer_status")
    assert page.status_code == 503
    assert "<td>storage</td><td>the disk is on &lt;fire&gt;</td>" in page.text
    assert "<td>authorization</td><td>OK</td>" in page.text
    store.problem = ""
    await asyncio.sleep(1.05)
    for path in ("/health", "/load_balancer_status"):
        assert (await client.get(path)).status_code == 200


async def test_a_replica_that_drains_says_so_wherever_balancers_ask(
    open_registry: OpenRegistry, connect: Connect, tmp_path: Path
) -> None:
    """At once, and answers everything else."""
    drain = tmp_path / "drain"
    target = open_registry({"cluster": {"drain_file": str(drain)}})
    client = connect(target)
    assert (await client.get("/health")).status_code == 200
    drain.touch()
    for path in ("/health", "/_ping"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.json() == {"Error": "draining", "Healthy": False}
    assert "<td>replica</td><td>draining</td>" in (await client.get("/load_balancer_status")).text
    assert (await client.login(*ALICE).get("/v2/")).status_code == 200
    drain.unlink()
    for path in ("/health", "/_ping"):
        assert (await client.get(path)).status_code == 200


async def test_the_clusters_status_is_for_administrators(
    open_registry: OpenRegistry, connect: Connect, tmp_path: Path
) -> None:
    """Also where metrics are public; it names machines and their troubles."""
    file = tmp_path / "status.json"
    file.write_text('{"replica_health": {"111111111111": "OK"}}')
    target = open_registry(
        {"cluster": {"status_file": str(file)}, "server": {"metrics_public": True}}
    )
    client = connect(target)
    path = "/api/v0/meta/cluster_status"
    answer = await client.get(path)
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="dtr"'
    assert_error(await client.login(*ALICE).get(path), 403, "DENIED")
    answer = await client.login(*ADMIN).get(path)
    assert answer.status_code == 200
    assert answer.json()["replica_health"] == {"111111111111": "OK"}
    assert answer.json()["age_seconds"] < 60
    file.write_text("{")
    answer = await client.login(*ADMIN).get(path)
    assert answer.status_code == 503
    assert "is damaged" in answer.text


async def test_metrics_are_for_administrators(
    admin: Client, alice: Client, anonymous: Client
) -> None:
    """401 asks for a login, 403 tells a user, and an administrator gets the numbers."""
    answer = await anonymous.get("/metrics")
    assert_error(answer, 401, "UNAUTHORIZED")
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="dtr"'
    assert_error(await alice.get("/metrics"), 403, "DENIED")
    assert_error(await (await alice.scoped("registry:catalog:*")).get("/metrics"), 403, "DENIED")
    answer = await admin.get("/metrics")
    for _ in range(100):  # another process hands on what it counted five times a second
        if "dtr_http_requests_total" in answer.text:
            break
        await asyncio.sleep(0.05)
        answer = await admin.get("/metrics")
    assert answer.status_code == 200
    assert "dtr_http_requests_total" in answer.text
    assert "dtr_uploads_open" in answer.text
    assert "dtr_uploads_empty" in answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


async def test_an_administrators_bearer_token_does_not_read_metrics(admin: Client) -> None:
    """A token for repositories is for repositories."""
    bearer = await admin.scoped("registry:catalog:*")
    assert_error(await bearer.get("/metrics"), 403, "DENIED")


async def test_metrics_are_public_where_the_settings_say_so(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """For networks where the scraper cannot log in."""
    target = open_registry({"server": {"metrics_public": True}})
    assert (await connect(target).get("/metrics")).status_code == 200


async def test_metrics_count_by_route_and_not_by_what_clients_write(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Labels that clients choose would fill the memory (one series for each)."""
    target = open_registry()
    client = connect(target)
    for number in range(5):
        for path in (f"/x{number}", f"/v2/n{number}/tags/list", "/v2/", f"/v2/a/blobs/{number}"):
            await client.request(f"METHOD{number}", path)
            await client.get(path)
    text = (await client.login(*ADMIN).get("/metrics")).text
    assert "x3" not in text
    assert "n3" not in text
    assert "METHOD3" not in text
    assert 'method="OTHER"' in text


async def test_the_own_authority_is_given_to_anybody(
    open_registry: OpenRegistry, connect: Connect, tmp_path: Path, anonymous: Client
) -> None:
    """So that clients can be told to trust it; 404 where the operator brought certificates."""
    certificate = tmp_path / "ca.pem"
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    answer = await connect(open_registry(ca_certificate=certificate)).get("/ca")
    assert answer.status_code == 200
    assert answer.text == "-----BEGIN CERTIFICATE-----\n"
    assert answer.headers["Content-Type"] == "application/x-pem-file"
    assert_error(await anonymous.get("/ca"), 404, "NAME_UNKNOWN")


async def test_v2_says_that_this_is_a_registry(alice: Client, anonymous: Client) -> None:
    """With and without the slash, once somebody is logged in (end-1)."""
    for path in ("/v2/", "/v2"):
        answer = await alice.get(path)
        assert (answer.status_code, answer.json()) == (200, {})
        assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert_error(await anonymous.get(path), 401, "UNAUTHORIZED")
        nobody = anonymous.bearing(await anonymous.token())
        assert_error(await nobody.get(path), 401, "UNAUTHORIZED")


async def test_a_browser_is_told_what_this_is(anonymous: Client) -> None:
    """The root answers text, not an error."""
    answer = await anonymous.get("/")
    assert answer.status_code == 200
    assert "container registry" in answer.text


async def test_every_answer_has_a_request_id_of_its_own(anonymous: Client, alice: Client) -> None:
    """Errors too; and it is ours, whatever the client sends."""
    seen = set()
    for client in (anonymous, alice):
        for path in ("/_ping", "/v2/", "/v2/alice/none/tags/list", "/none"):
            answer = await client.get(path, headers={"X-Request-Id": "chosen-by-the-client"})
            seen.add(answer.headers["X-Request-Id"])
    assert len(seen) == 8
    assert all(len(found) == 16 and found.isalnum() for found in seen)


class Lines:
    """A stream that keeps what is written."""

    def __init__(self) -> None:
        self.content = b""

    def write(self, content: bytes) -> int:
        """Keep it."""
        self.content += content
        return len(content)

    def flush(self) -> None:
        """Nothing is held back."""


def logged(target: InProcess, log_format: str) -> Lines:
    """Have the application write its access log into memory."""
    lines = Lines()
    log = AccessLog(log_format, lines)  # type: ignore[arg-type]
    target.application._access_log = log
    return lines


async def test_the_access_log_has_no_secrets(open_registry: OpenRegistry, connect: Connect) -> None:
    """Neither passwords nor tokens nor queries, on whatever way they came."""
    target = open_registry()
    lines = logged(target, "json")
    alice = connect(target).login(*ALICE)
    token = await alice.token("repository:alice/app:pull")
    _, secret = target.administration.create_token("alice")
    await alice.bearing(token).get("/v2/alice/app/tags/list?last=query-secret")
    await alice.login("alice", secret).get("/v2/")
    await alice.login("alice", "wrong-password").get("/v2/")
    await alice.post("/auth/token", content=b"grant_type=password&password=form-secret")
    target.application._flush()
    text = lines.content.decode()
    assert text.count("\n") == 5
    for hidden in (ALICE[1], token, secret, "query-secret", "wrong-password", "form-secret"):
        assert hidden not in text
        assert basic("alice", hidden).partition(" ")[2] not in text
    first = json.loads(text.splitlines()[1])
    assert first["path"] == "/v2/alice/app/tags/list"
    assert first["account"] == "alice"
    assert first["status"] == 404


@pytest.mark.parametrize("log_format", ["json", "text"])
async def test_a_client_cannot_forge_lines_of_the_access_log(
    open_registry: OpenRegistry, log_format: str
) -> None:
    """Line ends, escape sequences and separators arrive encoded."""
    target = open_registry()
    lines = logged(target, log_format)
    forged = '/v2/a\r\n2026 - admin GET / 200\x1b[31m\u2028"}{'
    await ask(target.application, "GE T\n", forged)
    await ask(target.application, "GET", forged, peer="10.0.0.1\n")
    target.application._flush()
    assert len(lines.content.splitlines()) == 2
    assert lines.content.isascii()
    assert b"\x1b" not in lines.content


@pytest.mark.server
async def test_a_real_servers_log_tells_no_secret(node: Node) -> None:
    """Whatever the other tests did on it: no password and no token stands in its log."""
    text = node.server.log.read_text(errors="replace")
    for hidden in (ADMIN[1], ALICE[1], "dtr_", "eyJ"):
        assert hidden not in text


async def test_the_log_of_a_failure_is_not_the_answer(tmp_path: Path) -> None:
    """An error that nobody foresaw is 500 in the envelope, with the id that the log has."""

    class Broken(MemoryBlobStore):
        async def resume(self, *_: Any, **__: Any) -> Any:
            raise KeyError("a secret of the inside")

        async def begin(self, *_: Any, **__: Any) -> Any:
            raise KeyError("a secret of the inside")

    state = open_state(tmp_path, store=Broken())
    application = build_application(
        Settings.model_validate({"log": {"access": False}}),
        Drivers(state.database, state.store),
        Metrics(),
        clock=state.clock,
    )
    headers = [(b"authorization", basic(*ALICE).encode())]
    path = "/v2/alice/app/blobs/uploads/"
    query = b"digest=sha256:" + b"0" * 64
    answer = await ask(application, "POST", path, query=query, headers=headers, body=[b"x"])
    assert answer.status == 500
    [entry] = answer.json()["errors"]
    assert entry["code"] == "UNKNOWN"
    assert answer.header("x-request-id") in entry["message"]
    assert b"secret of the inside" not in answer.body
    await application.close()


def test_targets_share_one_protocol(memory: InProcess, files: InProcess) -> None:
    """What joins the suite later must offer the same."""
    found: list[Target] = [memory, files]
    assert [target.processes for target in found] == [1, 2]
