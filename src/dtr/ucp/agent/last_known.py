"""What the agent knew last, on its disk: for an operator whom no controller answers."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dtr.server.datadir import write_atomically
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.model import Document, NodeReport

_LOG = structlog.get_logger()
_MOST_BYTES: Final = 4 << 20
_REFRESH_SECONDS: Final = 60.0
_PASSING: Final = frozenset(
    {
        "at",
        "reported_at",
        "received_at",
        "report_age_seconds",
        "replica_timestamp",
        "heard_at",
        "disk_free_bytes",
        "free_bytes",
        "lag_bytes",
        "wal_position",
        "last_transaction_at",
    }
)
"""Keys of what is another each time, and no news."""


class LastReport(Document):
    """What this node told, or would have told, of itself."""

    report: NodeReport
    heard_at: float = 0
    """When a controller heard one last; 0 where none ever did."""
    silence: str = ""
    """Why none heard this one; empty where one did."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """A document that was kept."""

    document: Any
    age_seconds: float
    """Since it was last known to be so."""


def last_report_file(directory: NodeDirectory) -> Path:
    """Return where `LastReport` is kept."""
    return directory.root / "last-report.json"


def last_status_file(directory: NodeDirectory) -> Path:
    """Return where the cluster's status is kept, as a controller told it last."""
    return directory.root / "last-status.json"


class LastKnown:
    """Keeps a JSON document in a file that only its owner reads (0600).

    It is written when it says something else, and at least once a minute where only numbers that
    always move have moved; else the file is only given the time of the moment. A disk that takes
    nothing hinders nobody: then the file stays as it is.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._said: object = None
        self._written_at = float("-inf")

    def keep(self, document: Any) -> None:
        """Have the file say this; blocks until the disk has it."""
        try:
            said = _news(document)
            is_due = self._clock() - self._written_at >= _REFRESH_SECONDS
            if said != self._said or is_due or not self._path.exists():
                self._write(document)
                self._said, self._written_at = said, self._clock()
            else:
                os.utime(self._path)
        except OSError as error:
            _LOG.debug("what is known could not be kept", path=str(self._path), error=str(error))

    def _write(self, document: Any) -> None:
        content = json.dumps(document).encode()
        if len(content) <= _MOST_BYTES:
            write_atomically(self._path, content)


def recall(path: Path) -> Recalled | None:
    """Return what a file keeps; None where it keeps nothing that can be understood.

    Raises:
        PermissionError: it is another user's.

    """
    try:
        with path.open("rb") as file:
            kept_at = os.fstat(file.fileno()).st_mtime
            content = file.read(_MOST_BYTES + 1)
        document = json.loads(content) if len(content) <= _MOST_BYTES else None
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return None if document is None else Recalled(document, max(0.0, time.time() - kept_at))


def _news(value: Any) -> object:
    if isinstance(value, dict):
        return {name: _news(each) for name, each in value.items() if name not in _PASSING}
    return [_news(each) for each in value] if isinstance(value, list) else value
