"""Documents that are no manifests (CVE-2021-41190 is why this is strict)."""

import json
from typing import Any

import pytest
from tests.http.client import CONFIG_TYPE, Repository, assert_error, descriptor, image, index
from tests.http.conftest import PARSING, Connect, OpenRegistry

from dtr.model.digest import Digest
from dtr.model.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from dtr.testing.registry import ALICE

GOOD = image(b"config", b"layer")
TEXT = json.dumps(GOOD)
LAYER = GOOD["layers"][0]
SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+json"

REFUSED: dict[str, tuple[str | bytes | dict[str, Any], str]] = {
    "nothing": (b"", OCI_MANIFEST),
    "no JSON": (b"{", OCI_MANIFEST),
    "no UTF-8": (b'{"schemaVersion": 2, "x": "\xff"}', OCI_MANIFEST),
    "UTF-16": (TEXT.encode("utf-16"), OCI_MANIFEST),
    "a byte order mark": (b"\xef\xbb\xbf" + TEXT.encode(), OCI_MANIFEST),
    "a list": (b"[]", OCI_MANIFEST),
    "a number": (b"2", OCI_MANIFEST),
    "null": (b"null", OCI_MANIFEST),
    "two documents": (TEXT + TEXT, OCI_MANIFEST),
    "not a number": (TEXT[:-1] + ', "x": NaN}', OCI_MANIFEST),
    "infinity": (TEXT[:-1] + ', "x": -Infinity}', OCI_MANIFEST),
    "a number too long": (TEXT[:-1] + f', "x": {"9" * 5000}}}', OCI_MANIFEST),
    "schema 1 by header": ({"schemaVersion": 1, "fsLayers": []}, SCHEMA_1),
    "schema 1 by body": ({"schemaVersion": 1, "fsLayers": []}, OCI_MANIFEST),
    "signed schema 1": (GOOD, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    "fsLayers": (GOOD | {"fsLayers": []}, OCI_MANIFEST),
    "no schemaVersion": ({k: v for k, v in GOOD.items() if k != "schemaVersion"}, OCI_MANIFEST),
    "schemaVersion as text": (GOOD | {"schemaVersion": "2"}, OCI_MANIFEST),
    "schemaVersion as a fraction": (TEXT.replace("2,", "2.0,", 1), OCI_MANIFEST),
    "schemaVersion 3": (GOOD | {"schemaVersion": 3}, OCI_MANIFEST),
    "another Content-Type": (GOOD, DOCKER_MANIFEST),
    "an index by header": (GOOD, OCI_INDEX),
    "a manifest by header": (index(), OCI_MANIFEST),
    "an unknown type": (GOOD | {"mediaType": "text/x"}, "text/x"),
    "an unknown Content-Type": (GOOD, "text/html"),
    "a mediaType that is no text": (GOOD | {"mediaType": 5}, OCI_MANIFEST),
    "layers and manifests": (GOOD | {"manifests": []}, OCI_MANIFEST),
    "manifests and layers": (index() | {"layers": []}, OCI_INDEX),
    "manifests and a config": (index() | {"config": GOOD["config"]}, OCI_INDEX),
    "an index without manifests": ({"schemaVersion": 2, "mediaType": OCI_INDEX}, OCI_INDEX),
    "no config": ({k: v for k, v in GOOD.items() if k != "config"}, OCI_MANIFEST),
    "layers that are no list": (GOOD | {"layers": {}}, OCI_MANIFEST),
    "a layer that is no descriptor": (GOOD | {"layers": ["x"]}, OCI_MANIFEST),
    "a config that is no descriptor": (GOOD | {"config": []}, OCI_MANIFEST),
    "an artifactType too long": (GOOD | {"artifactType": "a/" + "b" * 254}, OCI_MANIFEST),
    "an artifactType with NUL": (GOOD | {"artifactType": "a/b\0"}, OCI_MANIFEST),
    "an artifactType with half a character": (GOOD | {"artifactType": "a/\ud800"}, OCI_MANIFEST),
    "an annotation with half a character": (GOOD | {"annotations": {"a": "\ud800"}}, OCI_MANIFEST),
    "a key twice": (TEXT[:-1] + ', "schemaVersion": 2}', OCI_MANIFEST),
    "an escaped key twice": (TEXT[:-1] + ', "l\\u0061yers": []}', OCI_MANIFEST),
    "a deep key twice": (TEXT[:-1] + ', "x": {"y": 1, "y": 2}}', OCI_MANIFEST),
    "a key in another case": (GOOD | {"Layers": []}, OCI_MANIFEST),
    "a key in another letter": (GOOD | {"mediaTyp\u212a": 1, "\u017fubject": None}, OCI_MANIFEST),
    "a descriptor's key in another case": (
        GOOD | {"layers": [LAYER | {"Digest": LAYER["digest"]}]},
        OCI_MANIFEST,
    ),
    "a size that is no number": (GOOD | {"layers": [LAYER | {"size": "5"}]}, OCI_MANIFEST),
    "a size that is a truth": (GOOD | {"layers": [LAYER | {"size": True}]}, OCI_MANIFEST),
    "a size below nothing": (GOOD | {"layers": [LAYER | {"size": -1}]}, OCI_MANIFEST),
    "a size beyond 63 bits": (GOOD | {"layers": [LAYER | {"size": 2**63}]}, OCI_MANIFEST),
    "a size that is a fraction": (GOOD | {"layers": [LAYER | {"size": 1.5}]}, OCI_MANIFEST),
    "a digest that is none": (GOOD | {"layers": [LAYER | {"digest": "x"}]}, OCI_MANIFEST),
    "a digest in upper case": (
        GOOD | {"layers": [LAYER | {"digest": "sha256:" + "A" * 64}]},
        OCI_MANIFEST,
    ),
    "no digest": (GOOD | {"layers": [{"mediaType": "a/b", "size": 1}]}, OCI_MANIFEST),
    "a layer without a type": (GOOD | {"layers": [LAYER | {"mediaType": ""}]}, OCI_MANIFEST),
    "a config with a bad type": (
        GOOD | {"config": descriptor(b"config", "not a type")},
        OCI_MANIFEST,
    ),
    "a subject that is none": (GOOD | {"subject": "x"}, OCI_MANIFEST),
    "an artifactType that is no text": (GOOD | {"artifactType": 5}, OCI_MANIFEST),
    "annotations that are no text": (GOOD | {"annotations": {"a": 1}}, OCI_MANIFEST),
    "annotations that are a list": (GOOD | {"annotations": ["a"]}, OCI_MANIFEST),
    "half a character in an annotation": (GOOD | {"annotations": {"a": "\ud800"}}, OCI_MANIFEST),
    "half a character in a key": (GOOD | {"annotations": {"\udc00": "a"}}, OCI_MANIFEST),
    "half a character in mediaType": (GOOD | {"mediaType": "\ud800"}, OCI_MANIFEST),
    "half a character as artifactType": (GOOD | {"artifactType": "\ud800"}, OCI_MANIFEST),
    "half a character anywhere": (GOOD | {"x": ["\udfff"]}, OCI_MANIFEST),
}


@PARSING
@pytest.mark.parametrize("case", REFUSED)
async def test_a_document_that_could_be_misread_is_refused(
    repository: Repository, case: str
) -> None:
    """400 MANIFEST_INVALID in one sentence, and nothing is kept."""
    document, content_type = REFUSED[case]
    payload = json.dumps(document) if isinstance(document, dict) else document
    content = payload.encode() if isinstance(payload, str) else payload
    await repository.push_blob(b"here")
    answer = await repository.put_manifest(content, "bad", content_type=content_type)
    assert_error(answer, 400, "MANIFEST_INVALID")
    assert (await repository.client.get(repository.tags)).json()["tags"] == []
    kept = await repository.client.get(repository.manifest(Digest.of(content)))
    assert_error(kept, 404, "MANIFEST_UNKNOWN")


async def test_a_key_unknown_to_the_specification_is_kept(repository: Repository) -> None:
    """Extensions are allowed at every place, also such as look like keys of elsewhere."""
    document = GOOD | {"org.example": {"Layers": 1, "layers": 2}, "data": "x"}
    await repository.push_manifest(document, "latest")


async def test_a_whole_character_in_two_escapes_is_kept(repository: Repository) -> None:
    """A pair of surrogates is one character."""
    document = GOOD | {"annotations": {"a": "\U0001f433"}}
    digest = await repository.push_manifest(json.dumps(document).encode(), "latest")
    assert digest == Digest.of(json.dumps(document).encode())


@pytest.mark.parametrize("bracket", ["[", '{"a":', '[{"a":'])
async def test_nesting_is_bounded_before_it_is_read(repository: Repository, bracket: str) -> None:
    """A hundred thousand brackets cost a scan, not a stack."""
    content = bracket.encode() * 100_000
    answer = await repository.put_manifest(content, "deep", content_type=OCI_MANIFEST)
    assert_error(answer, 400, "MANIFEST_INVALID")


@pytest.mark.parametrize(("depth", "status"), [(31, 201), (32, 400)])
async def test_the_limit_of_nesting_is_exact(
    repository: Repository, depth: int, status: int
) -> None:
    """32 by default, the document itself included; brackets in strings do not count."""
    nested = "[" * depth + "]" * depth
    text = TEXT[:-1] + f', "y": "{"[" * 99}", "x": {nested}}}'
    answer = await repository.put_manifest(text.encode(), "deep")
    assert answer.status_code == status


async def test_too_many_references_are_refused(
    open_registry: OpenRegistry, connect: Connect
) -> None:
    """Exactly as many as the setting says are taken."""
    target = open_registry({"limits": {"manifest_references": 5}})
    repository = connect(target).login(*ALICE).new_repository()
    layers = [b"%d" % number for number in range(5)]
    answer = await repository.put_manifest(image(b"config", *layers[:4]), "many")
    assert answer.status_code == 201
    answer = await repository.put_manifest(image(b"config", *layers), "many")
    assert_error(answer, 400, "MANIFEST_INVALID")
    children = [descriptor(layer, OCI_MANIFEST) for layer in (*layers, b"5")]
    answer = await repository.put_manifest(index() | {"manifests": children}, "many")
    assert_error(answer, 400, "MANIFEST_INVALID")


async def test_an_image_of_one_layer_per_file_is_taken(repository: Repository) -> None:
    """2,100 layers; and it is deleted as it came."""
    layers = [b"%d" % number for number in range(2100)]
    digest = await repository.push_manifest(image(b"config", *layers), "many")
    answer = await repository.client.delete(repository.manifest(digest))
    assert answer.status_code == 202


@pytest.mark.parametrize("content", [b"]", b"[{},", b'{"a":'], ids=repr)
async def test_structure_without_end_is_refused(repository: Repository, content: bytes) -> None:
    """4 MiB of brackets would be millions of objects, and stopped a worker for seconds."""
    text = content * ((4 << 20) // len(content))
    answer = await repository.put_manifest(text, "deep", content_type=OCI_MANIFEST)
    assert_error(answer, 400, "MANIFEST_INVALID")


async def test_a_manifest_without_types_is_told_by_its_shape(repository: Repository) -> None:
    """Neither header nor mediaType: `manifests` make an index, everything else a manifest."""
    bare = {key: value for key, value in GOOD.items() if key != "mediaType"}
    for document, expected in (
        (bare, OCI_MANIFEST),
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
    ):
        answer = await repository.put_manifest(document, "bare", content_type="")
        assert answer.status_code == 201
        pulled = await repository.client.get(repository.manifest("bare"))
        assert pulled.headers["Content-Type"] == expected


async def test_the_config_type_may_be_anything(repository: Repository) -> None:
    """Helm charts, policies and wasm modules are kept as images are."""
    assert CONFIG_TYPE
    for media_type in ("application/vnd.cncf.helm.config.v1+json", "text/x-anything"):
        document = GOOD | {"config": descriptor(b"config", media_type)}
        await repository.push_manifest(document, "chart")
