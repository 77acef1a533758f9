"""What a member of the cluster cannot do to the bytes on another one's disk."""

import os
import ssl
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import aiohttp
import pytest
from tests.support.replicas import HOST, Machine, Replicas

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import DigestInvalidError, InvalidError, UploadBusyError
from dtr.storage import FilesystemBlobStore
from dtr.storage.replicated.names import StagedName, digest_for
from dtr.storage.replicated.protocol import Addition, Then
from dtr.storage.replicated.sessions import Sessions
from dtr.storage.replicated.staging import Start
from dtr.testing.blobs import new_upload, push

SHA256 = Algorithm.SHA256
CONTENT = os.urandom(3 << 20)
OTHER = os.urandom(3 << 20)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[FilesystemBlobStore]:
    """Give one replica's disk."""
    store = FilesystemBlobStore(tmp_path / "disk")
    yield store
    await store.close()


@pytest.fixture
async def sessions(local: FilesystemBlobStore) -> AsyncIterator[Sessions]:
    """Give what the peer endpoint has of uploads on it."""
    sessions = Sessions(local, believes=False)
    yield sessions
    await sessions.close_idle(0)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """Give two machines, so that each holds every blob."""
    replicas = Replicas(tmp_path, 2)
    await replicas.start()
    yield replicas
    await replicas.stop()


async def put(asking: Machine, asked: Machine, path: str, content: bytes) -> int:
    """Put something at a machine's peer endpoint, with the certificate of another one."""
    own = asking.credentials
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(own.ca)
    context.load_cert_chain(own.certificate, own.key)
    url = f"https://{HOST}:{asked.port}/peer/v1/{path}"
    async with (
        aiohttp.ClientSession() as client,
        client.put(url, data=BytesIO(content), ssl=context) as answer,
    ):
        return answer.status


@pytest.mark.server
async def test_a_key_keeps_the_bytes_whose_digest_it_says(replicas: Replicas) -> None:
    """Whatever digest a request names, or none; a copy that is right is taken."""
    store = replicas.machines[0].open()
    key = await push(store, CONTENT)
    first, second = replicas.machines
    fresh = f"sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}.fresh"
    for name in (key, fresh):
        path = f"blobs/{name}?size={len(OTHER)}"
        assert await put(first, second, path, OTHER) == 404  # "damaged", as peers say it
        assert await put(first, second, f"{path}&digest={Digest.of(OTHER)}", OTHER) == 400
        assert await put(first, second, f"{path}&digest={DIGEST}", OTHER) == 404
    assert fresh not in second.files()
    assert second.file(key).read_bytes() == CONTENT
    assert await put(first, second, f"blobs/{fresh}?size={len(CONTENT)}", CONTENT) == 204
    assert second.file(fresh).read_bytes() == CONTENT
    assert await put(first, second, f"blobs/id/ab/cd.0?size={len(OTHER)}", OTHER) == 400
    await store.close()


def test_the_digest_is_the_one_in_the_key() -> None:
    """A key that came from an object store says none, and then it has to be given."""
    key = f"sha256/{DIGEST.encoded[:2]}/{DIGEST.encoded}.upload"
    assert digest_for(key, None) == digest_for(key, str(DIGEST)) == DIGEST
    assert digest_for("id/ab/abcd.0", str(DIGEST)) == DIGEST
    wrong = f"sha256/zz/{DIGEST.encoded}.upload"
    for refused, given in ((key, str(Digest.of(OTHER))), (wrong, None), ("id/ab/cd.0", None)):
        with pytest.raises(InvalidError):
            digest_for(refused, given)
    with pytest.raises(InvalidError):
        digest_for("sha256/ab/abcd.upload", None)


async def test_a_digest_that_a_peer_names_of_staged_bytes_is_not_believed(
    local: FilesystemBlobStore, sessions: Sessions
) -> None:
    """They are read again, unless this process saw them all pass; the truth is still taken."""
    upload = new_upload()
    staged, lied, true = (StagedName.new(upload) for _ in range(3))
    await sessions.add(staged, Addition(Start(SHA256), 0, Then.FLUSH), CONTENT)
    wanted = Digest.of(OTHER)
    lie = Start(SHA256, staged, len(CONTENT), wanted)
    with pytest.raises(DigestInvalidError):
        await sessions.add(lied, Addition(lie, len(CONTENT), Then.COMMIT, wanted), b"")
    assert [each async for each in local.walk()] == []
    await sessions.forget(lied)
    truth = Start(SHA256, staged, len(CONTENT), DIGEST)
    said = await sessions.add(true, Addition(truth, len(CONTENT), Then.COMMIT, DIGEST), b"")
    assert local.path(said["key"]).read_bytes() == CONTENT


@pytest.mark.parametrize("offset", [0, 1000, len(CONTENT)])
async def test_the_old_name_of_what_became_a_blob_is_closed(
    local: FilesystemBlobStore, sessions: Sessions, offset: int
) -> None:
    """Both names are of one file until the old one is forgotten: writing there changed the blob."""
    upload = new_upload()
    staged, winner = StagedName.new(upload), StagedName.new(upload)
    await sessions.add(staged, Addition(Start(SHA256), 0, Then.FLUSH), CONTENT)
    start = Start(SHA256, staged, len(CONTENT), DIGEST)
    said = await sessions.add(winner, Addition(start, len(CONTENT), Then.COMMIT, DIGEST), b"")
    blob = local.path(said["key"])
    assert blob.stat().st_nlink == 2
    with pytest.raises(UploadBusyError):
        await sessions.add(staged, Addition(Start(SHA256), offset, Then.WRITE), b"other bytes")
    assert blob.read_bytes() == CONTENT


async def test_who_goes_on_changes_nothing_before_its_beginning(
    local: FilesystemBlobStore, sessions: Sessions
) -> None:
    """The acknowledged bytes are in the same file, under the name that the row still has."""
    upload = new_upload()
    staged, following = StagedName.new(upload), StagedName.new(upload)
    await sessions.add(staged, Addition(Start(SHA256), 0, Then.FLUSH), CONTENT)
    start = Start(SHA256, staged, len(CONTENT), DIGEST)
    await sessions.add(following, Addition(start, len(CONTENT), Then.WRITE), OTHER)
    for begun, offset, kind in ((start, 5, InvalidError), (Start(SHA256), 5, UploadBusyError)):
        with pytest.raises(kind):
            await sessions.add(following, Addition(begun, offset, Then.WRITE), b"bytes")
    await sessions.add(following, Addition(start, len(CONTENT), Then.WRITE, attempt=1), OTHER)
    assert local.upload_path(str(staged)).read_bytes()[: len(CONTENT)] == CONTENT
