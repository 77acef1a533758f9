"""A primary that is killed, frozen, moved or full: units wait, look-ups go on, nothing is lost."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.crash.disks import small_disk
from tests.database.load import BY_DIGEST, BY_TAG, Load, timed
from tests.database.settings_table import count, increment_once, keys, put, put_once
from tests.support.postgresql import RunningPostgresql, owner, run_unprivileged
from tests.support.processes import free_port, wait_until

from dtr.database import stale_reads
from dtr.database.migrate import migrate
from dtr.database.postgresql import PostgresqlDatabase
from dtr.model.errors import InvalidError, StorageFullError, UnavailableError

pytestmark = [pytest.mark.postgresql, pytest.mark.outage]

WAIT_SECONDS = 40.0
OpenPostgresql = Callable[..., PostgresqlDatabase]


@pytest.fixture(scope="module")
def alone() -> Iterator[RunningPostgresql]:
    """Give a server without standby that keeps what it acknowledged."""
    with RunningPostgresql(is_durable=True) as server:
        yield server


@pytest.fixture
def pair() -> Iterator[tuple[RunningPostgresql, RunningPostgresql]]:
    """Give a primary and the standby that its commits wait for."""
    with ExitStack() as stack:
        primary = stack.enter_context(RunningPostgresql(is_durable=True))
        yield primary, stack.enter_context(primary.standby())


@pytest.fixture
def open_one() -> Iterator[OpenPostgresql]:
    """Give a way to open databases, which are closed in the end."""
    opened: list[PostgresqlDatabase] = []

    def open_url(url: str, **options: Any) -> PostgresqlDatabase:
        opened.append(PostgresqlDatabase(url, **{"wait_seconds": WAIT_SECONDS, **options}))
        return opened[-1]

    yield open_url
    for database in opened:
        database.close()


def made(*servers: RunningPostgresql) -> str:
    """Return the URL of an empty registry's metadata on the first server, or the others."""
    url = servers[0].create_database()
    database = PostgresqlDatabase(url)
    migrate(database.engine)
    database.close()
    return servers[0].url_of(url.rpartition("/")[2], *servers[1:])


