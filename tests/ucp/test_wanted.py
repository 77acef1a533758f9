"""What a node is told to run: whole, no more than it needs, and again only when it changed."""

import asyncio

from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.model import (
    ClusterRecord,
    ControlSecrets,
    Document,
    Manager,
    ManagerPhase,
    Node,
    NodeReport,
    Probe,
    Service,
    Wanted,
)
from dtr.ucp.store import Delete, Put
from dtr.ucp.wanted import wait_for_wanted, wanted_of

CLUSTER = ClusterRecord(id="c1", created_at=1, ca_certificate="PEM", version="1")
SECRETS = ControlSecrets(ca_key="the key", etcd_password="the password")


def node_of(number: int, address: str = "") -> Node:
    """Return a node."""
    return Node(
        id=f"node{number}",
        name=f"host{number}",
        host_address=address or f"10.0.0.{number}",
        fingerprint="00",
        joined_at=number,
    )


def manager_of(number: int, phase: ManagerPhase = ManagerPhase.VOTER) -> Manager:
    """Return its part in the control plane."""
    return Manager(
        node_id=f"node{number}",
        peer_url=f"https://10.0.0.{number}:2380",
        phase=phase,
        initial_cluster="node1=https://10.0.0.1:2380",
    )


async def put(store: MemoryStore, key: str, document: Document) -> None:
    """Write a document."""
    await store.commit([Put(key, document.encoded())])


async def put_manager(store: MemoryStore, manager: Manager) -> None:
    """Write a manager."""
    await put(store, keys.manager(manager.node_id), manager)


async def cluster_of(nodes: int) -> MemoryStore:
    """Return the store of a cluster whose first node is its manager."""
    store = MemoryStore()
    await put(store, keys.CLUSTER, CLUSTER)
    await put(store, keys.CONTROL_SECRETS, SECRETS)
    for number in range(1, nodes + 1):
        await put(store, keys.node(f"node{number}"), node_of(number))
    await put_manager(store, manager_of(1))
    return store


async def wanted(store: MemoryStore, number: int) -> Wanted:
    """Return what a node that there is has to run."""
    found = await wanted_of(store, f"node{number}")
    assert found is not None
    return found


async def test_a_voter_runs_etcd_and_a_controller() -> None:
    """And only a voter is told the authority's key."""
    store = await cluster_of(2)
    first = await wanted(store, 1)
    assert first.cluster_id == "c1"
    assert first.controllers == ("10.0.0.1:8443",)
    assert first.etcd_urls == ("https://10.0.0.1:2379",)
    assert first.etcd is not None
    assert first.etcd.name == "node1"
    assert first.etcd.cluster_token == "c1"
    assert first.etcd.client_url == "https://10.0.0.1:2379"
    assert first.controller is not None
    assert first.controller.ca_key == "the key"
    second = await wanted(store, 2)
    assert second.controllers == first.controllers
    assert (second.etcd, second.controller) == (None, None)


async def test_a_learner_runs_etcd_only() -> None:
    """It is neither asked nor trusted yet."""
    store = await cluster_of(2)
    await put_manager(store, manager_of(2, ManagerPhase.LEARNER))
    second = await wanted(store, 2)
    assert second.etcd is not None
    assert second.controller is None
    assert second.etcd_urls == ("https://10.0.0.1:2379",)
    assert "the key" not in second.model_dump_json()


async def test_a_manager_that_leaves_runs_nothing_of_the_control_plane() -> None:
    """Nor is it told to anybody."""
    store = await cluster_of(2)
    await put_manager(store, manager_of(2, ManagerPhase.LEAVING))
    second = await wanted(store, 2)
    assert (second.etcd, second.controller) == (None, None)
    assert second.controllers == ("10.0.0.1:8443",)


