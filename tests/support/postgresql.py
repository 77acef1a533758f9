"""A real PostgreSQL for tests: made in a second, killed, frozen, restarted, and followed.

The server refuses to run as root, and an unprivileged user cannot reach pytest's directories.
Clusters are therefore kept in directories of their own below the system's temporary one, owned by
whoever the server runs as, and are removed with it.
"""

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self

import psycopg
import pytest
from psycopg import sql
from tests.support.processes import ProcessGroup, find_program, free_port, wait_until

HOST = "127.0.0.1"
USER = "dtr"
PASSWORD = "not-a-secret"
PROGRAMS = ("initdb", "postgres", "pg_basebackup")
READY_SECONDS = 60.0

# ICU's order is not the order of bytes: what forgets COLLATE "C" is found by a test.
LOCALE = ("--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
ALWAYS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_line_prefix": "%m [%p] %a %d: ",
}
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@cache
def programs() -> Path | None:
    """Find the directory with all of the server's programs: Debian's newest, or one on PATH."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    places = sorted(versions, key=lambda place: float(place.parent.name), reverse=True)
    if (on_path := find_program("initdb")) is not None:
        places.append(on_path.resolve().parent)
    for place in places:
        if all((place / program).exists() for program in PROGRAMS):
            return place
    return None


def requires_postgresql() -> Path:
    """Give the directory of the server's programs, or skip the test."""
    place = programs()
    if place is None:
        pytest.skip("not on this machine: PostgreSQL's server (Debian's postgresql)")
    return place


