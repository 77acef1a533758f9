"""Names, tags and digests: one grammar, one spelling."""

import pytest
from tests.http.client import Client, Repository, assert_error, image
from tests.http.conftest import PARSING

from dtr.model.digest import Digest

GOOD_NAMES = [
    "alice/a",
    "alice/a.b_c__d-e---f/0",
    "alice/manifests/blobs/uploads/tags/list",
    "alice/blobs/uploads",
    "alice/v2",
    "alice/" + "x" * 249,
]
BAD_NAMES = [
    "alice/UPPER",
    "alice/a..b",
    "alice/a___b",
    "alice/.a",
    "alice/a.",
    "alice/-a",
    "alice/a-",
    "alice//a",
    "alice/a/",
    "/alice/a",
    "alice/a b",
    "alice/a%20b",
    "alice/a%0ab",
    "alice/a%0d%0aX-Evil:%201",
    "alice/a%00b",
    "alice/%ff",
    "alice/ünïcode",
    "alice/\uff41",
    "alice/\u0131",
    "alice/a:b",
    "alice/a@b",
    "alice/%22",
    "alice/%5c..%5cb",
    "alice/%2e%2e/bob/x",
    "%2e%2e/%2e%2e/etc/passwd",
    "alice/%252e",
    "alice/" + "x" * 250,
    "alice/" + "x/" * 4000 + "x",
]
TAGS = ["a", "A", "0", "_", "a.b-c_D", "x" * 128, "latest", "sha256-abc", "uploads"]
BAD_TAGS = ["-a", ".a", "x" * 129, "a b", "a%00", "ü", "a%2fb", "a+b", "a@b", "%", "a%0a", "*"]
BAD_DIGESTS = [
    "sha256:",
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha256:" + "A" * 64,
    "SHA256:" + "0" * 64,
    "sha-256:" + "0" * 64,
    "sha512:" + "0" * 64,
    "sha256:" + "0" * 128,
    "sha384:" + "0" * 96,
    "md5:" + "0" * 32,
    "sha256+b64:" + "0" * 43,
    "sha256:" + "0" * 64 + "%0a",
    "sha256:" + "０" * 64,
    ":" + "0" * 64,
    "%73ha256:" + "g" * 64,
]


@pytest.mark.parametrize("name", GOOD_NAMES)
async def test_a_name_of_the_grammar_is_a_repository(alice: Client, name: str) -> None:
    """Up to 255 characters, and also where its components look like our own paths."""
    repository = alice.repository(name)
    pushed = await repository.push_image("latest")
    for reference in ("latest", pushed.digest):
        answer = await alice.get(repository.manifest(reference))
        assert answer.content == pushed.payload
    assert (await alice.get(repository.tags)).json() == {"name": name, "tags": ["latest"]}
    assert (await alice.get(repository.blob(pushed.config))).status_code == 200
    location = await repository.start_upload()
    assert (await alice.get(location)).status_code == 204
    assert (await alice.get(repository.referrers(pushed.digest))).status_code == 200


@PARSING
@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_outside_of_the_grammar_is_refused(alice: Client, name: str) -> None:
    """400 for every method, and never an address of something else."""
    digest = Digest.of(b"x")
    for method, rest in (
        ("GET", "tags/list"),
        ("PUT", "manifests/latest"),
        ("GET", f"blobs/{digest}"),
        ("POST", "blobs/uploads/"),
        ("GET", f"referrers/{digest}"),
    ):
        answer = await alice.request(method, f"/v2/{name}/{rest}")
        assert answer.status_code in {400, 414}
        assert_error(
            answer,
            answer.status_code,
            "NAME_INVALID" if answer.status_code == 400 else "UNSUPPORTED",
        )


@PARSING
@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_outside_of_the_grammar_stays_out_of_the_challenge(
    anonymous: Client, name: str
) -> None:
    """A refused credential is answered in headers; what a client wrote must not get there."""
    client = anonymous.bearing("nonsense")
    answer = await client.get(f"/v2/{name}/tags/list")
    assert answer.status_code in {400, 401, 414}, answer.text
    assert "x-evil" not in answer.headers
    challenge = answer.headers.get("WWW-Authenticate", "")
    assert challenge.isascii()
    assert challenge.count('"') % 2 == 0
    assert answer.json()["errors"]


@pytest.mark.parametrize("tag", TAGS)
async def test_a_tag_of_the_grammar_is_kept_as_written(repository: Repository, tag: str) -> None:
    """Upper and lower case are different tags."""
    await repository.push_manifest(image(b"x"), tag)
    assert (await repository.client.get(repository.tags)).json()["tags"] == [tag]
    assert (await repository.client.get(repository.manifest(tag))).status_code == 200
    if tag.swapcase() != tag:
        other = await repository.client.get(repository.manifest(tag.swapcase()))
        assert_error(other, 404, "MANIFEST_UNKNOWN")


@PARSING
@pytest.mark.parametrize("tag", BAD_TAGS)
async def test_a_tag_outside_of_the_grammar_is_refused(repository: Repository, tag: str) -> None:
    """400 when pushed, pulled or deleted, or 404 where it is not even one component."""
    await repository.push_blob(b"x")
    for method in ("GET", "PUT", "DELETE"):
        answer = await repository.client.request(
            method, repository.manifest(tag), content=b"{}" if method == "PUT" else None
        )
        assert answer.status_code in {400, 404}
        assert_error(
            answer,
            answer.status_code,
            "MANIFEST_INVALID" if answer.status_code == 400 else "NAME_UNKNOWN",
        )
    assert (await repository.client.get(repository.tags)).json()["tags"] == []


@PARSING
@pytest.mark.parametrize("digest", BAD_DIGESTS)
async def test_a_digest_has_one_spelling(repository: Repository, digest: str) -> None:
    """Only the canonical form is a digest; nothing is folded, trimmed or cut."""
    await repository.push_blob(b"x")
    for path in (
        repository.blob(digest),
        repository.manifest(digest),
        repository.referrers(digest),
    ):
        answer = await repository.client.get(path)
        assert_error(answer, 400, "DIGEST_INVALID")


async def test_percent_encoding_that_was_not_needed_changes_nothing(
    repository: Repository,
) -> None:
    """A path means what it means after decoding, once."""
    pushed = await repository.push_image("latest")
    name = repository.name.replace("/", "%2F").replace("a", "%61")
    answer = await repository.client.get(f"/v2/{name}/manifests/l%61test")
    assert answer.content == pushed.payload
    digest = str(pushed.digest).replace(":", "%3A")
    answer = await repository.client.get(f"/v2/{name}/manifests/{digest}")
    assert answer.content == pushed.payload


async def test_what_is_served_nowhere_is_404(alice: Client) -> None:
    """In the envelope, whatever the path."""
    for path in ("/v1/", "/v2/x", "/V2/", "/v2/_catalog/", "/v2//", "/v2/alice/app", "/x"):
        assert_error(await alice.get(path), 404, "NAME_UNKNOWN")


async def test_a_method_that_is_not_served_is_405_with_those_that_are(alice: Client) -> None:
    """HEAD goes with GET."""
    for path, allowed in (
        ("/v2/", "GET, HEAD"),
        ("/v2/alice/app/tags/list", "GET, HEAD"),
        ("/v2/alice/app/manifests/latest", "GET, PUT, DELETE, HEAD"),
        ("/v2/alice/app/blobs/uploads/", "POST"),
    ):
        for method in ("TRACE", "PROPFIND", "LOCK"):
            answer = await alice.request(method, path)
            assert_error(answer, 405, "UNSUPPORTED")
            assert answer.headers["Allow"] == allowed
