"""Blobs go when nothing needs them any more, and never a moment earlier."""

import asyncio

import pytest
from tests.collect.yard import GRACE, Yard
from tests.http.client import image

from dtr.collect import records
from dtr.model.digest import Digest


async def test_an_unreferenced_blob_goes_after_its_grace(yard: Yard) -> None:
    """A pusher has the grace to put the manifest, and not a second less."""
    digest = await yard.repository().push_blob(b"layer")
    yard.clock.advance(GRACE - 1)
    await yard.collect()
    assert await yard.has_blob(digest)
    yard.clock.advance(2)
    done = await yard.collect()
    assert (done.links, done.blobs, done.bytes, done.digests) == (1, 1, 5, [digest])
    assert not await yard.has_blob(digest)
    assert yard.files() == {}
    assert yard.rows() == 0
    assert await yard.check() == []


async def test_what_a_manifest_needs_stays(yard: Yard) -> None:
    """For as long as the manifest, however often anybody collects."""
    image = await yard.repository().push_image("latest", b"layer")
    for _ in range(3):
        yard.clock.advance(2 * GRACE)
        done = await yard.collect()
        assert (done.links, done.blobs) == (0, 0)
    assert await yard.has_blob(image.config)
    assert await yard.has_blob(image.layers[0])
    assert await yard.check() == []


async def test_a_blob_that_two_repositories_have_stays_for_the_other(yard: Yard) -> None:
    """Bytes go with the last link, a repository's right to read with its own."""
    await yard.repository("admin/other").push_image("latest", b"shared")
    digest = await yard.repository().push_blob(b"shared")
    yard.clock.advance(GRACE + 1)
    done = await yard.collect()
    assert (done.links, done.blobs) == (1, 0)
    assert not await yard.has_blob(digest, "admin/app")
    assert await yard.has_blob(digest, "admin/other")
    assert await yard.check() == []


async def test_the_same_content_is_kept_once(yard: Yard) -> None:
    """A second push of live content leaves no second file."""
    for name in ("admin/app", "admin/other", "admin/app"):
        await yard.repository(name).push_blob(b"layer")
    assert len(yard.files()) == 1
    assert await yard.check() == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_a_pusher_who_asks_for_a_blob_keeps_it(yard: Yard, method: str) -> None:
    """Whoever is told that it is here will not push it: it has at least half of the grace."""
    repository = yard.repository()
    digest = await repository.push_blob(b"layer")
    for _ in range(5):
        yard.clock.advance(GRACE * 0.9)
        answer = await yard.client.request(method, repository.blob(digest))
        assert answer.status_code == 200
        yard.clock.advance(GRACE * 0.49)
        await yard.collect()
        assert await yard.has_blob(digest)
    yard.clock.advance(GRACE)
    await yard.collect()
    assert not await yard.has_blob(digest)


async def test_a_reader_does_not_keep_a_blob(yard: Yard) -> None:
    """Who may not push cannot come to rely on it."""
    digest = await yard.repository().push_blob(b"layer")
    yard.clock.advance(GRACE - 1)
    assert await yard.has_blob(digest)
    yard.clock.advance(2)
    await yard.collect()
    assert not await yard.has_blob(digest)


async def test_a_second_push_keeps_a_blob(yard: Yard) -> None:
    """The grace begins anew with every acknowledgement."""
    repository = yard.repository()
    digest = await repository.push_blob(b"layer")
    yard.clock.advance(GRACE * 0.9)
    await repository.push_blob(b"layer")
    yard.clock.advance(GRACE * 0.9)
    await yard.collect()
    assert await yard.has_blob(digest)


async def test_a_mount_has_a_grace_of_its_own(yard: Yard) -> None:
    """The source's time does not matter to the target."""
    digest = await yard.repository().push_blob(b"layer")
    yard.clock.advance(GRACE * 0.9)
    other = yard.repository("admin/other")
    answer = await yard.client.post(other.uploads, params={"mount": digest, "from": "admin/app"})
    assert answer.status_code == 201
    yard.clock.advance(GRACE * 0.9)
    assert (await yard.collect()).links == 1
    assert await yard.has_blob(digest, "admin/other")


