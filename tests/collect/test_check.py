"""fsck finds what is wrong both ways, repairs what can be, and a push then heals."""

import os
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.collect.yard import Yard, damage
from tests.http.client import Image

from dtr.collect import records
from dtr.collect.check import Severity
from dtr.model.digest import Algorithm, Digest
from dtr.storage import FilesystemBlobStore, Progress

LAYER = b"a layer that somebody needs"


async def pushed(yard: Yard) -> tuple[Image, Path]:
    """Push an image; return it and the file of its layer."""
    image = await yard.repository().push_image("latest", LAYER)
    return image, yard.files()[image.layers[0].encoded]


def remove(file: Path) -> None:
    """Lose the bytes."""
    file.unlink()


def cut(file: Path) -> None:
    """Lose the end of the bytes."""
    os.truncate(file, 5)


def lengthen(file: Path) -> None:
    """Have too many bytes."""
    file.write_bytes(LAYER + b"!")


def flip(file: Path) -> None:
    """Have other bytes, as many."""
    file.write_bytes(LAYER[::-1])


DAMAGE = {
    remove: "stored bytes are missing",
    cut: "stored bytes are 5, the metadata says 27",
    lengthen: "stored bytes are 28, the metadata says 27",
    flip: "stored bytes have another digest",
}


async def test_a_healthy_registry_is_clean(yard: Yard) -> None:
    """Also with everything that a registry can have."""
    repository = yard.repository()
    children = [await repository.push_image(None) for _ in range(2)]
    await repository.push_index("multi", *children)
    await repository.push_blob(b"unneeded")
    await repository.push_blob(b"sha512", Algorithm.SHA512)
    location = await repository.start_upload()
    await yard.client.patch(location, content=b"some")
    assert await yard.check() == []
    yard.clock.advance(590)
    assert await yard.check(repair=True) == []
    answer = await yard.client.put(
        location, params={"digest": f"sha256:{'0' * 64}"}, content=b"wrong"
    )
    assert answer.status_code == 400
    assert await yard.check() == []


@pytest.mark.parametrize("harm", DAMAGE)
async def test_damage_is_found_repaired_and_healed(yard: Yard, harm: object) -> None:
    """A lost blob is found, forgotten, seen as missing by a client, and pushed again."""
    assert callable(harm)
    image, file = await pushed(yard)
    harm(file)
    findings = await yard.check()
    assert damage(findings) == [DAMAGE[harm]]
    assert "admin/app" in findings[0].subject
    assert not findings[0].repaired

    findings = await yard.check(repair=True)
    assert findings[0].repaired
    assert [finding.severity for finding in findings[1:]] == [Severity.NOTE]
    assert not await yard.has_blob(image.layers[0])
    assert await yard.has_manifest("latest")
    repository = yard.repository()
    assert (await yard.client.head(repository.blob(image.layers[0]))).status_code == 404

    await repository.push_blob(LAYER)
    assert await yard.has_blob(image.layers[0])
    assert await yard.check() == []


async def test_other_bytes_are_found_only_when_read(yard: Yard) -> None:
    """Reading everything takes long, so that it is asked for."""
    _, file = await pushed(yard)
    flip(file)
    assert await yard.check(verify=False) == []
    assert len(await yard.check(verify=True)) == 1


async def test_damage_is_told_with_every_repository(yard: Yard) -> None:
    """One lost file is one finding; both repositories forget the blob."""
    image, file = await pushed(yard)
    await yard.repository("admin/other").push_image("latest", LAYER)
    remove(file)
    findings = await yard.check(repair=True)
    assert len(damage(findings)) == 1
    assert "admin/app" in findings[0].subject
    assert "admin/other" in findings[0].subject
    for name in ("admin/app", "admin/other"):
        assert not await yard.has_blob(image.layers[0], name)


