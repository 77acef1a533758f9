"""How a replica that keeps blobs on its own disk knows the others, and is known to them."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Credentials:
    """Files in PEM that the node's agent keeps current."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class Replication:
    """Where the other replicas are named, and what proves to them who this one is."""

    members_file: Path
    credentials: Credentials
