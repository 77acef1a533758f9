"""What tests of the agent share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a temporary directory that any user may enter; those of pytest are closed."""
    with tempfile.TemporaryDirectory(prefix="ucp-") as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path
