"""Where etcd is, as the configuration has it now, and not as it was when Patroni started.

Patroni 4.1 asks etcd itself for its members, every 200 s with our `ttl`, and reads the hosts of its
configuration only at its start. One that started when there was a single manager knows nobody else
for minutes: if that manager's machine is lost, it finds no etcd, neither stands for election nor
follows whoever was elected, and a majority cannot acknowledge. The agent, who hears of every change
of the managers, writes the new hosts and has Patroni read them: so they are taken.
"""
# ruff: noqa: SLF001 - Patroni offers no way that is public

from collections.abc import Mapping
from typing import Any

from patroni.dcs.etcd import AbstractEtcdClientWithFailover
from patroni.utils import split_host_port, uri

_PORT = 2379
_reload_credentials = AbstractEtcdClientWithFailover.reload_config


def follow_configured_hosts() -> None:
    """Have every client of etcd in this process take new hosts with its other configuration."""
    AbstractEtcdClientWithFailover.reload_config = _reload


def _reload(client: AbstractEtcdClientWithFailover, config: Mapping[str, Any]) -> None:
    _reload_credentials(client, config)
    protocol = config.get("protocol", "http")
    hosts = [uri(protocol, split_host_port(host, _PORT)) for host in config.get("hosts") or ()]
    if hosts and hosts != client._config.get("hosts"):
        client._config["hosts"] = hosts
        # At its next request it asks these, and those that it knows, for the members.
        client._update_machines_cache = True
