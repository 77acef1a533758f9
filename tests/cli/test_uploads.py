"""`dtr upload`: what was begun and not finished."""

import asyncio
import time
import uuid
from pathlib import Path

import pytest
from tests.cli.command import QuickCommandLine

from dtr.database import Database
from dtr.model.digest import Algorithm
from dtr.model.names import RepositoryName
from dtr.registry.records import Upload, add_upload, ensure_repository
from dtr.server.drivers import open_drivers
from dtr.server.settings import Settings
from dtr.storage import BlobStore, Progress


@pytest.fixture
def begun(quick: QuickCommandLine) -> list[str]:
    """Give the ids of two uploads of the administrator: with bytes, and without."""
    return asyncio.run(_begin(quick.data_dir))


async def _begin(data_dir: Path) -> list[str]:
    drivers = open_drivers(Settings(), data_dir)
    ids = [await _begin_one(drivers.database, drivers.store, bytes_) for bytes_ in (b"bytes", b"")]
    await drivers.store.close()
    drivers.database.close()
    return ids


async def _begin_one(database: Database, store: BlobStore, content: bytes) -> str:
    upload_id, progress = str(uuid.uuid4()), Progress()
    if content:
        writer = await store.begin(upload_id, Algorithm.SHA256)
        await writer.append(content)
        progress = await writer.flush()
        await writer.close()
    repository = database.write_now(ensure_repository, RepositoryName("admin/app"))
    expires_at = time.time() + 3600 + (0 if content else 60)
    upload = Upload(upload_id, repository.id, 1, Algorithm.SHA256, progress, expires_at)
    database.write_now(add_upload, upload, time.time())
    return upload_id


def test_uploads_are_listed_and_cancelled(quick: QuickCommandLine, begun: list[str]) -> None:
    """Whose they are, how far, and until when; a cancelled one leaves no bytes."""
    listed = quick.good("upload", "ls", "--json").json
    assert [each["id"] for each in listed] == begun
    assert [each["bytes"] for each in listed] == [5, 0]
    assert {(each["repository"], each["user"]) for each in listed} == {("admin/app", "admin")}
    assert begun[0] in quick.good("upload", "ls", "--user", "admin").out
    assert quick.good("upload", "ls", "--user", "nobody", "--json").json == []
    assert list((quick.data_dir / "uploads").rglob(f"*{begun[0]}*"))
    assert quick.good("upload", "rm", begun[0]).out == "Cancelled 1.\n"
    assert not list((quick.data_dir / "uploads").rglob(f"*{begun[0]}*"))
    assert [each["id"] for each in quick.good("upload", "ls", "--json").json] == begun[1:]
    assert f"There is no upload {begun[0]}." in quick.fails("upload", "rm", begun[0])


def test_the_empty_uploads_of_a_user_are_cancelled_together(
    quick: QuickCommandLine, begun: list[str]
) -> None:
    """The way out of an account that has too many open."""
    assert "--yes" in quick.fails("upload", "rm", "--user", "admin", "--empty")
    done = quick.good("upload", "rm", "--user", "admin", "--empty", "--yes")
    assert done.out == "Cancelled 1.\n"
    assert [each["id"] for each in quick.good("upload", "ls", "--json").json] == begun[:1]
    assert quick.good("upload", "rm", "--user", "admin", "--yes").out == "Cancelled 1.\n"
    assert "--user" in quick.fails("upload", "rm")
    assert "--user" in quick.fails("upload", "rm", begun[0], "--user", "admin")
