"""Statements that both engines understand and SQLAlchemy has no common name for."""

from collections.abc import Sequence
from typing import Any, Final

import orjson
from sqlalchemy import (
    ColumnElement,
    Dialect,
    String,
    Table,
    TableValuedAlias,
    Text,
    TypeDecorator,
    bindparam,
    column,
    func,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.dml import Insert
from sqlalchemy.sql.functions import GenericFunction


def insert_unless_there(table: Table, *key: str) -> Insert:
    """Return an insert that does nothing where the columns `key` hold the same values already.

    On PostgreSQL it is more than short: a unit that looked first would conflict with every other
    unit that inserts nearby, since what it depends on is then a page of the index.
    """
    return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(key))


_SEPARATOR: Final = "\n"


class _Texts(TypeDecorator[Sequence[str]]):
    """Many strings as one parameter and one text: lines, or JSON where the engine splits no lines.

    As an array they would be written one by one by the driver, in Python.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> str:
        texts = value or ()
        if dialect.name == "postgresql":
            return _SEPARATOR.join(texts)
        return orjson.dumps(texts).decode()


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
    return f"unnest(string_to_array({compiler.process(function.clauses, **rest)}, chr(10)))"


def rows_of(texts: Sequence[str]) -> TableValuedAlias:
    """Return a table with a column `value` that has these texts, in their order.

    None of them is empty or has a line's end. However many they are, the statement is the same, and
    one parameter holds them all: a manifest may refer to tens of thousands.
    """
    array = bindparam("texts", texts, _Texts(), unique=True)
    # PostgreSQL calls the column as the table is called.
    return _Each(array).table_valued(column("value", String), name="value")


def lines_of(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return a column's values, of which none has a line's end, as one text to be read by `lines`.

    As rows, tens of thousands would be as many Python objects several times over.
    """
    return func.aggregate_strings(column, _SEPARATOR)


def lines(text: str | None) -> list[str]:
    """Return the values in what `lines_of` gave; of no rows it gave None."""
    return text.split(_SEPARATOR) if text else []
