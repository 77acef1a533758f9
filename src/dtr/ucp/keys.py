"""Where documents are in etcd. Patroni has `/db/` to itself."""

from typing import Final

CLUSTER: Final = "/ucp/cluster"
NODES: Final = "/ucp/nodes/"
REPORTS: Final = "/ucp/reports/"
MANAGERS: Final = "/ucp/managers/"
SERVICES: Final = "/ucp/services/"
PROBES: Final = "/ucp/probes/"
OPERATIONS: Final = "/ucp/operations/"
OPERATION_LOCK: Final = "/ucp/operation"
ADMINISTRATORS: Final = "/ucp/administrators/"
JOIN_TOKEN: Final = "/ucp/tokens/join"  # noqa: S105 - where it is, not what it is
WEB_NAMES: Final = "/ucp/names"
"""JSON list of names that every node may have in a certificate of its own, besides its own: what
`ucp install --san` said. Other rooms keep lists of theirs below it: `/ucp/names/dtr`."""
SECRETS: Final = "/ucp/secrets/"
CONTROL_SECRETS: Final = "/ucp/secrets/control"
KEYRING: Final = "/ucp/secrets/keyring"
NODE_KEYS: Final = "/ucp/secrets/keys/"
SESSIONS: Final = "/ucp/sessions/"
JOINS: Final = "/ucp/joins"
"""Changed with each join, so that two at once cannot both take a name."""
LEADER: Final = "/ucp/leader"
DTR: Final = "/ucp/dtr/"
"""What `dtr.cluster` keeps."""
PATRONI: Final = "/db/registry/"


def join_token(kind: str) -> str:
    """Return the key of the join token of a kind; that of managers was once the only one."""
    return JOIN_TOKEN if kind == "manager" else f"{JOIN_TOKEN}-{kind}"


def node(node_id: str) -> str:
    """Return the key of a node."""
    return NODES + node_id


def report(node_id: str) -> str:
    """Return the key of a node's last report."""
    return REPORTS + node_id


def manager(node_id: str) -> str:
    """Return the key of a node's part in the control plane."""
    return MANAGERS + node_id


def node_keys(node_id: str) -> str:
    """Return the key of what a node's engines prove who they are with."""
    return NODE_KEYS + node_id


def service(node_id: str, name: str) -> str:
    """Return the key of what a node runs for another room."""
    return f"{SERVICES}{node_id}/{name}"


def probe(node_id: str) -> str:
    """Return the key of a network test that a node is asked for."""
    return PROBES + node_id


def operation(operation_id: str) -> str:
    """Return the key of an operation."""
    return OPERATIONS + operation_id


def administrator(name: str) -> str:
    """Return the key of an administrator."""
    return ADMINISTRATORS + name