async def test_orphan_files_go_when_they_are_old(yard: Yard) -> None:
    """A day is more than any push needs between its bytes and its row, and than clocks err."""
    image, file = await pushed(yard)
    orphan = file.with_name(file.name + "x")
    orphan.write_bytes(b"left by a crash")
    assert await yard.check() == []
    yard.clock.advance(86_401)
    [finding] = await yard.check()
    assert (finding.severity, finding.repaired) == (Severity.GARBAGE, False)
    assert finding.subject.endswith(orphan.name)
    assert (await yard.check(repair=True))[0].repaired
    assert not orphan.exists()
    assert await yard.has_blob(image.layers[0])
    assert await yard.check() == []


async def test_orphan_uploads_go_when_they_are_old(yard: Yard) -> None:
    """Those with a session stay, however old."""
    location = await yard.repository().start_upload()
    await yard.client.patch(location, content=b"some")
    orphan = yard.directory / "uploads" / "left-by-a-crash"
    orphan.write_bytes(b"staged")
    yard.clock.advance(86_401)
    [finding] = await yard.check(repair=True)
    assert (finding.what, finding.subject) == ("staged bytes without a session", orphan.name)
    assert [path.name in location for path in (yard.directory / "uploads").iterdir()] == [True]


async def test_what_a_manifest_lacks_is_a_note(yard: Yard) -> None:
    """Sparse content is allowed; it is told and is no damage."""
    repository = yard.repository()
    image, _ = await pushed(yard)
    document = await yard.client.get(repository.manifest("latest"))
    await yard.repository("admin/other").push_manifest(document.content, "latest")
    findings = await yard.check()
    assert {finding.severity for finding in findings} == {Severity.NOTE}
    assert len(findings) == 2
    assert any(image.config in finding.what for finding in findings)


async def test_a_blob_that_goes_meanwhile_is_not_damage(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker reads a page of rows; until it looks at the file, both may be collected."""
    digest = await yard.repository().push_blob(LAYER)

    async def collected_first(key: str) -> int | None:
        await yard.client.delete(yard.repository().blob(digest))
        await yard.collect()
        return await FilesystemBlobStore.size(yard.store, key)

    monkeypatch.setattr(yard.store, "size", collected_first)
    assert await yard.check() == []


async def test_a_blob_that_is_pushed_again_meanwhile_is_not_forgotten(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair is about the bytes that were looked at, not about the digest."""
    digest = await yard.repository().push_blob(LAYER)

    async def pushed_again(key: str) -> int | None:
        await yard.client.delete(yard.repository().blob(digest))
        await yard.collect()
        await yard.repository().push_blob(LAYER)
        return await FilesystemBlobStore.size(yard.store, key)

    with monkeypatch.context() as patch:
        patch.setattr(yard.store, "size", pushed_again)
        assert await yard.check(repair=True) == []
    assert await yard.has_blob(digest)


async def test_a_manifest_that_goes_meanwhile_lacks_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checker reads a page of manifests; one may go, with its blobs, before it asks."""
    repository = yard.repository()
    image, _ = await pushed(yard)
    read = yard.state.database.read

    async def deleted_after(unit: Any, *arguments: Any) -> Any:
        found = await read(unit, *arguments)
        if unit is records.manifests_after and found:
            await yard.client.delete(repository.manifest(image.digest))
            for digest in (image.config, *image.layers):
                await yard.client.delete(repository.blob(digest))
        return found

    monkeypatch.setattr(yard.state.database, "read", deleted_after)
    assert await yard.check() == []


async def test_a_commit_meanwhile_is_not_an_orphan(yard: Yard) -> None:
    """Bytes of a rested upload whose row is still on its way are young, and stay.

    They were as old as their last byte once, and a sweep took them from under their row.
    """
    upload_id, digest = str(uuid.uuid4()), Digest.of(LAYER)
    writer = await yard.store.resume(upload_id, Algorithm.SHA256, Progress())
    await writer.append(LAYER)
    progress = await writer.flush()
    await writer.close()
    os.utime(yard.store.upload_path(upload_id), (0, 0))
    writer = await yard.store.resume(upload_id, Algorithm.SHA256, progress)
    key = await writer.commit(digest)
    assert await yard.check(repair=True) == []
    assert yard.store.path(key).read_bytes() == LAYER
