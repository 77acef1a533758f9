"""What a manifest refers to stays: in every position, of every kind, pushed before or after it."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import delete, update
from tests.collect.yard import GRACE, UNTAGGED_GRACE, Yard, damage
from tests.http.client import CONFIG_TYPE, LAYER_TYPE, Repository, assert_error, descriptor

from dtr.accounts.gate import Gate
from dtr.collect.check import Severity
from dtr.database import Writer
from dtr.database.schema import manifest_references, manifests
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.registry import manage, records
from dtr.registry.push import delete_manifest
from dtr.registry.uploads import _delete_blob

CACHE_TYPE = "application/vnd.buildkit.cacheconfig.v0"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
CONFIG, LAYER, EXTRA = b"config", b"layer", b"in a position of its own"
TYPES = (LAYER_TYPE, OCI_MANIFEST, FOREIGN)


def image_with(**fields: Any) -> dict[str, Any]:
    """Return a manifest that refers to nothing but what is given."""
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}
    return {**document, "config": descriptor(CONFIG, CONFIG_TYPE), **fields}


def index_with(*entries: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return an index of these entries."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **fields}


POSITIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "config": lambda entry: image_with(config=entry),
    "layers": lambda entry: image_with(layers=[entry]),
    "blobs": lambda entry: image_with(blobs=[entry]),
    "subject": lambda entry: image_with(subject=entry),
    "manifests": index_with,
    "subject of an index": lambda entry: index_with(subject=entry),
}
EDGES = ("config", "layers", "blobs", "manifests")


async def push_as_blob(repository: Repository) -> tuple[bytes, str]:
    """Push content as a blob; return it and its path."""
    return EXTRA, repository.blob(await repository.push_blob(EXTRA))


async def push_as_manifest(repository: Repository) -> tuple[bytes, str]:
    """Push an index of nothing; return it and its path."""
    payload = json.dumps(index_with()).encode()
    return payload, repository.manifest(await repository.push_manifest(payload))


KINDS = {"blob": push_as_blob, "manifest": push_as_manifest}
Push = Callable[[Repository], Awaitable[tuple[bytes, str]]]


async def settle(yard: Yard) -> None:
    """Collect until nothing changes any more, long after everything."""
    for _ in range(4):
        yard.clock.advance(UNTAGGED_GRACE + GRACE + 1)
        await yard.collect(untagged=True)


@pytest.mark.parametrize("is_first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", POSITIONS)
async def test_every_position_keeps_whatever_is_there(
    yard: Yard, position: str, kind: str, media_type: str, *, is_first: bool
) -> None:
    """A blob named as a manifest, a manifest named as a layer; and it goes after what named it."""
    repository, push = yard.repository(), KINDS[kind]
    content, path = await push(repository)
    if not is_first:
        await yard.client.delete(path)
        await yard.collect()
    await repository.push_blob(CONFIG)
    document = POSITIONS[position](descriptor(content, media_type))
    answer = await repository.put_manifest(document, "latest")
    assert answer.status_code == 201, answer.text
    assert not (is_first and "Warning" in answer.headers), answer.headers
    if not is_first:
        await push(repository)
    await settle(yard)
    assert (await yard.reader.get(path)).content == content
    assert await yard.check() == []

    if position in EDGES:
        assert_error(await yard.client.delete(path), 409, "DENIED")
    digest = answer.headers["Docker-Content-Digest"]
    assert (await yard.client.delete(repository.manifest(digest))).status_code == 202
    await settle(yard)
    assert (await yard.reader.get(path)).status_code == 404
    assert yard.files() == {}


@pytest.mark.parametrize("position", POSITIONS)
async def test_bytes_that_are_a_blob_and_a_manifest_are_kept_as_both(
    yard: Yard, position: str
) -> None:
    """One digest, two things; an edge is to both."""
    repository = yard.repository()
    content, path = await push_as_manifest(repository)
    await repository.push_blob(CONFIG)
    await repository.push_blob(content)
    await repository.push_manifest(POSITIONS[position](descriptor(content, OCI_INDEX)), "latest")
    await settle(yard)
    for where in (path, repository.blob(Digest.of(content))):
        assert (await yard.reader.get(where)).content == content


async def push_cache(repository: Repository) -> list[Digest]:
    """Push what BuildKit's cache export writes by default; return its blobs."""
    entries = [
        descriptor(LAYER, LAYER_TYPE, annotations={"buildkit/createdat": "2026-01-01T00:00:00Z"}),
        descriptor(CONFIG, CACHE_TYPE),
    ]
    digests = [await repository.push_blob(content) for content in (LAYER, CONFIG)]
    answer = await repository.put_manifest(index_with(*entries), "cache")
    assert answer.status_code == 201
    assert "Warning" not in answer.headers
    return digests


async def test_buildkits_cache_stays_whole(yard: Yard) -> None:
    """An index of layers (moby/buildkit 2251): its blobs were 404 after a day, its tag 200."""
    digests = await push_cache(yard.repository())
    await settle(yard)
    assert [await yard.has_blob(digest) for digest in digests] == [True, True]
    assert await yard.check() == []
    for digest in digests:
        answer = await yard.client.delete(yard.repository().blob(digest))
        assert_error(answer, 409, "DENIED")


async def test_an_edge_that_is_lost_is_damage_and_made_again(yard: Yard) -> None:
    """Without it the next collection would take what a tag needs."""
    pushed = await yard.repository().push_image("latest", LAYER)
    yard.state.database.write_now(_lose_edges)
    assert len(damage(await yard.check())) == 2
    assert all(found.repaired for found in await yard.check(repair=True))
    assert await yard.check() == []
    await settle(yard)
    assert await yard.has_blob(pushed.layers[0])


