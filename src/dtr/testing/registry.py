"""A registry's state for tests: metadata in SQLite or PostgreSQL, blobs in memory, time by hand.

What is put on top of the state is `server/app.py`'s to say, the only composition root:

    state = open_state(tmp_path)
    drivers = Drivers(state.database, state.store)
    application = build_application(Settings(), drivers, Metrics(), clock=state.clock)
"""

import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dtr.accounts import manage as accounts
from dtr.accounts.passwords import hash_password, new_token
from dtr.accounts.signing import rotate_key
from dtr.database import Database, open_database, open_postgresql
from dtr.database.migrate import migrate
from dtr.model.access import Level, Visibility
from dtr.model.names import RepositoryName
from dtr.registry import manage as repositories
from dtr.storage import BlobStore
from dtr.storage.memory import MemoryBlobStore

ADMIN = ("admin", "correct horse battery staple")
ALICE = ("alice", "alice's long enough password")
BOB = ("bob", "bob's long enough password")
_FILE = "dtr.db"
_ROTATION_SECONDS = 30 * 86400


class ManualClock:
    """A clock that moves when a test says so; it starts at the present."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward, or back where `seconds` is negative."""
        self.now += seconds


class Administration:
    """What administrators do from the command line, on the metadata beneath a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_user(self, name: str, password: str, *, is_admin: bool = False) -> tuple[str, str]:
        """Create a user; return name and password as a client wants them."""
        password_hash = hash_password(password)
        self._database.write_now(accounts.add_user, name, password_hash, is_admin=is_admin)
        return name, password

    def set_password(self, name: str, password: str) -> None:
        """Change a user's password."""
        self._database.write_now(accounts.set_password, name, hash_password(password))

    def set_active(self, name: str, *, is_active: bool) -> None:
        """Let a user log in, or not any more."""
        self._database.write_now(accounts.set_active, name, is_active=is_active)

    def remove_user(self, name: str) -> None:
        """Delete a user."""
        self._database.write_now(accounts.remove_user, name)

    def create_token(
        self, name: str, level: Level = Level.READ_WRITE, *, lifetime_seconds: float | None = None
    ) -> tuple[int, str]:
        """Create an access token; return its id and its secret."""
        secret = new_token()
        token = self._database.write_now(
            accounts.create_token,
            name,
            secret,
            label="test",
            level=level,
            lifetime_seconds=lifetime_seconds,
        )
        return token.id, secret

    def revoke_token(self, name: str, token_id: int | None = None) -> None:
        """Revoke one token of a user, or all."""
        self._database.write_now(accounts.revoke_token, name, token_id)

    def create_repository(self, name: str, visibility: Visibility = Visibility.PRIVATE) -> str:
        """Create a repository in an existing namespace; return its name."""
        parsed = RepositoryName.parse(name)
        self._database.write_now(repositories.create_repository, parsed, visibility)
        return name

    def set_visibility(self, name: str, visibility: Visibility) -> None:
        """Say who may pull without a grant."""
        self._database.write_now(
            repositories.set_visibility, RepositoryName.parse(name), visibility
        )

    def remove_repository(self, name: str) -> None:
        """Delete a repository with everything in it."""
        self._database.write_now(repositories.remove_repository, RepositoryName.parse(name))

    def grant(self, name: str, user: str, level: Level, *, whole_namespace: bool = False) -> None:
        """Let a user do what `level` says with a repository or a namespace."""
        self._database.write_now(
            repositories.grant, name, user, level, whole_namespace=whole_namespace
        )


@dataclass(frozen=True, slots=True)
class RegistryState:
    """The drivers of a registry under test, with the accounts `ADMIN`, `ALICE` and `BOB`."""

    database: Database
    store: BlobStore
    clock: ManualClock
    administration: Administration


def open_state(
    directory: Path,
    *,
    store: BlobStore | None = None,
    clock: ManualClock | None = None,
    database_url: str = "",
    database: Database | None = None,
) -> RegistryState:
    """Return the state kept in `directory`, made when it is new; without `store`, in memory.

    `database` is used where it is open already. With `database_url` the metadata are in a
    PostgreSQL database that `make_registry` has filled, or a copy of it. Opened twice with two
    stores on one place, it is what two processes share.
    Closing is the application's, which closes its drivers.
    """
    database = database or _open_metadata(directory, database_url)
    return RegistryState(
        database, store or MemoryBlobStore(), clock or ManualClock(), Administration(database)
    )


def make_registry(database: Database) -> None:
    """Make a new registry's metadata in an empty database: half a second, mostly for passwords."""
    migrate(database.engine)
    database.write_now(
        rotate_key, time.time(), rotation_seconds=_ROTATION_SECONDS, token_seconds=300
    )
    administration = Administration(database)
    administration.add_user(*ADMIN, is_admin=True)
    administration.add_user(*ALICE)
    administration.add_user(*BOB)


def _open_metadata(directory: Path, database_url: str) -> Database:
    if database_url:
        return open_postgresql(database_url, wait_seconds=5)
    file = directory / _FILE
    if not file.exists():
        file.write_bytes(_template())
    return open_database(file, wait_seconds=5)


@cache
def _template() -> bytes:
    """Return a new registry's metadata: made once a process, for it takes half a second."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / _FILE
        database = open_database(file)
        make_registry(database)
        database.close()
        return file.read_bytes()
