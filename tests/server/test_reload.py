"""SIGHUP and SIGTERM: a new certificate without a broken connection, and an end at any moment."""

import hashlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from tests.cli.command import clean_environment
from tests.http.wire import say
from tests.support.processes import ProcessGroup, free_port, wait_until
from tests.support.server import ADMIN, ADMIN_PASSWORD, DTR, answers

from dtr.server.certificates import ensure_certificates

pytestmark = pytest.mark.server

SIZE = 64 * 2**20


class TlsServer:
    """A server with a certificate of the operator's, who replaces it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port, self.http_port = free_port(), free_port()
        self.url = f"https://localhost:{self.port}"
        password = place / "password"
        password.write_text(f"{ADMIN_PASSWORD}\n")
        self.replace_certificate("first")
        command: list[str | Path] = [*DTR, "serve", "--data-dir", place / "data"]
        command += ["--workers", "2", "--listen", f"127.0.0.1:{self.port}"]
        command += ["--tls-cert", place / "tls.crt", "--tls-key", place / "tls.key"]
        self.process = ProcessGroup(
            [*command, "--admin-password-file", password],
            log=place / "server.log",
            environment=clean_environment(
                {
                    "DTR_SERVER__TLS_CA": str(place / "ca.crt"),
                    "DTR_SERVER__HTTP_LISTEN": f"127.0.0.1:{self.http_port}",
                }
            ),
        )

    def replace_certificate(self, name: str) -> None:
        """Put another certificate and key where the server's are, with its authority."""
        made = ensure_certificates(self.place / name, [], datetime.now(UTC))
        for source, target in (
            (made.key_path, "tls.key"),
            (made.cert_path, "tls.crt"),
            (made.ca_path, "ca.crt"),
        ):
            (self.place / f"{target}.new").write_bytes(source.read_bytes())
            (self.place / f"{target}.new").rename(self.place / target)

    @property
    def serial(self) -> int:
        """Whose certificate is shown right now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10) as raw,
            context.wrap_socket(raw) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    @property
    def own_serial(self) -> int:
        """Whose certificate is in the file."""
        return x509.load_pem_x509_certificate((self.place / "tls.crt").read_bytes()).serial_number

    def client(self) -> httpx.Client:
        """Give a client that trusts whatever certificate there is."""
        return httpx.Client(
            base_url=self.url, verify=False, auth=(ADMIN, ADMIN_PASSWORD), trust_env=False,
            timeout=60,
        )  # fmt: skip

    def reload(self) -> None:
        """Send SIGHUP."""
        os.kill(self.process.pid, signal.SIGHUP)

    def says(self, words: str, times: int = 1) -> bool:
        """Whether that is in its log, so many times or more."""
        return self.process.log.read_text().count(words) >= times


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TlsServer]:
    """Give a running server over TLS, with a plain listener."""
    server = TlsServer(tmp_path)
    server.process.start()
    try:
        server.process.wait_until_ready(
            lambda: answers(f"http://127.0.0.1:{server.http_port}/health")
        )
        yield server
    finally:
        server.process.kill()


def test_a_new_certificate_is_taken_while_a_download_goes_on(server: TlsServer) -> None:
    """The download ends whole, nobody who comes in between is refused, /ca has the new one."""
    content = os.urandom(1024) * (SIZE // 1024)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    stop, failures, asked = threading.Event(), list[str](), [0]
    with server.client() as client:
        uploads = "/v2/admin/app/blobs/uploads/"
        pushed = client.post(uploads, params={"digest": digest}, content=content)
        assert pushed.status_code == httpx.codes.CREATED
        assert client.get("/ca").content == (server.place / "ca.crt").read_bytes()
        before = server.serial
        assert before == server.own_serial
        asking = threading.Thread(target=_ask_all_the_time, args=(server, stop, failures, asked))
        asking.start()
        with client.stream("GET", f"/v2/admin/app/blobs/{digest}") as download:
            parts = download.iter_bytes(2**20)
            received = [next(parts)]
            server.replace_certificate("second")
            server.reload()
            wait_until(lambda: server.says("reloaded"), "the server is reloaded")
            wait_until(lambda: server.serial == server.own_serial, "it shows the new one")
            received.extend(parts)
        stop.set()
        asking.join(30)
    assert b"".join(received) == content
    assert server.own_serial != before
    assert asked[0] > 0
    assert failures == []
    with server.client() as client:
        assert client.get("/ca").content == (server.place / "ca.crt").read_bytes()
    assert server.process.stop() == 0


def _ask_all_the_time(
    server: TlsServer, stop: threading.Event, failures: list[str], asked: list[int]
) -> None:
    """Ask on a new connection each time, and never again where it was broken off."""
    while not stop.is_set():
        try:
            with server.client() as client:
                status = client.get("/v2/").status_code
            if status != httpx.codes.OK:
                failures.append(str(status))
        except httpx.TransportError as error:
            failures.append(repr(error))
        asked[0] += 1


def test_connections_that_are_no_request_yet_outlive_a_reload(server: TlsServer) -> None:
    """What an old worker accepted has a moment to agree upon TLS and to ask."""
    stop, failures, asked = threading.Event(), list[str](), [0]
    clients = [
        threading.Thread(target=_handshake_all_the_time, args=(server, stop, failures, asked))
        for _ in range(4)
    ]
    for each in clients:
        each.start()
    for number in range(1, 4):
        server.reload()
        wait_until(partial(server.says, "reloaded", number), "it is reloaded")
    stop.set()
    for each in clients:
        each.join(30)
    assert asked[0] > 0
    assert failures == []


def _handshake_all_the_time(
    server: TlsServer, stop: threading.Event, failures: list[str], asked: list[int]
) -> None:
    """Connect, agree upon TLS and ask, with a short pause before each."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
                stop.wait(0.02)
                with context.wrap_socket(raw) as wrapped:
                    stop.wait(0.02)
                    wrapped.sendall(b"GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    if not wrapped.recv(100).startswith(b"HTTP/1.1 200"):
                        failures.append("no answer")
        except OSError as error:
            failures.append(repr(error))
        asked[0] += 1


def test_a_certificate_that_cannot_be_used_changes_nothing(server: TlsServer) -> None:
    """It is said, the old one is shown on, and the next good one is taken."""
    before = server.serial
    (server.place / "tls.crt").write_text("no certificate")
    server.reload()
    wait_until(lambda: server.says("is not in PEM format"), "the problem is said")
    assert server.serial == before
    server.replace_certificate("second")
    server.reload()
    wait_until(lambda: server.serial == server.own_serial != before, "the new one is shown")


def test_plain_http_answers_health_and_redirects_to_tls(server: TlsServer) -> None:
    """By a listener of its own."""
    plain = f"http://localhost:{server.http_port}"
    with httpx.Client(trust_env=False, timeout=20) as client:
        assert client.get(f"{plain}/_ping").json() == {"Error": "", "Healthy": True}
        answer = client.get(f"{plain}/v2/app/tags/list?n=1")
    assert answer.status_code == httpx.codes.PERMANENT_REDIRECT
    assert answer.headers["Location"] == f"{server.url}/v2/app/tags/list?n=1"


def test_plain_http_at_the_tls_port_gets_an_alert(server: TlsServer) -> None:
    """No sentence, as docs/security.md says: only the front, behind balancers, has one."""
    heard = say(f"http://127.0.0.1:{server.port}", b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
    assert heard.is_closed
    assert (heard.content[:2], len(heard.content)) == (b"\x15\x03", 7)


@pytest.mark.measuring
@pytest.mark.parametrize("after_seconds", [0.03, 0.05, 0.1, 0.2, 0.4])
def test_a_server_that_is_told_to_end_while_it_starts_ends(
    tmp_path: Path, after_seconds: float
) -> None:
    """A worker once forgot a signal that came before it was ready, and had to be killed."""
    command: list[str | Path] = [*DTR, "serve", "--data-dir", tmp_path / "data"]
    server = ProcessGroup(
        [*command, "--workers", "4", "--listen", f"127.0.0.1:{free_port()}"],
        log=tmp_path / "server.log",
        environment=clean_environment({"PYTHONUNBUFFERED": "1"}),
    )
    server.start()
    try:
        wait_until(lambda: "Registry at" in server.log.read_text(), "all checks have passed")
        time.sleep(after_seconds)  # somewhere in the start of the workers
        started = time.monotonic()
        assert server.stop(seconds=20) in {0, -signal.SIGTERM}
        assert time.monotonic() - started < 10
    finally:
        server.kill()
