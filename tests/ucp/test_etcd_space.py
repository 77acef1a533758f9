"""An etcd that runs full takes writes again without hands, and gives back what it does not use."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import pytest
from tests.support.etcd import RunningEtcd

from dtr.model.errors import UnavailableError
from dtr.ucp.etcd import EtcdConnection, EtcdLogin, EtcdMember, EtcdMembers, EtcdStore
from dtr.ucp.etcd.component import is_healthy
from dtr.ucp.etcd.members import EtcdStatus
from dtr.ucp.etcd.users import EtcdUsers
from dtr.ucp.space import SETTLED_SECONDS, SpaceKeeper
from dtr.ucp.store import Put

pytestmark = pytest.mark.etcd

QUOTA_BYTES = 4 * 2**20
VALUE = b"x" * 100_000
PASSWORD = "the password of root"
SECONDS = 120


@pytest.fixture(scope="module")
def etcd() -> Iterator[RunningEtcd]:
    """Give three members with room for some forty values."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ETCD_QUOTA_BACKEND_BYTES", str(QUOTA_BYTES))
        with RunningEtcd(members=3) as running:
            yield running


@pytest.fixture
async def root(etcd: RunningEtcd) -> AsyncIterator[EtcdConnection]:
    """Give a connection as `root`."""
    connection = etcd.connection(EtcdLogin(PASSWORD))
    await EtcdUsers(connection).enable_authentication(PASSWORD)
    yield connection
    await connection.close()


