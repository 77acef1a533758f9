"""A real HAProxy before several servers: each request goes to the next one, nothing sticks."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import ProcessGroup, free_port, requires
from tests.support.server import answers

HOST = "127.0.0.1"
TRUSTED_PROXIES = "127.0.0.0/8"
"""What `server.trusted_proxies` of a server behind this balancer is set to."""

# `option http-server-close` because HAProxy otherwise asks the server that answered 401 again.
# A request that a dying server left without an answer is sent to the next one where that changes
# nothing twice: whatever only reads, and manifests, which a repeated PUT leaves as they are, and
# which docker does not try again itself. Only a request that is whole in a buffer can be sent
# again, so that HAProxy is told to wait for a manifest's body.
HTTP = """\
    mode http
    option httplog
    option forwardfor
    option http-server-close
    option redispatch 1
    retries 3
    retry-on conn-failure empty-response
    http-request set-header X-Forwarded-Proto http
    acl is_manifest path_reg ^/v2/.+/manifests/[^/]+$
    http-request wait-for-body time 10s if METH_PUT is_manifest
    http-request disable-l7-retry unless METH_GET or is_manifest
"""
TCP = """\
    mode tcp
    option redispatch 1
    retries 3
"""
# `option httplog`: backend/server, the times, then the status.
_STATUS = re.compile(r" registry/\S+ [-\d/+]+ (\d{3}) ")
CONFIG = """\
global
    maxconn 4000
    # A manifest that is to be sent again has to fit in one.
    tune.bufsize 131072

defaults
    log stdout format raw local0 info
    option dontlognull
    timeout connect 2s
    timeout client 5m
    timeout server 5m

listen registry
    bind {address}
{mode}
    balance roundrobin
    option httpchk GET /_ping
    default-server check inter 500ms fall 2 rise 1
{servers}
"""


class RunningHaproxy:
    """HAProxy on a loopback port of its own before servers, which may come and go.

    With `is_tcp` it balances connections and understands nothing of what they carry.

        with RunningHaproxy(tmp_path, [server.address for server in servers]) as balancer:
            httpx.get(balancer.url + "/v2/")
    """

    def __init__(
        self,
        directory: Path,
        servers: Sequence[str],
        *,
        port: int | None = None,
        is_tcp: bool = False,
    ) -> None:
        self.port = free_port(HOST) if port is None else port
        self._directory = directory
        lines = (f"    server s{number} {server}" for number, server in enumerate(servers, 1))
        self._config = CONFIG.format(
            address=self.address, mode=TCP if is_tcp else HTTP, servers="\n".join(lines)
        )
        file = directory / "haproxy.cfg"
        self._processes = ProcessGroup(
            [requires("haproxy"), "-db", "-f", file], log=directory / "haproxy.log"
        )

    @property
    def address(self) -> str:
        """The balancer's host:port, as it stands in front of a repository's name."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The balancer's address as a URL without a slash at its end."""
        return f"http://{self.address}"

    @property
    def log(self) -> Path:
        """What the balancer says about each request or connection."""
        return self._processes.log

    def statuses(self) -> Counter[int]:
        """Count the statuses of all answers so far, those that clients tried again included."""
        found = _STATUS.findall(self.log.read_text(errors="replace"))
        return Counter(map(int, found))

    def start(self) -> Self:
        """Start and return once a server answers through it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "haproxy.cfg").write_text(self._config)
        self._processes.start()
        self._processes.wait_until_ready(lambda: answers(f"{self.url}/_ping"))
        return self

    def stop(self) -> None:
        """End it, and the connections through it."""
        self._processes.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
