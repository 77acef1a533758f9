"""What the client makes of etcd's answers, of their absence, and of members that come and go."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import aiohttp
import pytest
from tests.support.etcd import LIMITS, RunningEtcd

from dtr.model.errors import UnavailableError
from dtr.testing.stores import until
from dtr.ucp import keys
from dtr.ucp.etcd import (
    EtcdConnection,
    EtcdLimits,
    EtcdLogin,
    EtcdMembers,
    EtcdRefusedError,
    EtcdStore,
)
from dtr.ucp.etcd.users import EtcdUsers, patroni_user
from dtr.ucp.store import Delete, IsUnchanged, Put

pytestmark = pytest.mark.etcd

PASSWORD = "the password of root"
HASTY = EtcdLimits(connect_seconds=0.5, try_seconds=1, overall_seconds=3)


@pytest.fixture(scope="module")
def etcd() -> Iterator[RunningEtcd]:
    """Give an etcd of three members, without users at first."""
    with RunningEtcd(members=3) as running:
        yield running


@pytest.fixture
async def root(etcd: RunningEtcd) -> AsyncIterator[EtcdConnection]:
    """Give a connection as `root`, of an etcd that asks who."""
    connection = etcd.connection()
    await EtcdUsers(connection).enable_authentication(PASSWORD)
    yield connection
    await connection.close()


@pytest.fixture
async def store(root: EtcdConnection) -> EtcdStore:
    """Give a store without the tests' keys."""
    store = EtcdStore(root)
    await store.commit([Delete("/a"), Delete(keys.PATRONI, is_prefix=True)])
    return store


def as_patroni(etcd: RunningEtcd, replica_id: str, password: str) -> EtcdStore:
    """Return a store as a replica's Patroni."""
    return EtcdStore(etcd.connection(EtcdLogin(password, patroni_user(replica_id))))


async def test_a_login_is_not_used_before_etcd_asks() -> None:
    """And is from the moment on when it does; enabling is idempotent."""
    with RunningEtcd() as fresh:
        store = EtcdStore(fresh.connection(EtcdLogin(PASSWORD)))
        assert await store.commit([Put("/a", b"1")])
        users = EtcdUsers(store.connection)
        await users.enable_authentication("a password that a crash left behind")
        await users.enable_authentication("a password that a crash left behind")
        entry = await store.get("/a")
        assert entry is not None
        with pytest.raises(EtcdRefusedError):
            await users.enable_authentication("another password")
        await store.close()


async def test_a_root_of_before_a_crash_gets_the_password() -> None:
    """As long as authentication is not enabled, whoever was there first does not count."""
    with RunningEtcd() as fresh:
        connection = fresh.connection()
        body = {"name": "root", "password": "forgotten"}
        await connection.call("auth/user/add", body, is_repeatable=True)
        await EtcdUsers(connection).enable_authentication(PASSWORD)
        assert await EtcdStore(connection).commit([Put("/a", b"1")])
        await connection.close()


async def test_nobody_gets_in_without_a_certificate(etcd: RunningEtcd) -> None:
    """The handshake fails, before any password."""
    context = ssl.create_default_context(cafile=str(etcd.client_tls.ca))
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"{etcd.endpoints[0]}/health", ssl=context)


async def test_nobody_gets_in_without_a_password(etcd: RunningEtcd, store: EtcdStore) -> None:
    """A node's certificate alone opens nothing; nor does a wrong password."""
    del store
    anybody = EtcdStore(etcd.connection())
    with pytest.raises(EtcdRefusedError, match="asks for a login"):
        await anybody.get("/a")
    with pytest.raises(EtcdRefusedError):
        await anybody.commit([Put("/a", b"1")])
    with pytest.raises(EtcdRefusedError):
        async with aclosing(anybody.watch("/a", 0)) as watch:
            await anext(watch)
    await anybody.close()
    liar = EtcdStore(etcd.connection(EtcdLogin("wrong")))
    with pytest.raises(EtcdRefusedError, match="refuses the login of root") as caught:
        await liar.get("/a")
    assert "wrong" not in str(caught.value)
    await liar.close()


