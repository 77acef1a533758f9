"""The system user as whom a replica's registry runs: no package brings it, so install does."""

import grp
import os
import subprocess
from collections.abc import Mapping
from typing import Final

from dtr.cli.output import echo
from dtr.cli.ucp.checks import find_program
from dtr.model.failures import reason_of
from dtr.ucp.agent.users import DEFAULT_USERS, exists
from dtr.ucp.client import UcpError

REGISTRY_USER: Final = DEFAULT_USERS["registry"]

_OPTIONS: Final = (
    "--system",
    "--no-create-home",
    "--home-dir",
    "/nonexistent",
    "--shell",
    "/usr/sbin/nologin",
)
_LIMIT_SECONDS: Final = 60


def create_registry_user(users: Mapping[str, str]) -> None:
    """Create the system user of the registry, with a group of its own, and say so.

    Nothing is done where there is one, where only root could do it, or where the registry of this
    node runs as somebody else (`users`, by purpose).

    Raises:
        UcpError: it cannot be created.

    """
    is_ours = users.get("registry", REGISTRY_USER) == REGISTRY_USER
    if not is_ours or os.geteuid() != 0 or exists(REGISTRY_USER):
        return
    reason = _add()
    # What counts is whether it is there: two machines may share one /etc/passwd, and the other was
    # faster.
    if not exists(REGISTRY_USER):
        raise UcpError(
            f"The system user {REGISTRY_USER} cannot be created: {reason}.",
            f"Create it (useradd {' '.join(_words())}), or pass --no-create-user: the registry of "
            "a replica then runs as root.",
        )
    echo(
        f"Created the system user {REGISTRY_USER}, as whom the registry of a replica runs.",
        err=True,
    )


def left_user() -> str | None:
    """Return the name of the registry's user where it is one that an uninstall leaves behind."""
    return REGISTRY_USER if exists(REGISTRY_USER) else None


def _add() -> str:
    """Try to create it; return what went wrong, if something did."""
    program = find_program("useradd")
    if program is None:
        return "there is no useradd (Debian's package passwd)"
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            [program, *_words()],
            capture_output=True,
            text=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"useradd cannot be run: {reason_of(error)}"
    return done.stderr.strip().rstrip(".") or f"useradd ended with status {done.returncode}"


def _words() -> list[str]:
    group = ("--gid", REGISTRY_USER) if _has_group() else ("--user-group",)
    return [*_OPTIONS, *group, REGISTRY_USER]


def _has_group() -> bool:
    try:
        grp.getgrnam(REGISTRY_USER)
    except KeyError:
        return False
    return True
