"""Deleting tags, manifests and blobs (distribution-spec end-9, end-10)."""

import secrets

from tests.http.client import Repository, assert_error, image

from dtr.model.digest import Digest

UNKNOWN = Digest.of(b"nothing has this content")


async def test_a_deleted_tag_is_gone_and_its_manifest_stays(repository: Repository) -> None:
    """Other tags and the digest still lead to the manifest."""
    pushed = await repository.push_image("one")
    await repository.put_manifest(pushed.payload, "two")
    client = repository.client
    assert (await client.delete(repository.manifest("one"))).status_code == 202
    assert_error(await client.get(repository.manifest("one")), 404, "MANIFEST_UNKNOWN")
    for reference in ("two", pushed.digest):
        assert (await client.get(repository.manifest(reference))).content == pushed.payload
    assert (await client.get(repository.tags)).json()["tags"] == ["two"]


async def test_a_deleted_manifest_takes_its_tags_along(repository: Repository) -> None:
    """By digest, everything that leads to it ends."""
    pushed = await repository.push_image("one")
    await repository.put_manifest(pushed.payload, "two")
    client = repository.client
    assert (await client.delete(repository.manifest(pushed.digest))).status_code == 202
    for reference in ("one", "two", pushed.digest):
        assert_error(await client.get(repository.manifest(reference)), 404, "MANIFEST_UNKNOWN")
    assert (await client.get(repository.tags)).json()["tags"] == []


async def test_a_manifest_that_an_index_needs_stays(repository: Repository) -> None:
    """409 until the index is gone."""
    pushed = await repository.push_image()
    index = await repository.push_index("multi", pushed)
    client = repository.client
    answer = await client.delete(repository.manifest(pushed.digest))
    assert assert_error(answer, 409, "DENIED")["detail"] == {"index": index}
    assert (await client.get(repository.manifest(pushed.digest))).status_code == 200
    assert (await client.delete(repository.manifest(index))).status_code == 202
    assert (await client.delete(repository.manifest(pushed.digest))).status_code == 202


async def test_a_blob_that_a_manifest_needs_stays(repository: Repository) -> None:
    """409 until the manifest is gone."""
    pushed = await repository.push_image("latest")
    client = repository.client
    for digest in (pushed.config, *pushed.layers):
        answer = await client.delete(repository.blob(digest))
        assert assert_error(answer, 409, "DENIED")["detail"] == {"manifest": pushed.digest}
    await client.delete(repository.manifest(pushed.digest))
    for digest in (pushed.config, *pushed.layers):
        assert (await client.delete(repository.blob(digest))).status_code == 202
        assert_error(await client.get(repository.blob(digest)), 404, "BLOB_UNKNOWN")


async def test_a_deleted_blob_may_be_pushed_again(repository: Repository) -> None:
    """Deleting does not poison the digest."""
    content = secrets.token_bytes(100_000)
    for _ in range(3):
        digest = await repository.push_blob(content)
        assert (await repository.client.get(repository.blob(digest))).content == content
        answer = await repository.client.delete(repository.blob(digest))
        assert answer.status_code == 202


async def test_deleting_what_is_not_there_is_404(repository: Repository) -> None:
    """Also the second time."""
    pushed = await repository.push_image("latest")
    client = repository.client
    assert_error(await client.delete(repository.manifest("none")), 404, "MANIFEST_UNKNOWN")
    assert_error(await client.delete(repository.manifest(UNKNOWN)), 404, "MANIFEST_UNKNOWN")
    assert_error(await client.delete(repository.blob(UNKNOWN)), 404, "BLOB_UNKNOWN")
    await client.delete(repository.manifest(pushed.digest))
    again = await client.delete(repository.manifest(pushed.digest))
    assert_error(again, 404, "MANIFEST_UNKNOWN")


async def test_deleting_in_a_missing_repository_is_404(repository: Repository) -> None:
    """Its owner is told that the repository does not exist."""
    for path in (
        repository.manifest("none"),
        repository.manifest(UNKNOWN),
        repository.blob(UNKNOWN),
    ):
        assert_error(await repository.client.delete(path), 404, "NAME_UNKNOWN")


async def test_a_subject_may_be_deleted_before_its_referrers(repository: Repository) -> None:
    """A subject need not exist; its referrers stay, and are still listed."""
    subject = await repository.push_image("latest")
    config = secrets.token_bytes(10)
    await repository.push_blob(config)
    document = image(config) | {
        "subject": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": subject.digest,
            "size": len(subject.payload),
        }
    }
    referrer = await repository.push_manifest(document)
    client = repository.client
    assert (await client.delete(repository.manifest(subject.digest))).status_code == 202
    listed = (await client.get(repository.referrers(subject.digest))).json()["manifests"]
    assert [entry["digest"] for entry in listed] == [referrer]


async def test_a_blob_deleted_here_stays_elsewhere(repository: Repository) -> None:
    """Blobs are stored once, and each repository's link is its own."""
    content = secrets.token_bytes(100)
    other = repository.client.new_repository()
    digest = await repository.push_blob(content)
    await other.push_blob(content)
    await repository.client.delete(repository.blob(digest))
    assert_error(await repository.client.get(repository.blob(digest)), 404, "BLOB_UNKNOWN")
    assert (await repository.client.get(other.blob(digest))).content == content


async def test_there_is_nothing_special_about_the_tag_latest(repository: Repository) -> None:
    """CVE-2026-31801: another registry left `latest` out of its checks."""
    client = repository.client
    for tag in ("latest", "other"):
        before, after = await repository.push_image(tag), await repository.push_image(tag)
        assert (await client.get(repository.manifest(tag))).content == after.payload
        assert (await client.delete(repository.manifest(tag))).status_code == 202
        assert (await client.get(repository.manifest(before.digest))).status_code == 200