async def test_deleting_a_manifest_frees_its_blobs_after_a_grace(yard: Yard) -> None:
    """A client may have been told a moment ago that the blobs are here."""
    repository = yard.repository()
    image = await repository.push_image("latest", b"layer")
    yard.clock.advance(2 * GRACE)
    await yard.collect()
    assert (await yard.client.delete(repository.manifest(image.digest))).status_code == 202
    yard.clock.advance(GRACE - 1)
    assert (await yard.collect()).links == 0
    yard.clock.advance(2)
    assert (await yard.collect()).blobs == 2
    assert yard.files() == {}


async def test_a_blob_that_another_manifest_needs_stays(yard: Yard) -> None:
    """Looked at again because one manifest went, kept because of the other."""
    repository = yard.repository()
    first = await repository.push_image("one", b"layer")
    second = await repository.push_image("two", b"layer")
    await yard.client.delete(repository.manifest(first.digest))
    for _ in range(2):
        yard.clock.advance(GRACE + 1)
        await yard.collect()
    assert await yard.has_blob(second.layers[0])
    assert not await yard.has_blob(first.config)
    await yard.client.delete(repository.manifest(second.digest))
    yard.clock.advance(GRACE + 1)
    await yard.collect()
    assert yard.files() == {}


async def test_a_manifest_before_its_blobs_keeps_them(yard: Yard) -> None:
    """Sparse content is accepted: a blob that comes later is needed from its first moment."""
    repository = yard.repository()
    await repository.push_manifest(image(b"config", b"layer"), "latest")
    digests = [await repository.push_blob(content) for content in (b"config", b"layer")]
    yard.clock.advance(GRACE + 1)
    await yard.collect()
    assert [await yard.has_blob(digest) for digest in digests] == [True, True]


async def test_a_push_while_condemned_lives_on_other_bytes(yard: Yard) -> None:
    """The collector that has marked the old bytes deletes those, never the new ones."""
    repository = yard.repository()
    digest = await repository.push_blob(b"layer")
    assert (await yard.client.delete(repository.blob(digest))).status_code == 202
    condemned = await yard.state.database.read(records.condemned_blobs, 10)
    assert [blob.digest for blob in condemned] == [digest]
    assert not await yard.has_blob(digest)

    await repository.push_blob(b"layer")
    assert await yard.has_blob(digest)
    for blob in condemned:  # the collector goes on where it was
        await yard.store.delete(blob.storage_key)
    await yard.state.database.write(records.remove_condemned, condemned)
    await yard.collect()
    assert await yard.has_blob(digest)
    assert await yard.check() == []


async def test_a_push_before_the_collector_looked_leaves_nothing_behind(yard: Yard) -> None:
    """The bytes of a row that a push took over are found by the sweep at the latest."""
    repository = yard.repository()
    digest = await repository.push_blob(b"layer")
    await yard.client.delete(repository.blob(digest))
    await repository.push_blob(b"layer")
    await yard.collect()
    yard.clock.advance(90_000)
    await repository.push_blob(b"layer")
    await yard.check(repair=True)
    assert len(list((yard.directory / "blobs").rglob("*.*"))) == 1
    assert await yard.has_blob(digest)


async def test_a_mount_while_condemned_becomes_an_upload(yard: Yard) -> None:
    """Bytes that are on their way out are nobody's to share."""
    repository, other = yard.repository(), yard.repository("admin/other")
    digest = await repository.push_blob(b"layer")
    await yard.client.delete(repository.blob(digest))
    for params in ({"mount": digest, "from": "admin/app"}, {"mount": digest}):
        answer = await yard.client.post(other.uploads, params=params)
        assert answer.status_code == 202
        location = answer.headers["Location"]
        answer = await yard.client.put(location, params={"digest": digest}, content=b"layer")
        assert answer.status_code == 201
        await yard.collect()
        assert await yard.has_blob(digest, "admin/other")
        await yard.client.delete(other.blob(digest))


