"""Addresses from all over a filled registry, and somebody who may see little of it."""

import base64
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from dtr.accounts.manage import add_user
from dtr.accounts.passwords import hash_password
from dtr.database import Database, open_postgresql

_COUNT: Final = 2000
_PAGE: Final = 100


@dataclass(frozen=True)
class User:
    """An account that logs in with its password, which is remembered after the first time."""

    name: str
    password: str

    @property
    def headers(self) -> Mapping[str, str]:
        """What it sends with every request."""
        given = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {given}"}


@dataclass(frozen=True)
class Sample:
    """Paths to ask for, and content to push again, chosen at random from everywhere."""

    by_tag: Sequence[str]
    by_digest: Sequence[str]
    blobs: Sequence[str]
    largest_tags: str
    catalog: str
    manifests: Sequence[tuple[str, bytes]]
    """Repositories, and a manifest of each."""
    administrator: User
    guest: User
    """May see a dozen repositories and what is public."""
    member: User
    """May see everything, namespace by namespace."""


def take_sample(url: str, seed: int = 1) -> Sample:
    """Choose paths, and make the users who ask for them."""
    source = random.Random(seed)
    with psycopg.connect(url) as connection:
        by_manifest = _chosen(connection, source, "manifests", "manifests.id", _MANIFESTS)
        by_blob = _chosen(connection, source, "blobs", "blobs.id", _BLOBS)
        largest = connection.execute(_LARGEST).fetchone()
    assert largest is not None
    database = open_postgresql(url)
    try:
        users = [_add(database, is_admin=is_admin) for is_admin in (True, False, False)]
    finally:
        database.close()
    with psycopg.connect(url) as connection:
        connection.execute(_GRANT_LITTLE, {"name": users[1].name})
        connection.execute(_GRANT_ALL, {"name": users[2].name})
    return Sample(
        by_tag=[f"/v2/{row[0]}/manifests/{row[2]}" for row in by_manifest],
        by_digest=[f"/v2/{row[0]}/manifests/{row[1]}" for row in by_manifest],
        blobs=[f"/v2/{name}/blobs/{digest}" for name, digest in by_blob],
        largest_tags=f"/v2/{largest[0]}/tags/list?n={_PAGE}",
        catalog=f"/v2/_catalog?n={_PAGE}",
        manifests=[(row[0], bytes(row[3])) for row in by_manifest if b'"layers":[{' in row[3]],
        administrator=users[0],
        guest=users[1],
        member=users[2],
    )


_MANIFESTS: Final = """
SELECT DISTINCT ON (manifests.id) repositories.name, manifests.digest, tags.name, manifests.payload
FROM manifests JOIN repositories ON repositories.id = manifests.repository_id
JOIN tags ON tags.manifest_id = manifests.id WHERE manifests.id = ANY (%s)
"""
_BLOBS: Final = """
SELECT DISTINCT ON (blobs.id) repositories.name, blobs.digest
FROM blobs JOIN repository_blobs ON repository_blobs.digest = blobs.digest
JOIN repositories ON repositories.id = repository_blobs.repository_id WHERE blobs.id = ANY (%s)
"""
_LARGEST: Final = "SELECT name FROM repositories ORDER BY id LIMIT 1"
_GRANT_LITTLE: Final = """
INSERT INTO grants (account_id, repository_id, level)
SELECT account.id, repository.id, 1 FROM accounts AS account, (
    SELECT id FROM repositories WHERE visibility = 'private' ORDER BY md5(name) LIMIT 12
) AS repository WHERE account.name = %(name)s
"""
_GRANT_ALL: Final = """
INSERT INTO grants (account_id, namespace_id, level)
SELECT account.id, organization.id, 1 FROM accounts AS account, accounts AS organization
WHERE account.name = %(name)s AND organization.kind = 'organization'
"""


def _chosen(
    connection: psycopg.Connection[tuple[Any, ...]],
    source: random.Random,
    table: str,
    column: str,
    statement: str,
) -> list[tuple[Any, ...]]:
    row = connection.execute(psycopg.sql.SQL(f"SELECT max({column}) FROM {table}")).fetchone()
    assert row is not None
    numbers = source.sample(range(1, row[0] + 1), min(_COUNT, row[0]))
    rows = connection.execute(psycopg.sql.SQL(statement), (numbers,)).fetchall()
    source.shuffle(rows)
    return rows


def _add(database: Database, *, is_admin: bool) -> User:
    user = User(f"bench-{secrets.token_hex(4)}", secrets.token_urlsafe(24))
    hashed = hash_password(user.password)
    database.write_now(add_user, user.name, hashed, is_admin=is_admin)
    return user
