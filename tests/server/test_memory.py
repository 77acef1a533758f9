"""What a server does not load: each of its processes would have it in memory."""

import subprocess
import sys

import pytest

SERVER = "dtr.server.serve, dtr.server.app, dtr.server.background"


@pytest.mark.parametrize("library", ["aiohttp", "obstore", "psycopg", "alembic", "aiobotocore"])
def test_an_embedded_registry_loads_no_library_that_others_need(library: str) -> None:
    """Object stores, replicas and PostgreSQL load theirs when they are opened."""
    looked = f"import sys, {SERVER}; sys.exit({library!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", looked], check=False).returncode == 0