class Control:
    """The keepers of all machines, whose time passes when it is told to."""

    def __init__(self, etcd: RunningEtcd, root: EtcdConnection) -> None:
        self.store = EtcdStore(root)
        self.members = Watched(EtcdMembers(root))
        self.lead = 0.0
        self.keepers = [
            SpaceKeeper(
                self.members,
                each.client_url,
                quota_bytes=QUOTA_BYTES,
                monotonic=lambda: time.monotonic() + self.lead,
            )
            for each in etcd.members
        ]

    async def settle(self) -> None:
        """Have every keeper look once, and believe in etcd's leader from then on."""
        await self.step()
        self.lead += SETTLED_SECONDS

    async def step(self) -> list[str]:
        """Have every keeper do the next thing; return why."""
        reasons = []
        for keeper in self.keepers:
            try:
                _, reason = await keeper.step()
            except UnavailableError as error:
                reason = str(error)
            reasons.append(reason)
        return reasons

    async def until(self, condition: Callable[[list[EtcdStatus]], bool], what: str) -> None:
        """Let keepers work until what the members say is so."""
        deadline = time.monotonic() + SECONDS
        while True:
            # As agents report all the time: what is free shows once more has been written.
            with suppress(UnavailableError):
                await self.store.commit([Put("/report", b"small")])
            reasons = await self.step()
            found = await self.statuses()
            if len(found) == len(self.keepers) and condition(found):
                return
            assert time.monotonic() < deadline, f"{what}: {reasons} {found}"
            await asyncio.sleep(0.2)

    async def statuses(self) -> list[EtcdStatus]:
        """Return what the members say that answer."""
        members = await self.members.list()
        found = [await self.members.status(each.client_url) for each in members]
        return [each for each in found if each is not None]

    async def fill(self) -> UnavailableError:
        """Write until etcd refuses, and return what it says."""
        for _ in range(20 * QUOTA_BYTES // len(VALUE)):
            try:
                await self.store.commit([Put("/kept", VALUE)])
            except UnavailableError as error:
                if "full" in str(error):
                    return error
        raise AssertionError("etcd takes more than its quota")


class Watched:
    """The members; it remembers who was defragmented, and sees that it is one at a time."""

    def __init__(self, members: EtcdMembers) -> None:
        self._members = members
        self.defragmented: list[str] = []
        self.is_busy = False

    async def list(self) -> tuple[EtcdMember, ...]:
        """Return all members."""
        return await self._members.list()

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Return what a member says."""
        return await self._members.status(client_url)

    async def compact(self, revision: int) -> None:
        """Forget."""
        await self._members.compact(revision)

    async def defragment(self, client_url: str) -> None:
        """Give back."""
        assert not self.is_busy
        self.is_busy = True
        try:
            await self._members.defragment(client_url)
        finally:
            self.is_busy = False
            self.defragmented.append(client_url)

    async def disarm(self, member_id: str) -> None:
        """Take an alarm back."""
        await self._members.disarm(member_id)


async def test_a_full_etcd_takes_writes_again(etcd: RunningEtcd, root: EtcdConnection) -> None:
    """And no lease is needed for it; what was written last is there."""
    control = Control(etcd, root)
    await control.settle()
    error = await control.fill()
    assert "etcd is full and accepts no writes" in str(error)
    with pytest.raises(UnavailableError, match="etcd is full"):
        await control.store.grant(10)
    await control.until(lambda found: not any(each.full_members for each in found), "the alarm")
    assert await control.store.commit([Put("/after", b"1")])
    kept = await control.store.get("/kept")
    assert kept is not None
    assert kept.value == VALUE
    leader = next(each for each in await control.statuses() if each.leader_id == each.member_id)
    urls = {each.id: each.client_url for each in await control.members.list()}
    assert sorted(control.members.defragmented) == sorted(etcd.endpoints)
    assert control.members.defragmented[-1] == urls[leader.member_id]


async def test_with_a_member_away_it_waits_and_goes_on_when_it_is_back(
    etcd: RunningEtcd, root: EtcdConnection
) -> None:
    """Two that answer of three are needed, and stay so."""
    control = Control(etcd, root)
    await control.settle()
    statuses = await control.statuses()
    members = {each.id: each for each in await control.members.list()}
    follower = next(each for each in statuses if each.leader_id != each.member_id)
    away = next(each for each in etcd.members if each.name == members[follower.member_id].name)
    away.kill()
    await control.fill()
    reasons = await control.step()
    assert f"etcd is full, and no room is made before {away.name} votes and answers" in reasons
    assert control.members.defragmented == []
    for each in etcd.members:
        assert (await is_healthy(each.client_url, etcd.client_tls)) == (each is not away)
    away.start(etcd.initial_cluster, wait=False)
    await control.until(lambda found: not any(each.full_members for each in found), "the alarm")
    assert await control.store.commit([Put("/after", b"2")])


async def test_free_pages_are_given_back_long_before(
    etcd: RunningEtcd, root: EtcdConnection
) -> None:
    """Without an alarm."""
    control = Control(etcd, root)
    for _ in range(QUOTA_BYTES // 2 // len(VALUE)):
        await control.store.commit([Put("/kept", VALUE)])
    last = max(each.revision for each in await control.statuses())
    await EtcdMembers(root).compact(last)
    await EtcdMembers(root).compact(last)  # as a call whose answer was lost is repeated
    await control.settle()

    def is_small(found: list[EtcdStatus]) -> bool:
        return all(each.database_bytes < QUOTA_BYTES // 8 for each in found)

    await control.store.commit([Put("/kept", b"small")])
    await control.until(is_small, "small files")
    assert sorted(control.members.defragmented) == sorted(etcd.endpoints)


async def test_leadership_moves_to_the_member_that_is_named(
    etcd: RunningEtcd, root: EtcdConnection
) -> None:
    """Asked of the member that leads; a stranger is refused."""
    members = EtcdMembers(root)
    found = await members.list()
    status = await members.status(found[0].client_url)
    assert status is not None
    leader = next(each for each in found if each.id == status.leader_id)
    heir = next(each for each in found if each.id != leader.id)
    with pytest.raises(UnavailableError):
        await members.move_leadership(heir.client_url, leader.id)
    await members.move_leadership(leader.client_url, heir.id)
    for each in etcd.members:
        said = await members.status(each.client_url)
        assert said is not None
        assert said.leader_id == heir.id
