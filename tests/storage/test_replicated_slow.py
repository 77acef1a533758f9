"""Replicas that are slow, and what was given up and arrives late: neither costs acknowledged bytes.

On a busy machine each of them happens: a handshake takes longer than a moment, a request that
nobody waits for any more is carried out.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.processes import wait_until
from tests.support.replicas import PACE, Replicas

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import UnavailableError, UploadBusyError
from dtr.model.members import MemberState
from dtr.storage import FilesystemBlobStore
from dtr.storage.replicated import ReplicatedBlobStore
from dtr.storage.replicated.names import Place, StagedName
from dtr.storage.replicated.protocol import Addition, Then
from dtr.storage.replicated.sessions import Sessions
from dtr.storage.replicated.staging import Start
from dtr.testing.blobs import new_upload, pull, push, stage

pytestmark = pytest.mark.server

SHA256 = Algorithm.SHA256
CONTENT = os.urandom(3 << 20)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """Give three machines, their endpoints started."""
    replicas = Replicas(tmp_path, 3)
    await replicas.start()
    yield replicas
    await replicas.stop()


@pytest.fixture
async def store(replicas: Replicas) -> AsyncIterator[ReplicatedBlobStore]:
    """Give a driver on the first of them, which waits for a holder as clients would."""
    store = replicas.machines[0].open(replace(PACE, read_seconds=20))
    yield store
    await store.close()


async def push_elsewhere(replicas: Replicas) -> str:
    """Push at the second machine, so that the second and the third hold the blob; give its key."""
    replicas.set_state(replicas.machines[0], MemberState.DRAINING)
    other = replicas.machines[1].open()
    key = await push(other, CONTENT)
    await other.close()
    replicas.set_state(replicas.machines[0], MemberState.SERVING)
    return key


async def test_a_pull_waits_for_a_holder_that_comes_back(
    replicas: Replicas, store: ReplicatedBlobStore
) -> None:
    """That no holder answered once is no reason to give up: one of them is only being started."""
    key = await push_elsewhere(replicas)
    dead, restarted = replicas.machines[1:]
    await dead.stop()
    await restarted.stop()
    pulling = asyncio.create_task(pull(store, key, stop=len(CONTENT)))
    while not (store.is_down(dead.id) and store.is_down(restarted.id)):
        assert not pulling.done()
        await asyncio.sleep(0.01)
    await restarted.start()
    assert await pulling == CONTENT


async def test_a_pull_waits_longer_for_the_only_holder(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody else can be asked, one that is slower than a moment is waited for."""
    key = await push_elsewhere(replicas)
    dead, slow = replicas.machines[1:]
    await dead.stop()
    assert slow._local is not None
    size = slow._local.size

    async def size_in_a_while(key: str) -> int | None:
        await asyncio.sleep(1)
        return await size(key)

    monkeypatch.setattr(slow._local, "size", size_in_a_while)
    hasty = replicas.machines[0].open(
        replace(PACE, answer_seconds=0.2, patient_seconds=10, read_seconds=3)
    )
    try:
        assert await pull(hasty, key, stop=len(CONTENT)) == CONTENT
    finally:
        await hasty.close()


