"""Pulls are counted in memory and written in batches: none twice, none lost."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import delete, select
from tests.database.conftest import OpenMetadata
from tests.database.processes import another_process
from tests.database.test_lookups import add, add_account
from tests.support.forgetful import ForgetfulDatabase

from dtr.database import Database, Reader, Row, SqliteDatabase, Writer, open_database
from dtr.database.postgresql import PostgresqlDatabase
from dtr.database.schema import manifest_pulls, manifests, repositories, repository_pulls
from dtr.model.errors import UnavailableError
from dtr.registry.counters import PullCounter


def add_content(writer: Writer, count: int = 2) -> tuple[int, list[int]]:
    """Insert a repository with manifests; return its id and theirs."""
    account = add_account(writer)
    given = {"name": "user/r", "visibility": "public", "created_at": 0.0}
    repository = add(writer, repositories, namespace_id=account, **given)
    values = {"media_type": "", "size": 0, "artifact_type": "", "annotations": "", "payload": b""}
    return repository, [
        add(
            writer,
            manifests,
            repository_id=repository,
            digest=f"sha256:{number}",
            pushed_at=0.0,
            **values,
        )
        for number in range(count)
    ]


def counted(reader: Reader) -> tuple[list[Row], list[Row]]:
    """Return what is written of the repository, and of each manifest."""
    of_repository = select(repository_pulls.c.pulls, repository_pulls.c.last_pulled_at)
    of_manifests = select(manifest_pulls).order_by(manifest_pulls.c.manifest_id)
    return (
        [tuple(row) for row in reader.execute(of_repository)],
        [tuple(row) for row in reader.execute(of_manifests)],
    )


async def test_what_processes_count_adds_up(open_metadata: OpenMetadata) -> None:
    """They write at the same time, again and again; the last pull of any is the last."""
    opened = [open_metadata() for _ in range(3)]
    repository, (first, second) = await opened[0].write(add_content)
    counters = [PullCounter(each) for each in opened]
    for turn in range(4):
        for number, counter in enumerate(counters):
            counter.count(repository, first, 100.0 * number + turn)
            counter.count(repository, first, 0.5)
        counters[0].count(repository, second, 7.0)
        await asyncio.gather(*(counter.write() for counter in counters))
    await asyncio.gather(*(counter.write() for counter in counters))
    of_repository, of_manifests = await opened[0].read(counted)
    assert of_repository == [(28, 203.0)]
    assert of_manifests == [(first, 24, 203.0), (second, 4, 7.0)]


async def test_what_is_deleted_meanwhile_is_forgotten(metadata: Database) -> None:
    """The rest is counted."""
    repository, (first, second) = await metadata.write(add_content)
    counter = PullCounter(metadata)
    for manifest in (first, second):
        counter.count(repository, manifest, 1.0)
    await metadata.write(_remove_manifest, second)
    await counter.write()
    counter.count(999_999, 999_999, 1.0)
    await counter.write()
    assert await metadata.read(counted) == ([(2, 1.0)], [(first, 1, 1.0)])


def _remove_manifest(writer: Writer, manifest: int) -> None:
    writer.execute(delete(manifests).where(manifests.c.id == manifest))


async def test_what_cannot_be_written_is_kept(database: SqliteDatabase, tmp_path: Path) -> None:
    """With what is counted meanwhile."""
    repository, (first, _) = await database.write(add_content)
    impatient = open_database(tmp_path / "dtr.db", wait_seconds=0.1)
    counter = PullCounter(impatient)
    for now in (1.0, 2.0):
        counter.count(repository, first, now)
        with another_process(database.path, "BEGIN IMMEDIATE"), pytest.raises(UnavailableError):
            await counter.write()
    await counter.write()
    assert await database.read(counted) == ([(2, 2.0)], [(first, 2, 2.0)])
    impatient.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_write_that_is_cancelled_is_done_once(metadata: Database, turns: int) -> None:
    """A process that ends cancels it, and then writes itself what it does not know is written."""
    repository, (first, _) = await metadata.write(add_content)
    counter = PullCounter(metadata)
    counter.count(repository, first, 1.0)
    writing = asyncio.create_task(counter.write())
    for _ in range(turns):
        await asyncio.sleep(0.0005)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    counter.count(repository, first, 2.0)
    await counter.write()
    await counter.write()
    assert await metadata.read(counted) == ([(2, 2.0)], [(first, 2, 2.0)])


@pytest.mark.postgresql
async def test_a_batch_whose_fate_is_not_known_is_written_once(schema_url: str) -> None:
    """Patience ended between the commit and its answer."""
    patient = PostgresqlDatabase(schema_url)
    repository, (first, _) = await patient.write(add_content)
    impatient = ForgetfulDatabase(schema_url, wait_seconds=0)
    counter = PullCounter(impatient)
    for now in (1.0, 2.0):
        counter.count(repository, first, now)
        with pytest.raises(UnavailableError):
            await counter.write()
    assert impatient.lost == 2
    counter._database = patient
    await counter.write()
    assert await patient.read(counted) == ([(2, 2.0)], [(first, 2, 2.0)])
    for database in (impatient, patient):
        database.close()
