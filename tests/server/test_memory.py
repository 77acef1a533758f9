"""What a server does not load: each of its processes would have it in memory."""

import subprocess
import sys

import pytest

LOOK = "import sys, dtr.server.serve, dtr.server.app, dtr.server.background; print(*sys.modules)"


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """Give the modules that the processes of a server have, whatever its settings."""
    command = [sys.executable, "-c", LOOK]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize("library", ["aiohttp", "obstore", "psycopg", "alembic", "aiobotocore"])
def test_an_embedded_registry_loads_no_library_that_others_need(
    library: str, loaded: list[str]
) -> None:
    """Object stores, replicas and PostgreSQL load theirs when they are opened."""
    assert "sqlalchemy" in loaded
    assert library not in loaded
