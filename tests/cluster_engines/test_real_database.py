"""Three databases under Patroni with a real etcd, as the agent's component starts them."""

import asyncio
import json
import os
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.cluster_engines.nodes import TestNode, specification
from tests.support.doors import is_let_in, is_let_in_by_postgresql, written
from tests.support.etcd import RunningEtcd
from tests.support.installation import installed_python
from tests.support.postgresql import requires_postgresql
from tests.support.processes import free_port, requires_root

from dtr.cluster.engines.database import Database
from dtr.cluster.engines.fence import Postmaster
from dtr.cluster.engines.patroni import DATABASE, DatabasePlace
from dtr.cluster.engines.probes import MutualTls, ask
from dtr.cluster.model import PATRONI_PORT, DatabaseReport, ReplicaPhase, ReplicaSpecification
from dtr.cluster.plan_majority import patroni_values
from dtr.model.errors import UnavailableError
from dtr.model.members import Member, MemberState
from dtr.ucp import keys
from dtr.ucp.agent.files import KeyFiles
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.etcd import EtcdLogin, EtcdStore
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.keyring import KINDS, Generation, Keyring, Realm, first_keyring, issue
from dtr.ucp.model import KeyPair
from dtr.ucp.store import Put

pytestmark = [pytest.mark.etcd, pytest.mark.postgresql]

SECONDS = 120
ROOT_PASSWORD = "root-secret"


_KEYRINGS: dict[Path, Keyring] = {}


def keyring_of(etcd: RunningEtcd) -> Keyring:
    """Give the keyring of all replicas on an etcd, whose clients' authority is that etcd's."""
    if etcd.directory not in _KEYRINGS:
        keyring, own = first_keyring("c", time.time()), etcd.authority.authority
        authorities = {
            **keyring.newest.authorities,
            Realm.ETCD_CLIENTS: KeyPair(certificate=own.certificate_pem, key=own.key_pem),
        }
        generation = Generation(number=1, authorities=authorities)
        _KEYRINGS[etcd.directory] = Keyring(generations=(generation,))
    return _KEYRINGS[etcd.directory]


