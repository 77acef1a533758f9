"""Push of manifests: what is accepted, how it is answered (distribution-spec end-7)."""

import json
import secrets
from typing import Any

import pytest
from tests.http.client import (
    CONFIG_TYPE,
    Repository,
    assert_error,
    descriptor,
    image,
    index,
)
from tests.http.conftest import Connect, OpenRegistry

from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    OCI_INDEX,
    OCI_MANIFEST,
)
from dtr.testing.registry import ALICE

SUBJECT = descriptor(b"a manifest that is not here", OCI_MANIFEST)


@pytest.fixture
async def document(repository: Repository) -> dict[str, Any]:
    """Give a manifest whose blobs are here."""
    config, layer = secrets.token_bytes(10), secrets.token_bytes(20)
    for content in (config, layer):
        await repository.push_blob(content)
    return image(config, layer)


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
async def test_both_manifest_types_are_kept_as_declared(
    repository: Repository, document: dict[str, Any], media_type: str
) -> None:
    """The Content-Type of a pull is that of the push."""
    answer = await repository.put_manifest(document | {"mediaType": media_type}, "latest")
    assert answer.status_code == 201
    assert answer.headers["Location"] == repository.manifest(
        answer.headers["Docker-Content-Digest"]
    )
    pulled = await repository.client.get(repository.manifest("latest"))
    assert pulled.headers["Content-Type"] == media_type


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_MANIFEST_LIST])
async def test_both_index_types_are_kept_as_declared(
    repository: Repository, media_type: str
) -> None:
    """Likewise for what lists manifests."""
    pushed = await repository.push_image()
    await repository.push_manifest(index(pushed) | {"mediaType": media_type}, "multi")
    pulled = await repository.client.get(repository.manifest("multi"))
    assert pulled.headers["Content-Type"] == media_type


async def test_parameters_of_the_content_type_are_ignored(
    repository: Repository, document: dict[str, Any]
) -> None:
    """Some clients add a character set."""
    answer = await repository.put_manifest(
        document, "latest", content_type=f"{OCI_MANIFEST}; charset=utf-8"
    )
    assert answer.status_code == 201
    pulled = await repository.client.get(repository.manifest("latest"))
    assert pulled.headers["Content-Type"] == OCI_MANIFEST


async def test_odd_spacing_and_order_survive(
    repository: Repository, document: dict[str, Any]
) -> None:
    """The digest is over the bytes, so the bytes are kept."""
    payload = json.dumps(dict(reversed(document.items())), indent=7).encode() + b"\n\n  "
    digest = await repository.push_manifest(payload, "latest")
    assert digest == Digest.of(payload)
    assert (await repository.client.get(repository.manifest(digest))).content == payload


async def test_a_manifest_is_pushed_by_digest_with_tags(
    repository: Repository, document: dict[str, Any]
) -> None:
    """Tag parameters point many tags at one push; each is acknowledged (end-7b)."""
    names = [f"v{number}" for number in range(12)]
    answer = await repository.put_manifest(document, params={"tag": [*names, "v1"]})
    assert answer.status_code == 201
    assert answer.headers.get_list("OCI-Tag") == names
    listed = (await repository.client.get(repository.tags)).json()["tags"]
    assert listed == sorted(names)


async def test_one_bad_tag_refuses_the_whole_push(
    repository: Repository, document: dict[str, Any]
) -> None:
    """Tags are all set or none."""
    answer = await repository.put_manifest(document, params={"tag": ["good", "-bad"]})
    assert_error(answer, 400, "MANIFEST_INVALID")
    listed = (await repository.client.get(repository.tags)).json()["tags"]
    assert listed == []


async def test_tag_parameters_do_not_go_with_a_tag(
    repository: Repository, document: dict[str, Any]
) -> None:
    """They are defined for a push by digest only; nothing is guessed."""
    answer = await repository.put_manifest(document, "latest", params={"tag": "other"})
    assert_error(answer, 400, "UNSUPPORTED")


async def test_more_than_a_hundred_tags_are_refused(
    repository: Repository, document: dict[str, Any]
) -> None:
    """The number is stated, not met by accident."""
    tags = [f"t{number}" for number in range(101)]
    answer = await repository.put_manifest(document, params={"tag": tags})
    assert answer.status_code in {400, 414}


async def test_a_manifest_without_the_digest_it_is_pushed_by_is_refused(
    repository: Repository, document: dict[str, Any]
) -> None:
    """400 DIGEST_INVALID, and nothing is kept."""
    other = Digest.of(b"other")
    assert_error(await repository.put_manifest(document, other), 400, "DIGEST_INVALID")
    answer = await repository.client.get(repository.manifest(other))
    assert_error(answer, 404, "MANIFEST_UNKNOWN")


async def test_a_manifest_pushed_by_sha512_is_found_by_it(
    repository: Repository, document: dict[str, Any]
) -> None:
    """Its digest is the one it was pushed by."""
    payload = json.dumps(document).encode()
    digest = Digest.of(payload, Algorithm.SHA512)
    assert await repository.push_manifest(payload, digest) == digest
    assert (await repository.client.get(repository.manifest(digest))).content == payload


async def test_pushing_again_changes_nothing(
    repository: Repository, document: dict[str, Any]
) -> None:
    """The same manifest under the same tag, twice."""
    first = await repository.push_manifest(document, "latest")
    assert await repository.push_manifest(document, "latest") == first
    assert (await repository.client.get(repository.tags)).json()["tags"] == ["latest"]


@pytest.mark.parametrize("kind", ["manifest", "index"])
async def test_a_subject_is_acknowledged(
    repository: Repository, document: dict[str, Any], kind: str
) -> None:
    """OCI-Subject tells the client that it need not keep a tag of referrers itself."""
    pushed = document if kind == "manifest" else index()
    answer = await repository.put_manifest(pushed | {"subject": SUBJECT})
    assert answer.status_code == 201
    assert answer.headers["OCI-Subject"] == SUBJECT["digest"]


