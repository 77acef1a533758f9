"""The edges that an older program did not make are made, on either engine, a few at a time."""

import json
from typing import Any

import pytest
from sqlalchemy import delete, event, func, select, update
from tests.database.conftest import OpenMetadata

from dtr.collect.collector import Collector, CollectSettings
from dtr.database import Database, Reader, Writer
from dtr.database.schema import manifest_references, manifests
from dtr.model.digest import Digest
from dtr.model.errors import ReferencedError
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST, UNLIMITED, parse_manifest
from dtr.model.names import RepositoryName, TagName
from dtr.registry import records
from dtr.registry.push import PushedManifest, delete_manifest, put_manifest
from dtr.registry.records import Blob
from dtr.registry.uploads import _delete_blob
from dtr.storage import MemoryBlobStore

NAME = RepositoryName.parse("team/app")
NOW = 1000.0
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
FEW = 120


def descriptor(digest: str, media_type: str) -> dict[str, Any]:
    """Return a descriptor of something of one byte."""
    return {"mediaType": media_type, "digest": digest, "size": 1}


def add_blob(writer: Writer, content: bytes) -> Digest:
    """Put a blob into the repository whose review is due."""
    digest = Digest.of(content)
    repository = records.ensure_repository(writer, NAME)
    records.store_blob(writer, Blob(digest, len(content), f"key-{digest.encoded}"), NOW)
    records.link_blob(writer, repository.id, digest, NOW)
    return digest


def put(database: Database, document: dict[str, Any], tag: str) -> None:
    """Push a manifest as a tag."""
    payload = json.dumps({"schemaVersion": 2, **document}).encode()
    manifest = parse_manifest(payload, document["mediaType"])
    pushed = PushedManifest(Digest.of(payload), payload, manifest, [TagName.parse(tag)], None)
    put_tagged = {"now": NOW, "untagged_grace_seconds": 0.0, "accept_missing": False}
    database.write_now(put_manifest, NAME, pushed, **put_tagged)  # type: ignore[arg-type]


def fill(database: Database) -> int:
    """Push images with foreign layers and a cache index; return how many blobs they have."""
    config = database.write_now(add_blob, b"config")
    for number in range(FEW):
        layer = database.write_now(add_blob, b"%d" % number)
        layers = [descriptor(layer, FOREIGN)]
        entry = descriptor(config, "application/x.config")
        document = {"mediaType": OCI_MANIFEST, "config": entry, "layers": layers}
        put(database, document, f"v{number}")
    cached = database.write_now(add_blob, b"cached")
    entries = [descriptor(cached, "application/x.layer")]
    put(database, {"mediaType": OCI_INDEX, "manifests": entries}, "cache")
    return FEW + 2


def become_old(writer: Writer) -> None:
    """Leave what an older program would have stored."""
    foreign = select(manifest_references.c.digest).where(
        manifest_references.c.digest != str(Digest.of(b"config"))
    )
    writer.execute(delete(manifest_references).where(manifest_references.c.digest.in_(foreign)))
    writer.execute(update(manifests).values(edge_rules=0))


def unfinished(reader: Reader) -> int:
    """Count manifests without their edges."""
    where = manifests.c.edge_rules == 0
    return int(reader.scalar(select(func.count()).select_from(manifests).where(where)))


def test_what_4_mib_refer_to_is_written_in_a_few_statements(open_metadata: OpenMetadata) -> None:
    """An image of one layer per file: what it costs is counted in statements, not in seconds."""
    database = open_metadata()
    statements = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(*heard: Any) -> None:
        statements.append(heard[2])

    database.write_now(add_blob, b"0")
    for number in (100, 37_000):
        statements.clear()
        layers = [descriptor(Digest.of(b"%d" % each), "a/b") for each in range(number)]
        document = {"mediaType": OCI_MANIFEST, "config": layers[0], "layers": layers}
        payload = json.dumps({"schemaVersion": 2, **document}).encode()
        pushed = PushedManifest(
            Digest.of(payload), payload, parse_manifest(payload, OCI_MANIFEST, UNLIMITED), [], None
        )
        put = {"now": NOW, "untagged_grace_seconds": 0.0, "accept_missing": True}
        missing = database.write_now(put_manifest, NAME, pushed, **put)  # type: ignore[arg-type]
        assert len(missing) == number - 1
        repository = database.read_now(records.find_repository, NAME)
        assert repository is not None
        database.write_now(
            delete_manifest,
            repository.id,
            pushed.digest,
            blobs_review_at=NOW,
            manifests_review_at=NOW,
        )
        assert len(statements) < 40


def test_a_deletion_does_nothing_while_its_repository_lacks_edges(
    open_metadata: OpenMetadata,
) -> None:
    """It says so, and finds what refers to it once they are made, in another process, too."""
    database, other = open_metadata(), open_metadata()
    fill(database)
    database.write_now(become_old)
    repository = database.read_now(records.find_repository, NAME)
    assert repository is not None
    layer = Digest.of(b"1")
    while not database.read_now(records.has_all_edges):
        assert not database.write_now(_delete_blob, repository.id, layer)
        assert other.write_now(records.make_edges, repository.id)
    with pytest.raises(ReferencedError):
        database.write_now(_delete_blob, repository.id, layer)


async def test_collection_finds_every_edge_of_what_was_stored_before(
    open_metadata: OpenMetadata,
) -> None:
    """Nothing goes that a tag leads to, and another process goes on where one ended."""
    database = open_metadata()
    count = fill(database)
    database.write_now(become_old)
    assert database.read_now(unfinished) == FEW + 1
    assert database.write_now(records.make_edges)
    assert 0 < database.read_now(unfinished) < FEW + 1

    settings = CollectSettings(untagged=True, batch=10, rest=0)
    collector = Collector(open_metadata(), MemoryBlobStore(), settings, clock=lambda: NOW + 10**9)
    done = await collector.run()
    assert (done.manifests, done.links, done.blobs) == (0, 0, 0)
    assert database.read_now(unfinished) == 0
    edges = select(func.count()).select_from(manifest_references)
    assert database.read_now(lambda reader: reader.scalar(edges)) == count - 1 + FEW
