"""Statements that both engines understand and SQLAlchemy has no common name for."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import (
    Dialect,
    String,
    Table,
    TableValuedAlias,
    Text,
    TypeDecorator,
    bindparam,
    column,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import TypeEngine


def insert_unless_there(table: Table, *key: str) -> Insert:
    """Return an insert that does nothing where the columns `key` hold the same values already.

    On PostgreSQL it is more than short: a unit that looked first would conflict with every other
    unit that inserts nearby, since what it depends on is then a page of the index.
    """
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(key))


class _Texts(TypeDecorator[Sequence[str]]):
    """Many strings as one parameter: an array, or JSON where the engine has no arrays."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        is_array = dialect.name == "postgresql"
        return dialect.type_descriptor(postgresql.ARRAY(Text) if is_array else Text())

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        return value if dialect.name == "postgresql" else orjson.dumps(value).decode()


class _Each(GenericFunction[str]):
    """A row for each of many strings, in their order.

    On PostgreSQL it is `unnest`, of which the planner knows how many rows it gives.
    """

    inherit_cache = True
    name = "dtr_each"


@compiles(_Each, "sqlite")
def _on_sqlite(function: _Each, compiler: Any, **rest: Any) -> str:
    return f"json_each({compiler.process(function.clauses, **rest)})"


@compiles(_Each, "postgresql")
def _on_postgresql(function: _Each, compiler: Any, **rest: Any) -> str:
    return f"unnest({compiler.process(function.clauses, **rest)})"


def rows_of(texts: Sequence[str]) -> TableValuedAlias:
    """Return a table with a column `value` that has these texts, in their order.

    However many they are, the statement is the same, and one parameter holds them all: a manifest
    may refer to tens of thousands.
    """
    array = bindparam("texts", [str(text) for text in texts], _Texts(), unique=True)
    # PostgreSQL calls the column as the table is called.
    return _Each(array).table_valued(column("value", String), name="value")