class Replica:
    """One machine's database, with its supervisor."""

    def __init__(self, etcd: RunningEtcd, directory: Path, number: int) -> None:
        self.address = f"127.0.0.{number}"
        self.etcd = etcd
        self.test_node = TestNode.create(
            etcd.authority.authority, directory / f"n{number}", self.address, f"node{number}"
        )
        self.member = Member(
            f"{number:012x}",
            f"node{number}",
            self.address,
            database_port=free_port(),
            state=MemberState.JOINING,
        )
        self.keyring = keyring_of(etcd)
        self.keys = issue(self.keyring, self.test_node.node, KINDS, time.time())
        self.members: tuple[Member, ...] = ()
        self.supervisor = ProcessSupervisor(self.test_node.directory)
        root = self.test_node.directory.of("replicas") / self.member.id / "database"
        self.place = DatabasePlace(root)
        self.database = Database(
            self.test_node.identity, self.test_node.directory, self.supervisor, self.place
        )

    def specification(self, members: tuple[Member, ...]) -> ReplicaSpecification:
        """Say what is wanted of this one; the first makes the database."""
        return specification(
            id=self.member.id,
            phase=ReplicaPhase.DATABASE,
            members=members,
            is_bootstrap=self.address == "127.0.0.1",
            etcd_username=f"patroni-{self.member.id}",
        )

    async def converge(self, members: tuple[Member, ...]) -> None:
        """Do what the agent does each second."""
        self.members = members
        wanted = self.test_node.wanted(etcd_urls=self.etcd.endpoints, keys=self.keys)
        await self.database.converge(wanted, self.specification(members))

    async def is_role(self, role: str) -> bool:
        """Tell whether Patroni says that it runs in this role; a standby streams."""
        found: DatabaseReport = await self.database.report()
        is_running = found.state == "running" and found.role == role
        return is_running and (role == "primary" or found.is_streaming)

    def connect(self, **changes: Any) -> psycopg.Connection[Any]:
        """Connect as the registry does."""
        parameters = {
            "host": self.address,
            "port": self.member.database_port,
            "dbname": DATABASE,
            "user": "dtr",
            "password": "database-secret",
            "sslmode": "verify-full",
            "sslrootcert": str(self.place.keys.ca),
            "connect_timeout": 5,
            **changes,
        }
        return psycopg.connect(**parameters, autocommit=True)

    def patroni_pid(self) -> int:
        """Return Patroni's process."""
        pid = self.supervisor.report("patroni").pid
        assert pid is not None
        return pid


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once the condition holds."""
    try:
        async with asyncio.timeout(SECONDS):
            while not await condition():  # noqa: ASYNC110 - of other processes
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise TimeoutError(f"waited in vain: {what}") from None


@asynccontextmanager
async def replicas(directory: Path) -> AsyncIterator[tuple[list[Replica], EtcdStore]]:
    """Give three replicas that do not run yet, and the store that they share."""
    with RunningEtcd() as etcd:
        connection = etcd.connection(EtcdLogin(ROOT_PASSWORD))
        found = [Replica(etcd, directory, number) for number in (1, 2, 3)]
        try:
            users = EtcdUsers(connection)
            await users.enable_authentication(ROOT_PASSWORD)
            for replica in found:
                await users.add_patroni_user(replica.member.id, "etcd-secret")
            yield found, EtcdStore(connection)
        finally:
            await asyncio.gather(*(replica.database.end() for replica in found))
            await connection.close()
            for replica in found:
                log = replica.test_node.directory.logs / "patroni.log"
                lines = log.read_text().splitlines() if log.exists() else []
                print(f"--- {replica.address}", *lines[-60:], sep="\n")


async def value_at(store: EtcdStore, name: str) -> dict[str, Any]:
    """Return one of Patroni's documents."""
    entry = await store.get(keys.PATRONI + name)
    return {} if entry is None else dict(json.loads(entry.value))


async def one_of(candidates: list[Replica], role: str) -> Replica:
    """Return the first that has this role."""
    found: list[Replica] = []

    async def is_there() -> bool:
        found[:] = [each for each in candidates if await each.is_role(role)]
        return bool(found)

    await eventually(is_there, f"a {role}")
    return found[0]