async def test_a_manifest_that_refers_to_what_is_not_here_is_accepted_with_a_warning(
    repository: Repository,
) -> None:
    """Sparse content is allowed, and said."""
    await repository.push_blob(b"here")
    answer = await repository.put_manifest(image(b"here", b"not here", b"nor this"), "sparse")
    assert answer.status_code == 201
    assert "2 references are not here" in answer.headers["Warning"]
    assert Digest.of(b"not here") in answer.headers["Warning"]


async def test_sparse_content_is_refused_where_the_settings_say_so(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """404 MANIFEST_BLOB_UNKNOWN names what is missing; a missing subject is never a reason."""
    target = open_registry({"registry": {"missing_references": "refuse"}})
    repository = connect(target).login(*ALICE).new_repository()
    await repository.push_blob(b"here")
    answer = await repository.put_manifest(image(b"here", b"missing"), "sparse")
    entry = assert_error(answer, 404, "MANIFEST_BLOB_UNKNOWN")
    assert entry["detail"]["missing"] == [Digest.of(b"missing")]
    answer = await repository.put_manifest(image(b"here") | {"subject": SUBJECT}, "complete")
    assert answer.status_code == 201
    pushed = await repository.push_image()
    missing = index(pushed) | {"manifests": [SUBJECT]}
    assert_error(await repository.put_manifest(missing, "i"), 404, "MANIFEST_BLOB_UNKNOWN")
    assert (await repository.put_manifest(index(pushed), "i")).status_code == 201


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
async def test_a_nondistributable_layer_need_not_be_here(
    open_registry: OpenRegistry, connect: Connect, media_type: str
) -> None:
    """Even where missing references are refused: it lies elsewhere, that is its point."""
    target = open_registry({"registry": {"missing_references": "refuse"}})
    repository = connect(target).login(*ALICE).new_repository()
    await repository.push_blob(b"config")
    foreign = descriptor(b"elsewhere", media_type, urls=["https://example.org/layer"])
    answer = await repository.put_manifest(image(b"config") | {"layers": [foreign]}, "foreign")
    assert answer.status_code == 201
    assert "Warning" not in answer.headers


async def test_a_repository_must_exist_where_the_settings_say_so(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Without creating on push, a push into nothing is 404 for its owner."""
    target = open_registry({"registry": {"create_on_push": False}})
    repository = connect(target).login(*ALICE).new_repository()
    answer = await repository.client.post(repository.uploads)
    assert_error(answer, 404, "NAME_UNKNOWN")
    assert_error(await repository.put_manifest(image(b"x")), 404, "NAME_UNKNOWN")
    target.administration.create_repository(repository.name)
    await repository.push_image("latest")


async def test_a_manifest_too_large_is_413(open_registry: OpenRegistry, connect: Connect) -> None:
    """With its length announced or not; a manifest of the limit itself is taken."""
    target = open_registry({"limits": {"manifest_bytes": 2000}})
    repository = connect(target).login(*ALICE).new_repository()
    document = image(b"x", annotations={"padding": ""})
    padding = 2000 - len(json.dumps(document))
    for more, status in ((0, 201), (1, 413)):
        document["annotations"] = {"padding": "x" * (padding + more)}
        answer = await repository.put_manifest(document, "large")
        assert answer.status_code == status
    assert_error(answer, 413, "MANIFEST_INVALID")
    unannounced = await repository.client.put(
        repository.manifest("large"), content=_endless(), headers={"Content-Type": OCI_MANIFEST}
    )
    assert_error(unannounced, 413, "MANIFEST_INVALID")


async def _endless() -> Any:
    while True:
        yield b" " * 1000


async def test_the_default_limit_takes_four_mebibytes(repository: Repository) -> None:
    """What the specification asks registries to support."""
    document = image(b"x", annotations={"padding": ""})
    document["annotations"]["padding"] = "x" * ((4 << 20) - len(json.dumps(document)))
    answer = await repository.put_manifest(document, "large")
    assert answer.status_code == 201
    document["annotations"]["padding"] += "x"
    answer = await repository.put_manifest(document, "large")
    assert_error(answer, 413, "MANIFEST_INVALID")


async def test_an_artifact_without_layers_is_a_manifest(repository: Repository) -> None:
    """The list of layers may be empty, and the config the empty descriptor with its data."""
    empty = descriptor(b"{}", "application/vnd.oci.empty.v1+json", data="e30=")
    await repository.push_blob(b"{}")
    document = image(b"{}") | {"config": empty, "artifactType": "application/x.example"}
    assert (await repository.put_manifest(document, "artifact")).status_code == 201


async def test_an_index_may_be_empty_and_may_nest(repository: Repository) -> None:
    """Indexes of indexes are content like any other."""
    inner = await repository.push_manifest(index(), "inner")
    entry = {"mediaType": OCI_INDEX, "digest": inner, "size": len(json.dumps(index()))}
    await repository.push_manifest(index() | {"manifests": [entry]}, "outer")
    answer = await repository.client.delete(repository.manifest(inner))
    assert_error(answer, 409, "DENIED")


async def test_a_manifest_with_the_config_type_of_an_image_is_an_image(
    repository: Repository, document: dict[str, Any]
) -> None:
    """Without an artifactType, referrers show the config's media type."""
    await repository.push_manifest(document | {"subject": SUBJECT})
    listed = await repository.client.get(repository.referrers(SUBJECT["digest"]))
    assert listed.json()["manifests"][0]["artifactType"] == CONFIG_TYPE
