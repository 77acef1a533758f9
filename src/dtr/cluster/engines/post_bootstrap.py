"""What Patroni runs once, as the system user of PostgreSQL, in a database that was just made.

`python -m dtr.cluster.engines.post_bootstrap PASSWORD_FILE CONNECTION`: makes the registry's role,
which owns the registry's database and nothing else. The password comes from a file, and PostgreSQL
is sent its SCRAM verifier only, so that no log can have it.
"""

import sys
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from dtr.cluster.engines.patroni import DATABASE, DATABASE_ROLE

_ARGUMENTS: Final = 2


def prepare(connection: psycopg.Connection[tuple[object, ...]], password: str) -> None:
    """Have the role and its database; done again it changes nothing but the password."""
    verifier = connection.pgconn.encrypt_password(
        password.encode(), DATABASE_ROLE.encode(), b"scram-sha-256"
    ).decode()
    role = sql.Identifier(DATABASE_ROLE)
    verb = "ALTER" if _is_there(connection, "pg_roles", "rolname", DATABASE_ROLE) else "CREATE"
    connection.execute(
        sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(sql.SQL(verb), role, sql.Literal(verifier))
    )
    if not _is_there(connection, "pg_database", "datname", DATABASE):
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), role)
        )
    connection.execute(
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(DATABASE))
    )


def _is_there(
    connection: psycopg.Connection[tuple[object, ...]], catalog: str, column: str, name: str
) -> bool:
    query = sql.SQL("SELECT 1 FROM pg_catalog.{} WHERE {} = %s").format(
        sql.Identifier(catalog), sql.Identifier(column)
    )
    return connection.execute(query, (name,)).fetchone() is not None


def main() -> int:
    """Return the exit status; whatever is not 0 makes Patroni give up this bootstrap."""
    if len(sys.argv) != _ARGUMENTS + 1:
        sys.stderr.write("usage: post_bootstrap PASSWORD_FILE CONNECTION\n")
        return 2
    password = Path(sys.argv[1]).read_text(encoding="utf-8").strip()
    with psycopg.connect(sys.argv[2], autocommit=True) as connection:
        prepare(connection, password)
    return 0


if __name__ == "__main__":
    sys.exit(main())
