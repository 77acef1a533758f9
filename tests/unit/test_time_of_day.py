"""Who may ask the machine what time it is (ADR 14)."""

import ast
from pathlib import Path

import dtr
from dtr.accounts import manage, records
from dtr.database import Database, open_database
from dtr.database.migrate import migrate
from dtr.model.access import Level
from dtr.model.names import RepositoryName
from dtr.registry.records.repositories import ensure_repository, find_repository

ROOT = Path(dtr.__file__).parent
MACHINES_OWN = {
    "server/clock.py": "it is the clock",
    "storage/cache.py": "compares with the times of files of this machine",
    "storage/memory.py": "a store of tests",
    "testing": "tests",
    "cluster/engines/registry.py": "compares the machine's clock with the others'",
    "cluster/engines/patroni_process/steady_time.py": "gives Patroni an even clock",
    "ucp": "controllers compare clocks; nobody compares theirs",
    "cli/ucp": "the command of one machine, where no registry is",
    "cli/cluster": "how long ago something was, for who looks",
}
HOUR = 3600.0


def _asks() -> set[str]:
    """Return the files that ask the machine's clock."""
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and ast.unparse(node.func) == "time.time":  # type: ignore[attr-defined]
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_nothing_that_is_compared_between_machines_is_dated_by_a_machines_own_clock() -> None:
    """A new place gets its reason in the table, or the clock that it should have."""
    allowed = tuple(MACHINES_OWN)
    assert {name for name in _asks() if not name.startswith(allowed)} == set()


def _database(directory: Path, ahead: float) -> Database:
    database = open_database(directory / "dtr.db")
    migrate(database.engine)
    now = database.clock()
    database.clock = lambda: now + ahead
    return database


def test_units_date_by_the_clock_of_the_registry(tmp_path: Path) -> None:
    """A command on a machine that is an hour behind makes no token that has ended."""
    database = _database(tmp_path, HOUR)
    now = database.clock()
    database.write_now(manage.add_user, "alice", "$argon2id$", is_admin=False)
    token = database.write_now(
        manage.create_token,
        "alice",
        "dtr_secret",
        label="",
        level=Level.READ_ONLY,
        lifetime_seconds=60,
    )
    assert token.created_at == now
    assert token.expires_at == now + 60
    account = database.read_now(records.find_account, "alice")
    assert account is not None
    name = RepositoryName.parse("alice/x")
    database.write_now(ensure_repository, name)
    found = database.read_now(find_repository, name)
    assert found is not None
    database.close()


async def test_a_unit_that_is_queued_dates_so_too(tmp_path: Path) -> None:
    """One that is committed with others, as a server does it."""
    database = _database(tmp_path, HOUR)
    dated = await database.write(lambda writer: writer.now())
    assert dated == database.clock()
    database.close()
