"""The balancer's component with a real HAProxy before two small TLS servers."""

import asyncio
import http.client
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.cluster_engines.nodes import FakeControllers, TestNode
from tests.support.processes import free_port, requires

from dtr.cluster.engines.balancer import BalancerComponent, BalancerProblemError
from dtr.cluster.model import BalancerReport, BalancerSpecification, PoolMember
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.authority import Authority

pytestmark = pytest.mark.server

FIRST, SECOND = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
SECONDS = 30


class Replica(ThreadingHTTPServer):
    """Something that looks like a replica: its name at `/`, its health at `/health`."""

    daemon_threads = True

    def __init__(self, node: TestNode, port: int) -> None:
        self.health = 200
        self.name = node.identity.name
        super().__init__((node.identity.host_address, port), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.directory.certificate, node.directory.key)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that leave."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Replica

    def do_GET(self) -> None:
        body = self.server.name.encode()
        self.send_response(self.server.health if self.path == "/health" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving(node: TestNode, port: int) -> Iterator[Replica]:
    """Run a replica in a thread."""
    server = Replica(node, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Balanced:
    """The component with its supervisor, and a client of what it balances."""

    def __init__(self, node: TestNode, authority: Authority, pool: tuple[PoolMember, ...]) -> None:
        self.supervisor = ProcessSupervisor(node.directory)
        self.component = BalancerComponent(
            node.identity, node.directory, self.supervisor, FakeControllers(authority)
        )
        self.specification = BalancerSpecification(
            https_port=free_port(), http_port=free_port(), pool=pool
        )
        self._node = node

    async def pool_is(self, **states: str) -> None:
        """Converge until HAProxy says so of the pool."""
        wanted = self._node.wanted(balancer=self.specification)
        expected = {name.strip("_"): state for name, state in states.items()}
        async with asyncio.timeout(SECONDS):
            while True:
                await self.component.converge(wanted)
                report = BalancerReport.model_validate(await self.component.report())
                if report.pool == expected:
                    return
                await asyncio.sleep(0.1)

    def connection(self) -> http.client.HTTPSConnection:
        """Give a connection through the balancer; it verifies whom it reaches."""
        context = ssl.create_default_context(cafile=str(self._node.directory.ca))
        return http.client.HTTPSConnection(
            "localhost", self.specification.https_port, context=context, timeout=10
        )

    def change(self, *pool: PoolMember) -> None:
        """Want another pool."""
        self.specification = self.specification.model_copy(update={"pool": pool})


def name_at(connection: http.client.HTTPSConnection) -> str:
    """Ask who is at the other end."""
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


def member(name: str, node: TestNode, port: int, *, is_draining: bool = False) -> PoolMember:
    """Describe a replica to the balancer."""
    return PoolMember(
        id=name,
        address=node.identity.host_address,
        https_port=port,
        http_port=port,
        is_draining=is_draining,
    )


@pytest.fixture
def nodes(authority: Authority, short_directory: Path) -> list[TestNode]:
    """Give a node for the balancer, and two for replicas."""
    requires("haproxy")
    return [
        TestNode.create(
            authority, short_directory / f"n{number}", f"127.0.0.{number}", f"n{number}"
        )
        for number in (1, 2, 3)
    ]


async def test_a_pool_is_checked_drained_and_changed_without_cutting_a_connection(
    nodes: list[TestNode], authority: Authority
) -> None:
    """What runs through a replica goes on while its health is bad, it drains, or others come."""
    own, first, second = nodes
    port = free_port()
    with serving(first, port) as one, serving(second, port):
        pool = (member(FIRST, first, port), member(SECOND, second, port))
        balanced = Balanced(own, authority, pool[:1])
        try:
            await balanced.pool_is(_aaaaaaaaaaaa="UP")
            running = balanced.connection()
            assert await asyncio.to_thread(name_at, running) == "n2"
            process = balanced.supervisor.report("haproxy")

            balanced.change(*pool)
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="UP")
            assert await asyncio.to_thread(name_at, running) == "n2"

            one.health = 503
            await balanced.pool_is(_aaaaaaaaaaaa="DOWN", _bbbbbbbbbbbb="UP")
            assert await asyncio.to_thread(name_at, running) == "n2"
            balanced.change(member(FIRST, first, port, is_draining=True), pool[1])
            await balanced.pool_is(_aaaaaaaaaaaa="DRAIN", _bbbbbbbbbbbb="UP")
            assert await asyncio.to_thread(name_at, running) == "n2"

            for _ in range(4):
                fresh = balanced.connection()
                assert await asyncio.to_thread(name_at, fresh) == "n3"
                fresh.close()
            assert await asyncio.to_thread(name_at, running) == "n2"
            running.close()
            after = balanced.supervisor.report("haproxy")
            assert (after.pid, after.restarts) == (process.pid, 0)
        finally:
            await balanced.component.stop()


async def test_a_replica_that_shows_a_foreign_certificate_gets_no_connection(
    nodes: list[TestNode], authority: Authority, short_directory: Path
) -> None:
    """Health checks trust our authority, and the user's certificate once it is named."""
    own, first, _ = nodes
    stranger = Authority.create("stranger", datetime.now(UTC))
    other = TestNode.create(stranger, short_directory / "other", "127.0.0.3", "other")
    port = free_port()
    with serving(first, port), serving(other, port):
        pool = (member(FIRST, first, port), member(SECOND, other, port))
        balanced = Balanced(own, authority, pool)
        try:
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="DOWN")
            certificate = other.directory.certificate.read_text()
            balanced.specification = balanced.specification.model_copy(
                update={"web_certificate": certificate}
            )
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="UP")
        finally:
            await balanced.component.stop()


async def test_a_configuration_that_haproxy_refuses_is_not_put_in_place(
    nodes: list[TestNode], authority: Authority
) -> None:
    """The running one stays, and what HAProxy said is told."""
    own, first, _ = nodes
    port = free_port()
    with serving(first, port):
        balanced = Balanced(own, authority, (member(FIRST, first, port),))
        try:
            await balanced.pool_is(_aaaaaaaaaaaa="UP")
            before = (own.directory.of("balancer") / "haproxy.cfg").read_text()
            balanced.change(member(FIRST, first, port), member(FIRST, first, port))
            with pytest.raises(BalancerProblemError, match="HAProxy refuses"):
                await balanced.component.converge(own.wanted(balancer=balanced.specification))
            assert (own.directory.of("balancer") / "haproxy.cfg").read_text() == before
        finally:
            await balanced.component.stop()
