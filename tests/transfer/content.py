"""Rows for every table of a registry's metadata, with what engines could tell apart."""

import hashlib
from typing import Any

from sqlalchemy import Engine, insert, text

from dtr.database.schema import metadata

NOW = 1_700_000_000.123456


def digest(content: str) -> str:
    """Return the digest of a text."""
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def rows(repositories: int, tags: int) -> dict[str, list[dict[str, Any]]]:
    """Return rows by table; `repositories` repositories have `tags` tags and manifests each."""
    names = [f"team/été-{n}".replace("été", "ete") for n in range(repositories)]
    manifests = [(r, t) for r in range(repositories) for t in range(tags)]
    return {
        "accounts": [
            account(3, "team", kind="organization", password_hash=None),
            account(7, "zoë".replace("ë", "e"), is_admin=True, password_hash="$argon2id$…ü"),
        ],
        "tokens": [token(5, None), token(9, 5, kind="refresh", last_used_at=0.1 + 0.2)],
        "signing_keys": [{"id": "k", "private_key": "-\n-", "created_at": NOW, "expires_at": 1e12}],
        "failed_logins": [{"subject": "name:äöü", "failures": 3, "last_at": NOW}],
        "repositories": [
            {
                "id": 10 + number,
                "namespace_id": 3,
                "name": name,
                "visibility": "private",
                "created_at": NOW,
            }
            for number, name in enumerate(names)
        ],
        "grants": [{"id": 2, "account_id": 7, "namespace_id": 3, "level": 2}],
        "blobs": [
            {
                "id": 1,
                "digest": digest("blob"),
                "size": 2**40,
                "storage_key": "sha256/ab/abcd.u",
                "state": "live",
                "created_at": NOW,
            }
        ],
        "repository_blobs": [
            {"repository_id": 10, "digest": digest("blob"), "review_at": None},
        ],
        "manifests": [manifest(r, t, tags) for r, t in manifests],
        "manifest_references": [
            {
                "manifest_id": 1 + r * tags + t,
                "digest": digest("blob"),
                "repository_id": 10 + r,
                "kind": "blob",
            }
            for r, t in manifests
        ],
        "tags": [
            {
                "repository_id": 10 + r,
                "name": f"v{t}-{'aB_'[t % 3]}",
                "manifest_id": 1 + r * tags + t,
                "updated_at": NOW,
                "account_id": None if t % 2 else 7,
            }
            for r, t in manifests
        ],
        "uploads": [
            {
                "id": "u",
                "repository_id": 10,
                "account_id": 7,
                "algorithm": "sha256",
                "offset": 5,
                "digest": digest("five!"),
                "storage_state": "{}",
                "created_at": NOW,
                "expires_at": NOW,
            }
        ],
        "settings": [{"key": "name", "value": "ключ"}],
        "repository_pulls": [{"repository_id": 10, "pulls": 2**40, "last_pulled_at": NOW}],
        "manifest_pulls": [{"manifest_id": 1, "pulls": 1, "last_pulled_at": NOW}],
    }


def account(number: int, name: str, **values: Any) -> dict[str, Any]:
    """Return a user."""
    usual = {"kind": "user", "is_admin": False, "is_active": True, "epoch": 1, "created_at": NOW}
    return {"id": number, "name": name, **usual, **values}


def token(number: int, parent_id: int | None, **values: Any) -> dict[str, Any]:
    """Return an access token, or one that came from it."""
    usual = {
        "account_id": 7,
        "kind": "access",
        "secret_hash": f"hash {number}",
        "label": "tab\tnew\nline\\N",
        "level": 3,
        "created_at": NOW,
        "expires_at": None,
        "last_used_at": None,
    }
    return {"id": number, "parent_id": parent_id, **usual, **values}


def manifest(repository: int, number: int, tags: int) -> dict[str, Any]:
    """Return a manifest with every byte in it."""
    payload = bytes(range(256)) + f"{repository} {number}".encode()
    return {
        "id": 1 + repository * tags + number,
        "repository_id": 10 + repository,
        "digest": f"sha256:{hashlib.sha256(payload).hexdigest()}",
        "media_type": "application/vnd.oci.image.manifest.v1+json",
        "payload": payload,
        "size": len(payload),
        "subject": None,
        "artifact_type": "",
        "annotations": '{"a":"\\u0000é"}',
        "pushed_at": NOW,
        "review_at": None,
    }


def fill(engine: Engine, *, repositories: int = 3, tags: int = 30) -> None:
    """Put rows into every table, and give ids to rows that are gone again."""
    with engine.begin() as connection:
        for name, values in rows(repositories, tags).items():
            connection.execute(insert(metadata.tables[name]), values)
        if engine.dialect.name == "sqlite":
            statement = "UPDATE sqlite_sequence SET seq = 99 WHERE name = 'tokens'"
        else:
            statement = "SELECT setval('tokens_id_seq', 99)"
        connection.execute(text(statement))
