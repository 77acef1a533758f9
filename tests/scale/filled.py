"""A PostgreSQL registry that holds a hundredth of the largest one that we promise to serve."""

from collections.abc import Iterator

import pytest
from benchmarks.scale.fill import fill
from benchmarks.scale.sizes import Scale
from tests.support.postgresql import RunningPostgresql, temporary_database

SMALL = Scale().divided(100)


@pytest.fixture(scope="session")
def filled_template(postgresql: RunningPostgresql) -> Iterator[str]:
    """Give the name of a database with a filled registry, to be copied."""
    with temporary_database(postgresql) as url:
        fill(url, SMALL, lambda _line: None)
        yield url.rpartition("/")[2]


@pytest.fixture
def filled_url(postgresql: RunningPostgresql, filled_template: str) -> Iterator[str]:
    """Give the URL of a filled registry that only this test knows."""
    with temporary_database(postgresql, filled_template) as url:
        yield url
