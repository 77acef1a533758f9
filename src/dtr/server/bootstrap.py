"""The first start: schema, signing key, first administrator."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from dtr.accounts import records
from dtr.accounts.manage import add_user
from dtr.accounts.passwords import hash_password, new_password
from dtr.accounts.signing import rotate_key
from dtr.database import Database, Writer
from dtr.database.migrate import migrate
from dtr.model.errors import InvalidError
from dtr.registry.records import forget_upload_digests
from dtr.server.datadir import DataDirectory, write_atomically
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
    auth = settings.auth
    # The machine may have lost power: what was staged is read again before it is believed.
    database.write_now(forget_upload_digests)
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
    database.write_now(_add_first, hash_password(password))
    return FirstAdministrator(
        FIRST_ADMINISTRATOR,
        None if given else password,
        given or directory.initial_admin_password,
    )


def read_password(path: Path) -> str:
    """Return the first line of a password file.

    Raises:
        InvalidError: it cannot be read or is empty.

    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise InvalidError(f"the password file {path} cannot be read: {reason}") from None
    password = content.splitlines()[0] if content else ""
    if not password:
        raise InvalidError(f"the password file {path} is empty")
    return password


def _add_first(writer: Writer, password_hash: str) -> None:
    if not records.list_accounts(writer):
        add_user(writer, FIRST_ADMINISTRATOR, password_hash, is_admin=True)
