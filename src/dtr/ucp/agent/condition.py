"""How the machine is: what an agent reports of it, and what an operator should do about it."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dtr
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.users import closed_part, exists, missing_users, user_for
from dtr.ucp.authority import AuthorityError, load_certificate
from dtr.ucp.model import NodeIdentity, Wanted

_LOW_DISK: Final = 0.05
_LATE_RENEWAL: Final = 1 / 6
"""Of a certificate's life; it should have been renewed when a third was left."""
_PYTHON_PURPOSES: Final = ("database", "registry")
_GIB: Final = 1 << 30
_DAY_SECONDS: Final = 86400


@dataclass(frozen=True, slots=True)
class Condition:
    """A machine at one moment."""

    disk_total_bytes: int
    disk_free_bytes: int
    memory_total_bytes: int
    certificate_expires_at: float
    """0 where the certificate cannot be read."""
    problems: tuple[str, ...]


def look(
    directory: NodeDirectory, identity: NodeIdentity, wanted: Wanted | None, now: float
) -> Condition:
    """Look at the machine; blocks, for as long as user databases and disks take."""
    problems: list[str] = []
    total, free = _disk(directory.root, problems)
    expires_at = _expiry(directory, now, problems)
    if wanted is not None:
        problems += _users(identity, wanted)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Condition(total, free, memory, expires_at, tuple(problems))


def _disk(root: Path, problems: list[str]) -> tuple[int, int]:
    try:
        usage = shutil.disk_usage(root)
    except OSError as error:
        problems.append(f"The free space of {root} cannot be read: {error.strerror}. Check it.")
        return 0, 0
    if usage.free < usage.total * _LOW_DISK:
        problems.append(
            f"The disk of {root} is almost full: {usage.free / _GIB:.1f} GiB of"
            f" {usage.total / _GIB:.1f} GiB are free. Free space before writes fail."
        )
    return usage.total, usage.free


def _expiry(directory: NodeDirectory, now: float, problems: list[str]) -> float:
    try:
        certificate = load_certificate(directory.certificate.read_text(encoding="ascii"))
    except (OSError, ValueError, AuthorityError):
        problems.append(
            f"The node's certificate {directory.certificate} cannot be read."
            " Restore it from a backup, or join the node again."
        )
        return 0
    ends = certificate.not_valid_after_utc.timestamp()
    life = ends - certificate.not_valid_before_utc.timestamp()
    if now >= ends:
        problems.append("The node's certificate has expired. Join the node again.")
    elif now >= ends - life * _LATE_RENEWAL:
        days = (ends - now) / _DAY_SECONDS
        problems.append(
            f"The node's certificate expires in {days:.1f} days and was not renewed."
            " See in the agent's log why, and that a controller can be reached."
        )
    return ends


def _users(identity: NodeIdentity, wanted: Wanted) -> list[str]:
    problems = [
        f"There is no system user {name} for the {purpose}."
        + (
            " Install PostgreSQL's package, or create the user; it cannot run as root."
            if purpose == "database"
            else " It runs as the agent's own user; create it with useradd --system."
        )
        for purpose, name in missing_users(identity, wanted)
    ]
    if "replica" in wanted.services:
        problems += _unreadable(identity)
    return problems


def _unreadable(identity: NodeIdentity) -> list[str]:
    """Say who cannot run our own Python; it is easily installed below a closed home directory."""
    for purpose in _PYTHON_PURPOSES:
        user = user_for(identity, purpose)
        if not user or not exists(user):
            continue
        program = Path(sys.executable)
        closed = (
            closed_part(program, user, is_program=True)
            or closed_part(Path(sys.prefix), user)
            or closed_part(Path(dtr.__file__), user)
        )
        if closed is not None:
            problem = (
                f"The user {user}, who runs the {purpose}, cannot run {program}: {closed} is"
                " closed to it. Install where every user may read, such as below /opt."
            )
            return [problem]
    return []
