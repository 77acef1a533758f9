"""Patroni's configuration of one member, rendered from values; pure.

Every setting here was measured or comes from a failure that was met; the comments say which.
"""

import ipaddress
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import JsonValue

from dtr.cluster.model import PATRONI_PORT, ReplicaSpecification
from dtr.cluster.plan_majority import patroni_values
from dtr.model.members import Member, MemberState
from dtr.ucp.agent.files import KeyFiles

SCOPE: Final = "registry"
NAMESPACE: Final = "/db/"
DATABASE: Final = "registry"
DATABASE_ROLE: Final = "dtr"
SUPERUSER: Final = "postgres"
REPLICATION_ROLE: Final = "replicator"
REWIND_ROLE: Final = "rewinder"
REST_USER: Final = "patroni"

TTL_SECONDS: Final = 20  # Patroni takes no smaller one
_LOOP_WAIT_SECONDS: Final = 5  # loop_wait + 2 * retry_timeout must not exceed the TTL
_RETRY_SECONDS: Final = 5
_LONGEST_SOCKET_PATH: Final = 107  # sun_path, with its final zero
_SOCKET_NAME: Final = ".s.PGSQL.65535"

_PARAMETERS: Final[Mapping[str, JsonValue]] = {
    "shared_buffers": "128MB",
    "max_connections": 100,
    "wal_level": "replica",
    "wal_log_hints": "on",
    # Seven members, and base backups, which take two each.
    "max_wal_senders": 16,
    "max_replication_slots": 16,
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    "wal_keep_size": "128MB",
    # The slot of a replica that is gone must not fill the disks of the others.
    "max_slot_wal_keep_size": "2GB",
    "max_wal_size": "512MB",
    "min_wal_size": "80MB",
    "wal_receiver_timeout": "5s",
    "wal_sender_timeout": "5s",
    "wal_receiver_status_interval": "1s",
    # A standby looks for a new primary, or for its slot, so often; the default is 5 s.
    "wal_retrieve_retry_interval": "1s",
    "tcp_user_timeout": "5000",
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "password_encryption": "scram-sha-256",
    "synchronous_commit": "on",
    # Tells up to when the data of each survivor goes, before an emergency repair.
    "track_commit_timestamp": "on",
    "log_min_duration_statement": "-1",
    "log_statement": "none",
}


