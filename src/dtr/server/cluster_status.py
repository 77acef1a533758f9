"""What `/api/v0/meta/cluster_status` answers: all replicas, in the original's shape.

The file is written by the node's agent, which knows the cluster; a server without a cluster
describes itself as the only replica, so that one script serves for both.
"""

import asyncio
import hashlib
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dtr.model.errors import UnavailableError
from dtr.server.health import Health, Verdict
from dtr.server.settings import ListenAddress

_MOST_BYTES: Final = 16 * 2**20
_RETRY: Final = "Look at the agent's log (journalctl -u ucp-agent), and ask again in a minute."


class ClusterStatus:
    """The status of all replicas, or of the one server that there is.

    Added to the document are `reported_at`, when it was written (seconds since 1970), unless it
    says so itself, and `age_seconds`.
    """

    def __init__(
        self,
        status_file: Path | None,
        health: Health,
        listen: ListenAddress,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = status_file
        self._health = health
        self._listen = listen
        self._clock = clock

    async def document(self) -> dict[str, Any]:
        """Return the status.

        Raises:
            UnavailableError: the cluster's status was not written yet, or is damaged.

        """
        if self._file is None:
            return self._aged(self._alone(await self._health.verdict()), self._clock())
        return self._aged(*await asyncio.to_thread(_read, self._file))

    def _aged(self, document: dict[str, Any], written_at: float) -> dict[str, Any]:
        given = document.get("reported_at")
        at = float(given) if isinstance(given, int | float) else written_at
        age_seconds = round(max(0.0, self._clock() - at), 3)
        return {**document, "reported_at": at, "age_seconds": age_seconds}

    def _alone(self, verdict: Verdict) -> dict[str, Any]:
        host, port = socket.gethostname(), self._listen.port
        replica = hashlib.sha256(f"{host}:{port}".encode()).hexdigest()[:12]
        is_well = verdict.is_healthy and not verdict.problem
        server = {
            "id": replica,
            "name": host,
            "network": {
                "hostname": host,
                "canonical_addresses": [{"host": self._listen.host, "port": port}],
                "connected_to": {},
            },
        }
        issue = {"critical": not verdict.is_healthy, "type": "health", "info": {}}
        issues = [] if is_well else [{**issue, "description": verdict.problem}]
        return {
            "rethink_system_tables": {
                "cluster_config": [],
                "current_issues": issues,
                "db_config": [],
                "server_status": [server],
            },
            "replica_health": {replica: "OK" if verdict.is_healthy else verdict.problem},
            "replica_timestamp": {replica: _rfc3339(self._clock())},
            "replica_readonly": {replica: verdict.is_healthy and bool(verdict.problem)},
            "gc_lock_holder": "",
        }


def _rfc3339(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def _read(path: Path) -> tuple[dict[str, Any], float]:
    try:
        with path.open("rb") as file:
            written_at = path.stat().st_mtime
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise UnavailableError(
            f"the cluster's status was not written on this node yet. {_RETRY}"
        ) from None
    except OSError as error:
        raise UnavailableError(
            f"the cluster's status cannot be read: {error.strerror}. {_RETRY}"
        ) from None
    try:
        document = json.loads(content) if len(content) <= _MOST_BYTES else None
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise UnavailableError(f"the cluster's status on this node is damaged. {_RETRY}")
    return document, written_at
