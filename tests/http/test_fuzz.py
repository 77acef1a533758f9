"""Whatever is sent: never a 500, never a stack trace, always the envelope, nothing lost."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http.asgi import Answer, ask
from tests.http.client import CODES, basic, image
from tests.http.targets import InProcess

from dtr.model.digest import Digest
from dtr.testing.registry import ALICE

NAME, LAYER = "alice/kept", b"a layer that must survive"
QUIET = settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LONG = settings(QUIET, max_examples=250)

ALICE_HEADER = basic(*ALICE).encode()
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", ""])
NOT_SURROGATES = st.characters(exclude_categories=["Cs"])
WORDS = st.one_of(
    st.sampled_from(
        ["", ".", "..", "latest", "v2", "blobs", "uploads", "manifests", "tags", "list", "_catalog"]
    ),
    st.sampled_from(
        [
            "alice",
            NAME,
            "bob",
            "UPPER",
            "a" * 256,
            "\x00",
            "\r\n",
            "%2e",
            "%00",
            "é",
            "\u202e",
            "🐳",
        ]
    ),
    st.sampled_from(["sha256:" + "0" * 64, "sha512:" + "f" * 128, "sha256:", "SHA256:x", ":"]),
    st.just(str(Digest.of(LAYER))),
    st.text(NOT_SURROGATES, max_size=20),
)
QUERIES = st.one_of(
    st.binary(max_size=40).map(lambda raw: raw.replace(b"#", b"")),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "n",
                    "last",
                    "digest",
                    "mount",
                    "from",
                    "tag",
                    "artifactType",
                    "scope",
                    "x",
                    "digest-algorithm",
                    "service",
                    "offline_token",
                ]
            ),
            st.sampled_from(
                [
                    "",
                    "0",
                    "-1",
                    "1",
                    "9" * 30,
                    "sha256:" + "0" * 64,
                    "%ff",
                    "%00",
                    "%22",
                    "alice/x",
                    "repository:alice/kept:pull",
                    "sha512",
                    "%F0%9F%90%B3",
                    "&",
                    "=",
                ]
            ),
        ),
        max_size=5,
    ).map(lambda pairs: "&".join(f"{key}={value}" for key, value in pairs).encode()),
)
HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    b"range",
                    b"if-range",
                    b"if-none-match",
                    b"content-range",
                    b"content-type",
                    b"host",
                    b"x-forwarded-for",
                    b"x-forwarded-host",
                    b"accept",
                    b"expect",
                ]
            ),
            st.sampled_from(
                [
                    b"",
                    b"bytes=0-",
                    b"bytes=5-1",
                    b"bytes=0-0,1-1",
                    b"0-4",
                    b"5-9",
                    b"*",
                    b"\xff",
                    b"application/json",
                    b"application/vnd.oci.image.manifest.v1+json",
                    b"9" * 40,
                    b"100-continue",
                    b"text/html; charset=x",
                    b'"',
                    b"bytes 0-4/5",
                ]
            ),
        ),
        st.tuples(
            st.just(b"authorization"),
            st.one_of(
                st.just(ALICE_HEADER),
                st.sampled_from(
                    [b"", b"Basic", b"Basic eA==", b"Bearer x", b"Bearer a.b.c", b"\xff"]
                ),
                st.binary(max_size=30).map(lambda raw: b"Bearer " + raw),
            ),
        ),
    ),
    max_size=5,
)
BODIES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"{}", b"[", b'{"schemaVersion":2}', b"grant_type=password", b"\xff\xfe", b"null"]
        ),
    ),
    max_size=3,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """Give a registry with content that must survive, and logins that are slowed down late."""
    auth = {"failed_logins_before_delay": 1000}
    directory = tmp_path_factory.mktemp("fuzz")
    target = InProcess.open(directory, settings={"auth": auth, "log": {"access": True}})
    asyncio.run(_fill(target))
    yield target
    asyncio.run(_check_kept(target))
    asyncio.run(target.close())


async def _fill(target: InProcess) -> None:
    headers = [(b"authorization", ALICE_HEADER)]
    for content in (b"config", LAYER):
        query = f"digest={Digest.of(content)}".encode()
        path = f"/v2/{NAME}/blobs/uploads/"
        answer = await ask(
            target.application, "POST", path, query=query, headers=headers, body=[content]
        )
        assert answer.status == 201
    answer = await ask(
        target.application,
        "PUT",
        f"/v2/{NAME}/manifests/kept",
        headers=headers,
        body=[_manifest()],
    )
    assert answer.status == 201


async def _check_kept(target: InProcess) -> None:
    headers = [(b"authorization", ALICE_HEADER)]
    for path, expected in (
        (f"/v2/{NAME}/manifests/{Digest.of(_manifest())}", _manifest()),
        (f"/v2/{NAME}/manifests/kept", _manifest()),
        (f"/v2/{NAME}/blobs/{Digest.of(LAYER)}", LAYER),
    ):
        answer = await ask(target.application, "GET", path, headers=headers)
        assert answer.status == 200, path
        assert answer.body == expected


def _manifest() -> bytes:
    return json.dumps(image(b"config", LAYER)).encode()


def check(answer: Answer, method: str) -> None:
    """Check what holds for every answer."""
    assert 200 <= answer.status < 500, answer.body
    assert b"Traceback" not in answer.body
    assert answer.header("x-request-id")
    for name, value in answer.headers:
        assert name == name.lower()
        assert not {b"\r", b"\n", b"\0"} & {value[i : i + 1] for i in range(len(value))}
    if answer.status >= 400 and method != "HEAD":
        [entry] = answer.json()["errors"]
        assert entry["code"] in CODES
        assert answer.header("content-length") == str(len(answer.body))


@LONG
@given(METHODS, st.lists(WORDS, max_size=8), QUERIES, HEADERS, BODIES)
async def test_no_request_at_all_is_a_server_error(
    fuzzed: InProcess,
    method: str,
    words: list[str],
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    body: list[bytes],
) -> None:
    """Paths of any words, with any query, headers and body."""
    path = "/" + "/".join(words)
    answer = await ask(fuzzed.application, method, path, query=query, headers=headers, body=body)
    check(answer, method)


@LONG
@given(st.data())
async def test_no_request_of_a_known_route_is_a_server_error(
    fuzzed: InProcess, data: st.DataObject
) -> None:
    """Every route of the router, as its owner, with anything in its places."""
    routes = fuzzed.application.router.routes
    route = data.draw(st.sampled_from(routes))
    method = data.draw(st.sampled_from([*route.methods, "OPTIONS"]))
    path = route.template
    for part in ("{name}", "{reference}", "{digest}", "{upload}"):
        # Not what is kept: deleting that would be right.
        words = WORDS.filter(lambda word: word not in {NAME, "kept"})
        path = path.replace(part, data.draw(words))
    headers = [(b"authorization", ALICE_HEADER), *data.draw(HEADERS)]
    answer = await ask(
        fuzzed.application,
        method,
        path,
        query=data.draw(QUERIES),
        headers=headers,
        body=data.draw(BODIES),
    )
    check(answer, method)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.sampled_from([2, "sha256:" + "0" * 64, str(Digest.of(LAYER)), "a/b"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.sampled_from(
                    [
                        "schemaVersion",
                        "mediaType",
                        "config",
                        "layers",
                        "manifests",
                        "subject",
                        "annotations",
                        "artifactType",
                        "digest",
                        "size",
                        "Digest",
                        "urls",
                    ]
                ),
                st.text(max_size=5),
            ),
            inner,
            max_size=6,
        ),
    ),
    max_leaves=20,
)
TYPES = st.sampled_from(
    [
        b"",
        b"application/json",
        b"application/vnd.oci.image.index.v1+json",
        b"x/y",
        b"\xff",
        b"application/vnd.oci.image.manifest.v1+json",
        b"application/vnd.docker.distribution.manifest.v1+json",
    ]
)


@LONG
@given(JSON, TYPES)
async def test_no_document_is_a_server_error(
    fuzzed: InProcess, document: object, content_type: bytes
) -> None:
    """Anything that JSON can say, pushed as a manifest, is kept as it is or refused."""
    payload = json.dumps(document).encode()
    path = "/v2/alice/fuzz/manifests/any"
    headers = [(b"authorization", ALICE_HEADER), (b"content-type", content_type)]
    answer = await ask(fuzzed.application, "PUT", path, headers=headers, body=[payload])
    check(answer, "PUT")
    if answer.status == 201:
        answer = await ask(fuzzed.application, "GET", path, headers=headers)
        assert answer.body == payload


@QUIET
@given(
    st.dictionaries(st.sampled_from(["mediaType", "annotations", "subject", "artifactType"]), JSON)
)
async def test_no_nearly_right_manifest_is_a_server_error(
    fuzzed: InProcess, changes: dict[str, object]
) -> None:
    """A good manifest with some of its fields replaced."""
    payload = json.dumps(image(b"config", LAYER) | changes).encode()
    path = "/v2/alice/fuzz/manifests/nearly"
    headers = [(b"authorization", ALICE_HEADER)]
    answer = await ask(fuzzed.application, "PUT", path, headers=headers, body=[payload])
    check(answer, "PUT")


@QUIET
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["PATCH", "PUT", "GET", "cut"]),
            st.binary(max_size=20),
            st.sampled_from([b"", b"0-4", b"5-9", b"x", b"0-0", b"4-0"]),
        ),
        max_size=8,
    )
)
async def test_no_sequence_of_an_upload_commits_other_bytes(
    fuzzed: InProcess, steps: list[tuple[str, bytes, bytes]]
) -> None:
    """Chunks, breaks and ends in any order: what commits has its digest, and the offset is true."""
    application = fuzzed.application
    auth = (b"authorization", ALICE_HEADER)
    start = await ask(application, "POST", "/v2/alice/fuzz/blobs/uploads/", headers=[auth])
    location = start.header("location")
    expected = b""
    for kind, chunk, span in steps:
        headers = [auth, (b"content-range", span)] if span else [auth]
        method = "PATCH" if kind == "cut" else kind
        query = f"digest={Digest.of(expected + chunk)}".encode() if kind == "PUT" else b""
        answer = await ask(
            application,
            method,
            location,
            query=query,
            headers=headers,
            body=[] if kind == "GET" else [chunk],
            is_cut=kind == "cut",
        )
        if answer.status == 202 or (kind == "cut" and b"broke off" in answer.body):
            expected += chunk  # acknowledged, or kept when nobody was left to be told
        if answer.status == 201:
            path = f"/v2/alice/fuzz/blobs/{Digest.of(expected + chunk)}"
            read = await ask(application, "GET", path, headers=[auth])
            assert read.body == expected + chunk
            return
        status = await ask(application, "GET", location, headers=[auth])
        if kind == "PUT" and answer.status == 400 and status.status == 404:
            return  # a PUT with the wrong digest or length ends its session
        assert status.status == 204
        assert status.header("range") == f"0-{max(len(expected) - 1, 0)}"
