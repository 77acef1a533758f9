"""Which replicas a cluster has: the members file, as the registry's processes read it.

The agent of a node writes the file whenever the cluster changes; databases and blob storage look at
it again before they connect anywhere, so that no process has to be restarted for a join or removal.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from dtr.model.errors import InvalidError


class MemberState(StrEnum):
    """How far a replica takes part."""

    JOINING = "joining"
    """Not yet counted: it may be sent bytes, and holds nothing that anybody relies on."""
    SERVING = "serving"
    DRAINING = "draining"
    """About to leave: it is read from, and sent nothing new."""


@dataclass(frozen=True, slots=True)
class Member:
    """One replica, as the others reach it."""

    id: str
    """The replica's id: 12 lower-case hexadecimal digits."""
    node_id: str
    """Its node, the common name of the certificate that it shows."""
    address: str
    database_port: int = 5432
    peer_port: int = 8445
    state: MemberState = MemberState.SERVING


@dataclass(frozen=True, slots=True)
class Members:
    """All replicas, and which of them this one is."""

    own_id: str
    members: tuple[Member, ...]

    @property
    def own(self) -> Member | None:
        """This replica; None where it is no member any more."""
        return next((member for member in self.members if member.id == self.own_id), None)

    @property
    def peers(self) -> tuple[Member, ...]:
        """All the others."""
        return tuple(member for member in self.members if member.id != self.own_id)

    @property
    def majority(self) -> int:
        """How many replicas acknowledge a commit: more than half of those that count."""
        return majority_of(member.state for member in self.members)

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read the file's content.

        Raises:
            InvalidError: it is not a members file.

        """
        try:
            document = json.loads(text)
            members = tuple(
                Member(**{**each, "state": MemberState(each["state"])})
                for each in document["members"]
            )
            return cls(document["own_id"], members)
        except (ValueError, TypeError, KeyError):
            message = "the members file is damaged; the node's agent writes it again at its start"
            raise InvalidError(message) from None

    def render(self) -> str:
        """Return the file's content; `parse` reads it."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


class MembersFile:
    """The file as it is now; it is read again when it was replaced.

    Raises:
        InvalidError: there was never a readable one. A file that is damaged or gone later leaves
            what was read last.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._members: Members | None = None

    def read(self) -> Members:
        """Return the members; costs one `stat` where nothing has changed."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - on every connection
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._members = Members.parse(self._path.read_bytes())
                self._stamp = stamp
        except (OSError, InvalidError) as error:
            if self._members is None:
                why = error.strerror if isinstance(error, OSError) else error
                raise InvalidError(f"no members in {self._path}: {why}") from None
        assert self._members is not None  # noqa: S101 - read above
        return self._members


def majority_of(states: Iterable[MemberState]) -> int:
    """Return how many of the replicas that count must have what is acknowledged.

    >>> majority_of([MemberState.SERVING] * 3)
    2
    """
    return sum(state is not MemberState.JOINING for state in states) // 2 + 1
