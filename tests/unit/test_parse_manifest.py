"""What a manifest says, and what is none (image-spec; CVE-2021-41190)."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dtr.model.digest import Algorithm, Digest
from dtr.model.documents import JsonLimits
from dtr.model.errors import ManifestInvalidError
from dtr.model.manifests import (
    DOCKER_MANIFEST,
    DOCKER_MANIFEST_LIST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Limits,
    Manifest,
    parse_manifest,
)

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def descriptor(number: int, media_type: str = "application/x.layer") -> dict[str, Any]:
    """Return a descriptor."""
    return {"mediaType": media_type, "digest": Digest.of(b"%d" % number), "size": number}


def manifest(*layers: int, **more: Any) -> dict[str, Any]:
    """Return a manifest without a mediaType."""
    config = descriptor(0, CONFIG_TYPE)
    found = {"schemaVersion": 2, "config": config, "layers": [descriptor(n) for n in layers]}
    return found | more


def index(*children: int, **more: Any) -> dict[str, Any]:
    """Return an index without a mediaType."""
    return {"schemaVersion": 2, "manifests": [descriptor(n, OCI_MANIFEST) for n in children]} | more


def parse(document: Any, content_type: str = "", limits: Limits | None = None) -> Manifest:
    """Parse a document."""
    payload = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_manifest(payload, content_type, limits)


@given(st.lists(st.integers(0, 20), max_size=10))
def test_config_and_layers_are_what_a_manifest_needs(layers: list[int]) -> None:
    """Each once, the config first."""
    found = parse(manifest(*layers))
    expected = dict.fromkeys([0, *layers])
    assert found.blobs == tuple(Digest.of(b"%d" % number) for number in expected)
    assert found.children == ()
    assert not found.is_index
    assert found.artifact_type == CONFIG_TYPE


@given(st.lists(st.integers(0, 20), max_size=10))
def test_manifests_are_what_an_index_needs(children: list[int]) -> None:
    """Each once, in order."""
    found = parse(index(*children))
    assert found.children == tuple(Digest.of(b"%d" % number) for number in dict.fromkeys(children))
    assert found.blobs == ()
    assert found.is_index
    assert found.artifact_type == ""


@pytest.mark.parametrize("media_type", sorted(MANIFEST_TYPES | INDEX_TYPES))
@pytest.mark.parametrize("where", ["header", "body", "both", "generic"])
def test_the_type_is_said_by_header_or_body(media_type: str, where: str) -> None:
    """A generic Content-Type leaves the word to the body."""
    document = index() if media_type in INDEX_TYPES else manifest()
    if where != "header":
        document["mediaType"] = media_type
    content_type = {"body": "", "generic": "application/json; charset=utf-8"}.get(where, media_type)
    found = parse(document, content_type)
    assert found.media_type == media_type
    assert found.is_index is (media_type in INDEX_TYPES)


def test_without_any_type_the_shape_decides() -> None:
    """As clients of the first OCI drafts wrote them."""
    assert parse(manifest()).media_type == OCI_MANIFEST
    assert parse(index()).media_type == OCI_INDEX


@pytest.mark.parametrize(
    ("document", "content_type"),
    [
        (manifest(mediaType=OCI_MANIFEST), DOCKER_MANIFEST),
        (index(mediaType=OCI_INDEX), DOCKER_MANIFEST_LIST),
        (index(mediaType=OCI_MANIFEST), ""),
        (manifest(mediaType=OCI_INDEX), ""),
        (manifest(manifests=[]), ""),
        (index(config=descriptor(0)), ""),
        (index(layers=[]), OCI_INDEX),
        ({"schemaVersion": 2, "manifests": []}, OCI_MANIFEST),
        (manifest(mediaType=""), "text/html"),
        (manifest(mediaType=["x"]), ""),
        (manifest(fsLayers=[]), ""),
        ({"schemaVersion": 1}, ""),
        (manifest(), "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (manifest(schemaVersion=True), ""),
        (manifest(schemaVersion=2.0), ""),
        (manifest(annotations=[]), ""),
        (manifest(annotations={"a": None}), ""),
        (manifest(artifactType=1), ""),
        (manifest(config=None), ""),
        (manifest(layers={}), ""),
        (index(manifests={}), ""),
        ({"schemaVersion": 2}, OCI_INDEX),
        (manifest(subject=[]), ""),
        (manifest(Config={}), ""),
        (manifest(subject=descriptor(1) | {"Size": 1}), ""),
        (b'{"a": 1, "a": 1}', ""),
        (b'{"schemaVersion": 2, "x": Infinity}', ""),
        (b"\xff", ""),
        (b"[1]", ""),
        (b"]" * 100, ""),
        (b'"' + b"[" * 100, ""),
        (b'{"\\ud800": 1}', ""),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_could_be_read_in_two_ways_is_refused(document: Any, content_type: str) -> None:
    """In one sentence."""
    with pytest.raises(ManifestInvalidError) as caught:
        parse(document, content_type)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": None},
        {"mediaType": "x"},
        {"mediaType": "a/b\n"},
        {"mediaType": "a" * 200 + "/b"},
        {"size": None},
        {"size": "1"},
        {"size": True},
        {"size": -1},
        {"size": 2**63},
        {"size": 1.0},
        {"digest": None},
        {"digest": "sha256:x"},
    ],
    ids=str,
)
def test_a_descriptor_is_checked_wherever_it_stands(change: dict[str, Any]) -> None:
    """And the message says where."""
    bad = descriptor(1) | change
    for document, where in (
        (manifest(config=bad), "config"),
        (manifest() | {"layers": [descriptor(1), bad]}, r"layers\[1\]"),
        (manifest(subject=bad), "subject"),
        (index() | {"manifests": [bad]}, r"manifests\[0\]"),
    ):
        with pytest.raises(ManifestInvalidError, match=where):
            parse(document)


def test_the_greatest_size_is_of_63_bits() -> None:
    """As far as clients count."""
    document = manifest() | {"layers": [descriptor(1) | {"size": 2**63 - 1}]}
    assert len(parse(document).blobs) == 2


@pytest.mark.parametrize(
    "media_type",
    [FOREIGN, FOREIGN + "+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"],
)
def test_a_nondistributable_layer_is_not_needed(media_type: str) -> None:
    """It is a reference all the same, and needed where it is named as something else, too."""
    zero, one, two = (Digest.of(b"%d" % number) for number in range(3))
    found = parse(manifest() | {"layers": [descriptor(1, media_type), descriptor(2)]})
    assert (found.blobs, found.needed, found.optional) == (
        (zero, one, two),
        (zero, two),
        frozenset({one}),
    )
    found = parse(manifest() | {"layers": [descriptor(1, media_type), descriptor(1)]})
    assert (found.needed, found.optional) == ((zero, one), frozenset())
    found = parse(index() | {"manifests": [descriptor(1, media_type)]})
    assert (found.blobs, found.needed) == ((one,), ())


def test_the_media_type_says_what_a_reference_should_be() -> None:
    """In any position: BuildKit's cache index names layers, and nothing forbids the opposite."""
    zero, one, two = (Digest.of(b"%d" % number) for number in range(3))
    found = parse(index() | {"manifests": [descriptor(1, OCI_INDEX), descriptor(2)]})
    assert (found.children, found.blobs, found.needed) == ((one,), (two,), (two, one))
    found = parse(manifest() | {"layers": [descriptor(1, OCI_MANIFEST), descriptor(2)]})
    assert (found.children, found.blobs) == ((one,), (zero, two))


