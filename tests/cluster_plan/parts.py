"""What a simulated cluster is made of."""

from dataclasses import dataclass

from dtr.cluster.model import BalancerSpecification, ReplicaSpecification
from dtr.model.errors import UnavailableError
from dtr.ucp.model import Node


class Killed(Exception):  # noqa: N818 - it is no error: the test does it
    """The controller is dead."""


@dataclass
class Database:
    """PostgreSQL and its Patroni on one node."""

    id: str
    has_data: bool = False
    is_running: bool = False
    wal: int = 0
    is_voter_allowed: bool = True
    """Whether Patroni may have it acknowledge commits: not `nosync`."""
    is_candidate: bool = True
    """Whether Patroni may make it the primary: not `nofailover`."""
    seen_at: float = 0
    """When Patroni last renewed its key."""
    copied: int = 0


@dataclass
class Machine:
    """One node with its agent."""

    node: Node
    is_alive: bool = True
    is_reporting: bool = True
    database: Database | None = None
    specification: ReplicaSpecification | None = None
    serving_ticks: int = 0
    disk_free_bytes: int = 2**40
    settings_revision: int = 0
    deleted_id: str = ""
    balancer: BalancerSpecification | None = None
    balancer_is_gone: bool = False
    busy_ports: frozenset[int] = frozenset()
    unreachable: frozenset[str] = frozenset()
    refuses_settings: bool = False
    ignores_tags: bool = False
    """Whether its Patroni goes on to acknowledge, whatever it is told."""


class Users:
    """etcd's users."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.fails = False

    async def add_patroni_user(self, replica_id: str, password: str) -> None:
        """Let one in."""
        assert password
        self._look()
        self.names.add(replica_id)

    async def remove_patroni_user(self, replica_id: str) -> None:
        """Let one in no more."""
        self._look()
        self.names.discard(replica_id)

    def _look(self) -> None:
        if self.fails:
            raise UnavailableError("etcd did not answer")
