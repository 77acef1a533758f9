"""What a node is wanted to run, put together from the documents in the store.

Its revision is the store's own at the moment when composing it began. So it grows from answer to
answer whatever was changed, deletions included (which leave no revision behind in what remains),
and every controller counts alike. An agent that asks for what came after it is answered when a
document that concerns it was changed since, and not before: reports and locks, which change all
the time, are not among them.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Final

from dtr.model.errors import UnavailableError
from dtr.ucp import keys
from dtr.ucp.keyring import OLDEST, Keyring
from dtr.ucp.model import (
    ETCD_CLIENT_PORT,
    ClusterRecord,
    ControllerWanted,
    ControlSecrets,
    EtcdWanted,
    Manager,
    ManagerPhase,
    Node,
    NodeKeys,
    Probe,
    Service,
    Wanted,
)
from dtr.ucp.store import FencedStore, Store

_PAUSE_SECONDS: Final = 0.5  # before a watch that broke begins again


async def wanted_of(store: Store | FencedStore, node_id: str) -> Wanted | None:
    """Return what a node is to run now; None where there is no such node, or no cluster yet.

    Raises:
        UnavailableError: the store did not answer.

    """
    # The revision is that of the first look: what is changed while the others follow is told again.
    # That look is at the cluster's record, which comes into an empty store with the first manager:
    # seen the other way round, a machine would take it that it has no etcd to run any more.
    cluster_found, revision = await store.list(keys.CLUSTER)
    managers_found, _ = await store.list(keys.MANAGERS)
    nodes_found, _ = await store.list(keys.NODES)
    services_found, _ = await store.list(f"{keys.SERVICES}{node_id}/")
    probe_found = await store.get(keys.probe(node_id))
    nodes = {node.id: node for node in (each.document(Node) for each in nodes_found)}
    node = nodes.get(node_id)
    if node is None or not cluster_found:
        return None
    managers = [each.document(Manager) for each in managers_found]
    own = next((each for each in managers if each.node_id == node_id), None)
    cluster = cluster_found[0].document(ClusterRecord)
    voters = [
        nodes[each.node_id]
        for each in managers
        if each.phase is ManagerPhase.VOTER and each.node_id in nodes
    ]
    services = [each.document(Service) for each in services_found]
    return Wanted(
        revision=revision,
        epoch=cluster.epoch,
        cluster_id=cluster.id,
        node=node,
        controllers=tuple(authority(each.host_address, each.controller_port) for each in voters),
        etcd_urls=tuple(client_url(each) for each in voters),
        etcd=_etcd(node, own, cluster),
        controller=await _controller(store, node, own),
        services={each.name: each.specification for each in services},
        probe=probe_found.document(Probe) if probe_found else None,
        keys=await _keys(store, node_id),
    )


async def wait_for_wanted(store: Store, node_id: str, after: int, seconds: float) -> Wanted | None:
    """Return what a node is to run as soon as it may differ from what revision `after` had.

    None where nothing of it has changed for so many seconds, or there is no such node. What is
    returned differs in its revision at least. An `after` that the store has not reached yet (it was
    restored from a backup) is answered at once.

    Raises:
        UnavailableError: the store did not answer.

    """
    wanted = await wanted_of(store, node_id)
    if wanted is None or after <= 0 or wanted.revision < after:
        return wanted
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _changed(store, _concerning(node_id), after)
            return await wanted_of(store, node_id)
    return None


def authority(host: str, port: int) -> str:
    """Return `host:port` as URLs have it.

    >>> authority("10.0.0.1", 8443), authority("fd00::1", 8443)
    ('10.0.0.1:8443', '[fd00::1]:8443')
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def client_url(node: Node) -> str:
    """Return where a node's etcd member is asked."""
    return f"https://{authority(node.host_address, ETCD_CLIENT_PORT)}"


def _concerning(node_id: str) -> Sequence[str]:
    return (
        keys.MANAGERS,
        keys.NODES,
        f"{keys.SERVICES}{node_id}/",
        keys.probe(node_id),
        keys.CLUSTER,
        keys.CONTROL_SECRETS,
        keys.node_keys(node_id),
    )


async def _changed(store: Store, prefixes: Sequence[str], after: int) -> None:
    """Return when anything below one of the prefixes was changed after that revision."""
    watches = {asyncio.create_task(_seen(store, prefix, after)) for prefix in prefixes}
    try:
        await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)


async def _seen(store: Store, prefix: str, after: int) -> None:
    while True:
        with suppress(UnavailableError):
            async with aclosing(_watch(store, prefix, after)) as watch:
                async for _ in watch:
                    return
        await asyncio.sleep(_PAUSE_SECONDS)


def _watch(store: Store, prefix: str, after: int) -> AsyncGenerator[int]:
    return store.watch(prefix, after)


def _etcd(node: Node, own: Manager | None, cluster: ClusterRecord) -> EtcdWanted | None:
    if own is None or own.phase is ManagerPhase.LEAVING:
        return None
    return EtcdWanted(
        name=node.id,
        peer_url=own.peer_url,
        client_url=client_url(node),
        initial_cluster=own.initial_cluster,
        is_new_cluster=own.is_new_cluster,
        cluster_token=cluster.id,
    )


async def _controller(
    store: Store | FencedStore, node: Node, own: Manager | None
) -> ControllerWanted | None:
    """Return what a controller needs, secrets included: for voters only."""
    if own is None or own.phase is not ManagerPhase.VOTER:
        return None
    found = await store.get(keys.CONTROL_SECRETS)
    if found is None:
        return None
    secrets = found.document(ControlSecrets)
    return ControllerWanted(
        port=node.controller_port, ca_key=secrets.ca_key, etcd_password=secrets.etcd_password
    )


async def _keys(store: Store | FencedStore, node_id: str) -> NodeKeys | None:
    """Return the keys of a node's engines; empty ones where it is to wait for its own.

    None where engines still show the node's certificate: where nobody has keys yet, or not all.
    """
    found = await store.get(keys.node_keys(node_id))
    if found is not None:
        return found.document(NodeKeys)
    kept = await store.get(keys.KEYRING)
    if kept is None or kept.document(Keyring).signing.number == OLDEST:
        return None
    return NodeKeys(node_id=node_id)
