"""A database whose hosts are the replicas of a cluster: they come, go, and change places."""

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine
from tests.database.load import BY_DIGEST, BY_TAG
from tests.database.settings_table import put
from tests.support.postgresql import PASSWORD, USER, RunningPostgresql, own_directory, owner
from tests.support.processes import wait_until

from dtr.database import Database, Writer, open_postgresql, stale_reads
from dtr.database.migrate import check_schema, migrate
from dtr.model.errors import UnavailableError
from dtr.model.members import Member, Members, MembersFile
from dtr.server.certificates import ensure_certificates
from dtr.server.datadir import write_atomically

pytestmark = [pytest.mark.postgresql, pytest.mark.outage]

ONE, TWO = "1" * 12, "2" * 12


@dataclass
class Cluster:
    """A primary and its standby, both over TLS, and the file that says who is there."""

    primary: RunningPostgresql
    standby: RunningPostgresql
    authority: Path
    name: str
    file: Path

    def write_members(self, own: str, *ids: str) -> None:
        """Say who is there, as the agent of the node with `own` does."""
        ports = {ONE: self.primary.port, TWO: self.standby.port}
        members = tuple(Member(each, f"node-{each}", "127.0.0.1", ports[each]) for each in ids)
        write_atomically(self.file, Members(own, members).render().encode())

    def open(self, *, wait_seconds: float = 20, stale_after_seconds: float = 0.5) -> Database:
        """Open the registry's metadata as a replica does."""
        return open_postgresql(
            f"postgresql://{USER}@/{self.name}?sslmode=verify-full&sslrootcert={self.authority}",
            password=PASSWORD,
            members=MembersFile(self.file),
            wait_seconds=wait_seconds,
            stale_after_seconds=stale_after_seconds,
        )


OpenAs = Callable[..., Database]


def readable_certificates() -> Path:
    """Make a certificate for 127.0.0.1 in a directory of the database's user."""
    directory = own_directory()
    ensure_certificates(directory, ["127.0.0.1"], datetime.now(UTC))
    if (user := owner()) is not None:
        for path in directory.iterdir():
            os.chown(path, user.pw_uid, user.pw_gid)
    return directory


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Give two replicas' databases, with the schema; the file is yet to be written."""
    directory = readable_certificates()
    settings = {
        "ssl": "on",
        "ssl_cert_file": str(directory / "server.crt"),
        "ssl_key_file": str(directory / "server.key"),
    }
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        primary = stack.enter_context(RunningPostgresql(is_durable=True, settings=settings))
        standby = stack.enter_context(primary.standby())
        url = primary.create_database()
        database = open_postgresql(url)
        migrate(database.engine)
        database.close()
        name = url.rpartition("/")[2]
        wait_until(lambda: _has_schema(standby, name), "the schema is on the standby")
        yield Cluster(primary, standby, directory / "ca.crt", name, tmp_path / "members")


def _has_schema(standby: RunningPostgresql, name: str) -> bool:
    with suppress(psycopg.Error), standby.connect(name) as connection:
        return bool(connection.execute("SELECT * FROM alembic_version").fetchone())
    return False


@pytest.fixture
def open_as(cluster: Cluster) -> Iterator[OpenAs]:
    """Give a way to open the metadata as a replica, with these members; closed in the end."""
    opened: list[Database] = []

    def open_one(own: str, *ids: str, **options: float) -> Database:
        cluster.write_members(own, *ids)
        opened.append(cluster.open(**options))
        return opened[-1]

    yield open_one
    for database in opened:
        database.close()


def registry_connections(server: RunningPostgresql) -> int:
    """Count the connections that registries have open to a server."""
    [(count,)] = server.ask(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%%dtr schema%%'"
    )
    return int(count)


def put_and_notify(writer: Writer, key: str) -> None:
    """Write, and tell whoever listens."""
    put(writer, key, "v")
    writer.notify("news")


async def test_a_member_that_joined_later_is_found_when_the_first_is_lost(
    cluster: Cluster, open_as: OpenAs
) -> None:
    """By units, look-ups and LISTEN of a process that was never restarted; addresses verify."""
    database = open_as(ONE, ONE)
    await database.write(put, "k", "v")
    assert await database.lookup(BY_TAG, {"key": "k"}) == ("v",)
    news = database.changes("news", poll_seconds=3600)
    await asyncio.wait_for(anext(news), 10)  # the first connection
    cluster.write_members(ONE, ONE, TWO)
    await asyncio.to_thread(cluster.primary.kill)
    await asyncio.to_thread(cluster.standby.promote)
    await asyncio.wait_for(database.write(put, "later", "v"), 15)
    assert await asyncio.wait_for(database.lookup(BY_TAG, {"key": "later"}), 15) == ("v",)
    await asyncio.wait_for(anext(news), 15)  # the new connection
    await database.write(put_and_notify, "told")
    await asyncio.wait_for(anext(news), 15)


async def test_content_is_read_from_the_own_replica_standby_or_primary(
    cluster: Cluster, open_as: OpenAs
) -> None:
    """And from another one where the own does not answer."""
    on_standby = open_as(TWO, ONE, TWO)
    await on_standby.write(put, "k", "v")
    assert await on_standby.lookup(BY_DIGEST, {"key": "k"}) == ("k",)
    assert registry_connections(cluster.standby) == 1
    on_standby.close()
    wait_until(lambda: registry_connections(cluster.standby) == 0, "its connections are closed")
    on_primary = open_as(ONE, ONE, TWO)
    assert await on_primary.lookup(BY_DIGEST, {"key": "k"}) == ("k",)
    assert registry_connections(cluster.standby) == 0
    cluster.standby.freeze()
    started = time.monotonic()
    on_standby = open_as(TWO, ONE, TWO)
    assert await on_standby.lookup(BY_DIGEST, {"key": "k"}) == ("k",)
    assert time.monotonic() - started < 5
    assert not stale_reads.get()


async def test_without_a_primary_the_own_standby_is_enough_where_it_is_asked(
    cluster: Cluster, open_as: OpenAs
) -> None:
    """`wait_until_there` says that it cannot be written; without the question it waits on."""
    database = open_as(TWO, ONE, TWO)
    assert await asyncio.to_thread(database.wait_until_there, seconds=10) is True
    await database.write(put, "k", "v")
    await asyncio.to_thread(cluster.primary.kill)
    asked: list[Engine] = []

    def is_enough(engine: Engine) -> bool:
        check_schema(engine)
        asked.append(engine)
        return len(asked) > 1

    there = await asyncio.to_thread(database.wait_until_there, seconds=20, is_enough=is_enough)
    assert there is False
    assert len(asked) == 2
    with pytest.raises(UnavailableError, match="no primary"):
        await asyncio.to_thread(database.wait_until_there, seconds=1)
    async with asyncio.timeout(10):
        assert await database.lookup(BY_TAG, {"key": "k"}) == ("v",)
    assert stale_reads.get()
