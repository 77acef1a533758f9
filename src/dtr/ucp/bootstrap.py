"""How a control plane begins: what the first machine writes down, and how it gets into the store.

The command line writes files only. The first controller finds `bootstrap.json` and an empty store,
and moves the one into the other; it may die at any moment and is started again.
"""

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import JsonValue, ValidationError

from dtr import __version__
from dtr.server.datadir import sync_directory, write_atomically
from dtr.ucp import keys
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.authority import (
    Authority,
    fingerprint,
    make_request,
    new_node_id,
    node_names,
)
from dtr.ucp.keyring import OF_MANAGERS, Keyring, first_keyring, issue
from dtr.ucp.model import (
    ETCD_PEER_PORT,
    Administrator,
    ClusterRecord,
    ControllerWanted,
    ControlSecrets,
    Document,
    EtcdWanted,
    Manager,
    ManagerPhase,
    Node,
    NodeIdentity,
    NodeKeys,
    Role,
    TokenKind,
    Wanted,
)
from dtr.ucp.store import IsUnchanged, Put, Store
from dtr.ucp.tokens import new_join_token
from dtr.ucp.wanted import authority as address_of
from dtr.ucp.wanted import client_url

_BATCH: Final = 50
_NEVER_RESTORED: Final = (
    keys.SESSIONS,
    keys.REPORTS,
    keys.PROBES,
    keys.MANAGERS,
    keys.LEADER,
    keys.JOINS,
    keys.CLUSTER,
    keys.CONTROL_SECRETS,
    keys.KEYRING,
    keys.NODE_KEYS,
    keys.OPERATIONS,
    keys.OPERATION_LOCK,
)


class BootstrapError(Exception):
    """The control plane cannot begin here; one sentence of what and one of what to do."""


class Bootstrap(Document):
    """`bootstrap.json`: all that an empty store is filled with. It holds secrets."""

    cluster: ClusterRecord
    node: Node
    secrets: ControlSecrets
    keyring: Keyring
    keys: NodeKeys
    documents: dict[str, JsonValue]
    """Administrators, the join token, names, and what a backup had, by key."""

    @property
    def manager(self) -> Manager:
        """The first voter."""
        peer_url = f"https://{address_of(self.node.host_address, ETCD_PEER_PORT)}"
        return Manager(
            node_id=self.node.id,
            peer_url=peer_url,
            phase=ManagerPhase.VOTER,
            initial_cluster=f"{self.node.id}={peer_url}",
            is_new_cluster=True,
        )

    def wanted(self) -> Wanted:
        """Return what the first machine runs before there is a controller that could say it."""
        manager = self.manager
        return Wanted(
            revision=0,
            epoch=self.cluster.epoch,
            cluster_id=self.cluster.id,
            node=self.node,
            controllers=(address_of(self.node.host_address, self.node.controller_port),),
            etcd_urls=(client_url(self.node),),
            etcd=EtcdWanted(
                name=self.node.id,
                peer_url=manager.peer_url,
                client_url=client_url(self.node),
                initial_cluster=manager.initial_cluster,
                is_new_cluster=True,
                cluster_token=self.cluster.id,
            ),
            controller=ControllerWanted(
                port=self.node.controller_port,
                ca_key=self.secrets.ca_key,
                etcd_password=self.secrets.etcd_password,
            ),
            keys=self.keys,
        )


@dataclass(frozen=True, slots=True)
class FirstNode:
    """What an operator decides about the first machine."""

    name: str
    host_address: str
    controller_port: int
    more_names: tuple[str, ...] = ()
    """Names besides its own for every node's certificate: `--san`."""
    users: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Begun:
    """A machine that is ready for its agent."""

    identity: NodeIdentity
    token: str
    """The join token of managers; a secret."""
    worker_token: str
    """That of workers; likewise."""
    ca_pem: str


