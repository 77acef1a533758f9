"""Replicas fetch what they should hold, verify what they have, and tell how blobs are placed."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from tests.support.replicas import Machine, Replicas

from dtr.cluster.model import StorageReport
from dtr.collect.check import Checker
from dtr.collect.collector import Collector, CollectSettings
from dtr.collect.copies import Copier, count_placements
from dtr.collect.scrub import Scrubbed, Scrubber
from dtr.database import Database, Writer
from dtr.model.digest import Algorithm, Digest
from dtr.model.members import MemberState
from dtr.registry import records
from dtr.registry.records import Blob, holders
from dtr.storage.replicated import ReplicatedBlobStore
from dtr.testing.blobs import new_upload, pull
from dtr.testing.registry import open_state


class Cluster:
    """Replicas with a driver on each, and the metadata that they share."""

    def __init__(self, replicas: Replicas, database: Database) -> None:
        self.replicas = replicas
        self.machines = replicas.machines
        self.database = database
        self.stores = [machine.open() for machine in replicas.machines]

    async def push(self, content: bytes, number: int = 0) -> Blob:
        """Push a blob through a replica."""
        digest = Digest.of(content)
        writer = await self.stores[number].begin(new_upload(), Algorithm.SHA256)
        await writer.append(content)
        key = await writer.commit(digest)
        blob = Blob(digest, len(content), key, writer.holders)
        assert await self.database.write(records.store_blob, blob, time.time())
        await writer.close()
        return blob

    async def fill(self, number: int, copies: int = 3) -> Copier:
        """Have a replica fetch everything that it should hold now."""
        copier = Copier(self.database, self.stores[number], copies=copies)
        await copier.run(0)
        return copier

    async def fill_all(self, copies: int = 3) -> None:
        """Have every replica do so."""
        for number in range(len(self.stores)):
            await self.fill(number, copies)

    async def scrub(self, number: int, interval_seconds: float = -1) -> Scrubbed:
        """Have a replica verify everything."""
        scrubber = Scrubber(
            self.database,
            self.stores[number],
            interval_seconds=interval_seconds,
            rest=0,
            young_seconds=-1,
        )
        started, clock = time.time(), iter(range(1, 1_000_000))
        scrubber._clock = lambda: started + next(clock)
        return await scrubber.run()

    async def holders(self, blob: Blob) -> set[str]:
        """Return who holds a blob, as the metadata have it."""
        (found,) = await self.database.read(holders.placed, [blob.storage_key])
        return set(found.holders)

    def having(self, blob: Blob) -> list[Machine]:
        """Return the machines that have the blob's file."""
        return [each for each in self.machines if blob.storage_key in each.files()]

    async def report(self, number: int, copies: int = 3) -> StorageReport:
        """Return how a replica counts."""
        found = await count_placements(self.database, self.stores[number], copies)
        return StorageReport.model_validate_json(orjson.dumps(found))


@pytest.fixture
def count() -> int:
    """Return how many replicas there are."""
    return 3


@pytest.fixture
async def cluster(tmp_path: Path, count: int) -> AsyncIterator[Cluster]:
    """Give a cluster on an SQLite file."""
    replicas = Replicas(tmp_path, count)
    await replicas.start()
    state = open_state(tmp_path)
    cluster = Cluster(replicas, state.database)
    yield cluster
    for store in cluster.stores:
        await store.close()
    await replicas.stop()
    state.database.close()
    await state.store.close()


async def test_every_replica_up_to_three_gets_a_copy(cluster: Cluster) -> None:
    """Two acknowledged the push; the third has it, verified, soon after."""
    blob = await cluster.push(os.urandom(3 << 20))
    assert len(await cluster.holders(blob)) == 2
    (third,) = (each for each in cluster.machines if each not in cluster.having(blob))
    number = cluster.machines.index(third)
    before = await cluster.report(number)
    assert (before.under_copied, before.missing_here, before.blobs) == (0, 1, 0)
    copier = await cluster.fill(number)
    assert (copier.done.copied, copier.done.bytes) == (1, 3 << 20)
    assert await cluster.holders(blob) == {each.id for each in cluster.machines}
    after = await cluster.report(number)
    assert (after.missing_here, after.blobs, after.bytes) == (0, 1, 3 << 20)
    assert after.capacity_bytes >= after.free_bytes > 0
    again = await cluster.fill(number)
    assert again.done.copied == 0


@pytest.mark.parametrize("count", [5])
async def test_no_more_copies_are_made_than_wanted(cluster: Cluster) -> None:
    """Every replica comes to the same answer about who makes those that are missing."""
    pushed = [await cluster.push(os.urandom(1000), number % 5) for number in range(20)]
    await cluster.fill_all(copies=4)
    await cluster.fill_all(copies=4)
    assert [len(cluster.having(blob)) for blob in pushed] == [4] * 20
    assert [len(await cluster.holders(blob)) for blob in pushed] == [4] * 20


async def test_a_replica_that_joins_is_filled_while_it_serves(cluster: Cluster) -> None:
    """It gives what it does not have yet, and counts as one that has too little."""
    for machine in cluster.machines[1:]:
        cluster.replicas.set_state(machine, None)
    blob = await cluster.push(b"from the time when there was one")
    cluster.replicas.set_state(cluster.machines[1], MemberState.JOINING)
    await cluster.fill(1)
    assert len(cluster.having(blob)) == 2
    other = await cluster.push(b"while the second one joined")
    assert cluster.having(other) == [cluster.machines[0]]
    for machine in cluster.machines[1:]:
        cluster.replicas.set_state(machine, MemberState.SERVING)
    assert (await cluster.report(0)).under_copied == 1
    assert await pull(cluster.stores[2], other.storage_key) == b"while the second one joined"
    await cluster.fill_all()
    assert (await cluster.report(0)).under_copied == 0
    assert cluster.having(blob) == cluster.having(other) == cluster.machines


@pytest.mark.parametrize("count", [4])
async def test_a_replica_that_leaves_is_not_the_last_one(cluster: Cluster) -> None:
    """Its copies do not count: others make theirs, and then nothing needs it."""
    leaving = cluster.machines[0]
    pushed = [await cluster.push(os.urandom(1000)) for _ in range(10)]
    assert all(leaving in cluster.having(blob) for blob in pushed)
    cluster.replicas.set_state(leaving, MemberState.DRAINING)
    await cluster.fill(0, copies=1)
    for number in (1, 2, 3):
        await cluster.fill(number, copies=1)
    assert (await cluster.report(0, copies=1)).under_copied == 0
    cluster.replicas.set_state(leaving, None)
    await cluster.replicas.machines[0].stop()
    for blob in pushed:
        assert len(set(await cluster.holders(blob)) - {leaving.id}) == 2
        assert await pull(cluster.stores[1], blob.storage_key)


async def test_copies_of_a_removed_replica_are_made_anew(cluster: Cluster) -> None:
    """It died, and was removed: what it held is forgotten with it."""
    dead = cluster.machines[0]
    blob = await cluster.push(b"held by the dead and by another")
    await dead.stop()
    cluster.replicas.set_state(dead, None)
    assert (await cluster.report(1)).under_copied == 1
    await cluster.fill(1)
    await cluster.fill(2)
    assert await cluster.holders(blob) == {each.id for each in cluster.machines[1:]}
    assert (await cluster.report(1)).under_copied == 0


async def test_a_flipped_byte_is_repaired(cluster: Cluster) -> None:
    """From a good copy, under the same key; the others are only verified."""
    content = os.urandom(2 << 20)
    blob = await cluster.push(content)
    file = cluster.machines[0].file(blob.storage_key)
    damaged = bytearray(content)
    damaged[1_000_000] ^= 1
    file.write_bytes(bytes(damaged))
    scrubbed = await cluster.scrub(0)
    assert (scrubbed.verified, scrubbed.repaired, scrubbed.lost) == (1, 1, 0)
    assert file.read_bytes() == content
    again = await cluster.scrub(0)
    assert (again.verified, again.repaired) == (1, 0)
    assert (await cluster.scrub(0, interval_seconds=10_000)).verified == 0


