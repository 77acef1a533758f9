"""What an import brings over from a directory, what it leaves, and what it says of that."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.transfer.tree import LAYER_TYPE, Tree, descriptor, image, index, write

from dtr.database import Reader
from dtr.database.schema import accounts, blobs, manifests, repositories, tags
from dtr.model.access import Level, Visibility
from dtr.model.digest import Digest
from dtr.model.errors import ReadOnlyError
from dtr.model.manifests import OCI_INDEX, OCI_MANIFEST
from dtr.model.names import RepositoryName
from dtr.model.read_only import ReadOnlyMode
from dtr.registry import manage, records
from dtr.registry.context import RegistrySettings
from dtr.registry.records.read_only import set_read_only
from dtr.storage import FilesystemBlobStore
from dtr.storage.hard_links import link_file
from dtr.testing.registry import RegistryState, open_state
from dtr.transfer.distribution import DistributionDirectory
from dtr.transfer.importer import Imported, Importer, ImportSettings
from dtr.transfer.source import SourceError


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give an empty docker-registry."""
    tree = Tree(tmp_path / "source")
    (tree.inside / "repositories").mkdir(parents=True)
    return tree


@pytest.fixture
def state(tmp_path: Path) -> RegistryState:
    """Give a registry with its blobs in memory."""
    directory = tmp_path / "target"
    directory.mkdir()
    return open_state(directory)


Import = Callable[..., Imported]


@pytest.fixture
def run(tree: Tree, state: RegistryState) -> Import:
    """Give what imports the tree."""

    def run(*names: str, limits: RegistrySettings | None = None, **settings: Any) -> Imported:
        importer = Importer(
            DistributionDirectory(tree.root),
            state.database,
            state.store,
            limits or RegistrySettings(),
            ImportSettings(**settings),
        )
        return asyncio.run(importer.run(names))

    return run


def tags_of(state: RegistryState) -> dict[str, str]:
    """Return digests by `repository:tag`."""

    def read(reader: Reader) -> dict[str, str]:
        rows = reader.execute(
            select(repositories.c.name.label("repository"), tags.c.name, manifests.c.digest)
            .join_from(tags, manifests, manifests.c.id == tags.c.manifest_id)
            .join(repositories, repositories.c.id == tags.c.repository_id)
        )
        return {f"{row.repository}:{row.name}": row.digest for row in rows}

    return state.database.read_now(read)


def blobs_of(state: RegistryState) -> set[str]:
    """Return the digests of the blobs that are here."""
    return state.database.read_now(lambda r: {row[0] for row in r.execute(select(blobs.c.digest))})


def reasons(done: Imported) -> dict[str, str]:
    """Return why things were not imported, by subject."""
    return {problem.subject: problem.reason for problem in done.problems}


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two names are of one file."""
    return one.samefile(other)


def count_of_manifests(state: RegistryState) -> int:
    """Return how many manifests the registry has."""
    return state.database.read_now(lambda reader: len(reader.execute(select(manifests.c.id)).all()))


def test_everything_comes_under_the_name_that_it_had(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Tags and untagged manifests, of nested and of short names; blobs are stored once."""
    first = tree.add_image("library/alpine", "v1", "latest")
    second = tree.add_image("a/b/c", "v1", content="layer")
    untagged = tree.add_image("solo", content="other")
    done = run()
    assert done.problems == []
    assert tags_of(state) == {
        "library/alpine:v1": first,
        "library/alpine:latest": first,
        "a/b/c:v1": second,
    }
    assert (done.repositories, done.tags, done.manifests, done.blobs) == (3, 3, 3, 4)
    solo = state.database.read_now(records.find_repository, RepositoryName("solo"))
    assert solo is not None
    assert state.database.read_now(records.find_manifest_id, solo.id, untagged) is not None


