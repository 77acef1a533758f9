"""A unit that made a blob live and whose answer was lost runs again, after others did."""

from dataclasses import replace

import pytest
from tests.database.conftest import OpenMetadata

from dtr.database import Database, Reader
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
