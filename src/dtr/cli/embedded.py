"""`dtr status` where there is no cluster: the registry in a data directory, or on a database."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from dtr import __version__
from dtr.accounts import records as accounts
from dtr.cli.context import Registry, open_registry, settings_of
from dtr.cli.output import echo, one_line
from dtr.cli.terminal import show_json, time_of
from dtr.database import Reader
from dtr.jobs import State
from dtr.jobs.records import list_jobs
from dtr.registry.manage import list_repositories
from dtr.registry.records.read_only import read_only_mode
from dtr.server.drivers import RESERVE_BYTES
from dtr.server.settings_sources import SettingsError

_MIB = 2**20
_RECENT_JOBS = 100


def has_own_registry(config: Path | None, data_dir: Path | None) -> bool:
    """Tell whether these settings name a registry that this machine can look at by itself."""
    try:
        settings = settings_of(config, data_dir)
    except SettingsError:
        return config is not None or data_dir is not None  # opening it says what is wrong
    named = config is not None or data_dir is not None or bool(settings.database.url)
    return named or (settings.data.directory / "FORMAT").exists()


def show_own_registry(
    config: Path | None, data_dir: Path | None, *, check: bool, as_json: bool
) -> None:
    """Show a registry without a cluster; with `check` end with status 1 if something is wrong."""
    with open_registry(config, data_dir) as registry:
        document = _document(registry)
    if as_json:
        show_json(document)
    else:
        _print(document)
    if check and document["problems"]:
        raise typer.Exit(1)


def _document(registry: Registry) -> dict[str, Any]:
    settings = registry.settings
    directory = settings.data.directory.absolute()
    counted: dict[str, int] = registry.database.read_now(_counts)
    mode = registry.database.read_now(read_only_mode)
    usage = shutil.disk_usage(directory) if directory.exists() else None
    server = _server_of(directory)
    failed = registry.database.read_now(
        list_jobs, kind=None, state=State.FAILED, limit=_RECENT_JOBS
    )
    document: dict[str, Any] = {
        "version": __version__,
        "kind": "postgresql" if settings.database.url else "embedded",
        "data_directory": str(directory),
        "server_process": server,
        **counted,
        "read_only": None if mode is None else asdict(mode),
        "disk_free_bytes": None if usage is None else usage.free,
        "disk_bytes": None if usage is None else usage.total,
        "failed_jobs": [job.id for job in failed],
    }
    return {**document, "problems": _problems(document)}


def _problems(document: dict[str, Any]) -> list[str]:
    found = []
    if document["kind"] == "embedded" and document["server_process"] is None:
        found.append("No server runs on this data directory. Start it: dtr serve.")
    free = document["disk_free_bytes"]
    if free is not None and free < RESERVE_BYTES:
        found.append(
            f"The disk has {free // _MIB} MiB free and pushes need {RESERVE_BYTES // _MIB} MiB: "
            "free some space, or dtr gc."
        )
    if document["read_only"] is not None:
        found.append(
            "The registry is in read-only mode and refuses pushes. dtr read-only status shows why, "
            "dtr read-only off ends it."
        )
    if document["failed_jobs"]:
        found.append(f"Jobs have failed. See dtr jobs show {document['failed_jobs'][0]}.")
    return found


def _counts(reader: Reader) -> dict[str, int]:
    everybody = accounts.list_accounts(reader)
    users = sum(account.kind == "user" for account in everybody)
    return {
        "users": users,
        "organizations": len(everybody) - users,
        "repositories": len(list_repositories(reader, None)),
    }


def _server_of(directory: Path) -> int | None:
    """Return the process that holds the data directory; None where no server runs.

    The lock itself is not tried: a server that starts at that moment would be refused.
    """
    lock = directory / "dtr.lock"
    try:
        holder = lock.read_text(encoding="ascii").strip()
        opened = Path("/proc", holder, "fd") if holder.isdigit() else None
        if opened is not None and any(each.readlink() == lock for each in opened.iterdir()):
            return int(holder)
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _print(document: dict[str, Any]) -> None:
    server, free = document["server_process"], document["disk_free_bytes"]
    disk = "-"
    if free is not None:
        disk = f"{free // _MIB} of {document['disk_bytes'] // _MIB} MiB free"
    where = "PostgreSQL" if document["kind"] == "postgresql" else "SQLite, in the data directory"
    mode = document["read_only"]
    rows = {
        "Registry": f"version {document['version']}, without a cluster",
        "Server": "not running" if server is None else f"process {server}",
        "Data directory": document["data_directory"],
        "Metadata": where,
        "Disk": disk,
        "Pushes": "accepted"
        if mode is None
        else f"refused since {time_of(mode['since'])} by {one_line(mode['by'])}: "
        f"{one_line(mode['reason'])}",
        "Users": document["users"],
        "Organizations": document["organizations"],
        "Repositories": document["repositories"],
    }
    for name, value in rows.items():
        echo(f"{name:16}{value}")
    echo()
    for problem in document["problems"] or ["Nothing is wrong."]:
        echo(problem)
