"""HAProxy's configuration, rendered from values; pure.

TCP mode: TLS goes through to the replicas, so that the balancer needs no certificate and sees no
password. Nothing of a connection is ever repeated by it; clients repeat their requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dtr.cluster.engines.patroni import join_host
from dtr.cluster.model import PoolMember

HTTPS_BACKEND: Final = "registry"
HTTP_BACKEND: Final = "redirect"
LAST_RESORT: Final = "last-resort"
SOURCES: Final = "sources"
MOST_CONNECTIONS: Final = 20_000

_SHARE_OF_ONE_SOURCE: Final = 10
_LEAST_OF_ONE_SOURCE: Final = 16

_CHECKED: Final = (
    "check inter 1s fastinter 500ms fall 3 rise 2"
    # Whom a connection does not reach is down at once: the connection goes to the next one, and
    # with `leastconn` it would else come back to the dead, who have the fewest.
    " observe layer4 error-limit 1 on-error mark-down"
)
# Said of each server: HAProxy 2.6 takes it in `default-server`, and does nothing with it there.
_UNACKNOWLEDGED: Final = "tcp-ut 10s"
# The limit of unacknowledged bytes, tcp-ut, also counts while a living peer does not read. So
# clients have none, who may pause, and replicas not less than 10 s.
# A replica whose check fails gets no new connection, and the running ones go on: it may be one
# that drains, or that cannot write at the moment, while a long pull runs through it. Connections to
# a machine that vanished without a word are ended by keepalive and tcp-ut, within about 10 s.
_DEFAULTS: Final = """\
defaults
    mode tcp
    log stdout format raw daemon notice
    option dontlognull
    option redispatch 1
    retries 3
    # Long enough for a first packet that is lost and sent again after a second.
    timeout connect 1500ms
    timeout check 2s
    timeout queue 10s
    # Bytes may pause for as long as a blob is hashed or a collection holds an upload; keepalive,
    # and tcp-ut for replicas, find the dead.
    timeout client 1h
    timeout server 1h
    timeout client-fin 30s
    timeout server-fin 30s
    option clitcpka
    option srvtcpka
    clitcpka-idle 10s
    clitcpka-intvl 5s
    clitcpka-cnt 3
    srvtcpka-idle 5s
    srvtcpka-intvl 2s
    srvtcpka-cnt 3
