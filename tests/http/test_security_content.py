"""Content that deceived others: two meanings, other digests, other places, too much of it."""

import ast
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.http.client import Repository, assert_error, descriptor, image, index
from tests.http.conftest import Connect, OpenRegistry
from tests.http.targets import InProcess

import dtr
from dtr.model.digest import Algorithm, Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.testing.registry import ALICE

SOURCE = Path(dtr.__file__).parent
FORBIDDEN = {"pickle", "cPickle", "dill", "marshal", "shelve", "jsonpickle", "yaml"}


def test_nothing_in_the_product_unpickles() -> None:
    """Row 4, CVE-2026-32590: no module that turns bytes into code is imported."""
    files = list(SOURCE.rglob("*.py"))
    assert len(files) > 50
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names: set[str] = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]}
            elif isinstance(node, ast.Name):
                names = {node.id} & {"eval", "exec"}
            assert not names & (FORBIDDEN | {"eval", "exec"}), f"{file}: {names}"


async def test_the_state_of_an_upload_is_a_number_and_a_digest(
    connect: Connect, tmp_path: Path
) -> None:
    """Row 4: what processes tell each other about an upload is typed, not serialised objects."""
    target = InProcess.open_files(tmp_path)
    repository = connect(target).login(*ALICE).new_repository()
    location = await repository.start_upload()
    await repository.client.patch(location, content=b"bytes")
    database = target.administration._database

    def rows(reader: object) -> list[dict[str, object]]:
        found = reader.execute(text("SELECT * FROM uploads"))  # type: ignore[attr-defined]
        return [dict(row._mapping) for row in found]

    [row] = await database.read(rows)
    assert all(isinstance(value, str | int | float | None) for value in row.values())
    assert row["digest"] == Digest.of(b"bytes")
    await target.close()


@pytest.mark.parametrize("size", ["9" * 9, "9" * 18, "2147483648"])
async def test_a_huge_page_is_cut(repository: Repository, size: str) -> None:
    """Row 12, CVE-2023-2253: `n` never decides how much memory is taken."""
    await repository.push_manifest(image(b"x"), "latest")
    for path in ("/v2/_catalog", repository.tags, repository.referrers("sha256:" + "0" * 64)):
        answer = await repository.client.get(path, params={"n": size})
        assert answer.status_code == 200
        assert f"n={size}" not in answer.headers.get("Link", "")