@contextmanager
def silence() -> Iterator[int]:
    """Give a port on which connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


async def test_a_killed_server_is_waited_for(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """In the middle of units and look-ups; a second after its return all go on."""
    database = open_one(made(alone))
    async with Load(database) as load:
        for is_immediate in (True, False):
            if is_immediate:
                await asyncio.to_thread(alone.kill)
            else:
                await asyncio.to_thread(alone.stop)
            await load.go_on(1.5)
            await asyncio.to_thread(alone.start)
            ready_at = time.monotonic()
            assert await load.all_answered() - ready_at < 1
    load.check()


async def test_a_frozen_server_is_given_up_and_used_when_it_goes_on(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """Connections are replaced after four seconds; what was under way is done once."""
    seen: Counter[str] = Counter()
    database = open_one(made(alone), observe=lambda what, _seconds: seen.update([what]))
    async with Load(database) as load:
        seen.clear()
        alone.freeze()
        await load.go_on(6)
        assert seen["retry"] > 0
        alone.thaw()
        assert await load.all_answered() - time.monotonic() < 2
    load.check()


async def test_a_short_freeze_costs_nothing(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """What is only slow is waited for on the same connection."""
    seen: Counter[str] = Counter()
    database = open_one(made(alone), observe=lambda what, _seconds: seen.update([what]))
    async with Load(database) as load:
        seen.clear()
        alone.freeze()
        await load.go_on(2)
        alone.thaw()
        await load.all_answered()
        backends = alone.ask("SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'test_%%'")
    load.check()
    assert backends[0][0] <= 9


async def test_a_standby_takes_over(
    pair: tuple[RunningPostgresql, RunningPostgresql], open_one: OpenPostgresql
) -> None:
    """Content is found all the time, tags from the standby and marked as old, writes wait."""
    primary, standby = pair
    database = open_one(made(primary, standby), stale_after_seconds=1)
    async with Load(database) as load:
        lost_at = time.monotonic()
        await asyncio.to_thread(primary.kill)
        await load.go_on(4)
        promoted_at = time.monotonic()
        await asyncio.to_thread(standby.promote)
        ready_at = time.monotonic()
        await load.all_answered()
        assert load.writes.first_after(ready_at) < 1
        await _until_fresh(load)
        _return_as_standby(primary)
        await asyncio.to_thread(primary.start)
        settled_at = time.monotonic()
        await load.go_on(2)
        end = time.monotonic()
    load.check()
    assert load.by_digest.longest_gap(lost_at, end) < 1
    assert load.by_tag.longest_gap(lost_at, end) < 2.5
    assert load.reads.longest_gap(lost_at, end) < 5
    assert any(lost_at < at < promoted_at for at in load.by_tag.stale)
    assert not any(at < lost_at or at > settled_at for at in load.by_tag.stale)
    assert load.writes.longest_gap(settled_at, end) < 1


async def _until_fresh(load: Load) -> None:
    async with asyncio.timeout(10):
        while load.by_tag.stale and load.by_tag.stale[-1] == load.by_tag.at[-1]:
            await load.go_on(0.05)


def _return_as_standby(server: RunningPostgresql) -> None:
    """Have an old primary come back read-only."""
    run_unprivileged("touch", server.data_dir / "standby.signal")


async def test_a_frozen_primary_is_left_for_the_promoted_standby(
    pair: tuple[RunningPostgresql, RunningPostgresql], open_one: OpenPostgresql
) -> None:
    """Its connections say nothing; look-ups turn to the standby, then all to the new primary."""
    primary, standby = pair
    database = open_one(made(primary, standby), stale_after_seconds=1)
    async with Load(database) as load:
        lost_at = time.monotonic()
        primary.freeze()
        await load.go_on(3)
        await asyncio.to_thread(standby.promote)
        ready_at = time.monotonic()
        await load.all_answered()
        assert load.writes.first_after(ready_at) < 5
        await asyncio.to_thread(primary.kill)
        await _until_fresh(load)
        end = time.monotonic()
    load.check()
    assert load.by_digest.longest_gap(lost_at, end) < 1
    assert load.by_tag.longest_gap(lost_at, end) < 3


@pytest.mark.parametrize("is_frozen", [True, False])
async def test_a_standby_that_is_away_slows_nothing(
    pair: tuple[RunningPostgresql, RunningPostgresql], open_one: OpenPostgresql, *, is_frozen: bool
) -> None:
    """It is asked once in vain, and then the primary until it is back."""
    primary, standby = pair
    url = made(primary, standby)
    _commit_alone(primary)
    database = open_one(url)
    await database.write(put, "k", "v")
    assert await database.lookup(BY_DIGEST, {"key": "k"}) == ("k",)
    if is_frozen:
        standby.freeze()
    else:
        await asyncio.to_thread(standby.kill)
    assert await timed(database.lookup(BY_DIGEST, {"key": "k"})) < 1.5
    for _ in range(3):
        assert await timed(_each(lambda: database.lookup(BY_DIGEST, {"key": "k"}), 100)) < 1
        assert await timed(_each(lambda: database.write(increment_or_put, "n"), 5)) < 1
        await asyncio.sleep(1.5)
    assert not stale_reads.get()


def _commit_alone(primary: RunningPostgresql) -> None:
    with primary.connect() as connection:
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        connection.execute("SELECT pg_reload_conf()")


def increment_or_put(writer: Any, key: str) -> None:
    """Write something."""
    put(writer, f"{key} {time.monotonic_ns()}")


async def _each(operation: Callable[[], Awaitable[Any]], times: int) -> None:
    for _ in range(times):
        await operation()


async def test_a_host_that_says_nothing_is_not_waited_for(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """Though it stands first in the URL."""
    url = made(alone)
    with silence() as port:
        database = open_one(url.replace("@", f"@127.0.0.1:{port},"))
        assert await timed(asyncio.to_thread(database.wait_until_there, seconds=5)) < 1
        assert await timed(database.write(put, "k", "v")) < 1
        assert await timed(database.lookup(BY_TAG, {"key": "k"})) < 1
        assert await timed(database.lookup(BY_DIGEST, {"key": "k"})) < 1.5
        assert await timed(database.lookup(BY_DIGEST, {"key": "k"})) < 1.5


OPERATIONS: dict[str, Callable[[PostgresqlDatabase], Awaitable[Any]]] = {
    "write": lambda database: database.write(put, "k"),
    "read": lambda database: database.read(count),
    "by tag": lambda database: database.lookup(BY_TAG, {"key": "k"}),
    "by digest": lambda database: database.lookup(BY_DIGEST, {"key": "k"}),
    "now": lambda database: asyncio.to_thread(database.write_now, put, "k"),
    "start": lambda database: asyncio.to_thread(database.wait_until_there, seconds=1),
}


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
async def test_patience_has_an_end(
    open_one: OpenPostgresql,
    operation: Callable[[PostgresqlDatabase], Awaitable[Any]],
    hosts: int,
) -> None:
    """Where nobody answers the registry says so, in its own words."""
    places = ",".join(f"127.0.0.1:{free_port()}" for _ in range(hosts))
    url = f"postgresql://dtr:not-a-secret@{places}/dtr"
    started = time.monotonic()
    with pytest.raises(UnavailableError, match="answer") as caught:
        await operation(open_one(url, wait_seconds=1.5, stale_after_seconds=0.5))
    assert 0.5 < time.monotonic() - started < 4
    assert "not-a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("dtr:", "nobody:"), "does not accept the password"),
        (("not-a-secret", "hunter2"), "does not accept the password"),
        (("/postgres", "/missing"), "does not exist"),
    ],
)
def test_a_wrong_url_is_refused_at_once(
    alone: RunningPostgresql,
    open_one: OpenPostgresql,
    capsys: pytest.CaptureFixture[str],
    wrong: tuple[str, str],
    said: str,
) -> None:
    """With the reason, and without the password."""
    url = alone.url_of("postgres").replace(*wrong)
    for hosts in (url, url.replace("@", f"@127.0.0.1:{free_port()},")):
        started = time.monotonic()
        with pytest.raises(InvalidError, match=said) as caught:
            open_one(hosts).wait_until_there(seconds=30)
        assert time.monotonic() - started < 4
        output = capsys.readouterr()
        for text in (str(caught.value), output.out, output.err):
            assert "hunter2" not in text
            assert "not-a-secret" not in text


_HOLDER = """
import os, sys
from dtr.database.postgresql import PostgresqlDatabase
from tests.database.settings_table import increment
def hold(writer):
    increment(writer, "counter")
    print("held", flush=True)
    sys.stdin.readline()
