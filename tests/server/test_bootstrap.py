"""The first start: one administrator, whoever is first, with the password that was given."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.support.postgresql import RunningPostgresql, temporary_database

from dtr.accounts import records
from dtr.accounts.passwords import check_hash, hash_password, verify_password
from dtr.database import Reader, Row, SqliteDatabase, open_database, open_postgresql
from dtr.database.schema import accounts
from dtr.model.errors import InvalidError
from dtr.server.bootstrap import bootstrap, is_good_copy
from dtr.server.datadir import DataDirectory
from dtr.server.settings import DataSettings, Settings

PASSWORD = "a password of some length"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DataDirectory]:
    """Give a new data directory."""
    with DataDirectory.open(tmp_path / "data") as directory:
        yield directory


@pytest.fixture
def database(directory: DataDirectory) -> Iterator[SqliteDatabase]:
    """Give metadata without a schema."""
    database = open_database(directory.database)
    yield database
    database.close()


def stored_accounts(reader: Reader) -> list[Row]:
    """Give name, rights and hash of every account."""
    columns = accounts.c.name, accounts.c.is_admin, accounts.c.password_hash
    return [tuple(row) for row in reader.execute(select(*columns))]


def settings_with(**data: object) -> Settings:
    """Give settings whose section `data` has these."""
    return Settings(data=DataSettings.model_validate(data))


def test_an_administrator_may_be_given_by_name_and_hash(
    directory: DataDirectory, database: SqliteDatabase, tmp_path: Path
) -> None:
    """The password itself is nowhere, and nothing is printed of it."""
    file = tmp_path / "hash"
    file.write_text(f"{hash_password(PASSWORD)}\n")
    settings = settings_with(admin_username="root", admin_password_hash_file=str(file))
    made = bootstrap(settings, directory, database)
    assert made is not None
    assert (made.name, made.password, made.password_file) == ("root", None, file)
    [(name, is_admin, password_hash)] = database.read_now(stored_accounts)
    assert (name, bool(is_admin)) == ("root", True)
    assert verify_password(PASSWORD, password_hash)
    assert not directory.initial_admin_password.exists()


def test_the_given_administrator_matters_only_while_there_is_no_account(
    directory: DataDirectory, database: SqliteDatabase, tmp_path: Path
) -> None:
    """A file that is gone by the next start is not missed, and nobody's name changes."""
    assert bootstrap(settings_with(), directory, database) is not None
    settings = settings_with(
        admin_username="root", admin_password_hash_file=str(tmp_path / "missing")
    )
    assert bootstrap(settings, directory, database) is None
    names = [account.name for account in database.read_now(records.list_accounts)]
    assert names == ["admin"]


@pytest.mark.parametrize(
    "text",
    ["hunter2 hunter2", "$argon2i$v=19$m=16,t=2,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA", "$"],
)
def test_what_is_no_argon2id_hash_is_refused_before_anybody_is_locked_out(
    directory: DataDirectory, database: SqliteDatabase, tmp_path: Path, text: str
) -> None:
    """And it is not repeated: somebody may have written the password there."""
    file = tmp_path / "hash"
    file.write_text(f"{text}\n")
    settings = settings_with(admin_password_hash_file=str(file))
    with pytest.raises(InvalidError, match="argon2id") as caught:
        bootstrap(settings, directory, database)
    assert "hunter2" not in str(caught.value)
    assert database.read_now(records.list_accounts) == []
    with pytest.raises(InvalidError):
        check_hash(text)


def test_a_database_is_a_good_copy_once_a_registry_was_served_from_it(
    directory: DataDirectory, database: SqliteDatabase
) -> None:
    """Not while it is empty: then somebody who can write must come first."""
    assert not is_good_copy(database.engine)
    bootstrap(settings_with(), directory, database)
    assert is_good_copy(database.engine)


_STARTER = """
import sys
from pathlib import Path
from dtr.database import open_postgresql
from dtr.server.bootstrap import bootstrap
from dtr.server.datadir import DataDirectory
from dtr.server.settings import Settings
database = open_postgresql(sys.argv[1])
directory = DataDirectory.open(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
made = bootstrap(Settings(), directory, database)
print("made" if made else "found", flush=True)
"""


@pytest.mark.postgresql
def test_three_replicas_that_start_at_once_make_one_administrator(
    postgresql: RunningPostgresql, tmp_path: Path
) -> None:
    """In an empty database; only who made it has a password in its directory, which is valid."""
    with temporary_database(postgresql) as url:
        starters = [_starter(url, tmp_path / str(number)) for number in range(3)]
        try:
            for starter in starters:
                assert starter.stdout is not None
                assert starter.stdout.readline() == "ready\n"
            ended = [starter.communicate("go\n", timeout=120)[0] for starter in starters]
        finally:
            for starter in starters:
                with suppress(ProcessLookupError):
                    starter.kill()
                starter.wait()
        assert sorted(said.splitlines()[-1] for said in ended) == ["found", "found", "made"]
        database = open_postgresql(url)
        try:
            [(_name, _is_admin, password_hash)] = database.read_now(stored_accounts)
        finally:
            database.close()
    [kept] = tmp_path.glob("*/initial_admin_password")
    assert verify_password(kept.read_text().strip(), password_hash)


def _starter(url: str, directory: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _STARTER, url, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
