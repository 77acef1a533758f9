"""The first start: schema, signing key, first administrator."""

import time
from dataclasses import dataclass
from pathlib import Path

from dtr.accounts import records
from dtr.accounts.passwords import hash_password, new_password
from dtr.accounts.signing import rotate_key
from dtr.database import Database, EngineName, Writer
from dtr.database.migrate import migrate
from dtr.database.proof import prove
from dtr.registry.records import forget_upload_digests
from dtr.server.datadir import DataDirectory, write_atomically
from dtr.server.passwords import read_password
from dtr.server.settings import Settings

FIRST_ADMINISTRATOR = "admin"


@dataclass(frozen=True, slots=True)
class FirstAdministrator:
    """The account made at the first start; `password` only where it was generated."""

    name: str
    password: str | None
    password_file: Path


def bootstrap(
    settings: Settings, directory: DataDirectory, database: Database
) -> FirstAdministrator | None:
    """Bring the metadata to this version; return the first administrator if one was made.

    The password is in its file before the account exists, so that a crash between loses nothing.

    Raises:
        InvalidError: the password file is missing, open to others, or its password too short.

    """
    migrate(database.engine)
    if database.name is EngineName.SQLITE:
        # The machine may have lost power: what was staged is read again before it is believed.
        database.write_now(forget_upload_digests)
    else:
        prove(database)
    auth = settings.auth
    database.write_now(
        rotate_key,
        time.time(),
        rotation_seconds=auth.key_rotation_seconds,
        token_seconds=auth.token_seconds,
    )
    if database.read_now(records.list_accounts):
        return None
    given = settings.data.admin_password_file
    if given is not None:
        password = read_password(given)
    else:
        password = new_password()
        write_atomically(directory.initial_admin_password, f"{password}\n".encode(), 0o600)
    if not database.write_now(_add_first, hash_password(password)):
        return None  # another server was first
    return FirstAdministrator(
        FIRST_ADMINISTRATOR,
        None if given else password,
        given or directory.initial_admin_password,
    )


def _add_first(writer: Writer, password_hash: str) -> bool:
    if records.list_accounts(writer):
        return writer.ran_before(is_noted=False)
    writer.ran_before()
    records.add_account(
        writer, FIRST_ADMINISTRATOR, kind="user", password_hash=password_hash, is_admin=True
    )
    return True