database = PostgresqlDatabase(sys.argv[1])
database.write_now(hold)
"""


def _holder(url: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", _HOLDER, url],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def test_a_process_frozen_in_a_transaction_does_not_keep_its_locks(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """Others wait ten seconds for it, not for ever; what it did is undone."""
    url = made(alone)
    database = open_one(url)
    await database.write(put, "counter", "0")
    with _holder(url) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
        process.send_signal(signal.SIGSTOP)
        assert 5 < await timed(database.write(increment_once, "counter")) < 14
        process.kill()
    assert await database.lookup(BY_TAG, {"key": "counter"}) == ("1",)


async def test_a_commit_that_was_not_waited_for_is_not_acknowledged(
    pair: tuple[RunningPostgresql, RunningPostgresql], open_one: OpenPostgresql
) -> None:
    """An administrator cancels the wait for the standby; the server says success, and warns."""
    primary, standby = pair
    url = made(primary)
    database = open_one(url)
    await database.write(put, "before")
    standby.freeze()
    writing = asyncio.ensure_future(database.write(put_once, "k", "v"))
    for _ in range(3):
        await asyncio.to_thread(_cancel_wait, primary)
        await asyncio.sleep(0.2)
        assert not writing.done()
    standby.thaw()
    assert await writing == "k"
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.promote)
    taken_over = open_one(standby.url_of(url.rpartition("/")[2]))
    assert taken_over.read_now(keys) == ["before", "k"]


def _cancel_wait(server: RunningPostgresql) -> None:
    """Cancel the commits that wait for a standby, as soon as there are any."""

    def cancelled() -> bool:
        rows = server.ask(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        )
        return bool(rows)

    wait_until(cancelled, "a commit waits for the standby")


async def test_too_many_connections_are_waited_for(open_one: OpenPostgresql) -> None:
    """Whoever comes when there is no room comes again."""
    with RunningPostgresql(settings={"max_connections": "8"}) as server, ExitStack() as others:
        url = made(server)
        database = open_one(url)
        with suppress(psycopg.OperationalError):
            while True:
                others.enter_context(server.connect())
        waiting = [
            asyncio.ensure_future(database.write(put, "k", "v")),
            asyncio.ensure_future(database.lookup(BY_TAG, {"key": "k"})),
        ]
        await asyncio.sleep(1)
        assert not any(each.done() for each in waiting)
        others.close()
        async with asyncio.timeout(5):
            assert await waiting[0] == "k"
            await waiting[1]
        database.close()


async def test_a_full_disk_is_said_and_harms_nothing(
    alone: RunningPostgresql, open_one: OpenPostgresql
) -> None:
    """Units fail whole and at once, readers go on, and room makes it good again."""
    with small_disk(alone.directory / "disk", 24) as disk:
        if (user := owner()) is not None:
            os.chown(disk.path, user.pw_uid, user.pw_gid)
        with alone.connect() as connection:
            connection.execute(f"CREATE TABLESPACE small LOCATION '{disk.path}'".encode())
        url = made(alone)
        name = url.rpartition("/")[2]
        with alone.connect() as connection:
            connection.execute(f"ALTER DATABASE {name} SET TABLESPACE small".encode())
        database = open_one(url)
        await database.write(put, "before", "v")
        # A connection that is new on a full disk may be refused: it writes a cache of its own.
        assert await database.lookup(BY_TAG, {"key": "before"}) == ("v",)
        with pytest.raises(StorageFullError):
            await _put_without_end(database)
        started = time.monotonic()
        with pytest.raises(StorageFullError):
            await database.write(_put_many, "more")
        assert time.monotonic() - started < 2
        assert await database.lookup(BY_TAG, {"key": "before"}) == ("v",)
        assert await database.lookup(BY_TAG, {"key": "more 1"}) is None
        disk.resize(64)
        await database.write(_put_many, "more")
        database.close()
        alone.drop_database(url)
        with alone.connect() as connection:
            connection.execute("DROP TABLESPACE small")


async def _put_without_end(database: PostgresqlDatabase) -> None:
    for number in range(2000):
        await database.write(_put_many, str(number))


def _put_many(writer: Any, key: str) -> None:
    for number in range(100):
        put(writer, f"{key} {number}", secrets.token_hex(3500))  # which does not compress
