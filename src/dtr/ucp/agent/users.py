"""System users: who runs what, and what they may read."""

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dtr.ucp.model import NodeIdentity, Wanted

DEFAULT_USERS: Final[Mapping[str, str]] = {
    "database": "postgres",
    "etcd": "etcd",
    "registry": "dtr",
    "balancer": "haproxy",
}

_PURPOSES_OF_SERVICE: Final[Mapping[str, tuple[str, ...]]] = {
    "replica": ("database", "registry"),
    "balancer": ("balancer",),
}
"""What the services of the room above run as; one that is not listed runs as nobody else."""


def user_for(identity: NodeIdentity, purpose: str) -> str:
    """Return the system user for `database`, `registry`, `etcd` or `balancer`.

    Empty, which means the agent's own user, where the agent is not root or there is no such user;
    the agent reports the latter by itself (`missing_users`).
    """
    name = _named(identity, purpose)
    return name if os.geteuid() == 0 and exists(name) else ""


def missing_users(identity: NodeIdentity, wanted: Wanted) -> list[tuple[str, str]]:
    """Return purpose and name of the users that this node needs and does not have."""
    if os.geteuid() != 0:
        return []
    purposes = ["etcd"] if wanted.etcd is not None else []
    for service in wanted.services:
        purposes += _PURPOSES_OF_SERVICE.get(service, ())
    named = [(purpose, _named(identity, purpose)) for purpose in purposes]
    return [(purpose, name) for purpose, name in named if not exists(name)]


def exists(name: str) -> bool:
    """Tell whether the system has a user of this name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def closed_part(path: Path, user: str, *, is_program: bool = False) -> Path | None:
    """Return the first part of an absolute path that keeps `user` from reading it; None: it may.

    With `is_program`, what keeps it from being run. Looks at owners and modes, where links lead
    included, not at access control lists. What is not there is returned, too.

    Raises:
        KeyError: there is no such user.

    """
    entry = pwd.getpwnam(user)
    if entry.pw_uid == 0:
        return None
    groups = set(os.getgrouplist(user, entry.pw_gid))
    for part in _parts(path):
        try:
            status = part.lstat()
        except OSError:
            return part
        if stat.S_ISLNK(status.st_mode):
            continue
        needed = 1 if is_program or stat.S_ISDIR(status.st_mode) else 4
        if not _bits(status, entry.pw_uid, groups) & needed:
            return part
    return None


def _parts(path: Path) -> list[Path]:
    """Return all that is walked through: of the path, and of where links on the way lead."""
    walked: list[Path] = []
    waiting = [path]
    while waiting:
        current = waiting.pop()
        for part in (*reversed(current.parents), current):
            if part in walked:
                continue
            walked.append(part)
            if part.is_symlink():
                target = Path(os.path.normpath(part.parent / part.readlink()))
                waiting.append(target / current.relative_to(part))
                break
    return walked


def _bits(status: os.stat_result, uid: int, groups: set[int]) -> int:
    if status.st_uid == uid:
        return status.st_mode >> 6 & 7
    if status.st_gid in groups:
        return status.st_mode >> 3 & 7
    return status.st_mode & 7


def _named(identity: NodeIdentity, purpose: str) -> str:
    return identity.users.get(purpose) or DEFAULT_USERS[purpose]
