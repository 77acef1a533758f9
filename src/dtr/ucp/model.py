"""What UCP keeps and sends: documents in etcd, and between controllers and agents.

All are JSON. Unknown fields are ignored, so that controllers and agents of two versions understand
each other during an upgrade. Times are seconds since the epoch, in UTC.
"""

from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

CONTROLLER_PORT: Final = 8443
MAX_REPORT_BYTES: Final = 32 * 1024
ETCD_CLIENT_PORT: Final = 2379
ETCD_PEER_PORT: Final = 2380


class Document(BaseModel):
    """A value that is stored or sent; immutable."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    def encoded(self) -> bytes:
        """Return it as JSON."""
        return self.model_dump_json().encode()

    def changed(self, **values: Any) -> "Any":
        """Return a copy with other values, which are checked."""
        return type(self).model_validate({**self.model_dump(), **values})


class Role(StrEnum):
    """What a node is wanted to be."""

    AUTO = "auto"
    """A manager where UCP needs one more voter, else a worker."""
    MANAGER = "manager"
    WORKER = "worker"


class TokenKind(StrEnum):
    """What a join token makes of machines."""

    MANAGER = "manager"
    """Nodes that may be managers: by themselves where UCP needs one more, or as they ask."""
    WORKER = "worker"
    """Nodes that are never managers, unless an administrator promotes one."""


class Node(Document):
    """A machine that UCP manages: `/ucp/nodes/<id>`."""

    id: str
    """26 characters, made at joining, never reused; the common name of the node's certificate."""
    name: str
    """The host name; unique, what `--ucp-node` names."""
    host_address: str
    """The IP address at which the other nodes reach it."""
    role: Role = Role.AUTO
    fingerprint: str
    """SHA-256 of the certificate that it shows, in hexadecimal; any other is refused."""
    previous_fingerprint: str = ""
    """That of the certificate before, accepted until the node has shown the new one."""
    controller_port: int = CONTROLLER_PORT
    key_digest: str = ""
    """SHA-256 of the public key that it joined with: a join whose answer was lost is repeated."""
    joined_at: float
    is_paused: bool = False
    """Whether nothing new may be put there."""


class NodeIdentity(Document):
    """Who a machine is: `node.json` in its data directory, written once by install or join."""

    node_id: str
    name: str
    host_address: str
    cluster_id: str
    controllers: tuple[str, ...]
    """`address:port` of the controllers at that time; the agent learns later ones."""
    users: dict[str, str] = Field(default_factory=dict)
    """System users by what runs as them: `database`, `registry`, `etcd`, `balancer`."""


class Manager(Document):
    """A node's part in the control plane: `/ucp/managers/<node id>`, written by `ucp.plan` only."""

    node_id: str
    member_id: str = ""
    """etcd's own id of the member, in hexadecimal."""
    peer_url: str
    phase: "ManagerPhase"
    initial_cluster: str = ""
    """What etcd is started with: `name=peer URL,…`; the names are the nodes' ids."""
    is_new_cluster: bool = False


class ManagerPhase(StrEnum):
    """How far a node is on its way into the control plane, or out of it."""

    LEARNER = "learner"
    """A member that does not vote yet; its etcd runs."""
    VOTER = "voter"
    """A voter with a controller."""
    LEAVING = "leaving"
    """Its member is removed or about to be; nothing of the control plane runs there."""


class EtcdWanted(Document):
    """The etcd member that runs on a node."""

    name: str
    peer_url: str
    client_url: str
    initial_cluster: str
    is_new_cluster: bool
    cluster_token: str


class ControllerWanted(Document):
    """The controller that runs on a node; only managers are ever sent this."""

    port: int = CONTROLLER_PORT
    ca_key: str
    """PEM."""
    etcd_password: str
    """Of etcd's user `root`: controllers administer members and users."""


class Probe(Document):
    """A test of the network from one node: what to listen on, whom to reach."""

    id: str
    listen: tuple[int, ...] = ()
    connect: tuple[str, ...] = ()
    """`address:port` each."""


class ProbeReport(Document):
    """What came of a probe; a problem each, empty where it went well."""

    id: str
    listening: dict[int, str] = Field(default_factory=dict)
    connected: dict[str, str] = Field(default_factory=dict)


class KeyPair(Document):
    """A certificate and its private key, as PEM."""

    certificate: str
    key: str = Field(repr=False)


class NodeKeys(Document):
    """What the engines of one node prove who they are with: `/ucp/secrets/keys/<node id>`.

    `ucp.keyring` says which there are; only `ucp.plan_keys` decides what is in it.
    """

    node_id: str
    generation: int = -1
    """Of the authorities that signed `pairs`; 0: the node's own certificate is shown instead."""
    trusted: tuple[int, ...] = ()
    """The generations of the authorities that are trusted."""
    authorities: dict[str, str] = Field(default_factory=dict)
    """By realm, PEM of the authorities to trust, one after the other."""
    pairs: dict[str, KeyPair] = Field(default_factory=dict, repr=False)
    """By name of the key."""