@pytest.mark.parametrize("is_repair", [True, False])
async def test_fsck_takes_a_good_copy_before_it_forgets_a_blob(
    cluster: Cluster, *, is_repair: bool
) -> None:
    """What one disk lost is no loss, and only what every disk lost is forgotten."""
    healed, lost = await cluster.push(b"good elsewhere"), await cluster.push(b"good nowhere")
    cluster.machines[0].file(healed.storage_key).write_bytes(b"gone elsewhere")
    for machine in cluster.having(lost):
        machine.file(lost.storage_key).write_bytes(b"gone nowhere")
    checker = Checker(cluster.database, cluster.stores[0], repair=is_repair, verify=True)
    found = [finding async for finding in checker.findings()]
    assert [finding.repaired for finding in found] == [is_repair] * 2
    if is_repair:
        assert cluster.machines[0].file(healed.storage_key).read_bytes() == b"good elsewhere"
        assert await cluster.database.read(records.find_blob, healed.digest) is not None
        assert await cluster.database.read(records.find_blob, lost.digest) is None
        assert cluster.having(lost) == []


async def test_what_nobody_has_whole_is_put_apart(cluster: Cluster) -> None:
    """No copy is made of it, nobody is given it, and it is there for people to look at."""
    blob = await cluster.push(b"right")
    for machine in cluster.having(blob):
        machine.file(blob.storage_key).write_bytes(b"wrong")
    numbers = [cluster.machines.index(machine) for machine in cluster.having(blob)]
    for number in numbers:
        assert (await cluster.scrub(number)).lost == 1
    assert await cluster.holders(blob) == set()
    assert cluster.having(blob) == []
    for number in numbers:
        (aside,) = (cluster.machines[number].data / "damaged").iterdir()
        assert aside.read_bytes() == b"wrong"
    assert (await cluster.report(0)).under_copied == 1


async def test_scrub_brings_disk_and_metadata_together(cluster: Cluster) -> None:
    """A copy without a row is noted, a row without a copy is forgotten and made anew."""
    known, unknown = await cluster.push(b"row without a file"), await cluster.push(b"no row")
    own = cluster.machines[0]
    own.file(known.storage_key).unlink()
    abandoned = own.file(known.storage_key).with_name(".partial-crash")
    abandoned.write_bytes(b"cut short")
    os.utime(abandoned, (1, 1))
    await cluster.database.write(holders.remove_holder, [unknown.storage_key], own.id)
    scrubbed = await cluster.scrub(0)
    assert (scrubbed.noted, scrubbed.forgotten) == (1, 1)
    assert not abandoned.exists()
    assert own.id in await cluster.holders(unknown)
    assert own.id not in await cluster.holders(known)
    await cluster.fill(0)
    assert own in cluster.having(known)


async def test_a_blob_that_is_collected_while_it_is_copied_leaves_no_copy(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row is asked after the bytes have come."""
    blob = await cluster.push(b"about to go")
    (third,) = (each for each in cluster.machines if each not in cluster.having(blob))
    number = cluster.machines.index(third)
    fetch = ReplicatedBlobStore.fetch

    async def late(store: ReplicatedBlobStore, key: str, size: int, digest: Digest) -> str:
        source = await fetch(store, key, size, digest)
        await cluster.database.write(condemn, blob)
        await collected(cluster, number=cluster.machines.index(cluster.having(blob)[0]))
        return source

    monkeypatch.setattr(ReplicatedBlobStore, "fetch", late)
    await cluster.fill(number)
    assert cluster.having(blob) == []
    assert await cluster.database.read(holders.held_keys, third.id, "", 10) == []


async def test_what_a_replica_missed_of_a_delete_is_swept(cluster: Cluster) -> None:
    """It was down when collection deleted a blob; nothing knows its copy when it is back."""
    blob = await cluster.push(b"deleted while a holder was down")
    absent = cluster.having(blob)[1]
    await absent.stop()
    await cluster.database.write(condemn, blob)
    await collected(cluster, number=0)
    assert cluster.having(blob) == [absent]
    await absent.start()
    for store in cluster.stores:
        store._peers._down_until.clear()
    os.utime(absent.file(blob.storage_key), (1, 1))
    checker = Checker(cluster.database, cluster.stores[0], repair=True)
    swept = [finding.subject async for finding in checker.garbage()]
    assert swept == [blob.storage_key]
    assert cluster.having(blob) == []


def condemn(writer: Writer, blob: Blob) -> None:
    """Mark a blob that no repository links."""
    assert records.blobs.condemn_unlinked(writer, blob.digest)


async def collected(cluster: Cluster, number: int) -> None:
    """Collect through a replica."""
    collector = Collector(
        cluster.database, cluster.stores[number], CollectSettings(rest=0, grace_seconds=0)
    )
    await collector.run()
