"""Two pushes that meet in a repository which one of them has made: on either engine."""

import asyncio
from uuid import uuid4

from tests.database.conftest import OpenMetadata

from dtr.database import Database
from dtr.model.digest import Algorithm
from dtr.model.names import RepositoryName
from dtr.registry import records
from dtr.registry.records import Upload
from dtr.registry.uploads import _open_upload
from dtr.storage import Progress

NAME = RepositoryName.parse("alice/first")
ROUNDS = 25
NOW = 1000.0


async def opened(database: Database) -> str:
    """Open a session in whatever has the name, and return its id."""
    upload = Upload(str(uuid4()), 0, 1, Algorithm.SHA256, Progress(), NOW)
    found = await database.write_soon(_open_upload, NAME, upload, now=NOW)
    return found.id


async def cancelled(database: Database, upload_id: str) -> None:
    """Cancel a session, which is still there."""
    found = await database.write(records.take_upload, upload_id, forget_empty=True)
    assert found is not None


async def test_sessions_that_begin_and_end_at_once_keep_the_repository_while_there_is_one(
    open_metadata: OpenMetadata,
) -> None:
    """None fails, none is without a repository, and the last one takes it along."""
    one, other = open_metadata(), open_metadata()
    left = await opened(one)
    for _ in range(ROUNDS):
        new, _ = await asyncio.gather(opened(other), cancelled(one, left))
        repository = one.read_now(records.find_repository, NAME)
        found = other.read_now(records.list_uploads, user=None, count=10)
        assert [(each.id, each.repository) for each in found] == [(new, str(NAME))]
        assert repository is not None
        assert repository.is_provisional
        left = new
    both = left, await opened(other)
    await asyncio.gather(cancelled(one, both[0]), cancelled(other, both[1]))
    assert one.read_now(records.find_repository, NAME) is None