def begin(
    directory: NodeDirectory, first: FirstNode, administrator: Administrator, now: float
) -> Begun:
    """Write down all that the first machine of a new control plane needs.

    `node.json` comes last: without it, nothing has begun, and beginning again is no harm.

    Raises:
        AuthorityError: a name is none.

    """
    cluster_id = new_node_id()
    ca = Authority.create(cluster_id[:8], datetime.fromtimestamp(now, UTC))
    tokens, kept = _join_tokens(ca.fingerprint, now)
    documents: dict[str, JsonValue] = {
        keys.administrator(administrator.name): administrator.model_dump(mode="json"),
        **kept,
        keys.WEB_NAMES: list(first.more_names),
    }
    cluster = ClusterRecord(
        id=cluster_id, created_at=now, ca_certificate=ca.certificate_pem, version=__version__
    )
    identity = _write(directory, first, ca, cluster, documents, now)
    return Begun(identity, *tokens, ca.certificate_pem)


def _join_tokens(ca_fingerprint: str, now: float) -> tuple[tuple[str, str], dict[str, JsonValue]]:
    """Make the two tokens of a control plane that begins: as words, and as documents by key."""
    manager, kept = new_join_token(TokenKind.MANAGER, ca_fingerprint, now)
    worker, kept_worker = new_join_token(TokenKind.WORKER, ca_fingerprint, now)
    documents: dict[str, JsonValue] = {
        keys.join_token(each.kind): each.model_dump(mode="json") for each in (kept, kept_worker)
    }
    return (str(manager), str(worker)), documents


def begin_again(
    directory: NodeDirectory,
    first: FirstNode,
    backup: Mapping[str, JsonValue],
    now: float,
) -> Begun:
    """Write down all that a machine needs to be the only manager of a control plane that was lost.

    Authority, administrators and all nodes are the backup's; the other nodes find their way back by
    themselves once they reach this machine. A node of this name in the backup is this machine. Join
    tokens are new: those of the backup may be in other hands, or have been revoked after it.

    Raises:
        BootstrapError: it is no backup of a control plane.

    """
    try:
        cluster = ClusterRecord.model_validate(backup[keys.CLUSTER])
        kept = ControlSecrets.model_validate(backup[keys.CONTROL_SECRETS])
        nodes = [
            Node.model_validate(value)
            for key, value in backup.items()
            if key.startswith(keys.NODES)
        ]
    except (KeyError, ValidationError):
        raise BootstrapError(
            "The backup is incomplete. Use a complete one of 'ucp backup'."
        ) from None
    # Agents follow the smaller revisions of this store, and not managers that were left behind.
    cluster = cluster.changed(epoch=max(int(now), cluster.epoch + 1))
    ca = Authority.load(cluster.ca_certificate, kept.ca_key)
    before = next((node for node in nodes if node.name == first.name), None)
    documents = {key: value for key, value in backup.items() if not key.startswith(_NEVER_RESTORED)}
    if before is not None:
        del documents[keys.node(before.id)]
    tokens, kept_tokens = _join_tokens(ca.fingerprint, now)
    documents |= kept_tokens
    identity = _write(
        directory, first, ca, cluster, documents, now, node_id=before.id if before else ""
    )
    return Begun(identity, *tokens, ca.certificate_pem)


def _write(
    directory: NodeDirectory,
    first: FirstNode,
    ca: Authority,
    cluster: ClusterRecord,
    documents: dict[str, JsonValue],
    now: float,
    *,
    node_id: str = "",
) -> NodeIdentity:
    node_id = node_id or new_node_id()
    request = make_request()
    certificate = ca.sign(
        request.request_pem,
        common_name=node_id,
        names=(*node_names(first.name, first.host_address), *first.more_names),
        now=datetime.fromtimestamp(now, UTC),
    )
    node = Node(
        id=node_id,
        name=first.name,
        host_address=first.host_address,
        role=Role.AUTO,
        fingerprint=fingerprint(certificate),
        controller_port=first.controller_port,
        joined_at=now,
    )
    control = ControlSecrets(ca_key=ca.key_pem, etcd_password=secrets.token_urlsafe(32))
    # Also where a control plane begins again: whoever held a key of before holds nothing.
    keyring = first_keyring(cluster.id, now)
    bootstrap = Bootstrap(
        cluster=cluster,
        node=node,
        secrets=control,
        keyring=keyring,
        keys=issue(keyring, node, OF_MANAGERS, now),
        documents=documents,
    )
    identity = NodeIdentity(
        node_id=node_id,
        name=first.name,
        host_address=first.host_address,
        cluster_id=cluster.id,
        controllers=(address_of(first.host_address, first.controller_port),),
        users=dict(first.users),
    )
    make_directories(directory)
    write_atomically(directory.bootstrap, bootstrap.encoded())
    write_atomically(directory.wanted, bootstrap.wanted().encoded())
    write_identity(directory, identity, request.key_pem, certificate, ca.certificate_pem)
    return identity


