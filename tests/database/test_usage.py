"""How much repositories hold, and how much of it no tag leads to, on either engine."""

import json
from typing import Any

from sqlalchemy import delete
from tests.database.conftest import OpenMetadata

from dtr.database import Database, Writer
from dtr.database.schema import tags
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST, parse_manifest
from dtr.model.names import RepositoryName, TagName
from dtr.registry import records
from dtr.registry.push import PushedManifest, put_manifest
from dtr.registry.records import Blob

NAME, OTHER = RepositoryName.parse("team/app"), RepositoryName.parse("team/other")


def push_blob(database: Database, name: RepositoryName, content: bytes) -> dict[str, Any]:
    """Put a blob into a repository; return its descriptor."""
    digest = Digest.of(content)

    def add(writer: Writer) -> None:
        repository = records.ensure_repository(writer, name)
        records.store_blob(writer, Blob(digest, len(content), f"key-{digest.encoded}"), 1.0)
        records.link_blob(writer, repository.id, digest, 1.0)

    database.write_now(add)
    return {"mediaType": "a/b", "digest": digest, "size": len(content)}


def push(
    database: Database, name: RepositoryName, document: dict[str, Any], *names: str
) -> dict[str, Any]:
    """Push a manifest with tags; return its descriptor."""
    payload = json.dumps({"schemaVersion": 2, **document}).encode()
    manifest, digest = parse_manifest(payload, ""), Digest.of(payload)
    pushed = PushedManifest(digest, payload, manifest, [TagName.parse(tag) for tag in names], None)
    database.write_now(
        put_manifest, name, pushed, now=1.0, untagged_grace_seconds=1.0, accept_missing=False
    )
    return {"mediaType": manifest.media_type, "digest": digest, "size": len(payload)}


def image(database: Database, name: RepositoryName, content: bytes, *names: str) -> dict[str, Any]:
    """Push an image of one layer, and of a config that all images share."""
    config = push_blob(database, name, b"config")
    layers = [push_blob(database, name, content)]
    document = {"mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    return push(database, name, document, *names)


def test_untagged_is_what_no_tag_leads_to(open_metadata: OpenMetadata) -> None:
    """Through nested indexes, subjects and referrers; shared blobs do not count."""
    database = open_metadata()
    parts = [image(database, NAME, b"%d" % number * 1000) for number in range(3)]
    inner = push(database, NAME, {"mediaType": OCI_INDEX, "manifests": parts[:2]})
    push(database, NAME, {"mediaType": OCI_INDEX, "manifests": [inner]}, "multi")
    signature = {"mediaType": OCI_INDEX, "manifests": [], "subject": parts[0]}
    push(database, NAME, signature)
    push(database, NAME, {**signature, "subject": parts[2]}, "old-signature")
    lonely = image(database, NAME, b"lonely")
    about = push(database, NAME, {**signature, "subject": lonely})
    tagged = image(database, OTHER, b"lonely", "latest")

    (found,) = database.read_now(records.untagged_by_repository).values()
    assert (found.manifests, found.bytes) == (2, lonely["size"] + about["size"] + len(b"lonely"))

    summaries = {each.name: each for each in database.read_now(records.list_repositories, None)}
    assert summaries[NAME].untagged == found
    other = summaries[OTHER]
    assert (other.bytes, other.untagged.manifests) == (tagged["size"] + len(b"configlonely"), 0)


def test_what_loses_its_tag_is_untagged_with_all_its_parts(open_metadata: OpenMetadata) -> None:
    """As `skopeo delete` leaves an image of several platforms, whose parts keep each their own."""
    database = open_metadata()
    parts = [image(database, NAME, b"%d" % number * 1000) for number in range(3)]
    index = push(database, NAME, {"mediaType": OCI_INDEX, "manifests": parts}, "multi")
    assert database.read_now(records.untagged_by_repository) == {}
    database.write_now(lambda writer: writer.execute(delete(tags)))
    (found,) = database.read_now(records.untagged_by_repository).values()
    sizes = sum(each["size"] for each in (*parts, index))
    assert (found.manifests, found.bytes) == (4, sizes + 3000 + len(b"config"))
    assert database.read_now(records.untagged_by_repository, 10**6) == {}
