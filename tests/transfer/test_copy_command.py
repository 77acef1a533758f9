"""`dtr copy-metadata` as an operator calls it."""

from pathlib import Path

import pytest
from sqlalchemy import select
from tests.cli.command import CommandLine
from tests.support.postgresql import PASSWORD, RunningPostgresql
from tests.transfer.content import fill

from dtr.database import open_database, open_postgresql
from dtr.database.migrate import migrate, schema_version
from dtr.database.schema import tags
from dtr.server.datadir import DataDirectory

pytestmark = pytest.mark.postgresql


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Give the data directory of a stopped registry."""
    with DataDirectory.open(tmp_path / "old") as directory:
        database = open_database(directory.database)
        migrate(database.engine)
        fill(database.engine)
        database.close()
        return directory.path


def test_a_registry_goes_to_postgresql_and_back(
    old: Path, tmp_path: Path, postgresql_url: str
) -> None:
    """And says how many rows it copied; a dry run beside a server said the same before."""
    dtr = CommandLine(tmp_path, old)
    url, password = without_password(postgresql_url, tmp_path)
    sides = ("--from", f"sqlite:{old}", "--to", url, "--to-password-file", password)
    there = ("copy-metadata", *sides)
    with DataDirectory.open(old):  # as a server does
        planned = dtr.run(*there, "--dry-run", "--json", names_data=False).json
    shared = open_postgresql(postgresql_url)
    assert schema_version(shared.engine).revision is None
    assert "connected to the target" in dtr.run(*there, names_data=False).message
    shared.close()
    done = dtr.run(*there, "--json", names_data=False).json
    assert [table["rows"] for table in done["tables"]] == [t["rows"] for t in planned["tables"]]
    assert (planned["dry_run"], done["dry_run"]) == (True, False)

    new = tmp_path / "new"
    back = dtr.run(
        *("copy-metadata", "--from", url, "--from-password-file", password),
        *("--to", f"sqlite:{new}"),
        names_data=False,
    )
    assert "Copied and compared" in back.out
    embedded = open_database(new / "dtr.db")
    with embedded.engine.connect() as connection:
        assert len(connection.execute(select(tags)).all()) == 90
    embedded.close()


def test_what_is_wrong_is_said_in_a_sentence(
    old: Path, tmp_path: Path, postgresql: RunningPostgresql, postgresql_url: str
) -> None:
    """A directory in use, none at all, no place, no such server."""
    dtr = CommandLine(tmp_path, old)

    def refused(source: str, target: str) -> str:
        return dtr.run("copy-metadata", "--from", source, "--to", target, names_data=False).message

    url, _ = without_password(postgresql_url, tmp_path)
    with DataDirectory.open(old):
        assert "in use by another DTR server" in refused(f"sqlite:{old}", url)
    assert "does not exist" in refused(f"sqlite:{tmp_path / 'none'}", url)
    assert "is empty" in refused(f"sqlite:{empty_directory(tmp_path)}", url)
    assert "begins with mysql" in refused("mysql://x", url)
    assert "password on the command line is refused" in refused(f"sqlite:{old}", postgresql_url)
    nowhere = url.replace(f":{postgresql.port}/", ":1/")
    message = refused(f"sqlite:{old}", nowhere)
    assert "nothing listens there" in message


def without_password(url: str, place: Path) -> tuple[str, Path]:
    """Return the URL without its password, and a file with that."""
    file = place / "password-of-postgresql"
    file.touch(mode=0o600)
    file.write_text(f"{PASSWORD}\n")
    return url.replace(f":{PASSWORD}@", "@"), file


def empty_directory(tmp_path: Path) -> Path:
    """Return a new directory."""
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory
