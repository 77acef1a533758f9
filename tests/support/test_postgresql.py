"""The PostgreSQL that suites start: what they do to it, and what it keeps."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.support.postgresql import RunningPostgresql, family, is_alive
from tests.support.processes import wait_until

pytestmark = pytest.mark.postgresql


@pytest.fixture
def durable() -> Iterator[RunningPostgresql]:
    """Give a server of the test's own which keeps what it acknowledged."""
    with RunningPostgresql(is_durable=True) as server:
        yield server


def test_databases_are_empty_and_apart(postgresql: RunningPostgresql, postgresql_url: str) -> None:
    """What one test makes no other one sees; a copy has all of its template."""
    with psycopg.connect(postgresql_url) as connection:
        connection.execute("CREATE TABLE here (number integer)")
    copy = postgresql.create_database(postgresql_url.rpartition("/")[2])
    other = postgresql.create_database()
    for url, tables in ((copy, 1), (other, 0)):
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'here'")
            assert found.fetchall() == [(tables,)]
        postgresql.drop_database(url)


def test_text_is_not_sorted_by_bytes_unless_told(postgresql: RunningPostgresql) -> None:
    """A query that relies on the order of bytes without saying so fails here."""
    rows = postgresql.ask("SELECT 'a' < 'B', 'a' < 'B' COLLATE \"C\"")
    assert rows == [(True, False)]


def test_a_killed_server_keeps_what_it_acknowledged(durable: RunningPostgresql) -> None:
    """No process is left, the port stays, and the next start recovers."""
    with durable.connect() as connection:
        connection.execute("CREATE TABLE kept (number integer)")
        connection.execute("INSERT INTO kept VALUES (7)")
        backends = family(durable._processes.pid)
        assert len(backends) > 3
        durable.kill()
    assert not any(map(is_alive, backends))
    assert not durable.is_ready
    durable.start()
    assert durable.ask("SELECT number FROM kept") == [(7,)]
    for is_immediate in (False, True):
        durable.stop(is_immediate=is_immediate)
        durable.start()
        assert durable.ask("SELECT number FROM kept") == [(7,)]


def test_a_frozen_server_says_nothing_until_it_goes_on(durable: RunningPostgresql) -> None:
    """Connections are accepted by the kernel, and nobody answers."""
    durable.freeze()
    with pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(durable.url, connect_timeout=2)
    durable.thaw()
    assert durable.ask("SELECT 1") == [(1,)]


def test_a_promoted_standby_has_every_commit(durable: RunningPostgresql) -> None:
    """The primary dies at once after its answer; clients with both hosts find the other one."""
    with durable.standby() as standby:
        assert not standby.is_primary
        with durable.connect() as connection:
            connection.execute("CREATE TABLE kept (number integer)")
            for number in range(50):
                connection.execute("INSERT INTO kept VALUES (%s)", (number,))
            durable.kill()
        assert standby.is_ready
        standby.promote()
        url = durable.url_of("postgres", standby) + "?target_session_attrs=read-write"
        with psycopg.connect(url) as connection:
            connection.execute("INSERT INTO kept VALUES (50)")
            assert connection.execute("SELECT count(*) FROM kept").fetchall() == [(51,)]


def test_a_closed_server_leaves_nothing() -> None:
    """Its files are gone with its processes, frozen ones too."""
    server = RunningPostgresql().start()
    server.freeze()
    server.close()
    wait_until(lambda: not server.is_running, "the end")
    assert not server.directory.exists()