# What an older program has stored, or stores beside this one.


def _lose_edges(writer: Writer) -> None:
    writer.execute(delete(manifest_references))


def _as_by_an_older_program(writer: Writer) -> None:
    _lose_edges(writer)
    writer.execute(update(manifests).values(edge_rules=0))


async def push_with_foreign_layer(repository: Repository, number: int = 0) -> Digest:
    """Push an image with a foreign layer, as for a network of its own; return the layer."""
    content = b"foreign %d" % number
    await repository.push_blob(CONFIG)
    layer = await repository.push_blob(content)
    document = image_with(layers=[descriptor(content, FOREIGN)])
    answer = await repository.put_manifest(document, f"v{number}")
    assert answer.status_code == 201
    return layer


@pytest.mark.parametrize("is_asked_first", [True, False])
async def test_collection_makes_the_edges_that_an_older_program_did_not(
    yard: Yard, *, is_asked_first: bool
) -> None:
    """Before it looks at anything, a batch at a time; a dry run does, too."""
    repository = yard.repository()
    layers = [await push_with_foreign_layer(repository, number) for number in range(120)]
    cached = await push_cache(repository)
    yard.state.database.write_now(_as_by_an_older_program)
    yard.clock.advance(UNTAGGED_GRACE + GRACE + 1)
    assert {found.severity for found in await yard.check()} == {Severity.NOTE}
    if is_asked_first:
        assert (await yard.collector(untagged=True).plan()).links == 0
    done = await yard.collect(untagged=True)
    assert (done.links, done.manifests) == (0, 0)
    for digest in (*layers, *cached):
        assert await yard.has_blob(digest)
    assert await yard.check() == []


async def test_a_blob_is_not_deleted_from_under_what_an_older_program_stored(yard: Yard) -> None:
    """What needs it is found out first."""
    layer = await push_with_foreign_layer(yard.repository())
    yard.state.database.write_now(_as_by_an_older_program)
    answer = await yard.client.delete(yard.repository().blob(layer))
    assert_error(answer, 409, "DENIED")


async def push_named_as_foreign(repository: Repository) -> str:
    """Push a manifest that another, tagged one names as a foreign layer; return its path."""
    content, path = await push_as_manifest(repository)
    await repository.push_blob(CONFIG)
    document = image_with(layers=[descriptor(content, FOREIGN)])
    assert (await repository.put_manifest(document, "names-it")).status_code == 201
    return path


async def test_a_manifest_is_not_deleted_from_under_what_an_older_program_stored(
    yard: Yard,
) -> None:
    """What refers to it is found out first, as for a blob."""
    path = await push_named_as_foreign(yard.repository())
    yard.state.database.write_now(_as_by_an_older_program)
    assert_error(await yard.client.delete(path), 409, "DENIED")
    assert (await yard.reader.get(path)).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_what_an_older_program_stores_beside_a_deletion_counts(
    yard: Yard, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the question whether all edges are there, and before the deletion."""
    repository = yard.repository()
    path = await push_named_as_foreign(repository)
    if kind == "blob":
        path = repository.blob(await push_with_foreign_layer(repository))
    left = [_as_by_an_older_program, _as_by_an_older_program]
    write = Gate.write

    def write_beside(gate: Gate, unit: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if left and unit in {_delete_blob, delete_manifest}:
            yard.state.database.write_now(left.pop())
        return write(gate, unit, request, *args, **kwargs)

    monkeypatch.setattr(Gate, "write", write_beside)
    assert_error(await yard.client.delete(path), 409, "DENIED")
    assert left == []


async def test_a_deletion_does_not_wait_for_other_repositories(yard: Yard) -> None:
    """There may be hundreds of thousands of manifests whose edges are still to be made."""
    other = yard.repository("admin/other")
    for number in range(3):
        await push_with_foreign_layer(other, number)
    pushed = await yard.repository().push_image("latest", LAYER)
    database = yard.state.database
    database.write_now(_as_by_an_older_program)
    path = yard.repository().manifest(pushed.digest)
    assert (await yard.client.delete(path)).status_code == 202
    assert not database.read_now(records.has_all_edges)


async def test_a_report_goes_by_all_edges(yard: Yard) -> None:
    """What only a missing edge leads to is not reported as untagged."""
    await push_named_as_foreign(yard.repository())
    database = yard.state.database
    database.write_now(_as_by_an_older_program)
    manage.finish_edges(database)
    found = database.read_now(manage.list_repositories, "admin")
    assert [each.untagged.manifests for each in found] == [0, 0]


async def test_edges_are_made_a_few_at_a_time(yard: Yard) -> None:
    """Each transaction has so many that it is short; the next goes on where it ended."""
    repository = yard.repository()
    for number in range(120):
        await push_with_foreign_layer(repository, number)
    database = yard.state.database
    database.write_now(_as_by_an_older_program)
    assert [database.write_now(records.make_edges) for _ in range(5)] == [True] * 3 + [False] * 2
    assert await yard.check() == []


async def test_a_stored_document_that_would_be_refused_today_keeps_all_that_it_names(
    yard: Yard,
) -> None:
    """What cannot be read is no reason to collect."""
    pushed = await yard.repository().push_image("latest", LAYER)
    yard.state.database.write_now(_as_by_an_older_program)

    def spoil(writer: Writer) -> None:
        payload = pushed.payload.replace(b'"schemaVersion": 2', b'"schemaVersion": 1')
        writer.execute(update(manifests).values(payload=payload))

    yard.state.database.write_now(spoil)
    await settle(yard)
    assert await yard.has_blob(pushed.config)
    assert await yard.has_blob(pushed.layers[0])
