"""The settings of a replica's registry, rendered from its specification; pure."""

import json
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from dtr.cluster.engines.patroni import DATABASE, DATABASE_ROLE, join_host
from dtr.cluster.model import PROXY_PORT, ReplicaSpecification
from dtr.model.members import Member
from dtr.ucp.agent.files import KeyFiles

DRAIN_SECONDS: Final = 600
"""How long what is in flight may go on when the registry is ended: a large layer on a slow line."""

_REPLICATED: Final = "replicated"
_DELETE: Final = "\x7f"


@dataclass(frozen=True, slots=True)
class RegistryPlace:
    """Where the files of one replica's registry are; all below one directory of its own user."""

    root: Path

    @property
    def configuration(self) -> Path:
        """`dtr.toml`; no secret is in it."""
        return self.root / "dtr.toml"

    @property
    def candidate(self) -> Path:
        """Settings that are being checked."""
        return self.root / "dtr.toml.candidate"

    @property
    def members(self) -> Path:
        """The members file; replaced without a restart."""
        return self.root / "members.json"

    @property
    def database_password(self) -> Path:
        """The password of PostgreSQL's role."""
        return self.root / "database.password"

    @property
    def administrator_hash(self) -> Path:
        """argon2id of the first administrator's password."""
        return self.root / "administrator.hash"

    @property
    def status(self) -> Path:
        """The cluster's status, for who asks the registry for it."""
        return self.root / "status.json"

    @property
    def clock(self) -> Path:
        """By how much this machine's clock is wrong."""
        return self.root / "clock.json"

    @property
    def balancers(self) -> Path:
        """Addresses of the cluster's balancers, a line each; replaced without a restart."""
        return self.root / "balancers"

    @property
    def drain(self) -> Path:
        """While it is there, `/health` says 503."""
        return self.root / "drain"

    @property
    def pki(self) -> Path:
        """Certificates and keys; `ca.crt` is UCP's authority, which clients trust."""
        return self.root / "pki"

    @property
    def peer_keys(self) -> KeyFiles:
        """What this replica proves who it is with to the others, for blobs."""
        return KeyFiles.of(self.pki, "peer")

    @property
    def database_ca(self) -> Path:
        """Whom to trust as a database."""
        return self.pki / "database-ca.crt"

    @property
    def web_certificate(self) -> Path:
        """What clients are shown."""
        return self.pki / "web.crt"

    @property
    def web_key(self) -> Path:
        """Its key."""
        return self.pki / "web.key"

    @property
    def storage_status(self) -> Path:
        """What the built-in storage writes of itself."""
        return self.data / "storage-status.json"

    @property
    def data(self) -> Path:
        """`data.directory`; with built-in storage the blobs are here."""
        return self.root / "data"


def render(
    specification: ReplicaSpecification,
    own: Member,
    place: RegistryPlace,
    *,
    is_own_authority: bool,
) -> str:
    """Return `dtr.toml`.

    What all replicas share comes from `specification.settings`; where the registry's files are, how
    it is reached and whom it trusts is said here, whatever stands there.
    """
    everywhere = "::" if ":" in own.address else "0.0.0.0"
    shared = specification.settings
    sections: dict[str, dict[str, JsonValue]] = {name: dict(each) for name, each in shared.items()}
    server: dict[str, JsonValue] = {
        "drain_seconds": DRAIN_SECONDS,
        **shared.get("server", {}),
        "listen": join_host(everywhere, specification.https_port),
        "http_listen": join_host(everywhere, specification.http_port),
        "proxy_listen": join_host(own.address, PROXY_PORT),
        "public_url": specification.external_url,
        "tls_cert": str(place.web_certificate),
        "tls_key": str(place.web_key),
    }
    if is_own_authority:
        server["tls_ca"] = str(place.pki / "ca.crt")
    ca = urllib.parse.quote(str(place.database_ca))
    sections["server"] = server
    sections.setdefault("data", {}).update(
        directory=str(place.data),
        admin_username=specification.first_administrator,
        admin_password_hash_file=str(place.administrator_hash),
    )
    sections.setdefault("database", {}).update(
        # Without hosts: they are the members.
        url=f"postgresql://{DATABASE_ROLE}@/{DATABASE}?sslmode=verify-full&sslrootcert={ca}",
        password_file=str(place.database_password),
    )
    is_replicated = specification.storage == _REPLICATED
    sections.setdefault("storage", {})["url"] = (
        f"{_REPLICATED}:" if is_replicated else specification.storage
    )
    sections["cluster"] = {
        "members_file": str(place.members),
        "certificate": str(place.peer_keys.certificate),
        "key": str(place.peer_keys.key),
        "ca": str(place.peer_keys.ca),
        "peer_listen": join_host(own.address, own.peer_port),
        "status_file": str(place.status),
        "clock_file": str(place.clock),
        "balancers_file": str(place.balancers),
        "drain_file": str(place.drain),
    }
    return toml(sections)


def toml(sections: Mapping[str, Mapping[str, JsonValue]]) -> str:
    r"""Return a TOML document of sections with plain values and lists of these.

    >>> print(toml({"a": {"b": "x\"y", "c": [1, True]}}), end="")
    [a]
    b = "x\"y"
    c = [1, true]
    """
    parts = []
    for name, values in sorted(sections.items()):
        lines = [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
        parts.append("\n".join((f"[{name}]", *lines)) + "\n")
    return "\n".join(parts)


def _value(value: JsonValue) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace(_DELETE, "\\u007F")
