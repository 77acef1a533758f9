"""The sweep over a bucket: it takes what crashes left, and nothing that a session still needs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dtr.collect.check import Checker, Severity
from dtr.database import Writer
from dtr.model.digest import Algorithm, Digest
from dtr.model.names import RepositoryName
from dtr.registry import records
from dtr.registry.records import Blob, Upload
from dtr.storage import Progress, StorageLocation
from dtr.storage.objects import ObjectBlobStore
from dtr.storage.parts import SMALL_BYTES
from dtr.testing.blobs import committed, new_upload, push, staged
from dtr.testing.registry import RegistryState, open_state

pytestmark = pytest.mark.s3

SHA256 = Algorithm.SHA256


@pytest.fixture
async def store(s3_url: str) -> AsyncIterator[ObjectBlobStore]:
    """Give an empty place."""
    opened = ObjectBlobStore(StorageLocation.parse(s3_url))
    yield opened
    await opened.close()


@pytest.fixture
async def state(tmp_path: Path, store: ObjectBlobStore) -> AsyncIterator[RegistryState]:
    """Give metadata for the blobs in `store`."""
    opened = open_state(tmp_path, store=store)
    yield opened
    opened.database.close()


def _open_session(writer: Writer, upload_id: str) -> None:
    repository = records.ensure_repository(writer, RepositoryName("alice/r"))
    upload = Upload(upload_id, repository.id, 1, SHA256, Progress(), 2e9)
    records.add_upload(writer, upload, 1e9)


async def sweep(state: RegistryState) -> list[str]:
    """Sweep, and give what was found."""
    checker = Checker(state.database, state.store, repair=True, clock=state.clock)
    found = [finding async for finding in checker.garbage()]
    assert {finding.severity for finding in found} <= {Severity.GARBAGE}
    return sorted(finding.subject for finding in found)


async def test_only_what_nobody_needs_is_swept(
    state: RegistryState, store: ObjectBlobStore
) -> None:
    """A day after the crash; sessions keep what they flushed, blobs keep their objects."""
    known = await push(store, b"known")
    blob = Blob(Digest.of(b"known"), 5, known)
    await state.database.write(records.store_blob, blob, 1e9)
    lost = await push(store, b"lost")
    session, dead = new_upload(), new_upload()
    await state.database.write(_open_session, session)
    for upload_id in (session, dead):
        writer = await store.begin(upload_id, SHA256)
        await writer.append(b"flushed")
        await writer.flush()
        await writer.close()
    before = await committed(store)
    dead_key = next(key for key in before if dead in key)

    assert await sweep(state) == []
    state.clock.advance(86_401)
    assert await sweep(state) == sorted([lost, dead_key])
    assert set(await committed(store)) == set(before) - {lost, dead_key}
    assert await sweep(state) == []


async def test_parts_without_a_session_are_aborted(
    state: RegistryState, store: ObjectBlobStore
) -> None:
    """A process that died in the middle of a large upload leaves no parts to pay for."""
    session, dead = new_upload(), new_upload()
    await state.database.write(_open_session, session)
    writers = [await store.begin(upload_id, SHA256) for upload_id in (session, dead)]
    for writer in writers:
        await writer.append(bytes(SMALL_BYTES))

    assert await sweep(state) == []
    state.clock.advance(86_401)
    assert await sweep(state) == [dead]
    assert set(await staged(store)) == {session}
    for writer in writers:
        await writer.close()
    assert await staged(store) == {}
