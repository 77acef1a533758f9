"""What happens to uploads and reads when replicas die, fill up, or are none of ours."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from tests.support.processes import wait_until
from tests.support.replicas import (
    HASTY,
    HOST,
    PACE,
    Machine,
    Replicas,
    make_credentials,
    replace_file,
)

from dtr.model.digest import Algorithm, Digest
from dtr.model.errors import (
    ContentDamagedError,
    StorageFullError,
    UnavailableError,
    UploadUnknownError,
)
from dtr.model.members import MemberState
from dtr.storage import Progress
from dtr.storage.replicated import ReplicatedBlobStore
from dtr.storage.replicated.names import Place
from dtr.storage.replicated.peers import PeerUnreachableError
from dtr.testing.blobs import new_upload, pull, push, stage
from dtr.ucp.authority import Authority

pytestmark = pytest.mark.server

SHA256 = Algorithm.SHA256
CONTENT = os.urandom(9 << 20)
DIGEST = Digest.of(CONTENT)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    """Give three machines, their endpoints started."""
    replicas = Replicas(tmp_path, 3)
    await replicas.start()
    yield replicas
    await replicas.stop()


@pytest.fixture
async def stores(replicas: Replicas) -> AsyncIterator[list[ReplicatedBlobStore]]:
    """Give a driver on each of them."""
    stores = [machine.open() for machine in replicas.machines]
    yield stores
    for store in stores:
        await store.close()


def holding(replicas: Replicas, key: str) -> list[Machine]:
    """Return the machines that have a blob on their disks."""
    return [machine for machine in replicas.machines if key in machine.files()]


def others(replicas: Replicas, ids: tuple[str, ...]) -> list[Machine]:
    """Return those of the machines, except the first, whose ids are among these."""
    return [each for each in replicas.machines[1:] if each.id in ids]


async def test_a_majority_holds_what_is_acknowledged(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Two of three, this one first, and the writer names them."""
    writer = await stores[0].begin(new_upload(), SHA256)
    await writer.append(CONTENT)
    key = await writer.commit(DIGEST)
    await writer.close()
    holders = holding(replicas, key)
    assert holders[0] is replicas.machines[0]
    assert sorted(writer.holders) == sorted(machine.id for machine in holders)
    assert len(holders) == 2
    assert [machine.staged() for machine in replicas.machines] == [[], [], []]


