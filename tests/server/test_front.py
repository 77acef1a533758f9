"""Behind a balancer every client has its own address: PROXY protocol before the web workers."""

import asyncio
import os
import re
import secrets
import signal
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from tests.http.client import basic
from tests.http.wire import Heard, head, say
from tests.support.processes import free_port, requires
from tests.support.server import RunningServer

from dtr.cluster.engines import haproxy
from dtr.cluster.model import PoolMember
from dtr.model.digest import Digest
from dtr.server.front import Front, _Inbound
from dtr.server.proxy_protocol import SIGNATURE, ProxyHeadError, parse_head
from dtr.testing.registry import ALICE

AUTH = ("Authorization", basic(*ALICE))
SOON = 15.0
FOUR = SIGNATURE + bytes.fromhex("2111000c c0000207 c0000202 1f90 01bb")
LISTED = "127.0.0.5"

pytestmark = pytest.mark.server


class TlsServer(RunningServer):
    """A server that speaks TLS with a certificate that nobody verifies while it starts."""

    @property
    def is_ready(self) -> bool:
        """Whether `GET /_ping` is answered."""
        url = f"https://{self.address}/_ping"
        asked = subprocess.run(("curl", "-skf", url), check=False, capture_output=True)
        return asked.returncode == 0


class Fronted:
    """A server with a front, of which 127.0.0.1 and what a file lists are the balancers."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.port = free_port()
        self.file = directory / "balancers"
        kind = TlsServer if "DTR_SERVER__TLS_CERT" in environment else RunningServer
        self.server = kind(
            directory,
            environment={
                "DTR_SERVER__PROXY_LISTEN": f"127.0.0.1:{self.port}",
                "DTR_SERVER__BALANCERS": "127.0.0.1/32",
                "DTR_CLUSTER__BALANCERS_FILE": str(self.file),
                "DTR_SERVER__HEADER_READ_SECONDS": "1",
                "DTR_SERVER__WORKERS": "2",
                **environment,
            },
        )

    @property
    def url(self) -> str:
        """Where balancers connect."""
        return f"http://127.0.0.1:{self.port}"

    def logged(self, client: str, path: str) -> bool:
        """Wait until a request is in the log with this client's address."""
        line = re.compile(rf"Z {re.escape(client)} \S+ GET {re.escape(path)} 200 ")
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            if line.search(self.server.log.read_text()):
                return True
            time.sleep(0.05)
        return False


@pytest.fixture(scope="module")
def fronted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    """Give a server with a front."""
    found = Fronted(tmp_path_factory.mktemp("front"))
    with found.server:
        found.server.add_user(*ALICE)
        yield found


def say_from(fronted: Fronted, source: str, content: bytes) -> bytes:
    """Connect from an address, send, and return all that comes back."""
    with socket.socket() as connection:
        connection.settimeout(SOON)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", fronted.port))
        found = b""
        try:
            connection.sendall(content)
            while received := connection.recv(65536):
                found += received
        except ConnectionError:
            pass
        return found


@pytest.mark.parametrize(
    ("before", "client"),
    [
        (FOUR, "192.0.2.7"),
        (b"PROXY TCP4 192.0.2.9 192.0.2.2 1 2\r\n", "192.0.2.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 1 2\r\n", "2001:db8::9"),
        (
            SIGNATURE
            + bytes.fromhex("21210024")
            + socket.inet_pton(socket.AF_INET6, "2001:db8::7")
            + bytes(20),
            "2001:db8::7",
        ),
        (SIGNATURE + bytes.fromhex("21110010 c0000208 c0000202 1f9001bb 04000100"), "192.0.2.8"),
        (SIGNATURE + bytes.fromhex("20000000"), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    ],
    ids=("v2", "v1", "v1-6", "v2-6", "v2-more", "v2-local", "v1-unknown"),
)
def test_a_client_behind_a_balancer_has_its_own_address(
    fronted: Fronted, before: bytes, client: str
) -> None:
    """Of both versions and both families; a balancer's own checks have its own."""
    path = f"/health?{time.monotonic_ns()}"
    heard = say(fronted.url, before + head("GET", path), until=b"Healthy")
    assert heard.status == 200
    assert fronted.logged(client, "/health")


def test_a_head_that_comes_in_pieces_is_read(fronted: Fronted) -> None:
    """Byte by byte, and with the request's first bytes at its end."""
    pieces = [FOUR[:5], FOUR[5:16], FOUR[16:] + b"GET"]
    rest = head("GET", "/_ping")[3:]
    assert say(fronted.url, *pieces, rest, pause=0.05, until=b"Healthy").status == 200


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"PROXY TCP4 192.0.2.9\r\n",
        b"PROXY TCP4 192.0.2.999 192.0.2.2 1 2\r\n",
        SIGNATURE + bytes.fromhex("1111000c c0000207 c0000202 1f90 01bb"),
        SIGNATURE + bytes.fromhex("2131000c c0000207 c0000202 1f90 01bb"),
        SIGNATURE + bytes.fromhex("2111ffff") + bytes(3000),
        SIGNATURE + bytes.fromhex("21210008") + bytes(8),
    ],
)
def test_what_is_no_head_is_refused(fronted: Fronted, before: bytes) -> None:
    """Nothing of such a connection reaches the web workers."""
    heard = say(fronted.url, before + head("GET", "/_ping"), seconds=SOON)
    assert heard.is_closed
    assert heard.content == b""
    with pytest.raises(ProxyHeadError):
        parse_head(before + head("GET", "/_ping"))


