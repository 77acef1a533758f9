"""The peer endpoint lets in what its own authority signed, and none of a node's other keys."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.support.doors import is_let_in, written
from tests.support.processes import free_port
from tests.support.replicas import HOST, make_credentials, replace_file

from dtr.model.members import Member, Members, MembersFile
from dtr.storage import Credentials, FilesystemBlobStore
from dtr.storage.replicated import PeerServer
from dtr.ucp.agent.files import KeyFiles
from dtr.ucp.authority import Authority
from dtr.ucp.keyring import KINDS, Realm, first_keyring, issue
from dtr.ucp.model import Node

NODE = Node(id="n1", name="n1", host_address=HOST, fingerprint="", joined_at=0)


@asynccontextmanager
async def serving(place: Path, own: KeyFiles) -> AsyncIterator[int]:
    """Run the endpoint with a key, and give its port."""
    members = place / "members.json"
    members.write_text(Members("0" * 12, (Member("0" * 12, NODE.id, HOST),)).render())
    data = place / "data"
    data.mkdir()
    server = PeerServer(
        FilesystemBlobStore(data),
        MembersFile(members),
        Credentials(own.certificate, own.key, own.ca),
    )
    port = free_port(HOST)
    await server.start(HOST, port)
    try:
        yield port
    finally:
        await server.stop()


async def test_no_other_key_of_the_same_node_opens_it(tmp_path: Path) -> None:
    """Neither the node's own, nor PostgreSQL's, Patroni's or etcd's, all of the same name."""
    keyring = first_keyring("c", time.time())
    held = issue(keyring, NODE, KINDS, time.time())
    files = {name: written(tmp_path / "keys", name, pair) for name, pair in held.pairs.items()}
    node = make_credentials(
        tmp_path / "node", Authority.create("nodes", datetime.now(UTC)), NODE.id
    )
    files["node"] = KeyFiles(node.ca, node.certificate, node.key)
    own = files["registry"]
    own.ca.write_text(keyring.newest.authorities[Realm.REGISTRY].certificate)
    async with serving(tmp_path, own) as port:
        opened = {
            name
            for name, each in files.items()
            if await asyncio.to_thread(is_let_in, HOST, port, each)
        }
    assert opened == {"registry"}


async def test_an_authority_that_is_trusted_no_more_opens_nothing_from_then_on(
    tmp_path: Path,
) -> None:
    """Whose keys were renewed because somebody left; nothing is restarted for that."""
    old, new = (first_keyring("c", time.time()) for _ in range(2))
    files = [
        written(
            tmp_path / name, "registry", issue(each, NODE, KINDS, time.time()).pairs["registry"]
        )
        for name, each in (("old", old), ("new", new))
    ]
    trusted = [each.newest.authorities[Realm.REGISTRY].certificate for each in (old, new)]
    own = files[0]
    own.ca.write_text(trusted[0])
    async with serving(tmp_path, own) as port:
        for content, expected in (
            (trusted[0], [True, False]),
            (trusted[0] + trusted[1], [True, True]),
            (trusted[1], [False, True]),
        ):
            replace_file(own.ca, content)
            opened = [await asyncio.to_thread(is_let_in, HOST, port, each) for each in files]
            assert opened == expected
