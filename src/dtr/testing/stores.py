"""What every driver of `dtr.ucp.store` must keep, as one suite.

A driver's test is five lines, run with pytest and pytest-asyncio in its automatic mode:

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self):
            return MyStore()

`twin` is another connection to the same keys;
`pass_seconds` lets the time pass by which leases end.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest

from dtr.ucp.model import JoinToken
from dtr.ucp.store import (
    LONGEST_COMMIT,
    Change,
    Delete,
    Entry,
    FencedStore,
    IsSame,
    IsUnchanged,
    Leadership,
    Put,
    Store,
)

A = "/suite/a"
B = "/suite/b"


async def read(store: Store, key: str) -> Entry:
    """Return a key that must be there."""
    entry = await store.get(key)
    assert entry is not None
    return entry


async def next_of(revisions: AsyncIterator[int]) -> int:
    """Return what a watch yields next."""
    return await asyncio.wait_for(anext(revisions), 20)


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.05)


class StoreConformance:
    """The suite. Override `store`, and `twin` where there can be two connections."""

    @pytest.fixture
    def store(self) -> Store:
        """Return a store; what it has below `/suite/` is deleted."""
        raise NotImplementedError("override the fixture `store` with one that makes the driver")

    @pytest.fixture
    def twin(self, store: Store) -> Store:
        """Return another connection to the same keys."""
        return store

    @pytest.fixture(autouse=True)
    async def connected(self, store: Store, twin: Store) -> AsyncIterator[None]:
        """Begin each test without keys, and let go of the connections at its end."""
        await store.commit([Delete("/suite/", is_prefix=True)])
        yield
        await store.close()
        await twin.close()

    async def pass_seconds(self, seconds: float) -> None:
        """Return when so much time has passed for the store's leases."""
        await asyncio.sleep(seconds)

    async def test_what_is_put_is_read(self, store: Store, twin: Store) -> None:
        """Any bytes, by every connection at once."""
        value = bytes(range(256))
        assert await store.commit([Put(A, value), Put(B, b"")])
        assert (await read(twin, A)).value == value
        assert (await read(twin, B)).value == b""
        assert await store.get("/suite/none") is None

    async def test_a_long_value_is_kept(self, store: Store) -> None:
        """A certificate chain, a list of five hundred findings."""
        value = b"x" * 500_000
        assert await store.commit([Put(A, value)])
        assert (await read(store, A)).value == value

    async def test_a_key_is_any_text(self, store: Store) -> None:
        """Names of machines are not ours."""
        key = "/suite/Zürich 1"
        assert await store.commit([Put(key, b"1")])
        assert [each.key for each in (await store.list("/suite/Z"))[0]] == [key]

    async def test_an_entry_is_a_document(self, store: Store) -> None:
        """As it was encoded."""
        token = JoinToken(secret_hash="00", created_at=5)  # noqa: S106 - a test's
        await store.commit([Put(A, token.encoded())])
        assert (await read(store, A)).document(JoinToken) == token

    async def test_revisions_tell_changes_and_rebirths(self, store: Store) -> None:
        """`created` stays while the key lives, `modified` grows with every change."""
        await store.commit([Put(A, b"1")])
        first = await read(store, A)
        assert first.created == first.modified > 0
        await store.commit([Put(A, b"1")])
        second = await read(store, A)
        assert second.created == first.created
        assert second.modified > first.modified
        await store.commit([Delete(A)])
        assert await store.get(A) is None
        await store.commit([Put(A, b"1")])
        assert (await read(store, A)).created > second.modified

    async def test_a_commit_is_one_revision(self, store: Store) -> None:
        """Nobody sees half of it."""
        await store.commit([Put(A, b"1"), Put(B, b"1")])
        entries, revision = await store.list("/suite/")
        assert {each.modified for each in entries} == {revision}

    async def test_a_list_is_ordered_and_ends_where_the_prefix_ends(self, store: Store) -> None:
        """Neighbours of the prefix are not in it."""
        keys = ["/suite/n/2", "/suite/n/10", "/suite/n/", "/suite/n", "/suite/n0", "/suite/m/"]
        await store.commit([Put(key, b"x") for key in keys])
        entries, _ = await store.list("/suite/n/")
        assert [each.key for each in entries] == ["/suite/n/", "/suite/n/10", "/suite/n/2"]
        assert (await store.list("/suite/none/"))[0] == []

    async def test_a_lists_revision_grows_with_changes_only(self, store: Store) -> None:
        """Those anywhere; deleting what is not there is none."""
        _, before = await store.list("/suite/n/")
        await store.commit([Delete("/suite/none"), Delete("/suite/none/", is_prefix=True)])
        assert (await store.list("/suite/n/"))[1] == before
        await store.commit([Put(A, b"1")])
        assert (await store.list("/suite/n/"))[1] == before + 1

    async def test_a_prefix_is_deleted_whole(self, store: Store) -> None:
        """And nothing beside it."""
        await store.commit([Put(f"/suite/n/{n}", b"x") for n in range(5)] + [Put("/suite/n", b"x")])
        assert await store.commit([Delete("/suite/n/", is_prefix=True)])
        entries, _ = await store.list("/suite/")
        assert [each.key for each in entries] == ["/suite/n"]

    async def test_a_commit_may_create(self, store: Store) -> None:
        """Revision 0 means that there is no key."""
        assert await store.commit([Put(A, b"1")], [IsUnchanged(A, 0)])
        assert not await store.commit([Put(A, b"2")], [IsUnchanged(A, 0)])
        assert (await read(store, A)).value == b"1"

    async def test_a_commit_on_an_old_revision_makes_nothing(self, store: Store) -> None:
        """None of its changes, whichever condition fails."""
        await store.commit([Put(A, b"1"), Put(B, b"1")])
        old = await read(store, A)
        assert await store.commit([Put(A, b"2")], [IsUnchanged(A, old.modified)])
        fresh = IsUnchanged(B, old.modified)
        changes = [Put(B, b"3"), Put("/suite/c", b"3")]
        assert not await store.commit(changes, [fresh, IsUnchanged(A, old.modified)])
        assert [each.value for each in (await store.list("/suite/"))[0]] == [b"2", b"1"]

    async def test_a_condition_can_be_the_keys_identity(self, store: Store) -> None:
        """It holds through changes, and no more once the key was deleted and made again."""
        await store.commit([Put(A, b"1")])
        condition = IsSame(A, (await read(store, A)).created)
        await store.commit([Put(A, b"2")])
        assert await store.commit([Put(B, b"1")], [condition])
        await store.commit([Delete(A)])
        assert not await store.commit([Put(B, b"2")], [condition])
        await store.commit([Put(A, b"3")])
        assert not await store.commit([Put(B, b"2")], [condition])

    async def test_a_commit_without_changes_asks_its_conditions(self, store: Store) -> None:
        """So does whoever wants to know whether it still leads."""
        assert await store.commit([], [IsUnchanged(A, 0)])
        assert not await store.commit([], [IsUnchanged(A, 1)])

    async def test_of_many_that_change_at_once_one_wins_each_time(
        self, store: Store, twin: Store
    ) -> None:
        """No increment is lost."""
        await store.commit([Put(A, b"0")])

        async def increment(through: Store) -> None:
            while True:
                entry = await read(through, A)
                value = str(int(entry.value) + 1).encode()
                if await through.commit([Put(A, value)], [IsUnchanged(A, entry.modified)]):
                    return

        await asyncio.gather(*(increment(each) for each in (store, twin) * 5))
        assert (await read(store, A)).value == b"10"

    async def test_what_is_no_commit_is_refused(self, store: Store) -> None:
        """A key twice, or too many: whoever does so is wrong, and nothing is written."""
        refused: tuple[list[Change], ...] = (
            [Put(A, b"1"), Put(A, b"2")],
            [Put(A, b"1"), Delete(A)],
            [Put(A, b"1"), Delete("/suite/", is_prefix=True)],
            [Put(f"/suite/{n}", b"1") for n in range(LONGEST_COMMIT + 1)],
        )
        for changes in refused:
            with pytest.raises(ValueError, match="a commit"):
                await store.commit(changes)
        assert await store.commit([Put(f"/suite/{n}", b"1") for n in range(LONGEST_COMMIT)])

    async def test_a_fenced_write_fails_once_another_leads(self, store: Store) -> None:
        """Whatever its own conditions say."""
        await store.commit([Put("/suite/leader", b"one")])
        created = (await read(store, "/suite/leader")).created
        fenced = FencedStore(store, Leadership("/suite/leader", created))
        assert await fenced.commit([Put(A, b"1")])
        await store.commit([Delete("/suite/leader")])
        await store.commit([Put("/suite/leader", b"two")])
        assert not await fenced.commit([Put(A, b"2")])
        found = await fenced.get(A)
        assert found is not None
        assert found.value == b"1"

    async def test_keys_end_with_their_lease(self, store: Store) -> None:
        """As one change, which a watch sees."""
        lease = await store.grant(2)
        await store.commit([Put(A, b"1", lease), Put(B, b"1")])
        _, revision = await store.list("/suite/")
        await self.pass_seconds(2.5)

        async def is_gone() -> bool:
            return await store.get(A) is None

        await until(is_gone, "the lease ended")
        assert (await read(store, B)).value == b"1"
        async with aclosing(store.watch(A, revision)) as watch:
            assert await next_of(watch) > revision
        assert not await store.keep_alive(lease)

    async def test_a_lease_that_is_kept_alive_goes_on(self, store: Store) -> None:
        """Each time for as long as it was granted."""
        lease = await store.grant(6)
        await store.commit([Put(A, b"1", lease)])
        for _ in range(2):
            await self.pass_seconds(3.5)
            assert await store.keep_alive(lease)
        assert await store.get(A) is not None
        await store.revoke(lease)

    async def test_a_revoked_lease_takes_its_keys(self, store: Store, twin: Store) -> None:
        """At once, and as often as it is said."""
        lease = await store.grant(60)
        await store.commit([Put(A, b"1", lease)])
        await twin.revoke(lease)
        assert await store.get(A) is None
        await store.revoke(lease)
        assert not await store.keep_alive(lease)

    async def test_a_commit_with_an_ended_lease_makes_nothing(self, store: Store) -> None:
        """It is as if a condition had failed."""
        lease = await store.grant(60)
        await store.revoke(lease)
        assert not await store.commit([Put(B, b"1"), Put(A, b"1", lease)])
        assert (await store.list("/suite/"))[0] == []

    async def test_a_key_that_is_put_without_its_lease_stays(self, store: Store) -> None:
        """The last write says whose it is."""
        lease = await store.grant(60)
        await store.commit([Put(A, b"1", lease)])
        await store.commit([Put(A, b"2")])
        await store.revoke(lease)
        assert (await read(store, A)).value == b"2"

    async def test_a_watch_tells_what_was_missed_and_what_comes(
        self, store: Store, twin: Store
    ) -> None:
        """In order, changes and deletions, below the prefix only."""
        _, begun = await store.list("/suite/")
        await store.commit([Put("/suite/w/1", b"1")])
        await store.commit([Put("/suite/other", b"1")])
        _, revision = await store.list("/suite/")
        async with aclosing(twin.watch("/suite/w/", begun)) as watch:
            assert await next_of(watch) == revision - 1
            await store.commit([Put("/suite/other", b"2")])
            await store.commit([Put("/suite/w/1", b"2"), Put("/suite/w/2", b"2")])
            assert await next_of(watch) == revision + 2
            await store.commit([Delete("/suite/w/1")])
            assert await next_of(watch) == revision + 3

    async def test_a_watch_begins_after_its_revision(self, store: Store) -> None:
        """What the caller has seen is not told again."""
        await store.commit([Put(A, b"1")])
        _, revision = await store.list(A)
        async with aclosing(store.watch(A, revision)) as watch:
            waiting = asyncio.ensure_future(next_of(watch))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            await store.commit([Put(A, b"2")])
            assert await waiting == revision + 1

    async def test_a_watch_tells_of_long_values(self, store: Store) -> None:
        """However long an event is on the wire."""
        _, revision = await store.list(A)
        async with aclosing(store.watch(A, revision)) as watch:
            for n in (1, 2, 3):
                await store.commit([Put(A, b"x" * 400_000)])
                assert await next_of(watch) == revision + n