async def test_a_manifest_without_an_end_is_cut_off(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Row 13, CVE-2017-11468: the limit holds while it is read, before it is parsed."""
    target = open_registry({"limits": {"manifest_bytes": 10_000}})
    repository = connect(target).login(*ALICE).new_repository()
    sent = 0

    async def endless() -> object:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1000
            yield b"[" * 1000

    answer = await repository.client.put(
        repository.manifest("x"), content=endless(), headers={"Content-Type": OCI_MANIFEST}
    )
    assert_error(answer, 413, "MANIFEST_INVALID")
    assert sent < 32 << 20


@pytest.mark.parametrize("content_type", [OCI_MANIFEST, OCI_INDEX, "application/json", ""])
async def test_no_document_is_manifest_and_index(repository: Repository, content_type: str) -> None:
    """Row 15, CVE-2021-41190: by whatever header it is pushed."""
    both = image(b"x") | index()
    for media_type in (OCI_MANIFEST, OCI_INDEX, None):
        document = {k: v for k, v in (both | {"mediaType": media_type}).items() if v is not None}
        answer = await repository.put_manifest(document, "both", content_type=content_type)
        assert_error(answer, 400, "MANIFEST_INVALID")


async def test_the_type_of_a_pull_is_that_of_the_push(repository: Repository) -> None:
    """Row 15: header and mediaType of what is served always agree."""
    for document in (image(b"x"), index()):
        await repository.push_manifest(document, "typed")
        answer = await repository.client.get(repository.manifest("typed"))
        assert answer.headers["Content-Type"] == answer.json()["mediaType"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("tag", ["latest", "stable", "v1"])
async def test_every_tag_moves_by_the_same_rule(repository: Repository, tag: str) -> None:
    """Row 19, CVE-2026-31801: no name is an exception."""
    first = await repository.push_image(tag)
    second = await repository.push_image(tag)
    answer = await repository.client.get(repository.manifest(tag))
    assert answer.content == second.payload
    assert (await repository.client.get(repository.manifest(first.digest))).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../../etc/passwd",
        "/v2/alice/%2e%2e/%2e%2e/%2e%2e/etc/passwd/blobs/x",
        "/v2/alice/app/blobs/..%2f..%2f..%2fdtr.db",
        "/v2/alice/app/blobs/sha256:..%2f..%2fdtr.db",
        "/v2/alice/app/manifests/..%2f..%2fdtr.db",
        "/v2/alice/app/blobs/uploads/..%2f..%2fdtr.db",
        "/v2/alice/app/blobs/uploads/%2e%2e%2fdtr.db",
        "/v2/alice/app/blobs/%00",
        "/ca/../dtr.db",
        "/metrics/../../dtr.db",
        "/..%5c..%5cdtr.db",
    ],
)
async def test_no_path_leads_to_a_file(repository: Repository, path: str) -> None:
    """Rows 40 and 41, CVE-2014-9358: places in storage are made by us, never from a request."""
    await repository.client.repository("alice/app").push_blob(b"x")
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = await repository.client.request(method, path)
        assert 400 <= answer.status_code < 500
        assert "SQLite" not in answer.text


async def test_content_has_the_digest_that_was_asked_for(repository: Repository) -> None:
    """Algorithm confusion: the same hex under another name, or cut, is other content."""
    content = b"one content"
    short, long = Digest.of(content), Digest.of(content, Algorithm.SHA512)
    for claimed in (
        "sha512:" + short.encoded * 2,
        "sha256:" + long.encoded[:64],
        "sha256:" + long.encoded[64:],
    ):
        answer = await repository.client.post(
            repository.uploads, params={"digest": claimed}, content=content
        )
        assert_error(answer, 400, "DIGEST_INVALID")
    await repository.push_blob(content, Algorithm.SHA512)
    assert (await repository.client.get(repository.blob(short))).status_code == 404


async def test_a_tag_is_never_taken_for_a_digest(repository: Repository) -> None:
    """Tag and digest ambiguity: a colon is in every digest and in no tag."""
    pushed = await repository.push_image("sha256")
    assert (await repository.client.get(repository.manifest("sha256"))).status_code == 200
    looks_alike = f"sha256-{pushed.digest.encoded}"
    await repository.put_manifest(image(b"other"), looks_alike)
    answer = await repository.client.get(repository.manifest(pushed.digest))
    assert answer.content == pushed.payload


async def test_a_location_is_worth_nothing_when_it_is_changed(repository: Repository) -> None:
    """Location tampering: it holds no state that a client could set."""
    client, location = repository.client, await repository.start_upload()
    await client.patch(location, content=b"01234")
    for query in ("_state=x", "offset=0", "digest-algorithm=sha512&_state=AAAA", "uuid=x"):
        answer = await client.get(f"{location}?{query}")
        assert (answer.status_code, answer.headers["Range"]) == (204, "0-4")
        assert answer.headers["Location"] == location
    upload = location.rpartition("/")[2]
    for changed in (
        upload.upper(),
        upload.replace("-", ""),
        upload[:-1],
        upload + "0",
        "{" + upload,
    ):
        answer = await client.get(repository.uploads + changed)
        assert_error(answer, 404, "BLOB_UPLOAD_UNKNOWN")
    assert "?" not in location


async def test_many_ranges_cost_no_more_than_one(repository: Repository) -> None:
    """Range amplification: a thousand ranges are answered with the content, once.

    They overlap, so they are one (RFC 9110 15.3.7.2).
    """
    content = b"x" * 100_000
    digest = await repository.push_blob(content)
    ranges = "bytes=" + ",".join("0-" for _ in range(1000))
    answer = await repository.client.get(repository.blob(digest), headers={"Range": ranges})
    assert answer.status_code == 206
    assert answer.content == content


async def test_a_flood_of_referrers_is_paged(open_registry: OpenRegistry, connect: Connect) -> None:
    """Referrers flood: one answer has no more than a page of them."""
    target = open_registry({"limits": {"page_entries": 10}})
    repository = connect(target).login(*ALICE).new_repository()
    subject = descriptor(b"subject", OCI_MANIFEST)
    for number in range(25):
        await repository.push_manifest(image(b"%d" % number, subject=subject))
    answer = await repository.client.get(repository.referrers(subject["digest"]))
    assert len(answer.json()["manifests"]) == 10
    assert "Link" in answer.headers
