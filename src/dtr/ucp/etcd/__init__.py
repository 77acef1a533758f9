"""etcd, as the control plane speaks to it (its JSON gateway) and runs it (a component)."""

from dtr.ucp.etcd.client import EtcdStore
from dtr.ucp.etcd.connection import (
    EtcdConnection,
    EtcdLimits,
    EtcdLogin,
    EtcdRefusedError,
    TlsFiles,
)
from dtr.ucp.etcd.members import EtcdMember, EtcdMembers

__all__ = [
    "EtcdConnection",
    "EtcdLimits",
    "EtcdLogin",
    "EtcdMember",
    "EtcdMembers",
    "EtcdRefusedError",
    "EtcdStore",
    "TlsFiles",
]
