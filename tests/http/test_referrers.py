"""Referrers: what says that its subject is a manifest (distribution-spec end-12)."""

import json
from typing import Any

import pytest
from tests.http.client import CONFIG_TYPE, Repository, assert_error, descriptor, image, index
from tests.http.conftest import Connect, OpenRegistry
from tests.http.test_tags import pages

from dtr.database import Lookup, Row, SqliteDatabase
from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.testing.registry import ALICE

SUBJECT = descriptor(b"the subject", OCI_MANIFEST)
SBOM, SIGNATURE = "application/x.sbom", "application/x.signature+json"


async def refer(repository: Repository, number: int = 0, **more: Any) -> dict[str, Any]:
    """Push a referrer; return the descriptor that should be listed for it."""
    document = image(b"config", b"%d" % number, subject=SUBJECT, **more)
    digest = await repository.push_manifest(document)
    listed = {
        "mediaType": OCI_MANIFEST,
        "digest": digest,
        "size": len(json.dumps(document)),
        "artifactType": more.get("artifactType", CONFIG_TYPE),
    }
    return listed | ({"annotations": more["annotations"]} if more.get("annotations") else {})


async def listed(repository: Repository, **parameters: str | int) -> list[dict[str, Any]]:
    """Return a first page of referrers."""
    answer = await repository.client.get(repository.referrers(SUBJECT["digest"]), params=parameters)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == OCI_INDEX
    document = answer.json()
    assert document["schemaVersion"] == 2
    assert document["mediaType"] == OCI_INDEX
    found: list[dict[str, Any]] = document["manifests"]
    return found


async def test_referrers_are_listed_with_type_and_annotations(repository: Repository) -> None:
    """As the specification has it: the config's type where there is no artifactType."""
    expected = [
        await refer(repository, 1),
        await refer(repository, 2, artifactType=SBOM),
        await refer(repository, 3, artifactType=SBOM, annotations={"a": "b", "ü": "\U0001f433"}),
    ]
    expected.sort(key=lambda entry: str(entry["digest"]))
    assert await listed(repository) == expected


async def test_an_index_without_a_type_is_listed_without_one(repository: Repository) -> None:
    """There is no config that could stand in."""
    await repository.push_manifest(index() | {"subject": SUBJECT})
    [entry] = await listed(repository)
    assert entry["mediaType"] == OCI_INDEX
    assert "artifactType" not in entry


async def test_referrers_are_filtered_by_type(repository: Repository) -> None:
    """And the answer says that it did filter."""
    sbom = await refer(repository, 1, artifactType=SBOM)
    signature = await refer(repository, 2, artifactType=SIGNATURE)
    assert await listed(repository, artifactType=SBOM) == [sbom]
    assert await listed(repository, artifactType=SIGNATURE) == [signature]
    assert await listed(repository, artifactType="application/x.none") == []
    answer = await repository.client.get(
        repository.referrers(SUBJECT["digest"]), params={"artifactType": SBOM}
    )
    assert answer.headers["OCI-Filters-Applied"] == "artifactType"


@pytest.mark.parametrize("plus", ["+", "%2B", "%20"])
async def test_a_plus_in_a_type_needs_no_encoding(repository: Repository, plus: str) -> None:
    """In a query it stands for a space, which no media type has; the next page's link is right."""
    entries = [await refer(repository, number, artifactType=SIGNATURE) for number in range(3)]
    await refer(repository, 3, artifactType=SBOM)
    path = f"{repository.referrers(SUBJECT['digest'])}?n=2&artifactType="
    found = await pages(repository.client, path + SIGNATURE.replace("+", plus), "manifests")
    digests = [entry["digest"] for page in found for entry in page]  # type: ignore[index]
    assert sorted(digests) == sorted(entry["digest"] for entry in entries)