async def test_patroni_opens_its_own_keys_only(etcd: RunningEtcd, store: EtcdStore) -> None:
    """Neither the control plane's secrets nor its members."""
    users = EtcdUsers(store.connection)
    for _ in range(2):
        await users.add_patroni_user("0123456789ab", "its password")
    patroni = as_patroni(etcd, "0123456789ab", "its password")
    assert await patroni.commit([Put(f"{keys.PATRONI}leader", b"x")])
    assert (await patroni.list(keys.PATRONI))[0] != []
    with pytest.raises(EtcdRefusedError, match="permission denied"):
        await patroni.list(keys.SECRETS)
    with pytest.raises(EtcdRefusedError, match="permission denied"):
        await patroni.commit([Put("/a", b"1")])
    with pytest.raises(EtcdRefusedError, match="permission denied"):
        async with aclosing(patroni.watch(keys.SECRETS, 0)) as watch:
            await anext(watch)
    with pytest.raises(EtcdRefusedError, match="permission denied"):
        await EtcdMembers(patroni.connection).add_learner("https://127.0.0.9:2380")
    await patroni.close()


async def test_a_removed_patroni_is_out_at_once(etcd: RunningEtcd, store: EtcdStore) -> None:
    """With the token that it has; removing is idempotent, and so is coming again."""
    users = EtcdUsers(store.connection)
    await users.add_patroni_user("a" * 12, "one")
    patroni = as_patroni(etcd, "a" * 12, "one")
    await patroni.list(keys.PATRONI)
    for _ in range(2):
        await users.remove_patroni_user("a" * 12)
    with pytest.raises(EtcdRefusedError):
        await patroni.list(keys.PATRONI)
    await users.add_patroni_user("a" * 12, "two")
    with pytest.raises(EtcdRefusedError):
        await patroni.list(keys.PATRONI)
    patroni.connection.use_login(EtcdLogin("two", patroni_user("a" * 12)))
    await patroni.list(keys.PATRONI)
    await patroni.close()


async def test_a_token_that_a_member_forgot_is_fetched_again(
    etcd: RunningEtcd, store: EtcdStore
) -> None:
    """Reads, writes and watches go on after a restart."""
    assert await store.commit([Put("/a", b"1")])
    _, revision = await store.list("/a")
    for member in etcd.members:
        member.kill()
    for member in etcd.members:
        member.start(wait=False)
    for member in etcd.members:
        member.wait_until_ready()
    async with aclosing(store.watch("/a", revision - 1)) as watch:
        assert await asyncio.wait_for(anext(watch), 30) == revision
    assert await store.commit([Put("/a", b"2")], [IsUnchanged("/a", revision)])


async def test_a_dead_member_is_passed_over(etcd: RunningEtcd, store: EtcdStore) -> None:
    """For writes too, as long as nothing was sent to it; none is needed to be told."""
    preferred = store.connection.endpoints[0]
    dead = next(each for each in etcd.members if each.client_url == preferred)
    dead.kill()
    try:
        assert await store.get("/none") is None
        assert store.connection.endpoints[0] != preferred
        store.use_endpoints(["https://127.0.0.1:1"])
        store.use_endpoints(["https://127.0.0.1:1", *etcd.endpoints])
        assert store.connection.endpoints[0] == "https://127.0.0.1:1"
        assert await store.commit([Put("/a", b"1")])
    finally:
        dead.start()


async def test_a_majority_is_needed(etcd: RunningEtcd, store: EtcdStore) -> None:
    """Neither reads nor writes are answered by the one that is left; a watch there ends."""
    _, revision = await store.list("/a")
    impatient = EtcdStore(etcd.connection(EtcdLogin(PASSWORD), HASTY))
    await impatient.get("/a")
    left = etcd.members[0]
    alone = EtcdStore(
        EtcdConnection([left.client_url], etcd.client_tls, EtcdLogin(PASSWORD), LIMITS)
    )
    await alone.get("/a")
    watching = asyncio.create_task(_watched(alone, revision))
    for member in etcd.members[1:]:
        member.kill()
    try:
        with pytest.raises(UnavailableError):
            await impatient.get("/a")
        with pytest.raises(UnavailableError):
            await impatient.commit([Put("/a", b"3")])
        await asyncio.wait_for(watching, 30)
        status = await EtcdMembers(alone.connection).status(left.client_url)
        assert status is not None
        assert status.leader_id == ""
    finally:
        for member in etcd.members[1:]:
            member.start(wait=False)
        for member in etcd.members:
            member.wait_until_ready()
        await impatient.close()
        await alone.close()


