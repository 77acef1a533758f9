"""Manifests and indexes: parsed strictly, kept as the very bytes that were pushed (image-spec)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dtr.model.digest import Digest
from dtr.model.documents import JsonInvalidError, JsonLimits, load_json
from dtr.model.errors import DigestInvalidError, ManifestInvalidError

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_MANIFEST_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_MANIFEST_LIST})
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_GENERIC = frozenset({"", "application/json", "application/octet-stream", "text/plain"})

_NONDISTRIBUTABLE = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.nondistributable\.|docker\.image\.rootfs\.foreign\.)"
)
_MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}\Z", re.ASCII
)
_DIGEST = re.compile(rb"sha256:[a-f0-9]{64}(?![a-f0-9])|sha512:[a-f0-9]{128}(?![a-f0-9])")
_MAX_SIZE = 2**63 - 1
_MAX_MEDIA_TYPE = 255
_KNOWN_KEYS = frozenset(
    {"schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "artifactType"}
    | {"annotations", "digest", "size", "urls", "fsLayers", "history", "signatures"}
)
_Descriptor = tuple[Digest, str]
"""A digest and the media type that it is said to have."""
_USUAL_KEYS = frozenset({"mediaType", "digest", "size", "annotations", "platform"})
_FOLDED = {key.casefold(): key for key in _KNOWN_KEYS}


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a manifest may be in ways other than bytes."""

    references: int = 40_000
    """4 MiB hold 37,449 of the shortest descriptors."""
    json: JsonLimits = field(default_factory=JsonLimits)


UNLIMITED = Limits(references=2**31, json=JsonLimits(nesting=512, tokens=2**31))
"""For what is stored already: it may have been accepted under other limits."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the registry needs to know of a manifest or index.

    `blobs` and `children` together are all that it refers to, but for the subject. Which of the two
    a digest is in, its descriptor's media type says, and not its place: an index may name layers,
    as BuildKit's cache does. It is a hint about where to look first. What the digest refers to is
    whatever is stored under it. `optional` are those that need not be here: they are
    nondistributable wherever the document names them.
    """

    media_type: str
    blobs: tuple[Digest, ...] = ()
    children: tuple[Digest, ...] = ()
    optional: frozenset[Digest] = frozenset()
    subject: Digest | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_index(self) -> bool:
        """An OCI index or a Docker manifest list."""
        return self.media_type in INDEX_TYPES

    @property
    def needed(self) -> tuple[Digest, ...]:
        """What must be here for a pull to succeed, each once."""
        references = dict.fromkeys((*self.blobs, *self.children))
        return tuple(digest for digest in references if digest not in self.optional)


def parse_manifest(payload: bytes, content_type: str, limits: Limits | None = None) -> Manifest:
    """Return what `payload`, pushed as `content_type`, says.

    Strict where clients could otherwise read one document in two ways (CVE-2021-41190): the media
    type must agree with the header and with the shape, a document has `layers` or `manifests` but
    never both, no key stands twice or in another case than the specification's.

    Raises:
        ManifestInvalidError: whatever is wrong, in one sentence.

    """
    limits = limits or Limits()
    document = _load(payload, limits)
    media_type = _media_type(document, content_type)
    version = document.get("schemaVersion")
    if not isinstance(version, int) or version != 2:  # noqa: PLR2004
        raise ManifestInvalidError("schemaVersion must be 2")
    if "fsLayers" in document:
        raise ManifestInvalidError("a manifest of schema version 2 has no fsLayers")
    references = _references(document, media_type, limits)
    subject = _optional_descriptor(document, "subject")
    types = MANIFEST_TYPES | INDEX_TYPES
    named = [each for each, kind in references if kind not in types]
    extra = _extra(document)
    return Manifest(
        media_type=media_type,
        blobs=tuple(dict.fromkeys([*named, *extra])),
        children=tuple(dict.fromkeys(each for each, kind in references if kind in types)),
        optional=_optional(references) | extra.difference(each for each, _ in references),
        subject=subject[0] if subject else None,
        artifact_type=_artifact_type(document, media_type),
        annotations=_annotations(document),
    )


def _found(text: str) -> tuple[Digest, ...]:
    return tuple(each for each in digests_in(text.encode(errors="replace")) if each == text)


def digests_in(payload: bytes) -> tuple[Digest, ...]:
    """Return every digest that stands anywhere in a document, whatever the document is."""
    return tuple(dict.fromkeys(Digest(found.decode()) for found in _DIGEST.findall(payload)))


def _load(payload: bytes, limits: Limits) -> dict[str, Any]:
    try:
        document = load_json(payload, limits.json)
    except JsonInvalidError as error:
        raise ManifestInvalidError(f"manifest {error}", **error.detail) from None
    if not isinstance(document, dict):
        raise ManifestInvalidError("manifest must be a JSON object")
    _check_case(document)
    return document


def _check_case(entry: Mapping[str, Any]) -> None:
    """Refuse keys that some JSON readers take for the specification's and others do not."""
    if _USUAL_KEYS.issuperset(entry):
        return
    for key in entry:
        if _FOLDED.get(key.casefold(), key) != key:
            raise ManifestInvalidError(f"key {key!r} differs from the specification's only in case")