class Wanted(Document):
    """All that one node is wanted to run: what a controller answers to an agent.

    The agent keeps the last one on its disk and goes by it when no controller answers.
    """

    revision: int
    """Grows with every change; an agent never goes back to a smaller one of the same epoch."""
    epoch: int = 0
    """Of the store: `ClusterRecord.epoch`; an agent never goes back to a smaller one."""
    cluster_id: str
    node: Node
    controllers: tuple[str, ...]
    """`address:port` of all controllers."""
    etcd_urls: tuple[str, ...]
    """`https://address:port` of all voters."""
    etcd: EtcdWanted | None = None
    controller: ControllerWanted | None = None
    services: dict[str, JsonValue] = Field(default_factory=dict)
    """Specifications by service name, in the words of the room that brings the component."""
    probe: Probe | None = None
    keys: NodeKeys | None = Field(default=None, repr=False)
    """None where the control plane has no keys for engines yet: they show the node's own."""


class ProcessState(StrEnum):
    """How a supervised process is."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing-off"
    STOPPING = "stopping"
    STOPPED = "stopped"


class ProcessReport(Document):
    """One supervised process."""

    name: str
    state: ProcessState
    pid: int | None = None
    since: float
    restarts: int = 0
    message: str = ""
    """Why it is not ready, in a sentence."""


class NodeReport(Document):
    """What an agent tells every two seconds: `/ucp/reports/<node id>`.

    Encoded it has `MAX_REPORT_BYTES` at most: etcd keeps the reports of all nodes, and for some
    minutes the old ones, too.
    """

    node_id: str
    at: float
    """By the node's own clock."""
    received_at: float = 0
    """By the controller's clock; the difference is the skew and the way."""
    version: str
    revision: int
    """Of the last `Wanted` that was carried out."""
    processes: tuple[ProcessReport, ...] = ()
    services: dict[str, JsonValue] = Field(default_factory=dict)
    """Reports by service name."""
    probe: ProbeReport | None = None
    disk_total_bytes: int = 0
    disk_free_bytes: int = 0
    memory_total_bytes: int = 0
    certificate_expires_at: float = 0
    problems: tuple[str, ...] = ()
    """What an operator should know, a sentence each, with what to do."""
    takes_keys: bool = False
    """Whether this agent gives its engines keys of their own: older versions do not."""


class Service(Document):
    """What a service of a node is wanted to be: `/ucp/services/<node id>/<name>`."""

    name: str
    node_id: str
    specification: JsonValue


class OperationState(StrEnum):
    """How an operation is."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class Phase(Document):
    """One named step of an operation, for whoever watches."""

    name: str
    """Short, in the present participle: `starting the database`."""
    state: OperationState
    started_at: float
    ended_at: float | None = None
    message: str = ""
    """What it waits for, or what it did."""


class Operation(Document):
    """A change that outlives the command that asked for it: `/ucp/operations/<id>`.

    Only one that changes membership runs at a time: its id is at `/ucp/operation`.
    """

    id: str
    kind: str
    """`install`, `join`, `remove`, …"""
    arguments: dict[str, JsonValue]
    state: OperationState = OperationState.RUNNING
    phases: tuple[Phase, ...] = ()
    created_by: str
    created_at: float
    updated_at: float
    is_cancelled: bool = False
    """Whether somebody asked to stop; the plan decides whether it still can."""
    error: str = ""
    """One sentence of what happened and one of what to do."""
    result: dict[str, JsonValue] = Field(default_factory=dict)


class ClusterRecord(Document):
    """The control plane itself: `/ucp/cluster`."""

    id: str
    created_at: float
    ca_certificate: str
    """PEM."""
    version: str
    epoch: int = 0
    """Grows when the store is restored from a backup or begun anew from one survivor (the time, in
    seconds): agents then follow revisions that are smaller than those that they know. Managers that
    were left behind keep the old one, and nobody follows them."""


class Administrator(Document):
    """Who may use the control plane: `/ucp/administrators/<name>`."""

    name: str
    password_hash: str
    """argon2id, in its own text form; never leaves the controllers."""
    changed_at: float


class JoinToken(Document):
    """What lets machines join, one of each kind: `/ucp/tokens/join`, `/ucp/tokens/join-worker`."""

    secret_hash: str
    secret: str = ""
    """Itself, so that it can be shown again; only controllers can read it."""
    created_at: float
    kind: TokenKind = TokenKind.MANAGER
    expires_at: float = 0
    """One that was made before tokens had an end has none, and lets nobody in any more."""
    uses: int = 0
    """How many nodes it has made."""
    last_used_at: float | None = None


class ControlSecrets(Document):
    """What only controllers have: `/ucp/secrets/control`."""

    ca_key: str
    """PEM."""
    etcd_password: str
    """Of etcd's user `root`."""


class Session(Document):
    """An administrator who has logged in: `/ucp/sessions/<hash of the token>`, with a lease."""

    administrator: str
    password_changed_at: float
    """When the password that it began with was set; another one ends the session."""
    lease: int = 0
    """With which it ends by itself."""


Manager.model_rebuild()
