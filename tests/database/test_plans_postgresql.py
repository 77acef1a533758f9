"""Where much is stored, PostgreSQL still finds what it is asked for by an index.

The registry has a hundredth of the largest size that is promised, which is where a wrong index
shows: ten thousand manifests, fifty thousand tags. Both plans are looked at: the one made for the
very parameters, and the generic one that a prepared statement ends up with.
"""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from benchmarks.scale.fill import fill
from tests.database.explain import BUSTLE, MODES, Explainer
from tests.database.test_plans import SCANNED_WHOLE, SORTED, prepared
from tests.scale.filled import SMALL
from tests.support.postgresql import RunningPostgresql, temporary_database

from dtr.database import Change, Lookup

pytestmark = pytest.mark.postgresql

MANY = replace(SMALL, repositories=5000, users=5000)
PAGE = 100
BY_TYPE = {"bigint": "7", "integer": "7", "boolean": "false", "double precision": "1.0"}
BY_NAME = {
    "repository_id": "1",
    "in_repository": "1",
    "count": str(PAGE),
    "last": "''",
    "account_id": "(SELECT min(id) FROM accounts WHERE kind = 'user')",
    "digest": "(SELECT digest FROM manifests WHERE repository_id = 1 AND id = 7)",
    "which": "(SELECT digest FROM blobs WHERE id = 77)",
    "reference": "(SELECT name FROM tags WHERE repository_id = 1 OFFSET 777 LIMIT 1)",
    "name": "(SELECT name FROM repositories WHERE id = 7)",
    "namespace": "(SELECT name FROM accounts WHERE kind = 'organization' LIMIT 1)",
    "secret_hash": "(SELECT secret_hash FROM tokens LIMIT 1)",
    "subject": "(SELECT subject FROM manifests WHERE subject IS NOT NULL LIMIT 1)",
}
"""What a statement is given, in SQL: by the parameter's name, or else by its type."""

STATEMENTS = [
    (name, prepared)
    for name, prepared in dict(prepared()).items()
    if not prepared.statement.is_insert
]


@pytest.fixture(scope="module")
def explainer(postgresql: RunningPostgresql) -> Iterator[Explainer]:
    """Give a filled registry in use."""
    with temporary_database(postgresql) as url:
        fill(url, MANY, lambda _line: None)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(BUSTLE)
            connection.execute("VACUUM ANALYZE")
        explainer = Explainer(url)
        yield explainer
        explainer.close()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "statement"), STATEMENTS)
def test_a_prepared_statement_reads_no_more_than_it_answers(
    explainer: Explainer, mode: str, name: str, statement: Lookup | Change
) -> None:
    """Point queries stay point queries, and pages pages, however large the registry grows."""
    rendered, names = statement.numbered
    given = [
        rendered.constants[parameter]
        if parameter in rendered.constants
        else explainer.ask(BY_NAME.get(parameter) or BY_TYPE.get(kind, "'x'"))
        for parameter, kind in zip(names, explainer.types(rendered.sql), strict=True)
    ]
    found = explainer.explain(rendered.sql, given, mode=mode)
    if name in SCANNED_WHOLE:
        return
    assert found.scanned == [], str(found)
    assert found.rows_read <= 3 * PAGE, str(found)
    assert found.rows_sorted <= (3 * PAGE if name in SORTED else 0), str(found)
