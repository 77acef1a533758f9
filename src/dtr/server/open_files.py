"""How many files a process may have open, and so how many connections."""

import resource
from typing import Final

import structlog

from dtr.asgi.connection_rules import ConnectionLimits
from dtr.server.settings import Settings

_LOG = structlog.get_logger()
_MOST_OPEN_FILES: Final = 65_536
_OTHER_OPEN_FILES: Final = 512
_LEAST_CONNECTIONS: Final = 64


def allow_open_files(connections: int) -> None:
    """Raise our limit as far as is of use, and warn where it is too low for so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(_MOST_OPEN_FILES, hard)
    if resource.RLIM_INFINITY != soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if most_connections(connections) < connections:
        _LOG.warning(
            "the limit of open files is too low for server.connections; raise it (ulimit -n)",
            limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            needed=connections + _OTHER_OPEN_FILES,
        )


def most_connections(wanted: int) -> int:
    """Return how many connections a worker takes: not so many that it could open no more files."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(_LEAST_CONNECTIONS, limit - _OTHER_OPEN_FILES))


def connection_limits(settings: Settings) -> ConnectionLimits:
    """Return what the settings say about slow and many connections."""
    server = settings.server
    return ConnectionLimits(
        head_seconds=server.header_read_seconds,
        idle_seconds=server.body_idle_seconds,
        whole_seconds=server.transfer_seconds,
        least_bytes_per_second=server.least_bytes_per_second,
        most=most_connections(server.connections),
        most_per_address=server.connections_per_address,
    )
