"""The first start: schema, signing key, first administrator."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from dtr.accounts import records
from dtr.accounts.passwords import check_hash, hash_password, new_password
from dtr.accounts.signing import rotate_key
from dtr.database import Database, EngineName, Writer
from dtr.database.migrate import migrate, schema_version
from dtr.database.proof import prove
from dtr.database.schema import accounts, signing_keys
from dtr.registry.records import forget_upload_digests
from dtr.server.clock import open_clock
from dtr.server.datadir import DataDirectory, write_atomically
from dtr.server.passwords import read_usable
from dtr.server.settings import Settings


@dataclass(frozen=True, slots=True)
class FirstAdministrator:
    """The account made at the first start; `password` only where it was generated."""

    name: str
    password: str | None
    password_file: Path
    """Where the password is, or its hash."""
    is_hashed: bool = False


def bootstrap(
    settings: Settings, directory: DataDirectory, database: Database
) -> FirstAdministrator | None:
    """Bring the metadata to this version; return the first administrator if one was made.

    Nothing is written where nothing is to be changed: a replica that starts while its primary can
    commit nothing must serve pulls. That its database works was proved by whoever was first.

    Raises:
        InvalidError: the file of the password, or of its hash, cannot be used.

    """
    migrate(database.engine)
    is_new = not database.read_now(records.list_accounts)
    if database.name is EngineName.SQLITE:
        # The machine may have lost power: what was staged is read again before it is believed.
        database.write_now(forget_upload_digests)
    elif is_new or settings.cluster.members_file is None:
        prove(database)
    # Read before anything else is written: whoever corrects the file starts anew.
    given = given_password_hash(settings) if is_new else None
    auth = settings.auth
    database.write_now(
        rotate_key,
        open_clock(settings.cluster.clock_file)(),
        rotation_seconds=auth.key_rotation_seconds,
        token_seconds=auth.token_seconds,
    )
    return _first_administrator(settings, directory, database, given) if is_new else None


def given_password_hash(settings: Settings) -> str | None:
    """Return the hash of the first administrator's password, where the settings name a file of it.

    Raises:
        InvalidError: the file cannot be used; the message names it.

    """
    data = settings.data
    if data.admin_password_hash_file is not None:
        return read_usable(data.admin_password_hash_file, check_hash)
    if data.admin_password_file is not None:
        return read_usable(data.admin_password_file, hash_password)
    return None


def is_good_copy(engine: Engine) -> bool:
    """Tell whether pulls can be answered from a database that cannot be written.

    Its schema is one for this program, and a registry has been served from it before.
    """
    if schema_version(engine).problem is not None:
        return False
    with engine.connect() as connection:
        return all(
            connection.execute(select(column).limit(1)).first() is not None
            for column in (accounts.c.id, signing_keys.c.id)
        )


def _first_administrator(
    settings: Settings, directory: DataDirectory, database: Database, given: str | None
) -> FirstAdministrator | None:
    """Make the first account, unless another server does.

    A generated password is in its file before the account exists, so that a crash between loses
    nothing.
    """
    data, generated, own_file = settings.data, None, directory.initial_admin_password
    if given is not None:
        password_hash = given
    else:
        generated = new_password()
        password_hash = hash_password(generated)
        write_atomically(own_file, f"{generated}\n".encode(), 0o600)
    if not database.write_now(_add_first, password_hash, name=data.admin_username):
        if generated is not None:
            own_file.unlink()  # another server was first, and with another password
        return None
    return FirstAdministrator(
        data.admin_username,
        generated,
        data.admin_password_hash_file or data.admin_password_file or own_file,
        is_hashed=data.admin_password_hash_file is not None,
    )


def _add_first(writer: Writer, password_hash: str, *, name: str) -> bool:
    if records.list_accounts(writer):
        return writer.ran_before(is_noted=False)
    writer.ran_before()
    records.add_account(writer, name, kind="user", password_hash=password_hash, is_admin=True)
    return True
