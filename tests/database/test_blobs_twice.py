"""A unit that made a blob live and whose answer was lost runs again, after others did."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest
from tests.database.conftest import OpenMetadata
from tests.support.forgetful import ForgetfulDatabase

from dtr.database import Database, Reader, open_postgresql
from dtr.database.postgresql.attempts import Attempts
from dtr.database.postgresql.errors import UnknownOutcomeError
from dtr.model.access import Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import UnavailableError, UploadUnknownError
from dtr.model.names import RepositoryName
from dtr.registry import records, uploads
from dtr.registry.records import LIVE, Blob, Upload
from dtr.storage import Progress

NAME = RepositoryName("alice/app")
OTHER = RepositoryName("alice/other")
DIGEST = Digest.of(b"x")
BLOB = Blob(DIGEST, 1, "key")
NOW, LATER = 1000.0, 2000.0
SESSION = Upload("session", 0, 1, Algorithm.SHA256, Progress(), LATER)


def commit(
    database: Database, upload: Upload, blob: Blob = BLOB, *, has_session: bool = True
) -> bool:
    """Make the blob readable; tell whether its bytes are used."""
    how = {"has_session": has_session, "now": NOW, "review_at": LATER}
    return database.write_now(uploads._commit_blob, NAME, upload, blob, **how)  # type: ignore[arg-type]


def state(reader: Reader) -> str | None:
    """Return what the metadata say of the blob."""
    found = records.find_blob(reader, DIGEST)
    return found[1] if found else None


def test_bytes_that_somebody_reads_are_not_taken_back(open_metadata: OpenMetadata) -> None:
    """Mounted elsewhere and deleted here, before the attempt that looks whether it was done."""
    database = open_metadata()
    upload = database.write_now(uploads._open_upload, NAME, SESSION, now=NOW)
    assert commit(database, upload)
    other = database.write_now(records.ensure_repository, OTHER, Visibility.PRIVATE)
    database.write_now(records.link_blob, other.id, DIGEST, LATER)
    database.write_now(uploads._delete_blob, upload.repository_id, DIGEST)
    assert commit(database, upload)
    assert database.read_now(state) == LIVE


def test_bytes_that_are_being_deleted_are_not_made_live(open_metadata: OpenMetadata) -> None:
    """Collection deletes them by their key, whatever is said of them by then."""
    database = open_metadata()
    repository = database.write_now(records.ensure_repository, NAME, Visibility.PRIVATE)
    assert commit(database, SESSION, has_session=False)
    database.write_now(uploads._delete_blob, repository.id, DIGEST)
    with pytest.raises(UnavailableError):
        commit(database, SESSION, has_session=False)
    assert database.read_now(state) != LIVE


def test_a_session_that_another_request_ended_is_over(open_metadata: OpenMetadata) -> None:
    """Also where object storage gave both the same key, for the same bytes have two digests."""
    database = open_metadata()
    upload = database.write_now(uploads._open_upload, NAME, SESSION, now=NOW)
    assert commit(database, upload)
    assert not commit(database, upload, replace(BLOB, storage_key="other"))
    with pytest.raises(UploadUnknownError):
        commit(database, upload, replace(BLOB, digest=Digest.of(b"x", Algorithm.SHA512)))
    database.write_now(uploads._delete_blob, upload.repository_id, DIGEST)
    with pytest.raises(UploadUnknownError):
        commit(database, upload, replace(BLOB, storage_key="other"))


def test_only_a_session_without_a_byte_is_taken_where_that_is_asked_for(
    open_metadata: OpenMetadata,
) -> None:
    """Its bytes may have come since somebody saw that it had none."""
    database = open_metadata()
    upload = database.write_now(uploads._open_upload, NAME, SESSION, now=NOW)
    progress = {"start": Progress(), "progress": Progress(1), "expires_at": LATER}
    database.write_now(records.advance_upload, upload.id, **progress)  # type: ignore[arg-type]
    assert database.write_now(records.take_upload, upload.id, only_empty=True) is None
    assert database.write_now(records.take_upload, upload.id) == Progress(1)


class Late(ForgetfulDatabase):
    """Something happens between a commit whose answer is lost and the next attempt."""

    happen: Callable[[], object] | None = None

    def _write_once(self, body: Any, attempts: Attempts, *arguments: Any) -> Any:
        try:
            return super()._write_once(body, attempts, *arguments)
        except UnknownOutcomeError:
            happen, self.happen = self.happen, None
            if happen is not None:
                happen()
            raise


@pytest.mark.postgresql
@pytest.mark.parametrize("is_done", [True, False])
def test_nobody_says_of_recorded_bytes_that_others_were_first(
    schema_url: str, *, is_done: bool
) -> None:
    """Another replica went on from them: in object storage, the blob may be these very bytes."""
    database, other = Late(schema_url), open_postgresql(schema_url)
    upload = database.write_now(uploads._open_upload, NAME, SESSION, now=NOW)
    mine, further = Progress(1, None, "mine"), Progress(2, None, "mine, and theirs")

    def go_on() -> None:
        if is_done:
            commit(other, replace(upload, progress=mine))
        else:
            move(other, mine, further)

    def move(at: Database, start: Progress, stop: Progress) -> bool | None:
        progress = {"start": start, "progress": stop, "expires_at": LATER}
        return at.write_now(records.advance_upload, upload.id, **progress)  # type: ignore[arg-type]

    database.happen = go_on
    assert move(database, Progress(), mine) is None
    assert move(other, Progress(), mine) is False
    database.close()
    other.close()


async def test_bytes_that_may_be_recorded_are_left_where_they_are() -> None:
    """Whoever brought them is told to ask again; what nobody knows is swept later."""
    context, request, writer = MagicMock(), MagicMock(), AsyncMock()
    context.settings.upload_ttl_seconds = 60.0
    context.clock.return_value = NOW
    context.gate.write_soon = AsyncMock(return_value=None)
    with pytest.raises(UnavailableError):
        await uploads.Uploads(context)._save(request, SESSION, writer)
    writer.cancel.assert_not_awaited()