"""


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where HAProxy listens, and what it trusts."""

    https_port: int
    http_port: int
    ca: Path | str
    """PEM: who may have signed what replicas show to health checks."""
    socket: Path | None = None
    """Its own socket, for what `show stat` tells; None in configurations for others."""
    address: str = "*"
    """Where to listen; `*` is every address of IPv4, `::` of both."""
    source: str = ""
    """The address to connect to replicas from, which they know it by; empty: any."""
    can_verify: bool = True
    """Whether all that replicas may show goes back to a self-signed certificate in `ca`."""
    most_connections: int = MOST_CONNECTIONS
    """How many connections it takes in all, of which one source has at most a tenth."""

    @property
    def most_of_one_source(self) -> int:
        """How many connections one address may have, or one /64 of IPv6, over both ports.

        >>> Frontend(443, 80, ca="").most_of_one_source
        2000
        """
        return max(_LEAST_OF_ONE_SOURCE, self.most_connections // _SHARE_OF_ONE_SOURCE)


def render(pool: Sequence[PoolMember], frontend: Frontend) -> str:
    """Return `haproxy.cfg` for these replicas.

    A replica that drains has weight 0: no new connection, and the running ones go on. What replicas
    show to health checks must be signed by whom we trust; whose name is in it is not compared,
    since the user's certificate has none of theirs, and clients verify for themselves. HAProxy
    takes no intermediate authority for the end of a chain: where the user's has no root, it would
    call every replica down, so that health checks verify nothing then.
    """
    return "\n".join(
        (
            _global(frontend),
            _DEFAULTS,
            _https(pool, frontend),
            *([_http(pool, frontend)] if frontend.http_port else []),
            _last_resort(pool, frontend),
            _sources(frontend),
        )
    )


def _global(frontend: Frontend) -> str:
    lines = [
        "global",
        f"    maxconn {frontend.most_connections}",
        # Fewer where the system allows fewer open files, and no refusal to start.
        "    no strict-limits",
        # Connections from before a reload may go on for so long.
        "    hard-stop-after 6h",
    ]
    if frontend.socket is not None:
        lines.append(f"    stats socket {frontend.socket} mode 600 level admin")
    return "\n".join(lines) + "\n"


def _bind(frontend: Frontend, port: int) -> str:
    return f"    bind {join_host(frontend.address, port)}"


def _bounds(frontend: Frontend) -> list[str]:
    """Return what refuses connections of a source that has its share of them already.

    IPv4 first: where HAProxy listens for both, clients of IPv4 have addresses of IPv6 that are all
    in one /64. It tracks a connection once, so that the second line is for all others.
    """
    most = frontend.most_of_one_source
    return [
        f"    tcp-request connection track-sc0 src table {SOURCES} if {{ src 0.0.0.0/0 }}",
        f"    tcp-request connection track-sc0 src,ipmask(32,64) table {SOURCES}",
        f"    tcp-request connection reject if {{ sc0_conn_cur gt {most} }}",
    ]


def _sources(frontend: Frontend) -> str:
    """Return the table of connections by source.

    It has room for more sources than there can be connections: a source that found none would not
    be counted. Each process counts its own; after a reload the counts begin anew.
    """
    size = 2 * frontend.most_connections
    return (
        f"# Connections by address (IPv6: by /64).\nbackend {SOURCES}\n"
        f"    stick-table type ipv6 size {size} expire 1h store conn_cur\n"
    )


def _https(pool: Sequence[PoolMember], frontend: Frontend) -> str:
    lines = [
        f"listen {HTTPS_BACKEND}",
        _bind(frontend, frontend.https_port),
        *_bounds(frontend),
        "    balance leastconn",
        "    option httpchk",
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host registry",
        "    http-check expect status 200",
        f"    default-server {_CHECKED} check-ssl {_verify(frontend)}",
        f"    use_backend {LAST_RESORT} if {{ nbsrv({HTTPS_BACKEND}) eq 0 }}",
    ]
    return "\n".join((*lines, *(_https_server(each, frontend) for each in pool))) + "\n"


def _verify(frontend: Frontend) -> str:
    return f"verify required ca-file {frontend.ca}" if frontend.can_verify else "verify none"


def _http(pool: Sequence[PoolMember], frontend: Frontend) -> str:
    lines = [
        f"listen {HTTP_BACKEND}",
        _bind(frontend, frontend.http_port),
        *_bounds(frontend),
        "    balance leastconn",
        "    option httpchk",
        "    http-check send meth GET uri /health ver HTTP/1.1 hdr Host registry",
        "    http-check expect status 200",
        f"    default-server {_CHECKED}",
    ]
    return "\n".join((*lines, *(_server(each, each.http_port) for each in pool))) + "\n"


def _last_resort(pool: Sequence[PoolMember], frontend: Frontend) -> str:
    """Return where connections go while every replica is down: to any of them, unchecked.

    When it was the balancer's own network that failed for a moment, they are served, and else a
    replica says what is amiss better than a closed connection does.
    """
    taking = [each for each in pool if not each.is_draining] or pool
    lines = [f"backend {LAST_RESORT}", "    balance roundrobin"]
    servers = (_https_server(each, frontend, is_checked=False) for each in taking)
    return "\n".join((*lines, *servers)) + "\n"


def _https_server(member: PoolMember, frontend: Frontend, *, is_checked: bool = True) -> str:
    """Return a server that is told whose each connection is, where it can be."""
    if not member.proxy_port:
        return _server(member, member.https_port)
    words = [_server(member, member.proxy_port), "send-proxy-v2"]
    if is_checked:
        words.append("check-send-proxy")
    if frontend.source and (":" in frontend.source) == (":" in member.address):
        words.append(f"source {frontend.source}")
    return " ".join(words)


def _server(member: PoolMember, port: int) -> str:
    drained = " weight 0" if member.is_draining else ""
    address = join_host(member.address, port)
    return f"    server {member.id} {address}{drained} {_UNACKNOWLEDGED}"