def test_a_head_that_does_not_come_ends_its_connection(fronted: Fronted) -> None:
    """As does a client that says nothing after it."""
    for before in (b"PROXY", FOUR):
        heard = say(fronted.url, before, seconds=SOON)
        assert heard.is_closed
        assert heard.content == b""


def test_only_balancers_may_say_whose_a_connection_is(fronted: Fronted) -> None:
    """Everybody else is refused, until a file lists them."""
    request = FOUR + head("GET", "/_ping", [("Connection", "close")])
    assert say_from(fronted, LISTED, request) == b""
    fronted.file.write_text(f"{LISTED}\n")
    try:
        deadline = time.monotonic() + SOON
        while b"Healthy" not in say_from(fronted, LISTED, request):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        fronted.file.write_text("")


def test_large_bodies_pass_the_front_both_ways(fronted: Fronted) -> None:
    """Byte for byte, also where the client reads slowly at first."""
    content = os.urandom(1 << 20) * 24
    digest = Digest.of(content)
    target = f"/v2/alice/front/blobs/uploads/?digest={digest}"
    request = head("POST", target, [AUTH, ("Content-Length", str(len(content)))])
    assert say(fronted.url, FOUR + request + content, seconds=60, until=b" 201 ").status == 201
    with socket.create_connection(("127.0.0.1", fronted.port), SOON) as connection:
        closing = ("Connection", "close")
        connection.sendall(FOUR + head("GET", f"/v2/alice/front/blobs/{digest}", [AUTH, closing]))
        time.sleep(0.3)
        found = bytearray()
        while received := connection.recv(1 << 20):
            found += received
    assert bytes(found).endswith(content)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronted]:
    """Give a server with a front of 16 connections, 8 of an address, that waits for heads."""
    found = Fronted(
        tmp_path_factory.mktemp("small"),
        DTR_SERVER__CONNECTIONS="16",
        DTR_SERVER__CONNECTIONS_PER_ADDRESS="8",
        DTR_SERVER__WORKERS="1",
        DTR_SERVER__HEADER_READ_SECONDS="60",
        DTR_SERVER__BODY_IDLE_SECONDS="3",
        DTR_SERVER__LEAST_BYTES_PER_SECOND="262144",
    )
    with found.server:
        found.server.add_user(*ALICE)
        yield found


def test_a_download_that_is_not_read_ends_in_the_front_too(small: Fronted) -> None:
    """The web worker ends it, which is not heard while its client is waited for."""
    content = os.urandom(1 << 20) * 16
    digest = Digest.of(content)
    target = f"/v2/alice/unread/blobs/uploads/?digest={digest}"
    request = head("POST", target, [AUTH, ("Content-Length", str(len(content)))])
    assert say(small.server.url, request + content, seconds=60, until=b" 201 ").status == 201
    wait_for_connections(small, 0)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", small.port))
        connection.sendall(FOUR + head("GET", f"/v2/alice/unread/blobs/{digest}", [AUTH]))
        wait_for_connections(small, 1)
        wait_for_connections(small, 0)


def wait_for_connections(fronted: Fronted, count: int) -> None:
    """Wait until the front has so many connections of balancers."""
    command = ("ss", "-Htn", "state", "established", f"( sport = :{fronted.port} )")
    deadline = time.monotonic() + SOON
    while True:
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if len(found.splitlines()) == count:
            return
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


@pytest.mark.parametrize("first", ["client", "server"])
def test_connections_that_ended_leave_nothing(small: Fronted, first: str) -> None:
    """Whoever ends them: a front that has taken many takes the next one."""
    is_server = first == "server"
    request = FOUR + head("GET", "/_ping", [("Connection", "close")] if is_server else [])
    for _ in range(40):
        heard = say(small.url, request, until=b"" if is_server else b"Healthy", seconds=SOON)
        assert heard.status == 200
        assert heard.is_closed is is_server


def test_silent_clients_leave_room_for_others(small: Fronted) -> None:
    """Those that said nothing for the longest give way: a stranger cannot fill the front."""
    with ExitStack() as stack:
        for _ in range(40):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", small.port), SOON))
            silent.sendall(FOUR)
            time.sleep(0.01)
        request = FOUR + head("GET", "/_ping")
        assert say(small.url, request, until=b"Healthy", seconds=SOON).status == 200


