"""Pull: manifests and blobs, whole (distribution-spec end-2, end-3)."""

import secrets

import pytest
from tests.http.client import Client, Repository, assert_error
from tests.http.targets import Target

from dtr.model.access import Visibility
from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST


async def test_a_manifest_comes_back_by_tag_in_the_bytes_that_were_pushed(
    repository: Repository,
) -> None:
    """A manifest's bytes are its identity: nothing is added, sorted or reformatted."""
    image = await repository.push_image("latest")
    answer = await repository.client.get(repository.manifest("latest"))
    assert answer.status_code == 200
    assert answer.content == image.payload
    assert answer.headers["Content-Type"] == OCI_MANIFEST
    assert answer.headers["Content-Length"] == str(len(image.payload))
    assert answer.headers["Docker-Content-Digest"] == image.digest


async def test_a_manifest_comes_back_by_digest_and_may_be_cached_for_ever(
    repository: Repository,
) -> None:
    """What a digest names never changes; what a tag names may."""
    image = await repository.push_image("latest")
    by_digest = await repository.client.get(repository.manifest(image.digest))
    by_tag = await repository.client.get(repository.manifest("latest"))
    assert by_digest.content == by_tag.content == image.payload
    assert "immutable" in by_digest.headers["Cache-Control"]
    assert by_tag.headers["Cache-Control"] == "private, no-cache"


async def test_head_answers_the_headers_of_get_without_a_body(repository: Repository) -> None:
    """HEAD tells digest, type and size of manifests and blobs."""
    image = await repository.push_image("latest")
    for path in (
        repository.manifest("latest"),
        repository.manifest(image.digest),
        repository.blob(image.layers[0]),
    ):
        head, get = await repository.client.head(path), await repository.client.get(path)
        assert head.status_code == get.status_code == 200
        assert head.content == b""
        for name in ("Content-Length", "Content-Type", "Docker-Content-Digest", "ETag"):
            assert head.headers[name] == get.headers[name]
        assert int(head.headers["Content-Length"]) == len(get.content)


async def test_a_blob_comes_back_with_its_digest(repository: Repository) -> None:
    """A blob is served whole, with length and digest."""
    content = secrets.token_bytes(3 << 20)
    digest = await repository.push_blob(content)
    answer = await repository.client.get(repository.blob(digest))
    assert answer.status_code == 200
    assert answer.content == content
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("kind", ["manifest", "blob"])
@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
async def test_what_the_client_has_is_not_sent_again(
    repository: Repository, kind: str, form: str
) -> None:
    """If-None-Match with the digest answers 304 with the same ETag and no body."""
    image = await repository.push_image("latest")
    path = repository.manifest("latest") if kind == "manifest" else repository.blob(image.config)
    etag = (await repository.client.head(path)).headers["ETag"]
    condition = form.format(etag.strip('"'))
    answer = await repository.client.get(path, headers={"If-None-Match": condition})
    assert answer.status_code == 304
    assert answer.content == b""
    assert answer.headers["ETag"] == etag
    assert "Content-Type" not in answer.headers


async def test_a_changed_tag_is_sent_anew(repository: Repository) -> None:
    """If-None-Match with the digest of another manifest answers the manifest."""
    before = await repository.push_image("latest")
    after = await repository.push_image("latest")
    answer = await repository.client.get(
        repository.manifest("latest"), headers={"If-None-Match": f'"{before.digest}"'}
    )
    assert answer.status_code == 200
    assert answer.content == after.payload


async def test_an_index_comes_back_as_an_index_whatever_the_client_accepts(
    repository: Repository,
) -> None:
    """Nothing is converted: the client gets what was pushed, as it was declared."""
    image = await repository.push_image()
    digest = await repository.push_index("multi", image)
    answer = await repository.client.get(
        repository.manifest("multi"), headers={"Accept": OCI_MANIFEST}
    )
    assert answer.headers["Content-Type"] == OCI_INDEX
    assert answer.headers["Docker-Content-Digest"] == digest


async def test_sha512_content_keeps_its_name(repository: Repository) -> None:
    """A blob and a manifest pushed by sha512 are found by sha512 only."""
    content = secrets.token_bytes(1000)
    digest = await repository.push_blob(content, Algorithm.SHA512)
    answer = await repository.client.get(repository.blob(digest))
    assert answer.content == content
    assert answer.headers["Docker-Content-Digest"] == digest
    other = await repository.client.get(repository.blob(Digest.of(content)))
    assert_error(other, 404, "BLOB_UNKNOWN")


async def test_unknown_content_is_404_with_its_own_code(repository: Repository) -> None:
    """A missing tag, manifest and blob each say what is missing."""
    await repository.push_image("latest")
    nothing = Digest.of(b"nothing has this content")
    get = repository.client.get
    assert_error(await get(repository.manifest("missing")), 404, "MANIFEST_UNKNOWN")
    assert_error(await get(repository.manifest(nothing)), 404, "MANIFEST_UNKNOWN")
    assert_error(await get(repository.blob(nothing)), 404, "BLOB_UNKNOWN")


async def test_head_of_what_is_missing_is_404_without_a_body(repository: Repository) -> None:
    """HEAD of something unknown has a length but no body."""
    await repository.push_image("latest")
    answer = await repository.client.head(repository.manifest("missing"))
    assert answer.status_code == 404
    assert answer.content == b""


async def test_a_missing_repository_of_ones_own_is_name_unknown(repository: Repository) -> None:
    """Its owner is told that the repository does not exist."""
    for path in (repository.manifest("latest"), repository.blob(Digest.of(b"")), repository.tags):
        assert_error(await repository.client.get(path), 404, "NAME_UNKNOWN")


async def test_a_public_repository_is_pulled_by_anybody(
    target: Target, repository: Repository, anonymous: Client, bob: Client
) -> None:
    """Public means pull without an account, and nothing more than pull."""
    image = await repository.push_image("latest", b"public layer")
    target.administration.set_visibility(repository.name, Visibility.PUBLIC)
    for client in (anonymous, bob):
        seen = repository.seen_by(client)
        assert (await client.get(seen.manifest("latest"))).content == image.payload
        assert (await client.get(seen.blob(image.layers[0]))).content == b"public layer"
        refused = await client.delete(seen.manifest("latest"))
        assert refused.status_code in {401, 403}


async def test_a_blob_of_another_repository_is_unknown_here(alice: Client) -> None:
    """Blobs are stored once per registry but a repository shows only its own (design 5.3)."""
    one, other = alice.new_repository(), alice.new_repository()
    digest = await one.push_blob(secrets.token_bytes(100))
    await other.push_blob(b"something else")
    assert_error(await alice.get(other.blob(digest)), 404, "BLOB_UNKNOWN")
    assert (await alice.head(other.blob(digest))).status_code == 404
