"""Where PostgreSQL's programs are on this machine."""

from pathlib import Path
from typing import Final

OLDEST: Final = 15
"""libpq before it does not compare IP addresses with those in a certificate."""

PACKAGED: Final = Path("/usr/lib/postgresql")
"""Where Debian has a directory for each version."""
_NEEDED: Final = ("postgres", "initdb", "pg_ctl", "pg_basebackup", "pg_rewind", "pg_controldata")


class ProgramsMissingError(Exception):
    """There is no PostgreSQL that can be used; a sentence of what is wrong and what to do."""


def find_programs(data: Path, packaged: Path = PACKAGED) -> Path:
    """Return the directory with PostgreSQL's programs: of the data's version, else the newest.

    Raises:
        ProgramsMissingError: it is not installed.

    """
    found = {version: place for place in packaged.glob("*/bin") if (version := _version(place))}
    made_by = _version_of_data(data)
    if made_by is not None:
        if made_by not in found:
            raise ProgramsMissingError(
                f"The database in {data} was made by PostgreSQL {made_by}, which is not on this"
                f" machine. Install it: apt-get install postgresql-{made_by}."
            )
        return found[made_by]
    usable = [version for version in found if version >= OLDEST]
    if not usable:
        raise ProgramsMissingError(
            f"PostgreSQL {OLDEST} or newer is not on this machine ({packaged}/*/bin)."
            " Install it: apt-get install postgresql."
        )
    return found[max(usable)]


def _version(place: Path) -> int:
    """Return the major version whose programs are here; 0 where one is missing."""
    name = place.parent.name
    is_whole = all((place / program).exists() for program in _NEEDED)
    return int(name) if name.isascii() and name.isdigit() and is_whole else 0


def _version_of_data(data: Path) -> int | None:
    try:
        text = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isascii() and text.isdigit() else None
