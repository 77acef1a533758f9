"""What PostgreSQL does for a statement: its plan, and how many rows it has read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import Engine, event
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect

Connection = psycopg.Connection[tuple[Any, ...]]
Node = Mapping[str, Any]
MODES = ("force_generic_plan", "force_custom_plan")
FIXED = frozenset({"alembic_version", "schedules", "settings", "signing_keys"})
"""A handful of rows, however large the registry grows."""

# Rows of what comes and goes, as a busy registry has them beside what `fill` makes.
BUSTLE = """
INSERT INTO tokens (account_id, kind, secret_hash, label, level, created_at, expires_at, parent_id)
SELECT (SELECT min(id) FROM accounts WHERE kind = 'user'), 'access', md5('a' || number), '', 1, 0,
    CASE WHEN number % 2 = 0 THEN 2e9 + number END, NULL
FROM generate_series(1, 3000) AS number;
INSERT INTO tokens (account_id, kind, secret_hash, label, level, created_at, expires_at, parent_id)
SELECT account_id, 'refresh', md5('r' || id), '', 1, 0, 2e9 + id, id FROM tokens;
INSERT INTO failed_logins (subject, failures, last_at)
SELECT 'name@10.0.0.' || number, 1, number FROM generate_series(1, 5000) AS number;
INSERT INTO finished_units (id, finished_at)
SELECT md5(number::text), number FROM generate_series(1, 5000) AS number;
INSERT INTO uploads (id, repository_id, account_id, algorithm, "offset", created_at, expires_at)
SELECT md5(number::text), 1 + number % 200, 1 + number % 10, 'sha256', 0, 0, 2e9 + number
FROM generate_series(1, 5000) AS number;
INSERT INTO jobs (
    key, kind, parameters, state, created_at, run_at, finished_at, deadline_seconds, attempts,
    most_attempts, is_cancel_requested, progress, error
)
SELECT md5(number::text), 'kind-' || number % 10, '{}',
    CASE WHEN number > 4990 THEN 'waiting' WHEN number > 4980 THEN 'running' ELSE 'succeeded' END,
    number, number, CASE WHEN number <= 4980 THEN number END, 60, 1, 3, false, '', ''
FROM generate_series(1, 5000) AS number;
INSERT INTO job_logs (job_id, number, at, level, message)
SELECT id, line, line, 'info', 'said' FROM jobs, generate_series(1, 5) AS line;
UPDATE repository_blobs SET review_at = 2e9 WHERE substr(digest, 8, 2) = '00';
UPDATE manifests SET review_at = 2e9 WHERE substr(digest, 8, 2) = '00';
INSERT INTO blobs (digest, size, storage_key, state, created_at)
SELECT 'sha256:dead' || number, 1, 'dead' || number,
    CASE WHEN number % 2 = 0 THEN 'condemned' ELSE 'live' END, 0
FROM generate_series(1, 600) AS number;
INSERT INTO repository_blobs (repository_id, digest, review_at)
SELECT 1, digest, 2e9 FROM blobs WHERE storage_key LIKE 'dead%' AND state = 'live';
INSERT INTO blob_holders (storage_key, replica_id, verified_at)
SELECT storage_key, '00000000000' || number, id FROM blobs, generate_series(1, 3) AS number;
"""


@dataclass(frozen=True)
class Explained:
    """A plan that was carried out."""

    root: Node

    def nodes(self) -> Iterator[Node]:
        """Yield all steps, the outermost first."""
        pending = [self.root]
        while pending:
            node = pending.pop()
            yield node
            pending.extend(node.get("Plans", ()))

    @property
    def scanned(self) -> list[str]:
        """The growing tables that are read from their beginning to their end."""
        return [
            node["Relation Name"]
            for node in self.nodes()
            if node["Node Type"] == "Seq Scan" and node["Relation Name"] not in FIXED
        ]

    @property
    def rows_read(self) -> int:
        """How many rows were read, also those which were then of no use."""
        return sum(
            round(
                (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            )
            for node in self.nodes()
            if "Scan" in node["Node Type"] and node["Node Type"] != "Subquery Scan"
        )

    @property
    def rows_sorted(self) -> int:
        """How many rows went into sorts."""
        return sum(
            round(below["Actual Rows"] * below["Actual Loops"])
            for node in self.nodes()
            if node["Node Type"] == "Sort"
            for below in node["Plans"]
        )

    def __str__(self) -> str:
        """Return the steps, one below the other."""
        return "; ".join(
            " ".join(
                str(node[key])
                for key in ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter")
                if key in node
            )
            for node in self.nodes()
        )


class Explainer:
    """Explains statements as the server would run them, and undoes what they do."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url)
        self._connection.execute("SET jit = off")

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def explain(self, statement: str, values: Sequence[Any], *, mode: str) -> Explained:
        """Prepare a statement (`$1`), carry it out in this `plan_cache_mode`, and roll it back."""
        connection = self._connection
        try:
            connection.execute(sql.SQL("SET LOCAL plan_cache_mode = {}").format(mode))
            connection.execute(sql.SQL("PREPARE explained AS " + statement))
            call = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained") + sql.SQL("")
            if values:
                given = sql.SQL(", ").join(sql.Literal(value) for value in values)
                call = call + sql.SQL("({})").format(given)
            row = connection.execute(call).fetchone()
        finally:
            connection.rollback()
            connection.execute("DEALLOCATE ALL")
        assert row is not None
        return Explained(row[0][0]["Plan"])

    def types(self, statement: str) -> list[str]:
        """Return the types of the parameters, as the server takes them to be."""
        connection = self._connection
        connection.execute(sql.SQL("PREPARE explained AS " + statement))
        row = connection.execute(
            "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'explained'"
        ).fetchone()
        connection.execute("DEALLOCATE ALL")
        assert row is not None
        return list(row[0])

    def ask(self, expression: str) -> Any:
        """Return the value of an expression in SQL."""
        row = self._connection.execute(sql.SQL("SELECT " + expression)).fetchone()
        assert row is not None
        return row[0]


class Overheard:
    """The statements that units run through SQLAlchemy, each once, with what they were given."""

    def __init__(self, engine: Engine) -> None:
        self._seen: dict[str, list[Any]] = {}
        event.listen(engine, "before_cursor_execute", self._hear)

    def items(self) -> list[tuple[str, list[Any]]]:
        """Return statements that look for rows (`$1`), with the values of the first time."""
        return [
            (statement, values)
            for statement, values in self._seen.items()
            if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH"))
        ]

    def _hear(self, *heard: Any) -> None:
        context = heard[4]
        if context.compiled is None:
            return
        compiled = context.compiled.statement.compile(
            dialect=psycopg_dialect.dialect(paramstyle="numeric_dollar"),  # type: ignore[no-untyped-call]
            compile_kwargs={"render_postcompile": True},
        )
        given = {**compiled.params, **context.compiled_parameters[0]}
        values = [given.get(name, compiled.params.get(name)) for name in compiled.positiontup or ()]
        self._seen.setdefault(str(compiled), values)
