"""What commands on a registry share: its settings, how it is opened, and errors as sentences."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from dtr.cli.output import echo
from dtr.cli.terminal import fail
from dtr.database import Database, MetadataFileError
from dtr.database.migrate import check_schema
from dtr.model.errors import ReadOnlyError, RegistryError
from dtr.registry.records import storage_in_use
from dtr.registry.records.read_only import read_only_mode
from dtr.server.certificates import CertificateError
from dtr.server.clock import open_clock
from dtr.server.datadir import DataDirectory, DataDirectoryError
from dtr.server.drivers import Drivers, open_drivers
from dtr.server.settings import Settings
from dtr.server.settings_sources import SettingsError, Sourced, read_settings
from dtr.server.start_checks import StartError
from dtr.storage import BlobStore

_MOST_WAIT_SECONDS = 10
_NODE = Path("/var/lib/ucp")  # where a machine is a node of UCP, if it is
_WHERE_TO_PUT_IT = (
    "Put it into a file and name that in DTR_DATABASE__PASSWORD_FILE, or put the whole URL into "
    "DTR_DATABASE__URL."
)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", envvar="DTR_CONFIG", help="TOML file with settings.", dir_okay=False),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Directory with the registry's data. [default: ./data]",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Registry:
    """An existing registry, opened beside the server that may be running on it."""

    settings: Settings
    drivers: Drivers

    @property
    def database(self) -> Database:
        """Its metadata."""
        return self.drivers.database

    @property
    def store(self) -> BlobStore:
        """Its blobs; asked for with other settings than the server's, everything would be missing.

        Raises:
            DataDirectoryError: these settings name another storage than the server's.

        """
        used, named = self.database.read_now(storage_in_use), self.settings.storage.url
        if used is not None and used != named:
            raise DataDirectoryError(
                f"The registry's blobs are in {used or 'the data directory'}, "
                f"and these settings name {named or 'the data directory'}.",
                "Give the server's settings: --config, or DTR_STORAGE__URL.",
            )
        return self.drivers.store

    def require_writable(self) -> None:
        """Return where content may be changed.

        Raises:
            ReadOnlyError: the registry serves pulls only.

        """
        mode = self.database.read_now(read_only_mode)
        if mode is not None:
            raise ReadOnlyError(f"{mode.sentence} (to end that: dtr read-only off)")


@contextmanager
def failures_as_sentences(path: Path | None = None) -> Iterator[None]:
    """Turn what can go wrong into one message and exit status 1; `path` is a data directory."""
    try:
        yield
    except MetadataFileError as error:
        where = "" if path is None else f" in {path}"
        fail(
            f"{error}. Check that the disk{where} is mounted for writing and has no errors, and "
            "that this user may write the directory and its files."
        )
    except SettingsError as error:
        fail(f"The settings are not usable:\n{error}")
    except (DataDirectoryError, CertificateError, StartError, RegistryError) as error:
        fail(str(error))


def refuse_password(database_url: str | None, remedy: str = _WHERE_TO_PUT_IT) -> None:
    """Fail where the command line has a password: every user of the machine can read it there."""
    if database_url is None:
        return
    parts = urlsplit(database_url)
    if parts.password is not None or "password" in parse_qs(parts.query):
        fail(
            "a password on the command line is refused: other users of this machine can read it. "
            + remedy
        )


def settings_of(
    config: Path | None,
    data_dir: Path | None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Settings:
    """Return the settings, with the command line's above all."""
    return sourced_settings(config, data_dir, overrides).settings


def sourced_settings(
    config: Path | None,
    data_dir: Path | None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Sourced:
    """Return the same with where each value came from."""
    given = {section: dict(values) for section, values in (overrides or {}).items()}
    if data_dir is not None:
        given.setdefault("data", {})["directory"] = data_dir
    return read_settings(config, given)


@contextmanager
def open_registry(config: Path | None, data_dir: Path | None) -> Iterator[Registry]:
    """Open an existing registry for a command, and say in a sentence what is wrong with it."""
    with failures_as_sentences():
        settings = settings_of(config or own_replica(data_dir), data_dir)
    with failures_as_sentences(settings.data.directory.absolute()):
        drivers = open_drivers(settings, _directory(settings))
        drivers.database.clock = open_clock(settings.cluster.clock_file)
        try:
            wait_for(drivers.database, settings)
            check_schema(drivers.database.engine)
            yield Registry(settings, drivers)
        finally:
            drivers.database.close()


def wait_for(database: Database, settings: Settings) -> None:
    """Wait until the database answers: not for long, as somebody sits before it.

    Raises:
        UnavailableError: it does not within ten seconds, or `database.failover_wait_seconds`.

    """
    patience = settings.database.failover_wait_seconds
    database.wait_until_there(seconds=min(_MOST_WAIT_SECONDS, patience))


def own_replica(data_dir: Path | None) -> Path | None:
    """Return the settings of the replica on this node, where nothing names another registry.

    It is said: whoever expected another registry has to see it. A node without a replica fails.
    """
    if _is_named(data_dir):
        return None
    try:
        found = sorted(_node().glob("replicas/*/registry/dtr.toml"), key=_changed_at)
    except OSError:
        return None
    if not found:
        if (_node() / "node.json").exists():
            fail(
                "This node of UCP has no replica, and no other registry is named. Run the command "
                "on a node with a replica (dtr status shows them), or pass --config or --data-dir."
            )
        return None
    # Of a replica that was removed files may be left: the newest settings are those in use.
    echo(f"Using the replica on this node: --config {found[-1]}", err=True)
    return found[-1]


def _is_named(data_dir: Path | None) -> bool:
    named = ("DTR_CONFIG", "DTR_DATA__DIRECTORY", "DTR_DATABASE__URL")
    is_told = data_dir is not None or any(os.environ.get(name) for name in named)
    return is_told or Settings().data.directory.exists()


def _node() -> Path:
    return Path(os.environ.get("UCP_DATA_DIR") or _NODE)


def _changed_at(path: Path) -> float:
    return path.stat().st_mtime


def _directory(settings: Settings) -> Path:
    """Return the data directory; an embedded registry must be in it."""
    if settings.database.url:
        return settings.data.directory
    directory = DataDirectory.open_shared(settings.data.directory)
    if not directory.database.exists():
        raise DataDirectoryError(
            f"The directory {directory.path} holds no registry yet.",
            "Start it once with dtr serve, or name its database with DTR_DATABASE__URL.",
        )
    return directory.path
