"""What the generator makes is a registry like any other."""

import psycopg
import pytest
from benchmarks.failure import BenchmarkError
from benchmarks.scale.fill import fill
from benchmarks.scale.sizes import Scale, parts
from sqlalchemy import inspect
from tests.scale.filled import SMALL

from dtr.collect.check import Checker
from dtr.database import open_postgresql
from dtr.database.migrate import migrate
from dtr.storage import MemoryBlobStore

pytestmark = pytest.mark.postgresql
TINY = Scale().divided(1000)


def _digest_of_all(url: str) -> object:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT md5(string_agg(digest, '' ORDER BY id)),"
            " (SELECT md5(string_agg(name || manifest_id, '' ORDER BY repository_id, name))"
            " FROM tags) FROM manifests"
        ).fetchone()


def _schema(url: str) -> object:
    database = open_postgresql(url)
    migrate(database.engine)
    found = inspect(database.engine)
    schema = {
        name: (
            sorted(found.get_indexes(name), key=str),
            sorted(found.get_foreign_keys(name), key=str),
            sorted(found.get_unique_constraints(name), key=str),
            found.get_pk_constraint(name),
        )
        for name in found.get_table_names()
    }
    database.close()
    return schema


def test_counts_are_exact_and_the_first_repository_is_the_largest() -> None:
    """Sharing out loses nothing, whatever the weights."""
    for scale in (Scale(), SMALL, TINY):
        shared = list(parts(scale))
        assert scale.problem is None
        assert len(shared) == scale.repositories
        for name in ("manifests", "blobs", "tags"):
            assert sum(getattr(part, name) for part in shared) == getattr(scale, name)
        assert shared[0].tags == scale.largest_tags == max(part.tags for part in shared)
        assert all(part.manifests <= min(part.blobs, part.tags) for part in shared)


class Declared(MemoryBlobStore):
    """A store that has all bytes which the metadata speaks of."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self._sizes = sizes

    async def size(self, key: str) -> int | None:
        """Return what the metadata says."""
        return self._sizes.get(key)


async def test_a_filled_registry_passes_the_consistency_check(postgresql_url: str) -> None:
    """Every manifest has its digest, and all that it refers to is there."""
    fill(postgresql_url, TINY, lambda _line: None)
    with psycopg.connect(postgresql_url) as connection:
        rows = connection.execute("SELECT storage_key, size FROM blobs").fetchall()
    sizes: dict[str, int] = dict(rows)
    database = open_postgresql(postgresql_url)
    checker = Checker(database, Declared(sizes))
    assert [finding async for finding in checker.findings()] == []
    assert len(sizes) == TINY.blobs
    database.close()


def test_filling_leaves_the_schema_as_it_was(filled_url: str, postgresql_url: str) -> None:
    """What is taken away meanwhile comes back."""
    assert _schema(filled_url) == _schema(postgresql_url)


def test_the_same_scale_gives_the_same_registry(filled_url: str, postgresql_url: str) -> None:
    """Figures of two runs speak of the same content."""
    fill(postgresql_url, SMALL, lambda _line: None)
    assert _digest_of_all(filled_url) == _digest_of_all(postgresql_url)


def test_a_registry_with_content_is_not_filled(filled_url: str) -> None:
    """A wrong URL does no harm."""
    with pytest.raises(BenchmarkError, match="not empty"):
        fill(filled_url, TINY, lambda _line: None)