def test_what_stands_in_blobs_is_a_reference_that_need_not_be_here() -> None:
    """The withdrawn artifact manifest had them; today no specification says what they are."""
    for document in (manifest(2), index(2)):
        found = parse(document | {"blobs": [descriptor(1), {"digest": "x"}, 7, descriptor(2)]})
        assert {Digest.of(b"1"), Digest.of(b"2")} <= {*found.blobs, *found.children}
        assert found.optional == {Digest.of(b"1")}
        assert parse(document | {"blobs": 7}) == parse(document)


def test_references_are_counted_to_the_limit() -> None:
    """The config is one of them; the same twice counts once it is written twice."""
    limits = Limits(references=3)
    assert len(parse(manifest(1, 2), limits=limits).blobs) == 3
    for document in (manifest(1, 2, 3), index(1, 2, 3, 4)):
        with pytest.raises(ManifestInvalidError, match="more than 3 references"):
            parse(document, limits=limits)


@given(st.integers(1, 60), st.integers(1, 40))
@example(1, 1)
@example(1, 2)
@example(2, 2)
@example(2, 3)
def test_nesting_is_counted_to_the_limit(depth: int, limit: int) -> None:
    """Whatever the limit, exactly that deep; brackets in strings are only text."""
    nested = "[" * depth + "]" * depth
    text = json.dumps(manifest(text='[{"' * 50))[:-1] + f', "x": {nested}}}'
    limits = Limits(json=JsonLimits(nesting=limit))
    if limit >= max(2, depth + 1):  # two: the document, and its config
        assert parse(text.encode(), limits=limits).media_type == OCI_MANIFEST
    else:
        with pytest.raises(ManifestInvalidError, match="nested deeper"):
            parse(text.encode(), limits=limits)


@pytest.mark.parametrize("content_type", ["", OCI_MANIFEST])
def test_a_refusal_does_not_repeat_mebibytes(content_type: str) -> None:
    """What a document says is in no answer and in no log at its whole length."""
    with pytest.raises(ManifestInvalidError) as caught:
        parse(manifest(mediaType="a/" + "b" * 100_000), content_type)
    assert len(str(caught.value)) + len(str(caught.value.detail)) < 1000


