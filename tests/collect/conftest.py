"""The registry of each test, public so that a reader who may not push can look into it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.collect.yard import Yard, open_yard

from dtr.model.access import Visibility


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """Give a registry with the public repositories admin/app and admin/other."""
    async with open_yard(tmp_path) as yard:
        for name in ("admin/app", "admin/other"):
            yard.state.administration.create_repository(name, Visibility.PUBLIC)
        yield yard