class RunningPostgresql:
    """A PostgreSQL server on a loopback port that stays the same, with a password (SCRAM).

    Without `is_durable` nothing is flushed to the disk: for tests that do not kill the server.

        with RunningPostgresql() as server:
            url = server.create_database()
    """

    def __init__(
        self,
        *,
        is_durable: bool = False,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._programs = requires_postgresql()
        self.port = free_port(HOST) if port is None else port
        self.directory = own_directory()
        self.data_dir = self.directory / "data"
        chosen = {
            **ALWAYS,
            **({} if is_durable else FAST),
            # What a standby of this server calls itself, if nothing else names it.
            "cluster_name": f"at_{self.port}",
            **(settings or {}),
        }
        options = [part for name, value in chosen.items() for part in ("-c", f"{name}={value}")]
        self._is_durable = is_durable
        self._settings = dict(settings or {})
        self._processes = ProcessGroup(
            [
                *unprivileged(),
                self._programs / "postgres",
                *("-D", self.data_dir, "-p", str(self.port)),
                *options,
            ],
            log=self.directory / "server.log",
        )

    @property
    def address(self) -> str:
        """The server's host:port."""
        return f"{HOST}:{self.port}"

    @property
    def name(self) -> str:
        """What the server is called as a standby, in `synchronous_standby_names`."""
        return f"at_{self.port}"

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, with user and password."""
        return self.url_of("postgres")

    @property
    def log(self) -> Path:
        """What the server said."""
        return self._processes.log

    @property
    def is_running(self) -> bool:
        """Whether the server's first process is there, be it frozen."""
        return self._processes.is_running

    @property
    def is_ready(self) -> bool:
        """Whether the server lets a client in right now."""
        with suppress(psycopg.OperationalError), self.connect():
            return True
        return False

    @property
    def is_primary(self) -> bool:
        """Whether the server takes writes."""
        return self.ask("SELECT pg_is_in_recovery()") == [(False,)]

    def url_of(self, database: str, *others: "RunningPostgresql") -> str:
        """Return the URL of a database here, or on the first of several servers that will do."""
        addresses = ",".join(server.address for server in (self, *others))
        return f"postgresql://{USER}:{PASSWORD}@{addresses}/{database}"

    def start(self, *, seconds: float = READY_SECONDS) -> Self:
        """Start the server and return once it lets a client in; an empty one is made first.

        Raises:
            RuntimeError: It ended while starting; the end of its log is in the message.
            TimeoutError: It was not ready in time and has been killed; likewise.

        """
        if not self.data_dir.exists():
            copy_cluster(empty_cluster(), self.data_dir)
        self._processes.start()
        self._processes.wait_until_ready(lambda: self.is_ready, seconds=seconds)
        return self

    def stop(self, *, is_immediate: bool = False) -> None:
        """Shut down: "fast" (clients are cut off, a checkpoint is written), or "immediate"."""
        if not self.is_running:
            return
        self.thaw()
        os.kill(self._processes.pid, signal.SIGQUIT if is_immediate else signal.SIGINT)
        wait_until(lambda: not self.is_running, "PostgreSQL ended")
        self._processes.kill()

    def kill(self) -> None:
        """Kill every process of the server at once, as if the machine had lost its power."""
        if not self.is_running:
            return
        everyone = self._stopped()
        for pid in everyone:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._processes.kill()
        # The next start refuses while one of them still holds the shared memory.
        wait_until(lambda: not any(map(is_alive, everyone)), "PostgreSQL's processes ended")

    def freeze(self) -> None:
        """Stop every process of the server where it is; its connections stay open."""
        self._stopped()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for pid in family(self._processes.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        """Shut down fast and start again."""
        self.stop()
        self.start()

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the owner, outside of transactions."""
        return psycopg.connect(self.url_of(database), autocommit=True, connect_timeout=5)

    def ask(self, statement: LiteralString, *parameters: object) -> list[tuple[Any, ...]]:
        """Run a statement in the database `postgres` and give its rows."""
        with self.connect() as connection:
            return connection.execute(statement, parameters).fetchall()

    def create_database(self, template: str | None = None) -> str:
        """Create a database that nobody else knows, empty or a copy; give its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self._change(
            "CREATE DATABASE {} TEMPLATE {}",
            sql.Identifier(name),
            sql.Identifier(template or "template0"),
        )
        return self.url_of(name)

    def drop_database(self, url: str) -> None:
        """Drop a database and cut off whoever uses it."""
        name = url.rpartition("/")[2]
        self._change("DROP DATABASE IF EXISTS {} WITH (FORCE)", sql.Identifier(name))

    def standby(self) -> "RunningPostgresql":
        """Return a started streaming standby which each commit here waits for from now on."""
        follower = RunningPostgresql(is_durable=self._is_durable, settings=self._settings)
        try:
            self._follow_with(follower)
        except BaseException:
            follower.close()
            raise
        return follower

    def _follow_with(self, follower: "RunningPostgresql") -> None:
        source = f"host={HOST} port={self.port} user={USER} password={PASSWORD}"
        run_unprivileged(
            self._programs / "pg_basebackup",
            f"--dbname={source}",
            f"--pgdata={follower.data_dir}",
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--no-sync",
        )
        follower.start()
        self._change("ALTER SYSTEM SET synchronous_commit = 'on'")
        self._change(
            "ALTER SYSTEM SET synchronous_standby_names = {}",
            sql.Literal(f"FIRST 1 ({follower.name})"),
        )
        self._change("SELECT pg_reload_conf()")
        wait_until(lambda: self.is_followed_by(follower), "the standby is synchronous")

    def is_followed_by(self, follower: "RunningPostgresql") -> bool:
        """Whether commits wait for this standby."""
        rows = self.ask(
            "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s", follower.name
        )
        return rows == [("sync",)]

    def promote(self) -> None:
        """Make a primary of this standby; return once it takes writes."""
        assert self.ask("SELECT pg_promote(true, 60)") == [(True,)]

    def close(self) -> None:
        """Kill the server and remove what it stored."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _stopped(self) -> set[int]:
        """Stop the first process before its children, which it could otherwise replace."""
        seen: set[int] = set()
        while new := family(self._processes.pid) - seen:
            for pid in sorted(new, key=lambda pid: pid != self._processes.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            seen |= new
        return seen

    def _change(self, statement: LiteralString, *parts: sql.Composable) -> None:
        with self.connect() as connection:
            connection.execute(sql.SQL(statement).format(*parts))

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def temporary_database(server: RunningPostgresql, template: str | None = None) -> Iterator[str]:
    """Give the URL of a database that is dropped in the end."""
    url = server.create_database(template)
    yield url
    server.drop_database(url)


def family(pid: int) -> set[int]:
    """Return a process and its children; each of PostgreSQL's has a group of its own."""
    found = {pid}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended while we looked
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process is there that is not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@cache
def owner() -> pwd.struct_passwd | None:
    """Return whom servers run as when we are root; None when we may run them as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")


def unprivileged() -> Sequence[str]:
    """Return what to put before a command so that it does not run as root."""
    user = owner()
    if user is None:
        return ()
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--")


def run_unprivileged(*command: str | Path) -> None:
    """Run a program to its end; its output is in the error when it fails."""
    ended = subprocess.run(
        [*unprivileged(), *command], cwd="/", capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise RuntimeError(f"{command[0]}: exit status {ended.returncode}\n{ended.stderr}")


def own_directory() -> Path:
    """Make a directory that only the server's user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="dtr-postgresql-"))
    if (user := owner()) is not None:
        os.chown(directory, user.pw_uid, user.pw_gid)
    return directory


def copy_cluster(source: Path, target: Path) -> None:
    """Copy the files of a server that does not run, with their owner."""
    run_unprivileged("cp", "-a", "--reflink=auto", source, target)


@cache
def empty_cluster() -> Path:
    """Return the files of a server without databases: made once a process, for it takes seconds."""
    directory = own_directory()
    remove: Callable[..., None] = shutil.rmtree
    atexit.register(remove, directory, ignore_errors=True)
    password = directory / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)  # beneath a directory that nobody else can enter
    run_unprivileged(
        requires_postgresql() / "initdb",
        f"--pgdata={directory / 'data'}",
        f"--username={USER}",
        f"--pwfile={password}",
        "--auth=scram-sha-256",
        "--no-sync",
        *LOCALE,
    )
    return directory / "data"