@pytest.mark.parametrize("is_filtered", [True, False])
async def test_pages_of_referrers_add_up(repository: Repository, *, is_filtered: bool) -> None:
    """The links carry the filter along."""
    for number in range(7):
        await refer(repository, number, artifactType=SBOM if number % 2 else SIGNATURE)
    path = f"{repository.referrers(SUBJECT['digest'])}?n=2"
    path += f"&artifactType={SIGNATURE.replace('+', '%2B')}" if is_filtered else ""
    found = await pages(repository.client, path, "manifests")
    digests = [entry["digest"] for page in found for entry in page]  # type: ignore[index]
    assert len(set(digests)) == len(digests) == (4 if is_filtered else 7)
    assert all(len(page) == 2 for page in found[:-1])


async def test_a_page_is_no_larger_than_a_manifest(repository: Repository) -> None:
    """Large annotations make pages shorter; a link leads to the rest."""
    sizes = [3 << 20, 100, 100, 3 << 20, 3 << 20, 100]
    for number, size in enumerate(sizes):
        await refer(repository, number, annotations={"large": "x" * size})
    path = repository.referrers(SUBJECT["digest"])
    found = await pages(repository.client, path, "manifests")
    assert sum(map(len, found)) == len(sizes)
    for page in found:
        assert len(json.dumps(page)) <= 4 << 20


async def test_a_manifest_that_fills_a_page_has_one_of_its_own(repository: Repository) -> None:
    """Else the list would end before it, or never."""
    for number in range(2):
        await refer(repository, number, annotations={"large": "x" * ((4 << 20) - 2000)})
    path = repository.referrers(SUBJECT["digest"])
    assert [len(page) for page in await pages(repository.client, path, "manifests")] == [1, 1]


async def test_what_does_not_fit_into_a_page_is_not_read(
    open_registry: OpenRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement has the budget: for a page of one entry, twenty are not in memory."""
    read: list[int] = []
    inner = SqliteDatabase.lookup_all

    async def watched(self: SqliteDatabase, lookup: Lookup, parameters: Any) -> list[Row]:
        rows = await inner(self, lookup, parameters)
        read.append(sum(len(str(value)) for row in rows for value in row))
        return rows

    monkeypatch.setattr(SqliteDatabase, "lookup_all", watched)
    repository = connect(open_registry()).login(*ALICE).new_repository()
    for number in range(20):
        await refer(repository, number, annotations={"large": "x" * (1 << 20)})
    read.clear()
    for query in ({}, {"artifactType": "application/vnd.test"}):
        path = repository.referrers(SUBJECT["digest"])
        answer = await repository.client.get(path, params=query)
        assert answer.status_code == 200
    assert read
    assert max(read) <= 4 << 20


async def test_what_has_no_referrers_has_an_empty_index(repository: Repository) -> None:
    """Never 404 for a subject that is unknown: it may be pushed later."""
    await repository.push_blob(b"here")
    assert await listed(repository) == []


async def test_a_deleted_referrer_is_not_listed(repository: Repository) -> None:
    """The list is of what is there."""
    entry = await refer(repository)
    await repository.client.delete(repository.manifest(entry["digest"]))
    assert await listed(repository) == []


async def test_referrers_of_another_repository_are_not_listed(repository: Repository) -> None:
    """A subject's digest may be in many; referrers are of the one that was asked."""
    await refer(repository)
    other = repository.client.new_repository()
    await other.push_blob(b"here")
    assert await listed(other) == []


async def test_a_subject_that_is_no_digest_is_refused(repository: Repository) -> None:
    """400, also for a tag."""
    await repository.push_image("latest")
    for subject in ("latest", "sha256:abc", "sha256:" + "A" * 64):
        answer = await repository.client.get(repository.referrers(subject))
        assert_error(answer, 400, "DIGEST_INVALID")


async def test_a_sha512_subject_has_its_own_referrers(repository: Repository) -> None:
    """A subject is the digest that the referrer names, in that algorithm."""
    digest = Digest.of(b"the subject", Algorithm.SHA512)
    document = image(b"config") | {"subject": SUBJECT | {"digest": digest}}
    await repository.push_manifest(document)
    assert await listed(repository) == []
    answer = await repository.client.get(repository.referrers(digest))
    assert len(answer.json()["manifests"]) == 1
