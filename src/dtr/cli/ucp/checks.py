"""What must hold on a machine before anything is written on it."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from dtr.cli.output import echo
from dtr.cluster.engines.programs import ProgramsMissingError, find_programs
from dtr.cluster.model import DATABASE_PORT
from dtr.model.failures import reason_of
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import UcpError
from dtr.ucp.model import ETCD_CLIENT_PORT

_PROGRAM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION: Final = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")
_OLDEST_ETCD: Final = (3, 4, 0)
_LOSING_DATA: Final = ((3, 5, 0), (3, 5, 2))
_RELEASED: Final = datetime(2025, 1, 1, tzinfo=UTC)
_MOST_SKEW_SECONDS: Final = 60.0
_PROGRAM_SECONDS: Final = 20
_LOOPBACK: Final = "127.0.0.1"
_NO_DATABASE: Final = Path("/nonexistent")
_INSTALL: Final = "apt-get install"
_ETCD_PACKAGE: Final = "etcd-server"
# What an install or join that was cut short leaves behind, and what an empty volume has.
_UNFINISHED: Final = frozenset(
    {
        "pki",
        "log",
        "run",
        "bootstrap.json",
        "wanted.json",
        "initial_admin_password",
        "lost+found",
    }
)


def check_directory(directory: NodeDirectory) -> None:
    """Refuse a directory that a node or anybody else lives in.

    Raises:
        UcpError: what is there and what to do.

    """
    root = directory.root
    if directory.identity.exists():
        raise UcpError(
            f"This machine is already a node of UCP ({directory.identity} says which).",
            "See its state with 'ucp status', or start again after 'ucp uninstall'.",
        )
    try:
        names = {path.name.removesuffix(".tmp") for path in root.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UcpError(
            f"The directory {root} cannot be read: {error.strerror}.",
            "Run this as root, or name another --data-dir.",
        ) from None
    if names - _UNFINISHED:
        raise UcpError(
            f"The directory {root} is not empty and does not belong to a node.",
            "Name a new or empty directory with --data-dir.",
        )


def check_address(address: str) -> None:
    """Refuse an address that this machine does not have.

    Raises:
        UcpError: and which it has.

    """
    try:
        with _socket(address) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        raise UcpError(
            f"This machine does not have the address {address[:80]}.",
            "Give --host-address one of its own, which the other machines can reach; 'ip addr' "
            "lists them.",
        ) from None


def check_ports(address: str, ports: Sequence[int]) -> None:
    """Refuse when somebody listens already where UCP will: at its address, and etcd at loopback.

    Raises:
        UcpError: naming the ports.

    """
    places = [(address, port) for port in ports]
    if ETCD_CLIENT_PORT in ports and address != _LOOPBACK:
        places.append((_LOOPBACK, ETCD_CLIENT_PORT))
    taken = [
        f"{where} at port {port} ({why})"
        for where, port in places
        if (why := _why_not(where, port))
    ]
    if taken:
        raise UcpError(
            f"UCP cannot listen on {', '.join(taken)}.",
            "Stop what listens there ('ss -ltnp' shows it; Debian's etcd starts by itself: "
            "'systemctl disable --now etcd'), or choose another --controller-port.",
        )


def note_running_database() -> None:
    """Say that a database runs at the port of a replica's; a node may do without a replica."""
    if _why_not(_LOOPBACK, DATABASE_PORT):
        echo(
            f"Before this machine can host a replica, port {DATABASE_PORT} must be free. Debian's "
            "PostgreSQL starts by itself: systemctl disable --now postgresql",
            err=True,
        )


def _why_not(address: str, port: int) -> str:
    """Return why nobody can listen there; empty where one can."""
    with _socket(address) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.strerror or reason_of(error)
    return ""


def find_program(name: str) -> str | None:
    """Return where a program is, also one that only root has on its path."""
    return shutil.which(name) or shutil.which(name, path=_PROGRAM_PATH)


def missing_packages() -> list[str]:
    """Return Debian's packages that managers, replicas and balancers need and that are not here."""
    missing = []
    if find_program("etcd") is None:
        missing.append(_ETCD_PACKAGE)
    if find_program("haproxy") is None:
        missing.append("haproxy")
    try:
        find_programs(_NO_DATABASE)
    except ProgramsMissingError:
        missing.append("postgresql")
    return missing


def note_missing_packages() -> None:
    """Say what a replica or balancer would still need here; a node may do without."""
    if missing := missing_packages():
        echo(
            "Before this machine can host all of a cluster's services: "
            f"{_INSTALL} {' '.join(missing)}",
            err=True,
        )


def check_etcd() -> None:
    """Refuse when there is no etcd, or one that loses data.

    Raises:
        UcpError: and what to install.

    """
    program = find_program("etcd")
    if program is None:
        raise UcpError(
            "There is no etcd on this machine.",
            f"Install it, with what a replica needs: {_INSTALL} {' '.join(missing_packages())}.",
        )
    try:
        told = subprocess.run(  # noqa: S603 - a program that this machine's own path names
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    check_etcd_version(told)


def check_etcd_version(told: str) -> None:
    """Refuse versions that cannot be used, by what `etcd --version` says.

    Raises:
        UcpError: and what to install.

    """
    found = _VERSION.search(told)
    if found is None:
        raise UcpError(
            "etcd does not show its version.", f"Install it again: {_INSTALL} {_ETCD_PACKAGE}."
        )
    version = tuple(int(part) for part in found.groups())
    text = ".".join(found.groups())
    if version < _OLDEST_ETCD:
        raise UcpError(f"etcd {text} is too old.", "Install etcd 3.4 or newer.")
    if _LOSING_DATA[0] <= version <= _LOSING_DATA[1]:
        raise UcpError(
            f"etcd {text} can lose data when it is killed (etcd issue 13766).",
            "Install Debian's etcd 3.4, or 3.5.3 or newer.",
        )


def check_clock(other: float | None = None) -> None:
    """Refuse a clock that is obviously wrong, or far from another machine's.

    Raises:
        UcpError: certificates would be refused.

    """
    now = time.time()
    if now < _RELEASED.timestamp():
        raise UcpError(
            f"The clock of this machine says {datetime.fromtimestamp(now, UTC):%Y-%m-%d}.",
            "Set it, and synchronise it with a time server (apt-get install chrony).",
        )
    if other is not None and abs(now - other) > _MOST_SKEW_SECONDS:
        raise UcpError(
            f"The clocks of this machine and the controller are {abs(now - other):.0f} s apart.",
            "Synchronise both with the same time servers (apt-get install chrony).",
        )


def check_writable(root: Path) -> None:
    """Refuse to begin where the directory cannot be made.

    Raises:
        UcpError: who may.

    """
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        probe = root / "run"
        probe.mkdir(mode=0o711, exist_ok=True)
    except OSError as error:
        raise UcpError(
            f"The directory {root} cannot be written: {error.strerror}.",
            "Run this as root, or name another --data-dir.",
        ) from None


def _socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