async def test_expired_uploads_go(yard: Yard) -> None:
    """The session is unknown, and its bytes are gone; one that was continued stays."""
    repository = yard.repository()
    old, busy = await repository.start_upload(), await repository.start_upload()
    await yard.client.patch(old, content=b"some")
    yard.clock.advance(500)
    await yard.client.patch(busy, content=b"some")
    yard.clock.advance(200)
    done = await yard.collect()
    assert done.uploads == 1
    assert (await yard.client.get(old)).status_code == 404
    assert (await yard.client.get(busy)).status_code == 204
    staged = [blob.key async for blob in yard.store.walk_uploads()]
    assert [key in busy for key in staged] == [True]
    await yard.client.delete(busy)
    assert await yard.check() == []


async def test_a_session_that_was_continued_is_not_expired(yard: Yard) -> None:
    """The collector looks again before it deletes."""
    repository = yard.repository()
    location = await repository.start_upload()
    upload_id = location.rpartition("/")[2]
    before = yard.clock() + 599
    yard.clock.advance(500)
    await yard.client.patch(location, content=b"some")
    database = yard.state.database
    assert not await database.write(records.remove_expired_upload, upload_id, before + 100)
    assert (await yard.client.get(location)).status_code == 204


@pytest.mark.parametrize("batch", [1, 3, 1000])
async def test_every_batch_comes_to_the_same(yard: Yard, batch: int) -> None:
    """A run ends when nothing is due, however small its steps."""
    repository = yard.repository()
    for number in range(7):
        await repository.push_blob(b"%d" % number)
        await repository.push_image(f"t{number}", b"layer %d" % number)
    yard.clock.advance(GRACE + 1)
    done = await yard.collect(batch=batch)
    assert (done.links, done.blobs, yard.rows()) == (7, 7, 14)
    assert (await yard.collect(batch=batch)).links == 0


async def test_collectors_may_meet(yard: Yard) -> None:
    """Two at once, and a push among them, do no more harm than one."""
    repository = yard.repository()
    for number in range(20):
        await repository.push_blob(b"%d" % number)
    kept = await repository.push_image("latest", b"layer")
    yard.clock.advance(GRACE + 1)
    await asyncio.gather(
        yard.collect(batch=2),
        yard.collect(batch=3),
        *(repository.push_blob(b"%d" % number) for number in range(10)),
    )
    await yard.collect()
    pushed = [Digest.of(b"%d" % number) for number in range(10)]
    assert [await yard.has_blob(digest) for digest in pushed] == [True] * 10
    assert await yard.has_blob(kept.layers[0])
    assert yard.rows() == 12
    assert await yard.check() == []


async def test_a_dry_run_tells_and_changes_nothing(yard: Yard) -> None:
    """What it says is what the run then does."""
    repository = yard.repository()
    lost = await repository.push_blob(b"unneeded")
    shared = await repository.push_blob(b"shared")
    await yard.repository("admin/other").push_image("latest", b"shared")
    location = await repository.start_upload()
    untagged = await repository.push_image()
    yard.clock.advance(10 * GRACE)

    plan = await yard.collector(untagged=True).plan()
    assert plan == await yard.collector(untagged=True).plan()
    assert (plan.manifests, plan.links, plan.blobs, plan.uploads) == (1, 2, 1, 1)
    assert plan.digests == [lost]
    assert await yard.has_blob(lost)
    assert await yard.has_blob(shared)
    assert await yard.has_manifest(untagged.digest)

    done = await yard.collect(untagged=True)
    assert (done.manifests, done.links, done.blobs, done.uploads) == (1, 2, 1, 1)
    assert done.digests == [lost]
    assert (await yard.client.get(location)).status_code == 404
