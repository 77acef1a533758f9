"""The pool of replicas, written for a balancer of the user's own; pure.

HAProxy, nginx and keepalived pass TLS through, so that clients see the replicas' certificate. What
Traefik and Caddy balance over plain TCP they cannot ask for its health, so they end TLS themselves
with a certificate of theirs, and verify the replicas'; their addresses then belong into
`server.trusted_proxies`.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dtr.cluster.engines import haproxy
from dtr.cluster.engines.patroni import join_host
from dtr.cluster.model import HTTP_PORT, HTTPS_PORT, PoolMember

DEFAULT_HOST: Final = "registry.example.com"
DEFAULT_CA_FILE: Final = "/etc/ssl/certs/dtr-ca.crt"
_NGINX_CONNECTIONS: Final = 8192
"""Of each worker; a connection that is passed on counts twice."""
_NGINX_OF_ONE_ADDRESS: Final = _NGINX_CONNECTIONS // 2 // 4
"""A quarter of what one worker can pass on, should one address meet the same worker each time."""


class PoolFormat(StrEnum):
    """A program that can balance the pool."""

    HAPROXY = "haproxy"
    NGINX = "nginx"
    TRAEFIK = "traefik"
    CADDY = "caddy"
    KEEPALIVED = "keepalived"


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What a balancer of the user's own needs to know besides the pool."""

    https_port: int = HTTPS_PORT
    http_port: int = HTTP_PORT
    host: str = DEFAULT_HOST
    """The host of the external URL; for keepalived the address that moves."""
    ca_file: str = DEFAULT_CA_FILE
    """Where on the balancer the certificates are that replicas are verified by."""
    has_proxy_protocol: bool = False
    """Whether this balancer is among `server.balancers`, and says whose each connection is."""
    has_users_certificate: bool = False
    """Whether replicas show the user's own certificate, and no longer one of UCP's authority."""

    @property
    def ca_source(self) -> str:
        """What belongs into `ca_file`, as the end of a sentence."""
        if self.has_users_certificate:
            return "the root certificate of your web certificate's authority, as PEM"
        return "what a replica answers at /ca"


def render(form: PoolFormat, pool: Sequence[PoolMember], options: PoolOptions) -> str:
    """Return a whole configuration file; replicas that drain get nothing new.

    Raises:
        ValueError: there is no replica, or no address to move; what to do is said, too.

    """
    if not pool:
        raise ValueError(
            "The pool is empty: there is no replica to balance. Begin with dtr install."
        )
    return _FORMATS[form](pool, options)


def _haproxy(pool: Sequence[PoolMember], options: PoolOptions) -> str:
    frontend = haproxy.Frontend(
        options.https_port,
        options.http_port,
        ca=options.ca_file,
        address="::" if _has_ipv6(pool) else "*",
    )
    head = f"# /etc/haproxy/haproxy.cfg\n# {options.ca_file}: {options.ca_source}\n"
    return head + _says_whose(options) + haproxy.render(_reached(pool, options), frontend)


def _reached(pool: Sequence[PoolMember], options: PoolOptions) -> list[PoolMember]:
    """Return the pool, with the port for PROXY protocol only where it is spoken by all."""
    has_head = options.has_proxy_protocol and all(each.proxy_port for each in pool)
    return [each if has_head else each.model_copy(update={"proxy_port": 0}) for each in pool]


def _says_whose(options: PoolOptions) -> str:
    if options.has_proxy_protocol:
        return "# It says whose each connection is: its address must be in server.balancers.\n"
    return (
        "# To the replicas all its clients have one address. Put its own into server.balancers\n"
        "# (dtr reconfigure), and print this again: it will say whose each connection is.\n"
    )


def _nginx(pool: Sequence[PoolMember], options: PoolOptions) -> str:
    pool = _reached(pool, options)

    def upstream(name: str, ports: Callable[[PoolMember], int]) -> str:
        servers = "".join(
            f"        server {join_host(member.address, ports(member))}"
            f" {'down' if member.is_draining else 'max_fails=2 fail_timeout=5s'};\n"
            for member in pool
        )
        return f"    upstream {name} {{\n        least_conn;\n{servers}    }}\n"

    def server(name: str, port: int, *, has_head: bool = False) -> str:
        places = [f"{port}", *([f"[::]:{port}"] if _has_ipv6(pool) else [])]
        listens = "".join(f"        listen {each} so_keepalive=10s:5s:3;\n" for each in places)
        return (
            f"    server {{\n{listens}"
            f"        proxy_pass {name};\n        proxy_connect_timeout 1500ms;\n"
            "        proxy_timeout 1h;\n        proxy_socket_keepalive on;\n"
            "        proxy_next_upstream on;\n"
            + ("        proxy_protocol on;\n" if has_head else "")
            + "    }\n"
        )

    return (
        "# /etc/nginx/nginx.conf; needs the module stream (Debian: libnginx-mod-stream).\n"
        "# It asks nobody for /health: it leaves a replica alone after two refused connections.\n"
        + _says_whose(options)
        + "worker_processes auto;\n"
        "include /etc/nginx/modules-enabled/*.conf;\n\n"
        f"events {{\n    worker_connections {_NGINX_CONNECTIONS};\n}}\n\n"
        "stream {\n"
        "    # Connections by address. Each address of IPv6 is counted for itself.\n"
        "    limit_conn_zone $binary_remote_addr zone=sources:10m;\n"
        f"    limit_conn sources {_NGINX_OF_ONE_ADDRESS};\n"
        + upstream("registry", lambda member: member.proxy_port or member.https_port)
        + server("registry", options.https_port, has_head=all(each.proxy_port for each in pool))
        + upstream("redirect", lambda member: member.http_port)
        + server("redirect", options.http_port)
        + "}\n"
    )


