"""The balancer's component with a real HAProxy before two small TLS servers."""

import asyncio
import http.client
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cluster_engines.nodes import FakeControllers, TestNode
from tests.cluster_engines.stand_ins import connection_to, member, name_at, serving, users_chain
from tests.support.processes import free_port, requires

from dtr.cluster.engines.balancer import BalancerComponent, BalancerProblemError
from dtr.cluster.model import (
    Balancer,
    BalancerReport,
    BalancerSpecification,
    DtrCluster,
    PoolMember,
)
from dtr.cluster.plan_actions import PutService
from dtr.cluster.specifications import service_changes
from dtr.cluster.view import ClusterView, Machine
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.authority import Authority
from dtr.ucp.model import Node

pytestmark = pytest.mark.server

FIRST, SECOND, THIRD = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
SECONDS = 90


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
        return connection_to(self.specification.https_port, self._node.directory.ca)

    def unverified(self) -> http.client.HTTPSConnection:
        """Give a connection through the balancer that takes whatever it reaches."""
        context = ssl._create_unverified_context()
        port = self.specification.https_port
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=10)

    def holds_a_key(self) -> bool:
        """Tell whether a private key is anywhere where HAProxy's user reads."""
        files = self._node.directory.of("balancer").rglob("*")
        return any(b"PRIVATE KEY" in path.read_bytes() for path in files if path.is_file())

    def change(self, *pool: PoolMember) -> None:
        """Want another pool."""
        self.specification = self.specification.model_copy(update={"pool": pool})


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
            assert not balanced.holds_a_key()
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


@pytest.mark.parametrize("has_root", [False, True])
async def test_the_users_certificate_takes_no_replica_out_of_the_pool(
    nodes: list[TestNode], authority: Authority, *, has_root: bool
) -> None:
    """From the cluster's record to HAProxy: a chain without its root, as usual, and with it.

    Who drains and who is dead gets nobody, since the pool is not empty.
    """
    own = nodes[0]
    certificate, key = users_chain(has_root=has_root)
    port = free_port()
    replicas = nodes[1:]
    for each in replicas:
        each.directory.certificate.write_text(certificate)
        each.directory.key.write_text(key)
    with serving(replicas[0], port) as one, serving(replicas[1], port) as two:
        pool = (member(FIRST, replicas[0], port), member(SECOND, replicas[1], port))
        balanced = Balanced(own, authority, pool)
        try:
            await balanced.pool_is(_aaaaaaaaaaaa="DOWN", _bbbbbbbbbbbb="DOWN")
            balanced.specification = told_to_balancers(certificate, pool, balanced.specification)
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="UP")
            one.health = 503
            await balanced.pool_is(_aaaaaaaaaaaa="DOWN", _bbbbbbbbbbbb="UP")
            for _ in range(4):
                fresh = balanced.unverified()
                assert await asyncio.to_thread(name_at, fresh) == "n3"
                fresh.close()
            one.health = 200
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="UP")
            two.die()
            for _ in range(4):
                fresh = balanced.unverified()
                assert await asyncio.to_thread(name_at, fresh) == "n2"
                fresh.close()
        finally:
            await balanced.component.stop()


def told_to_balancers(
    certificate: str, pool: tuple[PoolMember, ...], ports: BalancerSpecification
) -> BalancerSpecification:
    """Give what the records make of a cluster that has this web certificate."""
    node = Node(id="n1", name="n1", host_address="127.0.0.1", fingerprint="f", joined_at=0)
    balancer = Balancer(node_id="n1", https_port=ports.https_port, http_port=ports.http_port)
    cluster = DtrCluster(id="c", web_certificate=certificate, created_at=0)
    view = ClusterView(machines={"n1": Machine(node)}, balancers=(balancer,), cluster=cluster)
    (change,) = service_changes(view)
    assert isinstance(change, PutService)
    told = BalancerSpecification.model_validate(change.specification)
    return told.model_copy(update={"pool": pool})


async def test_no_new_connection_fails_while_one_replica_lives(
    nodes: list[TestNode], authority: Authority, short_directory: Path
) -> None:
    """From the moment on in which two of three die; and a lone one that was down is tried, too."""
    own, first, second = nodes
    third = TestNode.create(authority, short_directory / "n4", "127.0.0.4", "n4")
    port = free_port()
    pool = (member(FIRST, first, port), member(SECOND, second, port), member(THIRD, third, port))
    balanced = Balanced(own, authority, pool)

    def names() -> set[str]:
        found = set()
        for _ in range(30):
            fresh = balanced.connection()
            found.add(name_at(fresh))
            fresh.close()
        return found

    with serving(first, port) as one, serving(second, port) as two, serving(third, port) as three:
        try:
            await balanced.pool_is(_aaaaaaaaaaaa="UP", _bbbbbbbbbbbb="UP", _cccccccccccc="UP")
            assert await asyncio.to_thread(names) == {"n2", "n3", "n4"}
            one.die()
            two.die()
            assert await asyncio.to_thread(names) == {"n4"}
            three.health = 503
            await balanced.pool_is(_aaaaaaaaaaaa="DOWN", _bbbbbbbbbbbb="DOWN", _cccccccccccc="DOWN")
            assert await asyncio.to_thread(names) == {"n4"}
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