def _media_type(document: dict[str, Any], content_type: str) -> str:
    header = content_type.partition(";")[0].strip()
    body = document.get("mediaType")
    if body is not None and not isinstance(body, str):
        raise ManifestInvalidError("mediaType must be a string")
    if header.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        message = "Docker schema 1 manifests are not accepted: push with Docker 1.10 or newer"
        raise ManifestInvalidError(message)
    declared = "" if header in _GENERIC else header
    if body and declared and body != declared:
        message = "Content-Type differs from the manifest's mediaType"
        raise ManifestInvalidError(message, content_type=declared, media_type=_shown(body))
    media_type = declared or body or _type_by_shape(document)
    if media_type not in MANIFEST_TYPES | INDEX_TYPES:
        message = "media type is not one of a manifest"
        raise ManifestInvalidError(message, media_type=_shown(media_type))
    return media_type


def _shown(media_type: str) -> str:
    """Return no more than a media type may have; a document may hold mebibytes in its place."""
    return media_type[:_MAX_MEDIA_TYPE]


def _type_by_shape(document: dict[str, Any]) -> str:
    return OCI_INDEX if "manifests" in document else OCI_MANIFEST


def _references(document: dict[str, Any], media_type: str, limits: Limits) -> list[_Descriptor]:
    """Return the descriptors in every position but `subject`."""
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ManifestInvalidError("a document must not have both layers and manifests")
    if media_type in INDEX_TYPES:
        if "manifests" not in document:
            raise ManifestInvalidError("an index must have manifests")
        found = _descriptors(document, "manifests")
    elif "manifests" in document:
        raise ManifestInvalidError("a manifest has no manifests; an index has")
    else:
        config = _optional_descriptor(document, "config")
        if config is None:
            raise ManifestInvalidError("a manifest must have a config")
        found = [config, *_descriptors(document, "layers")]
    if len(found) > limits.references:
        message = f"manifest has more than {limits.references} references"
        raise ManifestInvalidError(message, limit=limits.references)
    return found


def _extra(document: dict[str, Any]) -> frozenset[Digest]:
    """Return what stands in `blobs`, where the withdrawn artifact manifest had descriptors.

    No specification asks that it be here or be anything, so it is taken for what it looks like.
    """
    entries = document.get("blobs")
    found = entries if isinstance(entries, list) else []
    texts = [entry.get("digest") for entry in found if isinstance(entry, dict)]
    return frozenset(each for text in texts if isinstance(text, str) for each in _found(text))


def _optional(references: Iterable[_Descriptor]) -> frozenset[Digest]:
    """Return what is nondistributable, and nowhere named as something that must be here."""
    kinds = {kind for _, kind in references if _NONDISTRIBUTABLE.match(kind)}
    if not kinds:
        return frozenset()
    optional = {digest for digest, kind in references if kind in kinds}
    return frozenset(optional.difference(each for each, kind in references if kind not in kinds))


def _descriptors(document: dict[str, Any], key: str) -> list[_Descriptor]:
    """Return the descriptors in a list; null is what Go writes for a list of nothing."""
    entries = document.get(key)
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise ManifestInvalidError(f"{key} must be a list")
    return [_descriptor(entry, key, position) for position, entry in enumerate(entries)]


def _optional_descriptor(document: dict[str, Any], key: str) -> _Descriptor | None:
    entry = document.get(key)
    return None if entry is None else _descriptor(entry, key)


def _descriptor(entry: object, key: str, position: int | None = None) -> _Descriptor:
    """Return digest and media type of a content descriptor (image-spec descriptor.md)."""
    problem = _problem(entry)
    if problem is not None:
        where = key if position is None else f"{key}[{position}]"
        raise ManifestInvalidError(where + problem)
    found: Any = entry
    return Digest(found["digest"]), found["mediaType"]


def _problem(entry: object) -> str | None:
    """Return what is wrong with a descriptor, or None; a manifest may have tens of thousands."""
    if not isinstance(entry, dict):
        return " must be a descriptor"
    _check_case(entry)
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if not isinstance(media_type, str) or _MEDIA_TYPE.match(media_type) is None:
        return ".mediaType must be a media type"
    if type(size) is not int or not 0 <= size <= _MAX_SIZE:
        return ".size must be a number of bytes"
    try:
        Digest.parse(digest if isinstance(digest, str) else "")
    except DigestInvalidError as error:
        return f".digest: {error}"
    return None


def _artifact_type(document: dict[str, Any], media_type: str) -> str:
    """Return what the referrers API shows: the config's media type stands in for a manifest's."""
    value = document.get("artifactType")
    if value is not None and not isinstance(value, str):
        raise ManifestInvalidError("artifactType must be a string")
    if value and len(value) > _MAX_MEDIA_TYPE:
        raise ManifestInvalidError(f"artifactType is longer than {_MAX_MEDIA_TYPE} characters")
    if value and not value.isprintable():
        raise ManifestInvalidError(
            "artifactType has characters that are not allowed in a media type"
        )
    if value or media_type in INDEX_TYPES:
        return value or ""
    return str(document["config"]["mediaType"])


def _annotations(document: dict[str, Any]) -> dict[str, str]:
    value = document.get("annotations")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ManifestInvalidError("annotations must map strings to strings")
    return value
