"""Statements that both engines understand and SQLAlchemy has no common name for."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.dml import Insert


def insert_unless_there(table: Table, *key: str) -> Insert:
    """Return an insert that does nothing where the columns `key` hold the same values already.

    On PostgreSQL it is more than short: a unit that looked first would conflict with every other
    unit that inserts nearby, since what it depends on is then a page of the index.
    """
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(key))
