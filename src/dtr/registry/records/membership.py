"""Which of many digests are somewhere, asked in statements of bounded size."""

from collections.abc import Iterable, Sequence
from typing import Any

from dtr.database import Reader
from dtr.model.digest import Digest

_IN_ONE_STATEMENT = 500


def missing(reader: Reader, statement: Any, column: Any, wanted: Sequence[Digest]) -> list[Digest]:
    """Return those of `wanted` that `statement`, narrowed to them by `column`, does not find."""
    found: set[str] = set()
    for part in _parts(wanted):
        found.update(row[0] for row in reader.execute(statement.where(column.in_(part))))
    return [digest for digest in wanted if digest not in found]


def _parts(items: Sequence[Digest]) -> Iterable[Sequence[str]]:
    for start in range(0, len(items), _IN_ONE_STATEMENT):
        yield [str(item) for item in items[start : start + _IN_ONE_STATEMENT]]