@dataclass(frozen=True, slots=True)
class DatabasePlace:
    """Where the files of one replica's database are; all below one directory of its own user."""

    root: Path

    @property
    def configuration(self) -> Path:
        """`patroni.yml`; 0600, it holds passwords."""
        return self.root / "patroni.yml"

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.root / "data"

    @property
    def sockets(self) -> Path:
        """Where PostgreSQL's socket is."""
        return self.root / "run"

    @property
    def pgpass(self) -> Path:
        """Written by Patroni itself."""
        return self.root / "pgpass"

    @property
    def role_password(self) -> Path:
        """The password that `post_bootstrap` gives to the registry's role."""
        return self.root / "role.password"

    @property
    def keys(self) -> KeyFiles:
        """What Patroni and PostgreSQL prove who they are with to those of other replicas."""
        return KeyFiles.of(self.root, "database")

    @property
    def etcd_keys(self) -> KeyFiles:
        """What Patroni asks etcd with."""
        return KeyFiles.of(self.root, "etcd")

    def interface_ca(self, trust: str) -> Path:
        """Return a copy of `keys.ca` that is called after what is in it.

        Patroni's REST interface reads whom to trust when this name changes, and not before.
        """
        return self.root / f"interface-ca-{trust[:16]}.crt"

    @property
    def problem(self) -> str:
        """Say why PostgreSQL could not work here; empty where it can."""
        longest = self.sockets / _SOCKET_NAME
        if len(str(longest)) < _LONGEST_SOCKET_PATH:
            return ""
        return (
            f"The path of PostgreSQL's socket, {longest}, has more than"
            f" {_LONGEST_SOCKET_PATH - 1} characters. Choose a shorter --data-dir."
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """What a member's configuration needs to know of the machine."""

    programs: Path
    """The directory with `postgres`, `initdb` and the others."""
    python: str
    """The interpreter that `post_bootstrap` runs with."""
    system_user: str
    """Whom PostgreSQL runs as."""
    etcd_urls: tuple[str, ...]
    interface_ca: Path
    """`DatabasePlace.interface_ca` of now."""


def render(specification: ReplicaSpecification, place: DatabasePlace, machine: Machine) -> str:
    """Return `patroni.yml`, as JSON, which is YAML.

    Only a replica that may make the database gets a section `bootstrap`: without one Patroni never
    runs for the key `initialize`, whatever it finds in etcd, and waits for a leader to copy from
    (`Ha.bootstrap` in Patroni 4.1). A second, empty cluster can thus not come to be where etcd was
    emptied or the first replica is late. The section does no harm later: Patroni looks at it only
    while etcd has no `initialize` and this member has no data.

    Raises:
        ValueError: the replica is not among its own members.

    """
    own = next((each for each in specification.members if each.id == specification.id), None)
    if own is None:
        raise ValueError(f"replica {specification.id} is not among its members")
    document: dict[str, JsonValue] = {
        "scope": SCOPE,
        "namespace": NAMESPACE,
        "name": specification.id,
        "restapi": _rest_interface(specification, own, place, machine),
        "ctl": {
            "insecure": False,
            "cacert": str(place.keys.ca),
            "certfile": str(place.keys.certificate),
            "keyfile": str(place.keys.key),
        },
        "etcd3": _etcd(specification, place, machine.etcd_urls),
        "postgresql": _postgresql(specification, own, place, machine),
        "tags": {**tags(specification, own)},
        "log": {"level": "INFO"},
        "watchdog": {"mode": "off"},
    }
    if specification.is_bootstrap:
        document["bootstrap"] = _bootstrap(specification, place, machine)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _bootstrap(
    specification: ReplicaSpecification, place: DatabasePlace, machine: Machine
) -> dict[str, JsonValue]:
    counted = sum(each.state is not MemberState.JOINING for each in specification.members)
    program = (machine.python, "-I", "-m", "dtr.cluster.engines.post_bootstrap")
    return {
        "dcs": {
            "ttl": TTL_SECONDS,
            "loop_wait": _LOOP_WAIT_SECONDS,
            "retry_timeout": _RETRY_SECONDS,
            "failsafe_mode": True,
            "maximum_lag_on_failover": 1_048_576,
            # Changed in etcd by the cluster's loop at each join and removal.
            **patroni_values(counted),
            "synchronous_node_count": max(1, specification.synchronous_node_count),
            "postgresql": {
                "use_pg_rewind": True,
                "use_slots": True,
                "parameters": dict(_PARAMETERS),
            },
        },
        "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
        "post_bootstrap": shlex.join((*program, str(place.role_password))),
    }


def _rest_interface(
    specification: ReplicaSpecification, own: Member, place: DatabasePlace, machine: Machine
) -> dict[str, JsonValue]:
    address = join_host(own.address, PATRONI_PORT)
    return {
        "listen": address,
        "connect_address": address,
        "certfile": str(place.keys.certificate),
        "keyfile": str(place.keys.key),
        "cafile": str(machine.interface_ca),
        "verify_client": "required",
        # For other members; by default there are five. See `patroni_process`.
        "thread_pool_size": 32,
        "request_queue_size": 128,
        "authentication": {"username": REST_USER, "password": specification.patroni_password},
    }


def _etcd(
    specification: ReplicaSpecification, place: DatabasePlace, urls: Iterable[str]
) -> dict[str, JsonValue]:
    return {
        "hosts": [urlsplit(url).netloc for url in urls],
        "protocol": "https",
        "cacert": str(place.etcd_keys.ca),
        "cert": str(place.etcd_keys.certificate),
        "key": str(place.etcd_keys.key),
        "username": specification.etcd_username,
        "password": specification.etcd_password,
    }


def _postgresql(
    specification: ReplicaSpecification, own: Member, place: DatabasePlace, machine: Machine
) -> dict[str, JsonValue]:
    host = f"[{own.address}]" if ":" in own.address else own.address
    return {
        "listen": f"{host},127.0.0.1:{own.database_port}",
        "connect_address": join_host(own.address, own.database_port),
        "data_dir": str(place.data),
        "bin_dir": str(machine.programs),
        "pgpass": str(place.pgpass),
        # Over TCP it would try 127.0.0.1 without TLS, and fill the log with refusals.
        "use_unix_socket": True,
        "use_unix_socket_repl": True,
        "authentication": _authentication(specification, place),
        "parameters": {
            "unix_socket_directories": str(place.sockets),
            "ssl": "on",
            "ssl_cert_file": str(place.keys.certificate),
            "ssl_key_file": str(place.keys.key),
            "ssl_ca_file": str(place.keys.ca),
        },
        # Here and not in etcd: each change of the file reaches PostgreSQL by SIGHUP.
        "pg_hba": _host_based_access(specification.members, machine.system_user),
        "basebackup": [{"checkpoint": "fast"}, {"max-rate": "1000M"}],
        "remove_data_directory_on_rewind_failure": True,
        "remove_data_directory_on_diverged_timelines": True,
    }


def _authentication(
    specification: ReplicaSpecification, place: DatabasePlace
) -> dict[str, JsonValue]:
    tls = {
        "sslmode": "verify-full",
        "sslrootcert": str(place.keys.ca),
        "sslcert": str(place.keys.certificate),
        "sslkey": str(place.keys.key),
    }
    passwords = {
        "superuser": (SUPERUSER, specification.superuser_password),
        "replication": (REPLICATION_ROLE, specification.replication_password),
        "rewind": (REWIND_ROLE, specification.rewind_password),
    }
    return {
        name: {"username": role, "password": password, **tls}
        for name, (role, password) in passwords.items()
    }


def _host_based_access(members: Iterable[Member], system_user: str) -> list[JsonValue]:
    """Return who may connect: members by their addresses only, so that a removed one is refused.

    The superuser comes over the socket only. Each role has the one database that it needs.
    """
    lines = [f"local all {SUPERUSER} peer"] if system_user == SUPERUSER else []
    lines += [
        "local all all scram-sha-256",
        # Patroni to itself: without it a diverged former primary is never rewound.
        f"local replication {REPLICATION_ROLE} scram-sha-256",
    ]
    for network in dict.fromkeys(("127.0.0.1/32", *(_network(each.address) for each in members))):
        lines += [
            f"hostssl replication {REPLICATION_ROLE} {network} scram-sha-256 clientcert=verify-ca",
            f"hostssl postgres {REWIND_ROLE} {network} scram-sha-256 clientcert=verify-ca",
            f"hostssl {DATABASE} {DATABASE_ROLE} {network} scram-sha-256",
        ]
    return list(lines)


def tags(specification: ReplicaSpecification, own: Member) -> dict[str, bool]:
    """Return what Patroni is to leave a member out of.

    Acknowledge commits: a member that does not count yet, or no more. One that drains counts until
    the plan says otherwise, and goes on to acknowledge: else the others would be too few when one
    of them dies meanwhile. What does not acknowledge could still win the race for the lead by the
    votes of others, so that one which leaves is kept out of that, too, and not before: Patroni
    would leave it out of those that acknowledge. It is not said of one that joins: Patroni would
    not let the first replica make the database.
    """
    is_out = not specification.is_synchronous
    return {"nofailover": is_out and own.state is MemberState.DRAINING, "nosync": is_out}


def _network(address: str) -> str:
    return str(ipaddress.ip_network(address))


def join_host(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