def _traefik(pool: Sequence[PoolMember], options: PoolOptions) -> str:
    servers = "".join(f'          - url: "{url}"\n' for url in _urls(pool))
    return f"""\
# A dynamic configuration for the file provider of Traefik 3. The static one needs the entry point,
# without a limit to how long an upload takes:
#   entryPoints:
#     registry:
#       address: ":{options.https_port}"
#       transport:
#         respondingTimeouts:
#           readTimeout: 0s
# {options.ca_file}: {options.ca_source}
http:
  routers:
    registry:
      entryPoints: [registry]
      rule: "Host(`{options.host}`)"
      middlewares: [another]
      service: registry
      tls: {{}}
  middlewares:
    another:
      # Only where no connection came about.
      retry:
        attempts: 4
        initialInterval: 100ms
  services:
    registry:
      loadBalancer:
        serversTransport: registry
        healthCheck:
          scheme: https
          path: /health
          interval: 3s
          timeout: 2s
        servers:
{servers}\
  serversTransports:
    registry:
      serverName: "{options.host}"
      rootCAs:
        - "{options.ca_file}"
      forwardingTimeouts:
        dialTimeout: 2s
"""


def _caddy(pool: Sequence[PoolMember], options: PoolOptions) -> str:
    return f"""\
# /etc/caddy/Caddyfile, for Caddy 2.6 or newer. Newer ones have another word than
# tls_trusted_ca_certs for the same, and still take this one.
# {options.ca_file}: {options.ca_source}
https://{join_host(options.host, options.https_port)} {{
	reverse_proxy {" ".join(_urls(pool))} {{
		lb_policy least_conn
		lb_try_duration 5s
		health_uri /health
		health_interval 1s
		health_timeout 2s
		fail_duration 5s
		flush_interval -1
		transport http {{
			dial_timeout 2s
			tls_server_name {options.host}
			tls_trusted_ca_certs {options.ca_file}
		}}
	}}
}}
"""


def _keepalived(pool: Sequence[PoolMember], options: PoolOptions) -> str:
    """Return one file for all replicas: without a balancer an address moves among them."""
    try:
        address = ipaddress.ip_address(options.host)
    except ValueError:
        raise ValueError(
            "keepalived moves an address among the replicas: name one that no machine has, with "
            "--host."
        ) from None
    machines = ", ".join(member.address for member in pool)
    port = pool[0].https_port
    return f"""\
# /etc/keepalived/keepalived.conf, the same on every replica: {machines}.
# {address} is with one healthy replica at a time, which gets all connections. Put the name of the
# network interface in place of eth0.
global_defs {{
    enable_script_security
    script_user nobody
}}

vrrp_script registry {{
    script "/usr/bin/curl --silent --fail --insecure --max-time 2 https://127.0.0.1:{port}/health"
    interval 1
    timeout 3
    fall 3
    rise 2
}}

vrrp_instance registry {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority 100
    advert_int 1
    virtual_ipaddress {{
        {address}
    }}
    track_script {{
        registry
    }}
}}
"""


def _has_ipv6(pool: Sequence[PoolMember]) -> bool:
    return any(":" in member.address for member in pool)


def _urls(pool: Sequence[PoolMember]) -> list[str]:
    """Return where requests may go; all replicas if every one of them drains."""
    taking = [member for member in pool if not member.is_draining] or list(pool)
    return [f"https://{join_host(member.address, member.https_port)}" for member in taking]


_FORMATS: Final[Mapping[PoolFormat, Callable[[Sequence[PoolMember], PoolOptions], str]]] = {
    PoolFormat.HAPROXY: _haproxy,
    PoolFormat.NGINX: _nginx,
    PoolFormat.TRAEFIK: _traefik,
    PoolFormat.CADDY: _caddy,
    PoolFormat.KEEPALIVED: _keepalived,
}
