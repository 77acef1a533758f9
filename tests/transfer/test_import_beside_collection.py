"""Collection goes on while an import runs: what the import took for present must not be lost.

Whoever pushes asks first with HEAD, which keeps a blob for the grace. An import that goes on where
an earlier one was cut off days ago finds blobs that nothing refers to yet, and that are due.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.transfer.tree import Tree, image, index

from dtr.collect.collector import Collector, CollectSettings
from dtr.model.access import Visibility
from dtr.model.digest import Digest
from dtr.model.manifests import OCI_MANIFEST, parse_manifest
from dtr.model.names import RepositoryName
from dtr.registry import records
from dtr.registry.context import RegistrySettings
from dtr.registry.push import PushedManifest
from dtr.registry.records import Blob
from dtr.testing.registry import RegistryState, open_state
from dtr.transfer import records as import_records
from dtr.transfer.distribution import DistributionDirectory
from dtr.transfer.importer import Imported, Importer, ImportSettings

NAME = "team/app"
LONG_AGO = 1_000_000.0


class CollectedMeanwhile(DistributionDirectory):
    """A source from which a blob takes so long that collection runs meanwhile, once."""

    def __init__(self, root: Path, state: RegistryState, slow: Digest) -> None:
        super().__init__(root)
        self._state = state
        self._slow = slow
        self.collections = 0

    async def blob(self, repository: str, digest: Digest) -> AsyncIterator[bytes]:
        """Stream a blob; before the slow one's bytes come, collect."""
        if digest == self._slow and not self.collections:
            self.collections += 1
            state, settings = self._state, CollectSettings(untagged=True, rest=0)
            await Collector(state.database, state.store, settings).run()
        async for chunk in super().blob(repository, digest):
            yield chunk


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give an empty docker-registry."""
    tree = Tree(tmp_path / "source")
    (tree.inside / "repositories").mkdir(parents=True)
    return tree


@pytest.fixture
def state(tmp_path: Path) -> RegistryState:
    """Give a registry with its blobs in memory."""
    (tmp_path / "target").mkdir()
    return open_state(tmp_path / "target")


async def leave(state: RegistryState, *contents: bytes) -> int:
    """Leave blobs as an import does that is cut off, long ago; return the repository."""
    repository = state.database.write_now(
        import_records.prepare_repository, RepositoryName.parse(NAME), Visibility.PRIVATE, None
    )
    for content in contents:
        digest = Digest.of(content)
        writer = await state.store.begin(f"left-{digest.encoded[:8]}", digest.algorithm)
        await writer.append(content)
        blob = Blob(digest, len(content), await writer.commit(digest))
        await writer.close()
        state.database.write_now(
            import_records.add_blob, repository.id, blob, now=LONG_AGO, review_at=LONG_AGO
        )
    return repository.id


async def run(state: RegistryState, source: CollectedMeanwhile) -> Imported:
    """Import all."""
    importer = Importer(
        source, state.database, state.store, RegistrySettings(), ImportSettings(concurrency=1)
    )
    return await importer.run()


async def test_a_blob_that_an_earlier_import_brought_is_there_in_the_end(
    tree: Tree, state: RegistryState
) -> None:
    """Collection takes it after it was seen here, and before anything refers to it."""
    layer, config = tree.add_blob(NAME, b"layer"), tree.add_blob(NAME, b'{"slow": true}')
    tree.add_manifest(NAME, image(config, layer), "v1")
    repository_id = await leave(state, b"layer")
    source = CollectedMeanwhile(tree.root, state, config)
    done = await run(state, source)
    assert source.collections == 1
    assert done.problems == []
    missing = state.database.read_now(records.missing_blobs, repository_id, [config, layer])
    assert missing == []


async def test_a_manifest_that_an_earlier_import_brought_is_there_in_the_end(
    tree: Tree, state: RegistryState
) -> None:
    """Likewise the parts of an index, where untagged manifests are collected."""
    first = tree.add_image(NAME, content="first")
    slow = tree.add_blob(NAME, b'{"slow": true}')
    second = tree.add_manifest(NAME, image(slow, tree.add_blob(NAME, b"second")))
    tree.add_manifest(NAME, index(first, second), "all")
    payload = tree.blob_path(first).read_bytes()
    parts = (b'{"of": "first"}', b"first")
    repository_id = await leave(state, *parts)
    pushed = PushedManifest(first, payload, parse_manifest(payload, OCI_MANIFEST), [], None)
    state.database.write_now(
        import_records.add_manifest,
        RepositoryName.parse(NAME),
        pushed,
        now=LONG_AGO,
        untagged_grace_seconds=0,
    )
    source = CollectedMeanwhile(tree.root, state, slow)
    done = await run(state, source)
    assert source.collections == 1
    assert done.problems == []
    for manifest in (first, second):
        assert state.database.read_now(records.find_manifest_id, repository_id, manifest)
    wanted = [Digest.of(each) for each in parts]
    assert state.database.read_now(records.missing_blobs, repository_id, wanted) == []
