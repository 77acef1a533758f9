"""What an import writes: units of work on the statements that pushes use.

Each raises ReadOnlyError where the registry serves pulls only: an import takes long, and the mode
may begin while it runs.
"""

from dataclasses import dataclass

from sqlalchemy import select

from dtr.accounts.manage import require_account
from dtr.database import Reader, Writer
from dtr.database.schema import manifests, tags
from dtr.model.access import Level, Repository, Visibility
from dtr.model.digest import Digest
from dtr.model.names import RepositoryName, TagName
from dtr.registry import manage, records
from dtr.registry.push import PushedManifest, put_manifest
from dtr.registry.records import Blob
from dtr.registry.records.read_only import require_writable


@dataclass(frozen=True, slots=True)
class TagHere:
    """Where a tag points in the registry, and whether a client has put it there."""

    digest: str
    is_pushed: bool


def prepare_repository(
    writer: Writer, name: RepositoryName, visibility: Visibility, owner: str | None
) -> Repository:
    """Return the repository, made if need be; let `owner` administer a namespace of another name.

    Raises:
        AccountUnknownError: there is no such owner.

    """
    require_writable(writer)
    repository = records.ensure_repository(writer, name, visibility)
    if owner is not None and require_account(writer, owner).id != repository.namespace_id:
        manage.grant(writer, name.namespace, owner, Level.ADMIN, whole_namespace=True)
    return repository


def link_known_blob(
    writer: Writer, repository_id: int, digest: Digest, *, review_at: float
) -> bool:
    """Let the repository read a blob that is here; return False when it is not."""
    require_writable(writer)
    found = records.find_blob(writer, digest)
    if found is None or found[1] != records.LIVE:
        return False
    records.link_blob(writer, repository_id, digest, review_at)
    return True


def add_blob(
    writer: Writer, repository_id: int, blob: Blob, *, now: float, review_at: float
) -> bool:
    """Make stored bytes readable in a repository; return False when others were first."""
    require_writable(writer)
    is_used = records.store_blob(writer, blob, now)
    records.link_blob(writer, repository_id, blob.digest, review_at)
    return is_used


def add_manifest(
    writer: Writer,
    name: RepositoryName,
    pushed: PushedManifest,
    *,
    now: float,
    untagged_grace_seconds: float,
) -> list[Digest]:
    """Keep a manifest and move its tags; return what of an index is not here."""
    require_writable(writer)
    return put_manifest(
        writer,
        name,
        pushed,
        now=now,
        untagged_grace_seconds=untagged_grace_seconds,
        accept_missing=True,
    )


def find_tag(reader: Reader, repository_id: int, name: TagName) -> TagHere | None:
    """Return where a tag points, if it is here."""
    row = reader.execute(
        select(manifests.c.digest, tags.c.account_id)
        .join_from(tags, manifests, manifests.c.id == tags.c.manifest_id)
        .where(tags.c.repository_id == repository_id, tags.c.name == str(name))
    ).first()
    return None if row is None else TagHere(row.digest, row.account_id is not None)
