"""The balancer's component, without HAProxy."""

from tests.cluster_engines.nodes import FakeControllers, TestNode

from dtr.cluster.engines.balancer import BalancerComponent, pool_states
from dtr.cluster.engines.haproxy import Frontend, render
from dtr.cluster.model import BalancerReport, BalancerSpecification, PoolMember
from dtr.testing.supervisor import RecordingSupervisor
from dtr.ucp.authority import Authority

FIRST = PoolMember(id="aaaaaaaaaaaa", address="10.0.0.1", https_port=443, http_port=80)
DRAINING = PoolMember(
    id="bbbbbbbbbbbb", address="10.0.0.2", https_port=443, http_port=80, is_draining=True
)
POOL = BalancerSpecification(https_port=443, http_port=80, pool=(FIRST, DRAINING))


def answer(*rows: tuple[str, str, str, str]) -> str:
    """Give what `show stat` looks like: proxy, server, status, check."""
    lines = [f"{proxy},{server},0,{status},{check}" for proxy, server, status, check in rows]
    return "\n".join(("# pxname,svname,qcur,status,check_status", *lines)) + "\n\n"


def test_states_are_told_by_replica() -> None:
    """Of the registry's backend only, without HAProxy's counts of attempts."""
    text = answer(
        ("registry", "FRONTEND", "OPEN", ""),
        ("registry", "aaaaaaaaaaaa", "UP 1/2", "L7OK"),
        ("registry", "BACKEND", "UP", ""),
        ("redirect", "aaaaaaaaaaaa", "DOWN", "L4CON"),
    )
    assert pool_states(text, POOL) == {"aaaaaaaaaaaa": "UP"}


def test_who_drains_is_not_down_while_it_answers() -> None:
    """Its health says 503 on purpose; when it is dead it is down."""
    drains = answer(("registry", "bbbbbbbbbbbb", "DOWN", "L7STS"))
    dead = answer(("registry", "bbbbbbbbbbbb", "DOWN", "L4TOUT"))
    assert pool_states(drains, POOL) == {"bbbbbbbbbbbb": "DRAIN"}
    assert pool_states(dead, POOL) == {"bbbbbbbbbbbb": "DOWN"}


def test_no_running_connection_is_cut_for_a_failed_check() -> None:
    """A replica that cannot write at the moment still ends the pulls that run through it."""
    text = render(POOL.pool, Frontend(443, 80, ca="ca.crt"))
    assert "on-marked-down" not in text


def test_bytes_that_a_vanished_replica_does_not_acknowledge_end_its_connections() -> None:
    """Of each server, since HAProxy 2.6 forgets `tcp-ut` where it stands in `default-server`."""
    text = render(POOL.pool, Frontend(443, 80, ca="ca.crt"))
    servers = [line.strip() for line in text.splitlines() if line.strip().startswith("server ")]
    assert len(servers) == 3 * len(POOL.pool) - sum(each.is_draining for each in POOL.pool)
    assert all("tcp-ut 10s" in line for line in servers)


def test_replicas_that_take_it_are_told_whose_each_connection_is() -> None:
    """At their port for it, from the balancer's own address; others are reached as before."""
    new = FIRST.model_copy(update={"proxy_port": 8446})
    old = DRAINING.model_copy(update={"is_draining": False})
    text = render([new, old], Frontend(443, 80, ca="ca.crt", source="10.0.0.9"))
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("server ")]
    told = [line for line in lines if "send-proxy-v2" in line]
    assert [line[2] for line in told] == ["10.0.0.1:8446"] * 2
    assert all(line[-2:] == ["source", "10.0.0.9"] for line in told)
    assert "check-send-proxy" in told[0]
    assert [line[2] for line in lines if line[1] == old.id] == [
        "10.0.0.2:443",
        "10.0.0.2:80",
        "10.0.0.2:443",
    ]


async def test_a_balancer_that_is_not_wanted_leaves_nothing(
    node: TestNode, authority: Authority
) -> None:
    """HAProxy ends and its directory goes; that is told while it is asked for."""
    supervisor = RecordingSupervisor()
    component = BalancerComponent(
        node.identity, node.directory, supervisor, FakeControllers(authority)
    )
    root = node.directory.of("balancer")
    root.mkdir()
    wanted = node.wanted(balancer=POOL.model_copy(update={"is_leaving": True}))
    await component.converge(wanted)
    assert component._ending is not None
    await component._ending
    await component.converge(wanted)
    assert not root.exists()
    assert BalancerReport.model_validate(await component.report()).is_gone
    await component.converge(node.wanted())
    assert await component.report() is None
