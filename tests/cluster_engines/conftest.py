"""A node of its own for each test: directory, identity, certificates of a real authority."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.cluster_engines.nodes import TestNode

from dtr.ucp.authority import Authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Give the authority that signed every node of these tests."""
    return Authority.create("engines", datetime.now(UTC))


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """Give a directory whose path leaves room for sockets, and that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="dtr-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.fixture
def node(authority: Authority, short_directory: Path) -> TestNode:
    """Give a node at 127.0.0.1."""
    return TestNode.create(authority, short_directory / "node", "127.0.0.1")
