"""Deletion goes by edges, and an older program may have left manifests without some of theirs."""

from collections.abc import Awaitable, Callable
from typing import Final

from dtr.database import Database
from dtr.model.errors import UnavailableError
from dtr.registry import records

Deletion = Callable[[], Awaitable[bool]]
"""Deletes, or returns False, having done nothing, while its repository lacks edges.

Both in one unit of work (`records.has_all_edges`): a manifest without its edges that is stored
between the question and the deletion would protect nothing.
"""
_BATCHES: Final = 20


async def delete_by_edges(database: Database, repository_id: int, delete: Deletion) -> None:
    """Delete once it is known what every manifest of the repository refers to.

    Raises:
        UnavailableError: there are so many without edges that it would take too long; each attempt
            makes some, and so does collection.

    """
    for _ in range(_BATCHES):
        if await delete():
            return
        await database.write(records.make_edges, repository_id)
    raise UnavailableError(
        "the references of manifests are being computed after an upgrade; try again"
    )