def test_subject_type_and_annotations_are_found() -> None:
    """What the referrers API shows."""
    annotations = {"a": "b", "": "", "ü": "\U0001f433"}
    for document in (manifest(), index()):
        found = parse(
            document | {"subject": descriptor(9), "artifactType": "a/b", "annotations": annotations}
        )
        assert found.subject == Digest.of(b"9")
        assert found.artifact_type == "a/b"
        assert found.annotations == annotations


def test_absent_and_null_are_the_same() -> None:
    """Some writers write null for what they have not."""
    found = parse(manifest(subject=None, artifactType=None, annotations=None, mediaType=None))
    assert found == parse(manifest())
    assert found.subject is None
    assert found.annotations == {}


def test_a_sha512_reference_is_a_reference() -> None:
    """Algorithms may be mixed."""
    digest = Digest.of(b"1", Algorithm.SHA512)
    document = manifest() | {"layers": [descriptor(1) | {"digest": digest}]}
    assert parse(document).blobs == (Digest.of(b"0"), digest)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=60), JSON.map(lambda found: json.dumps(found).encode())))
def test_any_bytes_are_a_manifest_or_refused(payload: bytes) -> None:
    """And nothing else happens."""
    try:
        found = parse_manifest(payload, OCI_MANIFEST)
    except ManifestInvalidError:
        return
    assert found.media_type == OCI_MANIFEST


@given(st.sampled_from(sorted(manifest(1, subject=descriptor(2), annotations={}))), JSON)
def test_any_value_in_any_field_is_taken_or_refused(key: str, value: Any) -> None:
    """A good manifest with one field replaced."""
    try:
        found = parse(manifest(1, subject=descriptor(2), annotations={}) | {key: value})
    except ManifestInvalidError:
        return
    json.dumps(dict(found.annotations)).encode()
    found.artifact_type.encode()


# What image-spec allows is taken; each test names the clause.


def test_a_manifest_may_be_without_layers() -> None:
    """manifest.md calls `config` REQUIRED, and of `layers` only says what each item must be.

    Null is what Go writes for no list. An artifact without files is such a manifest.
    """
    given: list[dict[str, Any]] = [{}, {"layers": None}, {"layers": []}]
    for layers in given:
        document = {"schemaVersion": 2, "config": descriptor(0, CONFIG_TYPE), **layers}
        assert parse(document).blobs == (Digest.of(b"0"),)


def test_an_index_may_be_of_nothing() -> None:
    """image-index.md: `manifests` MUST be present, the size of the array MAY be zero.

    The specification's own Go types write null for that; where it is missing, it is not present.
    """
    for text in (b'{"schemaVersion":2,"manifests":null}', b'{"schemaVersion":2,"manifests":[]}'):
        assert parse(text, OCI_INDEX).needed == ()
    with pytest.raises(ManifestInvalidError, match="must have manifests"):
        parse({"schemaVersion": 2}, OCI_INDEX)


@pytest.mark.parametrize("config", [{}, {"config": None}], ids=["missing", "null"])
def test_a_manifest_has_a_config(config: dict[str, Any]) -> None:
    """manifest.md: this REQUIRED property references a configuration object."""
    with pytest.raises(ManifestInvalidError, match="must have a config"):
        parse({"schemaVersion": 2, "layers": [], **config}, OCI_MANIFEST)


def test_a_config_type_is_a_media_type() -> None:
    """descriptor.md: mediaType is REQUIRED, and values MUST comply with RFC 6838: not empty."""
    for media_type in ("", None):
        with pytest.raises(ManifestInvalidError, match=r"config\.mediaType"):
            parse(manifest(config=descriptor(0) | {"mediaType": media_type}))


def test_the_empty_config_is_a_config_like_any_other() -> None:
    """manifest.md: the empty value is a media type, beside which artifactType MUST be set.

    That is asked of writers. Without it referrers show the config's type (distribution-spec).
    """
    empty = descriptor(0, "application/vnd.oci.empty.v1+json")
    assert parse(manifest(config=empty, artifactType="a/b")).artifact_type == "a/b"
    assert parse(manifest(config=empty)).artifact_type == "application/vnd.oci.empty.v1+json"


def test_the_default_limits_take_all_that_4_mib_hold() -> None:
    """An image of one layer per file: the bytes are the limit, and not a count."""
    entry = '{"mediaType":"a/b","digest":"sha256:%064x","size":0}'
    head = '{"schemaVersion":2,"config":' + entry % 0 + ',"layers":['
    count = ((4 << 20) - len(head) - 2 + 1) // (len(entry % 0) + 1)
    text = head + ",".join(entry % number for number in range(1, count + 1)) + "]}"
    assert len(text) <= 4 << 20 < len(text) + len(entry % 0) + 1
    assert len(parse(text.encode()).blobs) == count + 1