async def test_a_node_gets_its_own_services_and_probe() -> None:
    """Not those of others whose id begins alike."""
    store = await cluster_of(12)
    for number in (1, 12):
        service = Service(name="replica", node_id=f"node{number}", specification={"n": number})
        await put(store, keys.service(f"node{number}", "replica"), service)
    await put(store, keys.probe("node12"), Probe(id="p"))
    first, other = await wanted(store, 1), await wanted(store, 12)
    assert first.services == {"replica": {"n": 1}}
    assert first.probe is None
    assert other.services == {"replica": {"n": 12}}
    assert other.probe == Probe(id="p")


async def test_an_address_of_ipv6_stands_in_brackets() -> None:
    """As URLs have it."""
    store = await cluster_of(1)
    await put(store, keys.node("node1"), node_of(1, "fd00::1"))
    first = await wanted(store, 1)
    assert first.controllers == ("[fd00::1]:8443",)
    assert first.etcd_urls == ("https://[fd00::1]:2379",)


async def test_a_node_that_was_removed_is_told_nothing() -> None:
    """There is no such node."""
    store = await cluster_of(1)
    assert await wanted_of(store, "node9") is None
    assert await wait_for_wanted(store, "node9", 3, 5) is None


async def test_without_a_revision_the_answer_comes_at_once() -> None:
    """To an agent that has nothing yet."""
    store = await cluster_of(1)
    assert await wait_for_wanted(store, "node1", 0, 60) == await wanted(store, 1)


async def test_nothing_new_is_said_as_nothing() -> None:
    """Reports of nodes and services of others concern nobody here."""
    store = await cluster_of(2)
    after = (await wanted(store, 1)).revision
    await put(
        store, keys.report("node1"), NodeReport(node_id="node1", at=1, version="", revision=1)
    )
    await put(
        store,
        keys.service("node2", "replica"),
        Service(name="replica", node_id="node2", specification=None),
    )
    assert await wait_for_wanted(store, "node1", after, 0.2) is None


async def test_a_change_ends_the_waiting() -> None:
    """And the answer has a greater revision, by which the next wait finds nothing new."""
    store = await cluster_of(2)
    after = (await wanted(store, 2)).revision
    waiting = asyncio.create_task(wait_for_wanted(store, "node2", after, 60))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await put_manager(store, manager_of(2, ManagerPhase.LEARNER))
    answer = await waiting
    assert answer is not None
    assert answer.etcd is not None
    assert answer.revision > after
    assert await wait_for_wanted(store, "node2", answer.revision, 0.2) is None


async def test_a_deletion_is_a_change() -> None:
    """Although nothing that is left is newer than before."""
    store = await cluster_of(1)
    await put(store, keys.probe("node1"), Probe(id="p"))
    before = await wanted(store, 1)
    await store.commit([Delete(keys.probe("node1"))])
    answer = await wait_for_wanted(store, "node1", before.revision, 60)
    assert answer is not None
    assert answer.probe is None
    assert answer.revision > before.revision


async def test_what_was_missed_is_told_at_once() -> None:
    """A change between two calls."""
    store = await cluster_of(1)
    after = (await wanted(store, 1)).revision
    await put(store, keys.probe("node1"), Probe(id="p"))
    answer = await wait_for_wanted(store, "node1", after, 60)
    assert answer is not None
    assert answer.probe == Probe(id="p")


async def test_a_revision_from_before_a_restored_backup_is_answered() -> None:
    """Waiting for the store to get there again would take days."""
    store = await cluster_of(1)
    assert await wait_for_wanted(store, "node1", 10**6, 60) == await wanted(store, 1)


async def test_a_store_that_is_away_for_a_moment_ends_no_wait() -> None:
    """The watch begins again where it was."""
    store = await cluster_of(1)
    after = (await wanted(store, 1)).revision
    waiting = asyncio.create_task(wait_for_wanted(store, "node1", after, 60))
    await asyncio.sleep(0.1)
    store.is_available = False
    await asyncio.sleep(0.1)
    store.is_available = True
    await put(store, keys.probe("node1"), Probe(id="p"))
    answer = await waiting
    assert answer is not None
    assert answer.probe == Probe(id="p")