async def test_a_copy_is_fetched_from_who_answers_first_of_all(
    store: ReplicatedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead replica does not cost each blob that is copied the time to find it dead."""
    asked: list[str] = []

    async def ask(
        _key: str, _size: int, _digest: Digest | None, holders: Collection[str], _to: str
    ) -> None:
        asked.extend(holders)
        raise UnavailableError

    monkeypatch.setattr(store, "copy", ask)
    for dead in [each.id for each in store.members.peers]:
        asked.clear()
        monkeypatch.setattr(store, "is_down", dead.__eq__)
        with pytest.raises(UnavailableError):
            await store.fetch("sha256/ab/abcd.x", 1, DIGEST)
        assert asked[-1] == dead
        assert len(asked) == 2


async def test_a_holder_that_failed_once_keeps_what_was_acknowledged(
    replicas: Replicas, store: ReplicatedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again under the same name: nothing that follows its failure deletes its bytes."""
    replicas.set_state(replicas.machines[2], MemberState.DRAINING)
    holder, may_forget = replicas.machines[1], asyncio.Event()
    assert holder._server is not None
    uploads = holder._server._uploads
    add, forget, failures = uploads.add, uploads.forget, [UnavailableError("busy")]

    async def fail_once(name: StagedName, addition: Addition, content: bytes) -> dict[str, object]:
        if failures:
            raise failures.pop()
        return await add(name, addition, content)

    async def forget_late(name: StagedName) -> None:
        await may_forget.wait()
        await forget(name)

    monkeypatch.setattr(uploads, "add", fail_once)
    monkeypatch.setattr(uploads, "forget", forget_late)
    upload_id = new_upload()
    writer = await store.begin(upload_id, SHA256)
    await writer.append(CONTENT)
    progress = await writer.flush()
    await writer.recorded()
    await writer.close()
    assert not failures
    place = Place.parse(progress.state)
    assert sorted(place.holders) == [each.id for each in replicas.machines[:2]]
    may_forget.set()
    await asyncio.gather(*store._later)
    staged = [machine.staged() for machine in replicas.machines[:2]]
    assert [[path.name for path in paths] for paths in staged] == [
        [f"{upload_id}.{place.nonce}"],
        [f"{upload_id}.{place.nonce}"],
    ]


async def test_who_failed_under_a_name_is_told_to_forget_it(
    replicas: Replicas, store: ReplicatedBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was sent before it failed does not stay on its disk."""
    writer = await store.begin(new_upload(), SHA256)
    await writer.append(CONTENT)
    others = replicas.machines[1:]
    await asyncio.to_thread(wait_until, lambda: any(each.staged() for each in others), "bytes")
    failing = next(each for each in others if each.staged())
    assert failing._server is not None

    async def fail(*_arguments: object) -> None:
        raise UnavailableError

    monkeypatch.setattr(failing._server._uploads, "add", fail)
    await writer.append(CONTENT)
    await writer.commit(Digest.of(CONTENT * 2))
    await writer.close()
    await asyncio.gather(*store._later)
    assert [machine.staged() for machine in replicas.machines] == [[], [], []]


async def test_what_was_given_up_and_arrives_late_changes_nothing(tmp_path: Path) -> None:
    """A request from before the writer began anew would cut the file at its own offset."""
    local = FilesystemBlobStore(tmp_path)
    sessions = Sessions(local)
    name, start = StagedName.new(new_upload()), Start(SHA256)
    late = Addition(start, 1000)
    await sessions.add(name, Addition(start, 0), CONTENT[:1000])
    anew = Addition(start, 0, Then.FLUSH, attempt=1)
    await sessions.add(name, anew, CONTENT)
    with pytest.raises(UploadBusyError):
        await sessions.add(name, late, CONTENT[1000:2000])
    await sessions.close_idle(0)
    assert (tmp_path / "uploads" / str(name)).read_bytes() == CONTENT
    await local.close()


async def test_a_push_does_not_wait_for_ever_for_a_disk_that_hangs(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica answers and takes nothing, and nobody else could: the push is refused."""
    replicas.set_state(replicas.machines[2], MemberState.DRAINING)
    hanging, never = replicas.machines[1], asyncio.Event()
    assert hanging._server is not None

    async def hang(*_arguments: object) -> None:
        await never.wait()

    monkeypatch.setattr(hanging._server._uploads, "add", hang)
    store = replicas.machines[0].open(
        replace(PACE, answer_seconds=0.5, stall_seconds=2, patience_seconds=1)
    )
    try:
        async with asyncio.timeout(60):
            with pytest.raises(UnavailableError, match="2 replicas must hold"):
                await stage(store, CONTENT)
    finally:
        never.set()
        await store.close()


async def test_the_sweep_waits_for_what_it_deletes(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow replica has forgotten staged bytes when their deletion returns."""
    holder = replicas.machines[1]
    replicas.set_state(replicas.machines[2], MemberState.DRAINING)
    assert holder._server is not None
    uploads = holder._server._uploads
    forget = uploads.forget

    async def forget_in_a_while(name: StagedName) -> None:
        await asyncio.sleep(0.5)
        await forget(name)

    monkeypatch.setattr(uploads, "forget", forget_in_a_while)
    store = replicas.machines[0].open(replace(PACE, hedge_seconds=0.01))
    try:
        writer, _ = await stage(store, CONTENT)
        await writer.close()
        assert [len(machine.staged()) for machine in replicas.machines] == [1, 1, 0]
        for stored in [each async for each in store.walk()]:
            await store.delete(stored.key)
        assert [machine.staged() for machine in replicas.machines] == [[], [], []]
    finally:
        await store.close()
