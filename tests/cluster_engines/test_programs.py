"""Which of a machine's PostgreSQLs is used."""

from pathlib import Path

import pytest

from dtr.cluster.engines.programs import ProgramsMissingError, find_programs

NAMES = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata")


def installed(packaged: Path, *versions: str) -> Path:
    """Make what Debian's packages would."""
    for version in versions:
        place = packaged / version / "bin"
        place.mkdir(parents=True)
        for name in NAMES:
            (place / name).touch()
    return packaged


def test_the_newest_is_taken_for_new_data(tmp_path: Path) -> None:
    """By number, not by letters."""
    packaged = installed(tmp_path / "packaged", "9.6", "15", "17", "16")
    assert find_programs(tmp_path / "data", packaged) == packaged / "17" / "bin"


def test_data_stays_with_the_version_that_made_it(tmp_path: Path) -> None:
    """A newer one beside it cannot read it."""
    packaged = installed(tmp_path / "packaged", "15", "17")
    (tmp_path / "PG_VERSION").write_text("15\n")
    assert find_programs(tmp_path, packaged) == packaged / "15" / "bin"


def test_data_of_a_version_that_is_gone_says_what_to_install(tmp_path: Path) -> None:
    """After a careless upgrade of the machine."""
    packaged = installed(tmp_path / "packaged", "17")
    (tmp_path / "PG_VERSION").write_text("15\n")
    with pytest.raises(ProgramsMissingError, match="postgresql-15"):
        find_programs(tmp_path, packaged)


def test_a_version_without_all_programs_or_too_old_is_none(tmp_path: Path) -> None:
    """Debian's client package has some of them."""
    packaged = installed(tmp_path / "packaged", "14", "16")
    (packaged / "16" / "bin" / "postgres").unlink()
    with pytest.raises(ProgramsMissingError, match="PostgreSQL 15 or newer"):
        find_programs(tmp_path / "data", packaged)
