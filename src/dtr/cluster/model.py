"""What `dtr.cluster` keeps in the control plane's store, and sends to agents."""

from enum import StrEnum
from typing import Final

from pydantic import Field, JsonValue

from dtr.model.members import Member
from dtr.ucp import keys
from dtr.ucp.model import Document

REPLICA_SERVICE: Final = "replica"
BALANCER_SERVICE: Final = "balancer"

CLUSTER: Final = f"{keys.DTR}cluster"
SECRETS: Final = f"{keys.SECRETS}dtr"
WEB_CERTIFICATES: Final = f"{keys.SECRETS}dtr-web-"
REPLICAS: Final = f"{keys.DTR}replicas/"
BALANCERS: Final = f"{keys.DTR}balancers/"

HTTPS_PORT: Final = 443
HTTP_PORT: Final = 80
DATABASE_PORT: Final = 5432
PATRONI_PORT: Final = 8008
PEER_PORT: Final = 8445
PROXY_PORT: Final = 8446
"""Where replicas take connections of balancers, with a head of PROXY protocol 2."""


class ReplicaPhase(StrEnum):
    """How far a replica is on its way in or out; `cluster.plan` alone moves it."""

    DATABASE = "database"
    """Its PostgreSQL and Patroni run; the registry does not yet."""
    SERVING = "serving"
    """All of it runs, and it counts."""
    DRAINING = "draining"
    """Its health endpoint answers 503, so that balancers leave it alone; it still answers all."""
    LEAVING = "leaving"
    """Its registry ends when what is in flight is done; then nothing runs, and data is deleted."""


class Replica(Document):
    """One full set of registry services on one node: `/ucp/dtr/replicas/<id>`."""

    id: str
    """12 lower-case hexadecimal digits."""
    node_id: str
    phase: ReplicaPhase
    https_port: int = HTTPS_PORT
    http_port: int = HTTP_PORT
    created_at: float
    is_counted: bool = False
    """Whether the majority arithmetic counts it: from the end of its join to its removal."""
    settings_revision: int = 0
    """Of the settings that it has been given; below the cluster's until its turn comes."""
    operation_id: str = ""
    """The operation that made it: only that one may undo it."""


class DtrCluster(Document):
    """What all replicas share: `/ucp/dtr/cluster`."""

    id: str
    """Of Patroni's bootstrap: a new one for each `dtr install`."""
    storage: str = "replicated"
    """`replicated`, or a storage URL as in `storage.url`."""
    is_storage_shared: bool = False
    """Whether somebody has said that a `file:///` storage is the same directory on all nodes."""
    settings: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    """Settings of the registry by section, as in `dtr.toml`; what every replica has."""
    external_url: str = ""
    web_certificate: str = ""
    """PEM of the user's certificate and chain; empty: UCP's authority makes one."""
    settings_revision: int = 0
    """Grows with each `reconfigure`; replicas take a new one one after the other."""
    version: str = ""
    first_administrator: str = "admin"
    created_at: float
    synchronous_node_count: int = 0
    """What Patroni was last told; ⌊N/2⌋ of the counted replicas."""
    members_revision: int = 0
    former_replicas: tuple[str, ...] = ()
    """Ids that were removed; they are never used again."""


class DtrSecrets(Document):
    """Passwords and keys of one cluster: `/ucp/secrets/dtr`; agents of replicas get their part."""

    superuser_password: str
    replication_password: str
    rewind_password: str
    database_password: str
    """Of PostgreSQL's role `dtr`, which owns the registry's database and nothing else."""
    patroni_password: str
    """Of Patroni's REST interface."""
    web_key: str = ""
    """PEM, where `web_certificate` is the user's."""
    administrator_hash: str = ""
    """argon2id of the first registry administrator's password: that of UCP's administrator."""
    etcd_passwords: dict[str, str] = Field(default_factory=dict)
    """By replica: its etcd user is `patroni-<replica id>`, which opens `/db/registry/` only."""


