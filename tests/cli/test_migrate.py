"""`dtr migrate` of an embedded registry; that of a shared one is in tests/outages."""

import sqlite3

from tests.cli.command import QuickCommandLine

from dtr.database.migrations import HEAD
from dtr.server.datadir import DataDirectory


def remove_schema(quick: QuickCommandLine) -> None:
    """Leave a data directory whose first start was cut short before anything was made."""
    for file in quick.data_dir.glob("dtr.db*"):
        file.unlink()


def test_a_current_registry_has_nothing_to_apply(quick: QuickCommandLine) -> None:
    """And is told so, for people and for scripts."""
    assert quick.good("migrate").out == "Applied: nothing.\n"
    expected = {"dry_run": True, "revision": HEAD, "applied": [], "pending": []}
    assert quick.good("migrate", "--dry-run", "--json").json == expected


def test_a_dry_run_changes_nothing(quick: QuickCommandLine) -> None:
    """It shows what the command itself then does."""
    remove_schema(quick)
    planned = quick.good("migrate", "--dry-run", "--json").json
    assert (planned["revision"], planned["pending"]) == (None, [])
    assert quick.good("migrate", "--dry-run", "--json").json == planned
    done = quick.good("migrate", "--json").json
    assert (done["revision"], done["applied"]) == (HEAD, planned["applied"])
    assert done["applied"][0] == {
        "revision": "0001",
        "kind": "before",
        "summary": "the first schema",
    }
    assert quick.good("user", "list", "--json").json == []


def test_a_running_server_is_not_migrated_under_its_hands(quick: QuickCommandLine) -> None:
    """The directory is its own; a dry run may look."""
    with DataDirectory.open(quick.data_dir):
        assert "in use by another DTR server" in quick.fails("migrate")
        quick.good("migrate", "--dry-run")


def test_a_newer_registry_is_refused(quick: QuickCommandLine) -> None:
    """With what to do."""
    with sqlite3.connect(quick.data_dir / "dtr.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("INSERT INTO settings VALUES ('schema.oldest_program', '9999')")
    connection.close()
    assert "use a newer version" in quick.fails("migrate")


def test_a_password_on_the_command_line_is_refused(quick: QuickCommandLine) -> None:
    """Everybody on the machine could read it there."""
    message = quick.fails("migrate", "--database-url", "postgresql://dtr:secret@db/dtr")
    assert "password on the command line is refused" in message
    assert "secret" not in message