def test_the_same_import_again_changes_nothing(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """It finds everything here, and reads no blob again."""
    image = tree.add_image("team/app", "v1")
    tree.add_manifest("team/app", index(image), "all")
    run()
    again = run()
    assert (again.tags, again.manifests, again.blobs, again.problems) == (0, 0, 0, [])
    assert (again.tags_present, again.manifests_present) == (2, 2)


def test_a_later_import_brings_what_has_changed(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """A tag that moved there moves here."""
    tree.add_image("team/app", "v1", content="old")
    run()
    new = tree.add_image("team/app", "v1", content="new")
    done = run()
    assert (done.tags, done.manifests, done.blobs) == (1, 1, 2)
    assert tags_of(state)["team/app:v1"] == new


def test_a_tag_that_a_client_pushed_since_is_left_alone(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Unless the operator says otherwise."""
    old = tree.add_image("team/app", "v1", content="old")
    run()
    with state.database.engine.begin() as connection:
        connection.execute(tags.update().values(account_id=1))
    new = tree.add_image("team/app", "v1", content="new")
    assert "--overwrite-tags" in reasons(run())["v1"]
    assert tags_of(state)["team/app:v1"] == old
    assert run(overwrite_tags=True).problems == []
    assert tags_of(state)["team/app:v1"] == new


def test_a_dry_run_says_what_would_come_and_changes_nothing(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """It counts what the import itself counts."""
    image = tree.add_image("team/app", "v1", "v2")
    tree.add_image("team/other", "v1")
    tree.add_manifest("team/app", index(image), "all")
    planned = run(dry_run=True)
    assert tags_of(state) == {}
    assert count_of_manifests(state) == 0
    assert planned == run()


def test_namespaces_owners_and_visibility_are_as_asked(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Everything can be put below one namespace; somebody may administer what has no user."""
    tree.add_image("alpine", "v1")
    tree.add_image("alice/app", "v1", content="hers")
    run(prefix="mirror", owner="alice", visibility=Visibility.PUBLIC)
    assert set(tags_of(state)) == {"mirror/alpine:v1", "mirror/alice/app:v1"}
    name = RepositoryName("mirror/alpine")
    repository = state.database.read_now(records.find_repository, name)
    assert repository is not None
    assert repository.visibility is Visibility.PUBLIC
    assert state.database.read_now(manage.list_grants, name) == [("alice", Level.ADMIN)]

    run("alice/app", owner="alice")
    mine = state.database.read_now(manage.list_grants, RepositoryName("alice/app"))
    assert mine == []
    with state.database.engine.connect() as connection:
        kinds = dict(connection.execute(select(accounts.c.name, accounts.c.kind)).all())
    assert (kinds["mirror"], kinds["alice"]) == ("organization", "user")


def test_what_is_damaged_is_left_and_the_rest_comes(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """A lost blob, lost and wrong links, other bytes, a deleted revision: each is said."""
    good = tree.add_image("team/app", "good")

    def add(tag: str) -> tuple[Digest, Digest]:
        image = tree.add_image("team/app", tag, content=tag)
        return image, Digest.of(tag.encode())

    lost, layer = add("lost-layer")
    tree.blob_path(layer).unlink()
    flipped, layer = add("flipped")
    tree.blob_path(layer).write_bytes(b"flippef")
    unlinked, layer = add("unlinked-layer")
    tree.layer_link("team/app", layer).unlink()
    crossed, layer = add("crossed-layer")
    tree.layer_link("team/app", layer).write_bytes(good.encode())
    damaged, _ = add("damaged")
    tree.blob_path(damaged).write_bytes(b"{}")
    deleted, _ = add("deleted")
    tree.revision_link("team/app", deleted).unlink()
    write(tree.tag_link("team/app", "nonsense"), b"no digest")
    write(tree.tag_link("team/app", "huge"), b"0" * 10_000_000)
    (tree.tag_link("team/app", "empty").parent).mkdir(parents=True)

    said = reasons(run())
    assert tags_of(state) == {"team/app:good": good}
    assert count_of_manifests(state) == 1
    assert "is missing" in said[lost]
    assert "did not match" in said[flipped]
    assert "is missing" in said[unlinked]
    assert "names another" in said[crossed]
    assert "damaged" in said["damaged"]
    assert "is missing" in said["deleted"]
    assert "does not hold a digest" in said["nonsense"]
    assert "does not hold a digest" in said["huge"]
    assert "is missing" in said["empty"]
    for tag in ("lost-layer", "flipped", "unlinked-layer", "crossed-layer"):
        assert "was not imported" in said[tag]


def test_what_this_registry_would_refuse_in_a_push_is_not_imported(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Schema 1, what is no manifest, what is too large; names and tags out of the grammar."""
    schema1 = tree.add_manifest("team/app", b'{"schemaVersion": 1, "fsLayers": []}', "old")
    nonsense = tree.add_manifest("team/app", b"\x00\xff", "nonsense")
    large = tree.add_manifest("team/app", b'{"a": "' + b"x" * 5000 + b'"}', "large")
    tree.add_image("team/app", "-v1")
    tree.add_image("Team/App", "v1")
    tree.add_image("a" * 70 + "/app", "v1")
    said = reasons(run(limits=RegistrySettings(manifest_bytes=4096)))
    assert tags_of(state) == {}
    assert "schema 1" in said[schema1]
    assert "JSON" in said[nonsense]
    assert "larger than 4096" in said["large"]
    assert "larger than 4096" in said[large]
    assert "tag must be" in said["-v1"]
    found = [problem for problem in run().problems if problem.subject == "the repository"]
    assert "lower-case" in found[0].reason
    assert "--prefix" in found[1].reason
    assert count_of_manifests(state) == 1  # the image whose tag was not one


def test_an_index_comes_with_its_parts_and_also_without_some(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Parts need no tag of their own; that one is missing is said, and the others can be pulled."""
    one = tree.add_image("team/app", content="one")
    two = tree.add_image("team/app", content="two")
    whole = tree.add_manifest("team/app", index(one, two), "whole")
    lost = Digest.of(b"lost")
    sparse = tree.add_manifest("team/app", index(one, lost), "sparse")
    said = reasons(run())
    assert tags_of(state) == {"team/app:whole": whole, "team/app:sparse": sparse}
    assert set(said) == {sparse}
    assert lost in said[sparse]


FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def test_a_foreign_layer_comes_where_the_source_has_it(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """One that was pushed on purpose, for a network of its own; where it is not, nothing lacks."""
    config, layer = (tree.add_blob("team/app", content) for content in (b"config", b"layer"))
    payload = image(config, layer).replace(LAYER_TYPE.encode(), FOREIGN.encode())
    foreign = tree.add_manifest("team/app", payload, "windows")
    tree.layer_link("team/app", layer).rename(tree.root / "aside")
    assert foreign not in reasons(run())
    assert layer not in blobs_of(state)

    (tree.root / "aside").rename(tree.layer_link("team/app", layer))
    assert foreign not in reasons(run())
    assert layer in blobs_of(state)


def test_a_foreign_layer_that_cannot_be_read_is_listed(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """The rest comes; that the source does not have it is something else."""
    config, layer = (tree.add_blob("team/app", content) for content in (b"config", b"layer"))
    payload = image(config, layer).replace(LAYER_TYPE.encode(), FOREIGN.encode())
    foreign = tree.add_manifest("team/app", payload, "windows")
    write(tree.blob_path(layer), b"damaged")
    assert layer in reasons(run())[foreign]
    assert tags_of(state) == {"team/app:windows": foreign}
    assert blobs_of(state) == {config}


def test_an_index_comes_with_its_blobs(tree: Tree, state: RegistryState, run: Import) -> None:
    """As BuildKit's cache names layers, and also a blob that it takes for a manifest."""
    layer, other = (tree.add_blob("team/app", content) for content in (b"layer", b"other"))
    entries = [descriptor(FOREIGN, layer), descriptor(OCI_MANIFEST, other)]
    cache = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    tree.add_manifest("team/app", json.dumps(cache).encode(), "cache")
    assert run().problems == []
    assert blobs_of(state) == {layer, other}


def test_a_manifest_that_another_names_as_a_layer_comes(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """What a digest refers to is what the source has of it."""
    named = tree.add_image("team/app", content="named")
    config = tree.add_blob("team/app", b"config")
    strange = tree.add_manifest("team/app", image(config, named), "strange")
    assert run().problems == []
    assert tags_of(state) == {"team/app:strange": strange}
    assert count_of_manifests(state) == 2


def test_referrers_come_with_their_subject(tree: Tree, state: RegistryState, run: Import) -> None:
    """Signatures have no tag; they are among the revisions."""
    subject = tree.add_image("team/app", "v1")
    signature = tree.add_image("team/app", content="signature", subject=subject)
    assert run().problems == []
    with state.database.engine.connect() as connection:
        found = connection.execute(select(manifests.c.subject, manifests.c.digest)).all()
    assert (subject, signature) in found


def test_indexes_are_not_followed_without_an_end(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """However deep they are nested, the import ends and says so."""
    digest = tree.add_image("team/app")
    for _ in range(40):
        digest = tree.add_manifest("team/app", index(digest))
    tree.add_tag("team/app", "deep", digest)
    done = run()
    assert any("nested deeper" in problem.reason for problem in done.problems)


def test_nothing_outside_of_the_directory_is_read(
    tree: Tree, state: RegistryState, run: Import, tmp_path: Path
) -> None:
    """Neither through links in the file system nor through names in link files."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret of this machine")
    stolen = tree.add_image("team/app", "stolen", content=secret.read_text())
    blob = tree.blob_path(Digest.of(secret.read_bytes()))
    blob.unlink()
    blob.symlink_to(secret)
    write(tree.tag_link("team/app", "traversal"), b"sha256:../../../../../secret")
    elsewhere = Tree(tmp_path / "elsewhere")
    elsewhere.add_image("other/app", "v1")
    (tree.inside / "repositories" / "linked").symlink_to(
        elsewhere.inside / "repositories" / "other"
    )
    repository = tree.inside / "repositories" / "team" / "borrowed"
    repository.mkdir()
    (repository / "_manifests").symlink_to(
        elsewhere.inside / "repositories" / "other" / "app" / "_manifests"
    )
    said = reasons(run())
    assert tags_of(state) == {}
    assert "not a plain file" in said[stolen]
    assert "does not hold a digest" in said["traversal"]
    assert "not a plain file" in said["v1"]


def test_a_repository_gets_no_blob_that_only_another_one_has(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Naming a digest does not give access to it, neither there nor here."""
    private = tree.add_image("alice/private", "v1", content="secret")
    run("alice/private")
    tree.add_blob("bob/app", b"config")
    stolen = tree.add_manifest(
        "bob/app", tree.blob_path(private).read_bytes().replace(b'": 1', b'": 2'), "v1"
    )
    assert "is missing" in reasons(run())[stolen]
    assert set(tags_of(state)) == {"alice/private:v1"}


def test_another_directory_is_refused(tmp_path: Path) -> None:
    """One that has no repositories in it; the inner directory will do."""
    with pytest.raises(SourceError, match="no data directory of a docker-registry"):
        DistributionDirectory(tmp_path)
    tree = Tree(tmp_path)
    tree.add_image("team/app", "v1")
    DistributionDirectory(tree.inside)


async def test_blobs_of_the_same_file_system_are_linked(
    tree: Tree, tmp_path: Path, state: RegistryState
) -> None:
    """Not a byte is copied; what has other bytes than its name says is not taken over."""
    tree.add_image("team/app", "v1", content="shared")
    broken = tree.add_image("team/app", "v2", content="broken")
    tree.blob_path(Digest.of(b"broken")).write_bytes(b"other!")
    store = FilesystemBlobStore(tmp_path / "store")

    async def link(path: Path, digest: Digest) -> str | None:
        return await link_file(store, path, digest)

    importer = Importer(
        DistributionDirectory(tree.root),
        state.database,
        store,
        RegistrySettings(),
        ImportSettings(),
        link=link,
    )
    done = await importer.run()
    assert (done.blobs, done.blobs_linked) == (3, 3)
    assert set(reasons(done)) == {broken, "v2"}
    digest = Digest.of(b"shared")
    found = await state.database.read(records.find_blob, digest)
    assert found is not None
    assert is_same_file(store.path(found[0].storage_key), tree.blob_path(digest))
    assert [upload async for upload in store.walk_uploads()] == []
    assert len([blob async for blob in store.walk()]) == 3
    assert tree.blob_path(Digest.of(b"broken")).read_bytes() == b"other!"
    await store.close()


def test_an_import_ends_where_only_pulls_are_served(
    tree: Tree, state: RegistryState, run: Import
) -> None:
    """Also one that began before; it goes on when it is run again."""
    tree.add_image("team/app", "v1")
    state.database.write_now(set_read_only, ReadOnlyMode.new("a move", 0, "root"))
    with pytest.raises(ReadOnlyError, match="a move"):
        run()
    assert tags_of(state) == {}
    state.database.write_now(set_read_only, None)
    assert run().problems == []