async def _watched(store: EtcdStore, after: int) -> None:
    try:
        async with aclosing(store.watch("/a", after)) as watch:
            async for _ in watch:
                pass
    except UnavailableError:
        return


async def test_a_write_whose_answer_is_lost_is_not_repeated(
    etcd: RunningEtcd, store: EtcdStore
) -> None:
    """It was sent to one member, and what became of it is for the caller to find out."""
    await store.commit([Put("/a", b"0")])
    sent = 0

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        sent += 1
        writer.close()

    member = etcd.members[0]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(member.tls.certificate, member.tls.key)
    server = await asyncio.start_server(swallow, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    endpoints = [f"https://127.0.0.1:{port}", *etcd.endpoints]
    lossy = EtcdStore(EtcdConnection(endpoints, etcd.client_tls, EtcdLogin(PASSWORD), LIMITS))
    with pytest.raises(UnavailableError, match="unknown"):
        await lossy.commit([Put("/a", b"1")])
    assert sent == 1
    found = await lossy.get("/a")
    assert found is not None
    assert found.value == b"0"
    assert sent == 2
    await lossy.close()
    server.close()
    await server.wait_closed()


async def test_what_was_compacted_is_told_as_one_change(store: EtcdStore) -> None:
    """A watch from before begins where etcd still remembers."""
    _, begun = await store.list("/a")
    for n in range(3):
        await store.commit([Put("/a", str(n).encode())])
    compaction = {"revision": str(begun + 3), "physical": True}
    await store.connection.call("kv/compaction", compaction, is_repeatable=True)
    async with aclosing(store.watch("/none", begun)) as watch:
        assert await asyncio.wait_for(anext(watch), 30) == begun + 3
    async with aclosing(store.watch("/a", begun)) as watch:
        assert await asyncio.wait_for(anext(watch), 30) == begun + 3
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await store.commit([Put("/a", b"9")])
        assert await asyncio.wait_for(waiting, 30) == begun + 4


async def test_a_renewed_certificate_is_used(etcd: RunningEtcd, store: EtcdStore) -> None:
    """From the next connection on, without a restart."""
    assert await store.commit([Put("/a", b"1")])
    before = etcd.client_tls.certificate.read_text()
    etcd.authority.issue("client")
    assert etcd.client_tls.certificate.read_text() != before
    assert await store.get("/a") is not None


async def test_members_come_learn_vote_and_go(etcd: RunningEtcd, store: EtcdStore) -> None:
    """One learner at a time; each step may be said twice."""
    members = EtcdMembers(store.connection)
    before = await members.list()
    assert [each.is_learner for each in before] == [False] * 3
    assert {each.client_url for each in before} == set(etcd.endpoints)
    fourth = etcd.prepare(4)

    async def is_added() -> bool:
        try:
            await members.add_learner(fourth.peer_url)
        except EtcdRefusedError:
            return False
        return True

    await until(is_added, "etcd takes a learner")
    added = next(each for each in await members.list() if each.is_learner)
    assert (added.name, added.client_url, added.is_started) == ("", "", False)
    with pytest.raises(EtcdRefusedError):
        await members.add_learner("https://127.0.0.9:2380")
    with pytest.raises(EtcdRefusedError):
        await members.promote(added.id)
    assert await members.status(fourth.client_url) is None
    try:
        fourth.start(f"{etcd.initial_cluster},{fourth.name}={fourth.peer_url}", wait=False)

        async def is_voter() -> bool:
            try:
                await members.promote(added.id)
            except EtcdRefusedError:
                return False
            return True

        await until(is_voter, "the learner has caught up")
        await members.promote(added.id)
        now = next(each for each in await members.list() if each.id == added.id)
        assert (now.is_learner, now.name) == (False, "m4")
        status = await members.status(fourth.client_url)
        assert status is not None
        assert status.member_id == added.id
        assert status.leader_id
        for _ in range(2):
            await members.remove(added.id)
        assert await members.list() == before
    finally:
        fourth.kill()