async def test_three_databases_come_to_be_follow_and_take_over(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bootstrap, two standbys, quorum; PostgreSQL of the primary dies; Patroni of it falls silent.

    One test since a cluster takes half a minute to make.
    """
    requires_root("PostgreSQL as another user")
    requires_postgresql()
    monkeypatch.setattr(sys, "executable", str(installed_python()))
    async with replicas(short_directory) as (found, store):
        first = found[0]
        await not_made_by_a_second(found[1], store)
        await bootstrapped(first)
        await refused_without_certificate(first)
        await asyncio.to_thread(refused_with_other_keys, first, short_directory / "others")
        members = tuple(replica.member for replica in found)
        for replica in found:
            await replica.converge(members)
        for replica in found[1:]:
            await eventually(lambda one=replica: one.is_role("standby"), "it streams")  # type: ignore[misc]
        await quorum_set(found, store)
        await renewed_certificate_is_shown(first)
        await removed_member_is_not_let_in(first, members)
        await adopted_by_the_next_patroni(first)
        await not_fenced_for_silent_clients(first)
        second = await taken_over_after_a_crash(found)
        await fenced_when_patroni_is_silent([each for each in found if each is not second], second)


async def not_made_by_a_second(replica: Replica, store: EtcdStore) -> None:
    """See that a replica which may not make the database waits, alone with an empty etcd."""
    await replica.converge((replica.member,))

    async def waits() -> bool:
        log = replica.test_node.directory.logs / "patroni.log"
        return log.exists() and "waiting for leader to bootstrap" in log.read_text()

    await eventually(waits, "it waits for a leader")
    assert await store.get(f"{keys.PATRONI}initialize") is None
    assert not replica.place.data.exists()


async def bootstrapped(first: Replica) -> None:
    """See the first make role and database, and tell when the last transaction was."""
    await first.converge((first.member,))
    await eventually(lambda: first.is_role("primary"), "the first is primary")

    async def is_made() -> bool:
        try:
            with first.connect() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS kept (value integer PRIMARY KEY)")
                connection.execute("INSERT INTO kept VALUES (1) ON CONFLICT DO NOTHING")
        except psycopg.OperationalError:
            return False
        return True

    await eventually(is_made, "the registry's role and database")
    with first.connect() as connection:
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'registry'"
        ).fetchone()
        checksums = connection.execute("SHOW data_checksums").fetchone()
    assert (owner, checksums) == (("dtr",), ("on",))
    assert "-secret" not in (first.test_node.directory.logs / "patroni.log").read_text()

    async def has_time() -> bool:
        return (await first.database.report()).last_transaction_at is not None

    await eventually(has_time, "the time of the last transaction")


async def refused_without_certificate(first: Replica) -> None:
    """See a certificate wanted by Patroni and for replication, and no way in for superusers."""
    anybody = ssl.create_default_context(cafile=str(first.place.keys.ca))
    with pytest.raises(UnavailableError):
        await ask(f"https://{first.address}:8008/patroni", anybody, seconds=5)
    tls = MutualTls(first.place.keys).context()
    status, _ = await ask(f"https://{first.address}:8008/patroni", tls, seconds=5)
    assert status == 200
    with pytest.raises(psycopg.OperationalError, match="valid client certificate"):
        first.connect(user="rewinder", password="rewind-secret", dbname="postgres")
    with pytest.raises(psycopg.OperationalError, match="no pg_hba"):
        first.connect(user="postgres", password="superuser-secret", dbname="postgres")


def refused_with_other_keys(first: Replica, place: Path) -> None:
    """See neither the node's own certificate nor another engine's key open a port."""
    node = first.test_node.directory
    held = {"node": KeyFiles(node.ca, node.certificate, node.key)}
    held |= {name: written(place, name, pair) for name, pair in first.keys.pairs.items()}
    for name, files in held.items():
        is_own = name == "database"
        assert is_let_in(first.address, PATRONI_PORT, files) is is_own, name
        port = first.member.database_port
        assert is_let_in_by_postgresql(first.address, port, files) is is_own, name
    with pytest.raises(psycopg.OperationalError, match="no encryption"):
        first.connect(sslmode="disable")


async def quorum_set(found: list[Replica], store: EtcdStore) -> None:
    """See both standbys acknowledge, once etcd has what depends on their number."""
    key = f"{keys.PATRONI}config"
    config = {**await value_at(store, "config"), **patroni_values(3)}
    assert await store.commit([Put(key, json.dumps(config).encode())])

    async def is_quorum() -> bool:
        sync = await value_at(store, "sync")
        return set(str(sync.get("sync_standby") or "").split(",")) == {
            replica.member.id for replica in found[1:]
        }

    await eventually(is_quorum, "both standbys in the synchronous set")

    async def is_strict() -> bool:
        with found[0].connect() as connection:
            row = connection.execute("SHOW synchronous_standby_names").fetchone()
        return row is not None and str(row[0]).startswith("ANY 1 (")

    await eventually(is_strict, "one of any acknowledges")


async def renewed_certificate_is_shown(first: Replica) -> None:
    """Renew the certificate: Patroni and PostgreSQL show the new one, nothing restarts."""
    pid = first.patroni_pid()
    first.keys = issue(first.keyring, first.test_node.node, KINDS, time.time())
    certificate = first.keys.pairs["database"].certificate
    await first.converge(first.members)
    expected = ssl.PEM_cert_to_DER_cert(certificate)

    async def is_shown() -> bool:
        ports = (8008, False), (first.member.database_port, True)
        try:
            shown = [await asyncio.to_thread(shown_at, first, *each) for each in ports]
        except OSError:
            return False  # it begins to listen anew
        return shown == [expected, expected]

    await eventually(is_shown, "both show the new certificate")
    assert first.patroni_pid() == pid


def shown_at(replica: Replica, port: int, is_postgresql: bool) -> bytes | None:  # noqa: FBT001
    """Return the certificate that a server shows."""
    context = MutualTls(replica.place.keys).context()
    with socket.create_connection((replica.address, port), timeout=5) as connection:
        if is_postgresql:
            connection.sendall(struct.pack("!ii", 8, 80877103))  # SSLRequest
            assert connection.recv(1) == b"S"
        with context.wrap_socket(connection, server_hostname=replica.address) as secure:
            return secure.getpeercert(binary_form=True)


async def removed_member_is_not_let_in(first: Replica, members: tuple[Member, ...]) -> None:
    """Take a member away: its address is gone from what PostgreSQL admits; and back again."""
    rules = first.place.data / "pg_hba.conf"
    removed = members[-1].address

    async def admits() -> bool:
        return f" {removed}/32 " in rules.read_text()

    async def refuses() -> bool:
        return not await admits()

    await first.converge(members[:-1])
    await eventually(refuses, "the removed member is refused")
    await first.converge(members)
    await eventually(admits, "it is admitted again")


async def adopted_by_the_next_patroni(first: Replica) -> None:
    """Kill Patroni: the next one finds PostgreSQL running and leaves it so."""
    before, pid = Postmaster.find(first.place.data), first.patroni_pid()
    assert before is not None
    os.kill(pid, signal.SIGKILL)

    async def is_back() -> bool:
        return first.supervisor.report("patroni").pid not in {None, pid} and await first.is_role(
            "primary"
        )

    await eventually(is_back, "another Patroni holds the primary")
    assert not before.has_ended
    before.close()
    assert first.database.problems == ()


async def not_fenced_for_silent_clients(first: Replica) -> None:
    """Hold many connections to Patroni without a word: it is still heard, nothing is ended."""
    before = Postmaster.find(first.place.data)
    assert before is not None
    async with AsyncExitStack() as stack:
        for _ in range(100):
            elsewhere = ("127.0.0.9", 0)
            _, writer = await asyncio.open_connection(first.address, 8008, local_addr=elsewhere)
            stack.callback(writer.close)
        tls = MutualTls(first.place.keys)

        async def is_heard() -> bool:
            try:
                url = f"https://{first.address}:8008/liveness"
                status, _ = await ask(url, tls.context(), seconds=2)
            except UnavailableError:
                return False
            return status == 200

        for _ in range(3):
            await eventually(is_heard, "Patroni answers beside silent clients")
    assert not before.has_ended
    before.close()
    assert first.database.problems == ()


async def taken_over_after_a_crash(found: list[Replica]) -> Replica:
    """Kill PostgreSQL: another becomes primary, has the row, and the first follows it."""
    first = found[0]
    postmaster = Postmaster.find(first.place.data)
    assert postmaster is not None
    postmaster.send(signal.SIGKILL)
    postmaster.close()
    second = await one_of(found[1:], "primary")
    with second.connect() as connection:
        assert connection.execute("SELECT value FROM kept").fetchall() == [(1,)]
    await eventually(lambda: first.is_role("standby"), "the first follows")
    return second


async def fenced_when_patroni_is_silent(others: list[Replica], primary: Replica) -> None:
    """Freeze Patroni: the primary that it leaves behind is ended; thawed, it follows the next."""
    postmaster = Postmaster.find(primary.place.data)
    assert postmaster is not None
    pid = primary.patroni_pid()
    signal.pidfd_send_signal(opened := os.pidfd_open(pid), signal.SIGSTOP)
    try:

        async def is_ended() -> bool:
            return postmaster.has_ended

        await eventually(is_ended, "the fence ended it")
        assert any("was ended" in problem for problem in primary.database.problems)
        await one_of(others, "primary")
    finally:
        signal.pidfd_send_signal(opened, signal.SIGCONT)
        postmaster.close()
        os.close(opened)
    await eventually(lambda: primary.is_role("standby"), "it follows the new one")
    assert not primary.database.problems