def make_directories(directory: NodeDirectory) -> None:
    """Make the data directory and what every node has in it."""
    directory.root.mkdir(mode=0o711, parents=True, exist_ok=True)
    directory.root.chmod(0o711)
    for path, mode in (
        (directory.ca.parent, 0o711),
        (directory.logs, 0o711),
        (directory.run, 0o711),
    ):
        path.mkdir(mode=mode, exist_ok=True)
        path.chmod(mode)


def write_identity(
    directory: NodeDirectory, identity: NodeIdentity, key: str, certificate: str, ca: str
) -> None:
    """Write down who this machine is, `node.json` last; the private key is for its owner only."""
    write_atomically(directory.key, key.encode())
    write_atomically(directory.certificate, certificate.encode(), mode=0o644)
    write_atomically(directory.ca, ca.encode(), mode=0o644)
    write_atomically(directory.identity, identity.encoded(), mode=0o644)


def read_bootstrap(path: Path) -> Bootstrap | None:
    """Return what `bootstrap.json` has; None where the store has been filled with it.

    Raises:
        BootstrapError: it is damaged.

    """
    try:
        return Bootstrap.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise BootstrapError(
            f"The file {path} is damaged. Run 'ucp uninstall' and install again."
        ) from None


async def fill_store(
    store: Store,
    bootstrap: Bootstrap,
    member_id_of: Callable[[str], Awaitable[str]],
    protect: Callable[[str], Awaitable[None]],
) -> None:
    """Fill an empty store, and protect it; after that `bootstrap.json` has done its duty.

    `member_id_of` finds etcd's own id of the member of a node; `protect` turns authentication on
    with root's password, and is idempotent. Every step may be the last before a crash: done again,
    the whole ends the same.

    Raises:
        BootstrapError: the store has another cluster in it.
        UnavailableError: the store did not answer; try again.

    """
    if not await _is_filled(store, bootstrap):
        await _fill(store, bootstrap, await member_id_of(bootstrap.node.id))
        if not await _is_filled(store, bootstrap):
            raise BootstrapError("etcd did not accept the first documents. See its log.")
    await protect(bootstrap.secrets.etcd_password)


def forget_bootstrap(path: Path) -> None:
    """Delete `bootstrap.json`, durably; idempotent."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


async def _is_filled(store: Store, bootstrap: Bootstrap) -> bool:
    found = await store.get(keys.CLUSTER)
    if found is None:
        return False
    if found.document(ClusterRecord).id != bootstrap.cluster.id:
        raise BootstrapError(
            "etcd on this machine holds another control plane. Run 'ucp uninstall' and install "
            "again."
        )
    return True


async def _fill(store: Store, bootstrap: Bootstrap, member_id: str) -> None:
    """Write everything, the cluster's record last: while that is missing nothing counts."""
    items = [
        Put(key, json.dumps(value).encode()) for key, value in sorted(bootstrap.documents.items())
    ]
    for start in range(0, len(items), _BATCH):
        await store.commit(items[start : start + _BATCH], [IsUnchanged(keys.CLUSTER, 0)])
    manager = bootstrap.manager.changed(member_id=member_id)
    await store.commit(
        [
            Put(keys.node(bootstrap.node.id), bootstrap.node.encoded()),
            Put(keys.manager(bootstrap.node.id), manager.encoded()),
            Put(keys.CONTROL_SECRETS, bootstrap.secrets.encoded()),
            Put(keys.KEYRING, bootstrap.keyring.encoded()),
            Put(keys.node_keys(bootstrap.node.id), bootstrap.keys.encoded()),
            Put(keys.CLUSTER, bootstrap.cluster.encoded()),
        ],
        [IsUnchanged(keys.CLUSTER, 0)],
    )