def test_silent_clients_of_one_address_take_no_more_than_its_share(small: Fronted) -> None:
    """The oldest of its own give way, while the front is not full, and nobody else's."""
    with ExitStack() as stack:

        def connect(before: bytes) -> socket.socket:
            found = stack.enter_context(socket.create_connection(("127.0.0.1", small.port), SOON))
            found.sendall(before)
            time.sleep(0.02)
            return found

        other = connect(b"PROXY TCP4 192.0.2.99 192.0.2.2 1 2\r\n")
        first, *_ = (connect(FOUR) for _ in range(9))
        with suppress(ConnectionError):
            assert first.recv(1) == b""
        other.sendall(head("GET", "/_ping"))
        assert other.recv(65536).startswith(b"HTTP/1.1 200 ")


async def test_what_comes_after_an_answer_in_plain_http_is_not_kept() -> None:
    """A client that goes on sending to a TLS port costs no memory."""
    front = MagicMock(spec=Front, is_tls=True, head_seconds=1.0)
    transport = MagicMock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = ("127.0.0.1", 1)
    inbound = _Inbound(front)
    inbound.connection_made(transport)
    inbound.data_received(FOUR + head("GET", "/"))
    transport.write_eof.assert_called_once()
    tracemalloc.start()
    try:
        for _ in range(64):
            inbound.data_received(bytes(1 << 16))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
        inbound.connection_lost(None)


def test_one_clients_guesses_do_not_lock_out_another(fronted: Fronted) -> None:
    """Both behind one balancer: what is counted by address is counted by their own."""

    def ask(address: int, credentials: tuple[str, str]) -> Heard:
        before = SIGNATURE + bytes.fromhex("2111000c c63364") + bytes([address]) + bytes(8)
        request = head("GET", "/auth/token?service=dtr", [credentials])
        return say(fronted.url, before + request, until=b"}", seconds=SOON)

    deadline = time.monotonic() + 60
    while ask(66, ("Authorization", basic("nobody", secrets.token_hex(8)))).status != 429:
        assert time.monotonic() < deadline
    assert ask(67, AUTH).status == 200


def test_a_front_that_dies_is_started_again(fronted: Fronted) -> None:
    """Connections wait meanwhile, and clients that need no balancer notice nothing."""
    request = FOUR + head("GET", "/_ping")
    assert say(fronted.url, request, until=b"Healthy").status == 200
    os.kill(front_of(fronted), signal.SIGKILL)
    assert say(fronted.server.url, head("GET", "/_ping"), until=b"Healthy").status == 200
    assert say(fronted.url, request, until=b"Healthy", seconds=SOON).status == 200


def front_of(fronted: Fronted) -> int:
    """Return the front's process: the one with a connection to a web worker."""
    with socket.create_connection(("127.0.0.1", fronted.port)) as connection:
        connection.sendall(FOUR + head("GET", "/_ping"))
        assert connection.recv(65536)
        listed = subprocess.run(
            ("ss", "-Htnp", "state", "established", f"( dport = :{fronted.server.port} )"),
            check=True,
            capture_output=True,
            text=True,
        )
    match = re.search(r"pid=(\d+)", listed.stdout)
    assert match
    return int(match[1])


def test_haproxy_as_the_cluster_configures_it(tmp_path: Path) -> None:
    """TLS goes through, clients keep their addresses, and plain HTTP is answered in words."""
    requires("haproxy", "openssl", "curl")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            key,
            "-out",
            certificate,
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ),
        check=True,
        capture_output=True,
    )
    fronted = Fronted(tmp_path, DTR_SERVER__TLS_CERT=str(certificate), DTR_SERVER__TLS_KEY=str(key))
    member = PoolMember(
        id="aaaaaaaaaaaa",
        address="127.0.0.1",
        https_port=fronted.server.port,
        http_port=1,
        proxy_port=fronted.port,
    )
    frontend = haproxy.Frontend(
        free_port(), 0, ca=certificate, address="127.0.0.1", source="127.0.0.1"
    )
    configuration = tmp_path / "haproxy.cfg"
    configuration.write_text(haproxy.render([member], frontend))
    port = frontend.https_port
    fronted.server.start()
    balancer = subprocess.Popen(
        ("haproxy", "-f", configuration), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        curl = ("curl", "-s", "--interface", "127.0.0.77", "--cacert", certificate)
        deadline = time.monotonic() + 60
        while subprocess.run(
            (*curl, f"https://127.0.0.1:{port}/_ping"), check=False, capture_output=True
        ).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert fronted.logged("127.0.0.77", "/_ping")
        plain = subprocess.run(
            (*curl, "-i", f"http://127.0.0.1:{port}/v2/"),
            check=True,
            capture_output=True,
            text=True,
        )
        assert plain.stdout.startswith("HTTP/1.1 400 ")
        assert "This port speaks HTTPS, and the request was plain HTTP." in plain.stdout
    finally:
        balancer.terminate()
        balancer.wait()
        fronted.server.stop()