async def test_a_holder_that_dies_in_the_middle_of_an_upload_is_replaced(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Whoever takes its place has all bytes, those from before its time included."""
    writer = await stores[0].begin(new_upload(), SHA256)
    await writer.append(CONTENT[: 5 << 20])
    await writer.append(CONTENT[5 << 20 : 6 << 20])
    others_of_it = replicas.machines[1:]
    await asyncio.to_thread(
        wait_until, lambda: any(each.staged() for each in others_of_it), "another has a part"
    )
    dead = next(each for each in others_of_it if each.staged())
    await dead.stop()
    for start in range(6 << 20, len(CONTENT), 1 << 20):
        await writer.append(CONTENT[start : start + (1 << 20)])
    key = await writer.commit(DIGEST)
    await writer.close()
    assert dead.id not in writer.holders
    assert len(holding(replicas, key)) == 2
    assert [machine.file(key).read_bytes() == CONTENT for machine in holding(replicas, key)] == [
        True,
        True,
    ]


async def test_a_holder_that_dies_before_the_commit_is_replaced(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """The session's holders are not all there any more: a third one gets everything."""
    upload_id = new_upload()
    writer, progress = await stage(stores[0], CONTENT, upload_id)
    await writer.close()
    (dead,) = others(replicas, Place.parse(progress.state).holders)
    await dead.stop()
    writer = await stores[0].resume(upload_id, SHA256, progress)
    key = await writer.commit(DIGEST)
    await writer.recorded()
    await writer.close()
    assert len(writer.holders) == 2
    assert dead.id not in writer.holders
    assert await pull(stores[2], key) == CONTENT


async def test_an_upload_goes_on_although_the_replica_that_took_it_died(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Every byte that was acknowledged is on another replica, and any replica goes on there."""
    upload_id, half = new_upload(), 4 << 20
    writer, progress = await stage(stores[0], CONTENT[:half], upload_id)
    await writer.close()
    await replicas.machines[0].stop()
    for store in stores[1:]:
        writer = await store.resume(upload_id, SHA256, progress)
        await writer.append(CONTENT[half:])
        key = await writer.commit(DIGEST)
        assert replicas.machines[0].id not in writer.holders
        assert await pull(store, key) == CONTENT
        await writer.withdraw()
        await writer.close()
    assert holding(replicas, key) == []


async def test_a_frozen_holder_is_not_waited_for(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """It takes connections and answers nothing."""
    frozen, silent = replicas.machines[1], asyncio.Event()
    await frozen.stop()
    replicas.set_state(replicas.machines[2], MemberState.DRAINING)

    async def say_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, HOST, frozen.port)
    store = replicas.machines[0].open(HASTY)
    try:
        with pytest.raises(UnavailableError, match="2 replicas must hold"):
            await push(store, CONTENT)
        replicas.set_state(replicas.machines[2], MemberState.SERVING)
        key = await push(store, CONTENT)
        assert [machine.id for machine in holding(replicas, key)] == [
            replicas.machines[0].id,
            replicas.machines[2].id,
        ]
    finally:
        silent.set()
        server.close()
        await store.close()


async def test_a_holder_whose_disk_hangs_is_replaced(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it lives, and takes nothing: neither chunks nor a commit wait for it."""
    hanging, never = replicas.machines[1], asyncio.Event()

    async def hang(*_arguments: object) -> None:
        await never.wait()

    assert hanging._server is not None
    monkeypatch.setattr(hanging._server._uploads, "add", hang)
    store = replicas.machines[0].open(replace(PACE, answer_seconds=0.5, stall_seconds=2))
    try:
        for content in (CONTENT, b"small") * 2:
            key = await push(store, content)
            assert holding(replicas, key) == [replicas.machines[0], replicas.machines[2]]
    finally:
        never.set()
        await store.close()


async def test_without_a_majority_a_push_waits_and_then_says_so(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """What is there is still read; when a replica comes back, the push that waits goes on."""
    key = await push(stores[0], CONTENT)
    for machine in replicas.machines[1:]:
        await machine.stop()
    hasty = replicas.machines[0].open(HASTY)
    with pytest.raises(UnavailableError, match="2 replicas must hold"):
        await push(hasty, CONTENT)
    await hasty.close()
    assert await pull(stores[0], key) == CONTENT
    pushing = asyncio.create_task(push(stores[0], CONTENT))
    await asyncio.sleep(0.1)
    assert not pushing.done()
    await replicas.machines[2].start()
    assert len(holding(replicas, await pushing)) == 2


async def test_a_pull_outlives_the_death_of_a_holder(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """A stream that breaks in the middle goes on at the same byte from another replica."""
    content = os.urandom(48 << 20)
    key = await push(stores[0], content)
    (second,) = holding(replicas, key)[1:]
    reader_at = next(each for each in replicas.machines if key not in each.files())
    store = stores[replicas.machines.index(reader_at)]
    received = bytearray()
    is_cut = False
    async for chunk in store.read(key, stop=len(content)):
        received += chunk
        if not is_cut:
            is_cut = True
            await replicas.machines[0].stop()
            await second.stop()
            await second.start()
    assert bytes(received) == content


async def test_what_no_replica_has_is_told_from_what_none_can_be_asked_for(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Nobody takes a blob for lost because its holder is down."""
    key = "sha256/ab/" + "ab" * 32 + ".none"
    assert await stores[0].size(key) is None
    with pytest.raises(ContentDamagedError):
        await pull(stores[0], key, stop=10)
    await replicas.machines[2].stop()
    with pytest.raises(UnavailableError):
        await stores[0].size(key)
    with pytest.raises(UnavailableError):
        await pull(stores[0], key, stop=10)


async def test_a_full_disk_of_a_peer_is_passed_over(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Others take what it cannot; without others the push is refused for want of room at once."""
    full = replicas.machines[1]
    await full.stop()
    await full.start(reserve_bytes=1 << 60)
    for _ in range(4):
        key = await push(stores[0], CONTENT)
        assert full not in holding(replicas, key)
        assert len(holding(replicas, key)) == 2
    replicas.set_state(replicas.machines[2], MemberState.DRAINING)
    with pytest.raises(StorageFullError):
        await push(stores[0], CONTENT)


async def test_a_full_disk_of_our_own_is_passed_over(replicas: Replicas) -> None:
    """The two others hold what this replica takes."""
    own = replicas.machines[0]
    store = ReplicatedBlobStore(own.disk(reserve_bytes=1 << 60), own.replication, pace=PACE)
    try:
        key = await push(store, CONTENT)
        assert holding(replicas, key) == replicas.machines[1:]
        assert await pull(store, key) == CONTENT
    finally:
        await store.close()


@pytest.mark.parametrize("state", [MemberState.DRAINING, MemberState.JOINING])
async def test_who_does_not_serve_is_sent_nothing_and_takes_pushes(
    replicas: Replicas, stores: list[ReplicatedBlobStore], state: MemberState
) -> None:
    """Whoever leaves or joins hands everything to the replicas that count."""
    replicas.set_state(replicas.machines[0], state)
    key = await push(stores[0], CONTENT)
    assert holding(replicas, key) == replicas.machines[1:]
    assert await pull(stores[0], key) == CONTENT


async def test_a_damaged_copy_is_no_copy(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Each holder hashes what it has: one whose bytes changed does not count, and is replaced."""
    upload_id = new_upload()
    writer, progress = await stage(stores[0], CONTENT, upload_id)
    await writer.close()
    (damaged,) = others(replicas, Place.parse(progress.state).holders)
    (staged,) = damaged.staged()
    with staged.open("r+b") as file:
        file.seek(4711)
        file.write(b"not what was sent")
    # As after a restart of everything: nobody remembers what it hashed.
    unhashed = Progress(progress.offset, None, progress.state)
    for machine in replicas.machines:
        await machine.stop()
        await machine.start()
    store = replicas.machines[0].open()
    writer = await store.resume(upload_id, SHA256, unhashed)
    key = await writer.commit(DIGEST)
    await writer.recorded()
    await writer.close()
    await store.close()
    assert damaged not in holding(replicas, key) or damaged.file(key).read_bytes() == CONTENT
    assert len(holding(replicas, key)) == 2


async def test_a_stale_writer_never_touches_what_others_recorded(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """Also not where it began at the very bytes that became a blob meanwhile."""
    upload_id = new_upload()
    first, progress = await stage(stores[0], CONTENT, upload_id)
    await first.close()
    stale = await stores[1].resume(upload_id, SHA256, progress)
    winner = await stores[2].resume(upload_id, SHA256, progress)
    key = await winner.commit(DIGEST)
    await stale.append(b"more" * 1_000_000)
    await stale.flush()
    await stale.cancel()
    await winner.recorded()
    await winner.close()
    assert [machine.file(key).read_bytes() == CONTENT for machine in holding(replicas, key)] == [
        True,
        True,
    ]
    too_late = await stores[1].resume(upload_id, SHA256, progress)
    with pytest.raises(UploadUnknownError):
        await too_late.commit(DIGEST)
    await too_late.close()


async def test_a_certificate_of_another_authority_is_refused(
    replicas: Replicas, tmp_path: Path
) -> None:
    """In the handshake, before anything is asked."""
    stranger = Authority.create("stranger", datetime.now(UTC))
    foreign = make_credentials(tmp_path / "foreign", stranger, "node-1")
    assert await status_of(replicas.machines[1], foreign.certificate, foreign.key) is None
    own = replicas.machines[0].credentials
    assert await status_of(replicas.machines[1], own.certificate, own.key) == 204


async def test_a_removed_member_is_refused_at_once(replicas: Replicas) -> None:
    """Its certificate is still good, and the members file is what counts."""
    own = replicas.machines[0].credentials
    replicas.set_state(replicas.machines[0], None)
    assert await status_of(replicas.machines[1], own.certificate, own.key) == 403


async def test_another_node_cannot_answer_as_a_replica(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """A node of the cluster that sits at another's address shows the wrong name."""
    first, second = replicas.machines[1:]
    key = await push(stores[1], CONTENT)
    await replicas.machines[0].stop()
    first.port, second.port = second.port, first.port
    replicas.write_members()
    with pytest.raises(UnavailableError):
        await stores[0].size("sha256/ab/none")
    assert key


async def test_certificates_are_taken_anew(
    replicas: Replicas, stores: list[ReplicatedBlobStore]
) -> None:
    """A renewed certificate is shown by new connections, with no restart on either side."""
    contexts = [store._peers._contexts for store in stores]
    before = [each.current() for each in contexts]
    renewed = make_credentials(
        replicas.machines[0].directory / "renewed", replicas.authority, "node-1"
    )
    own = replicas.machines[0].credentials
    replace_file(own.key, renewed.key.read_text())
    stamp = contexts[0]._stamp
    contexts[0].current()
    assert contexts[0]._stamp == stamp  # half of a pair: what works stays in use
    replace_file(own.certificate, renewed.certificate.read_text())
    assert contexts[0].current() is before[0]
    assert contexts[0]._stamp != stamp
    assert len(holding(replicas, await push(stores[0], CONTENT))) == 2


@pytest.mark.parametrize(
    "path",
    [
        "blobs/..%2F..%2Fmembers.json",
        "blobs/sha256/ab/..%2F..%2F..%2Fuploads",
        "blobs/sha256/ab/.partial-x",
        "uploads/..%2Fx.0011223344556677",
        "uploads/x.notanonce",
        "uploads/x.0011223344556677?start=0&stop=999999999999",
    ],
)
async def test_names_that_lead_elsewhere_are_refused(replicas: Replicas, path: str) -> None:
    """The peer endpoint opens nothing but blobs and staged bytes, and not too much of them."""
    own = replicas.machines[0].credentials
    assert await status_of(replicas.machines[1], own.certificate, own.key, path) in {400, 404}


async def status_of(
    machine: Machine, certificate: Path, key: Path, path: str = "check"
) -> int | None:
    """Ask a machine's endpoint something with a certificate; None where it lets nobody in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(machine.credentials.ca)
    context.load_cert_chain(certificate, key)
    url = f"https://{HOST}:{machine.port}/peer/v1/{path}"
    try:
        async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
            return answer.status
    except aiohttp.ClientError:
        return None


@pytest.mark.parametrize(
    "content",
    [b"[" * 10_000, b"[{}," * 200_000, b"[" + b"0," * 2**20, b"nothing"],
    ids=lambda content: repr(content[:8]),
)
async def test_a_peer_that_answers_nonsense_is_one_that_failed(
    stores: list[ReplicatedBlobStore],
    replicas: Replicas,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
) -> None:
    """However much of it: no more is read or parsed than a right answer could have."""
    monkeypatch.setattr(web, "json_response", lambda _found: web.Response(body=content))
    with pytest.raises(PeerUnreachableError, match="peer answered"):
        await stores[0]._peers.page(replicas.machines[1].id, "")
