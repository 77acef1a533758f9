"""Blobs on the replicas' own disks (docs/adr/0012-blobs-on-the-replicas-disks.md)."""

from dtr.storage.replicated.peer_server import PeerServer
from dtr.storage.replicated.peers import Pace
from dtr.storage.replicated.store import ReplicatedBlobStore

__all__ = ["Pace", "PeerServer", "ReplicatedBlobStore"]