class ReplicaSpecification(Document):
    """Service `replica` of a node: everything that its agent needs to run one."""

    id: str
    cluster_id: str
    phase: ReplicaPhase
    members: tuple[Member, ...]
    """All replicas that have data, this one included; empty in phase LEAVING."""
    is_bootstrap: bool = False
    """Whether this replica may make the database; all others copy it."""
    is_synchronous: bool = True
    """Whether it may acknowledge commits and take over; else Patroni's tag `nosync` is set. A
    replica that is not counted must not acknowledge: its data may be deleted."""
    etcd_username: str
    etcd_password: str
    superuser_password: str
    replication_password: str
    rewind_password: str
    database_password: str
    patroni_password: str
    synchronous_node_count: int
    """For the first bootstrap; later it is changed in Patroni's own configuration."""
    https_port: int
    http_port: int
    storage: str
    settings: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    settings_revision: int = 0
    external_url: str = ""
    web_certificate: str = ""
    web_key: str = ""
    first_administrator: str = "admin"
    administrator_hash: str = ""
    balancers: tuple[str, ...] = ()
    """Addresses of the balancers' nodes, whose word on who connects counts."""


class WebCertificate(Document):
    """A certificate that was brought for an operation: `/ucp/secrets/dtr-web-<id>`.

    Its key is in no operation's arguments: those are shown to whoever asks.
    """

    id: str
    certificate: str
    """PEM, with its chain; empty: UCP's authority makes one."""
    key: str
    """PEM."""
    created_at: float


class DatabaseReport(Document):
    """What Patroni says of a replica's database; `GET /patroni` and `/db/registry/members`."""

    is_answering: bool = False
    """Whether Patroni answered."""
    state: str = "stopped"
    """Patroni's: `running`, `starting`, `creating replica`, `start failed`, `stopped`, …"""
    role: str = ""
    """`primary` or `standby`."""
    is_streaming: bool = False
    timeline: int = 0
    wal_position: int = 0
    """Bytes: written by a primary, replayed by a standby."""
    last_transaction_at: float | None = None
    """When the last transaction was committed that this database has."""
    version: str = ""
    is_pending_restart: bool = False


class StorageReport(Document):
    """Blobs on a replica's own disk, with `--storage replicated`."""

    blobs: int = 0
    bytes: int = 0
    under_copied: int = 0
    """Blobs of the whole registry that too few replicas hold."""
    counted_replicas: tuple[str, ...] = ()
    """Whose copies were counted for that: one that drains is none of them."""
    missing_here: int = 0
    """Blobs that this replica is to hold and does not yet."""
    capacity_bytes: int = 0
    free_bytes: int = 0


class ReplicaReport(Document):
    """What the agent tells of a replica: `NodeReport.services['replica']`."""

    id: str
    phase: ReplicaPhase
    """The phase that has been carried out here."""
    settings_revision: int = 0
    """Of the settings that the running registry has."""
    members_revision: str = ""
    """Digest of the members that were last written for the registry."""
    database: DatabaseReport = DatabaseReport()
    is_healthy: bool = False
    """Whether the registry's `/health` answered 200."""
    health_error: str = ""
    is_read_only: bool = False
    """Whether the registry serves pulls only because an administrator wants it so."""
    storage: StorageReport | None = None
    version: str = ""
    proxy_port: int = 0
    """Where the running registry takes balancers' connections; 0 where it does not."""
    is_data_deleted: bool = False
    """In phase LEAVING: nothing is left on this node."""
    problems: tuple[str, ...] = ()


class Balancer(Document):
    """A load balancer on a node: `/ucp/dtr/balancers/<node id>`."""

    node_id: str
    https_port: int = HTTPS_PORT
    http_port: int = HTTP_PORT
    is_leaving: bool = False


class PoolMember(Document):
    """One replica, as a balancer reaches it."""

    id: str
    address: str
    https_port: int
    http_port: int
    is_draining: bool = False
    proxy_port: int = 0
    """Where it takes connections with a head of PROXY protocol; 0: nowhere, for it is older."""


class BalancerSpecification(Document):
    """Service `balancer` of a node."""

    https_port: int
    http_port: int
    pool: tuple[PoolMember, ...]
    web_certificate: str = ""
    """PEM of every certificate of the user's that replicas may be showing, with chains; health
    checks trust them besides UCP's authority. Two while `dtr reconfigure` brings a new one."""
    is_leaving: bool = False


class BalancerReport(Document):
    """What the agent tells of a balancer."""

    is_ready: bool = False
    pool: dict[str, str] = Field(default_factory=dict)
    """HAProxy's state by replica id: `UP`, `DOWN`, `DRAIN`."""
    message: str = ""
    is_gone: bool = False
