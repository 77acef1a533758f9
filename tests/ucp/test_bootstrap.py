"""How a control plane begins, and begins again, whatever dies on the way."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.ucp.plane import HASH, member_id

from dtr.model.errors import UnavailableError
from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.api import ApiRequest
from dtr.ucp.authority import fingerprint, load_certificate
from dtr.ucp.bootstrap import (
    Begun,
    Bootstrap,
    BootstrapError,
    FirstNode,
    begin,
    begin_again,
    fill_store,
    forget_bootstrap,
    read_bootstrap,
)
from dtr.ucp.controller.keeping import backup
from dtr.ucp.model import Administrator, ManagerPhase, Node, NodeIdentity, Wanted
from dtr.ucp.store import Change, Condition, Put

NOW = 1_800_000_000.0
FIRST = FirstNode("first", "10.0.0.1", 8443, ("ucp.example",))


class Dead(Exception):  # noqa: N818 - not an error: the process is gone
    """The controller was killed here."""


class Mortal(MemoryStore):
    """A store whose user dies at the n-th commit, before or after it was done."""

    def __init__(self, dies_at: int, *, after: bool) -> None:
        super().__init__()
        self._left = dies_at
        self._after = after

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        """Commit, or die."""
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Dead
        done = await super().commit(changes, conditions)
        if self._left == 0:
            raise Dead
        return done


class Protection:
    """Turns authentication on, once it does not die before."""

    def __init__(self, dies: int = 0) -> None:
        self.passwords: list[str] = []
        self._dies = dies

    async def __call__(self, password: str) -> None:
        """Note the password."""
        self._dies -= 1
        if self._dies == 0:
            raise Dead
        self.passwords.append(password)


def begun_in(place: Path) -> tuple[NodeDirectory, Begun, Bootstrap]:
    """Begin a control plane."""
    directory = NodeDirectory(place)
    administrator = Administrator(name="admin", password_hash=HASH, changed_at=NOW)
    begun = begin(directory, FIRST, administrator, NOW)
    bootstrap = read_bootstrap(directory.bootstrap)
    assert bootstrap is not None
    return directory, begun, bootstrap


def test_what_is_secret_is_for_its_owner_only(tmp_path: Path) -> None:
    """Other users of the machine see who it is and whom it trusts."""
    directory, _, _ = begun_in(tmp_path / "d")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in directory.root.rglob("*")
        if path.is_file()
    }
    assert modes == {
        "bootstrap.json": 0o600,
        "wanted.json": 0o600,
        "node.key": 0o600,
        "node.crt": 0o644,
        "ca.crt": 0o644,
        "node.json": 0o644,
    }


def test_the_first_machine_runs_etcd_and_a_controller(tmp_path: Path) -> None:
    """Before anybody could tell it to."""
    directory, begun, bootstrap = begun_in(tmp_path / "d")
    wanted = Wanted.model_validate_json(directory.wanted.read_bytes())
    identity = NodeIdentity.model_validate_json(directory.identity.read_bytes())
    assert wanted.etcd is not None
    assert wanted.etcd.is_new_cluster
    assert wanted.etcd.initial_cluster == f"{identity.node_id}=https://10.0.0.1:2380"
    assert wanted.controller is not None
    assert wanted.controllers == begun.identity.controllers == ("10.0.0.1:8443",)
    certificate = directory.certificate.read_text()
    assert bootstrap.node.fingerprint == fingerprint(certificate)
    assert "ucp.example" in str(load_certificate(certificate).extensions)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", range(1, 4))
async def test_a_first_controller_that_dies_is_followed_by_one_that_ends_the_work(
    tmp_path: Path, dies_at: int, *, after: bool
) -> None:
    """Whatever was done before, what is there in the end is the same."""
    directory, _, bootstrap = begun_in(tmp_path / "d")
    store = Mortal(dies_at, after=after)
    protection = Protection(dies=1 if dies_at > 2 else 0)
    with pytest.raises(Dead):
        await fill_store(store, bootstrap, member_id, protection)
    await fill_store(store, bootstrap, member_id, protection)
    await fill_store(store, bootstrap, member_id, protection)
    forget_bootstrap(directory.bootstrap)
    forget_bootstrap(directory.bootstrap)
    assert read_bootstrap(directory.bootstrap) is None
    assert set(protection.passwords) == {bootstrap.secrets.etcd_password}
    entries, _ = await store.list("/ucp/")
    assert {entry.key for entry in entries} == {
        keys.CLUSTER,
        keys.CONTROL_SECRETS,
        keys.KEYRING,
        keys.node_keys(bootstrap.node.id),
        keys.JOIN_TOKEN,
        keys.join_token("worker"),
        keys.WEB_NAMES,
        keys.administrator("admin"),
        keys.node(bootstrap.node.id),
        keys.manager(bootstrap.node.id),
    }


async def test_a_lost_answer_is_no_harm(tmp_path: Path) -> None:
    """The controller looks what is there."""
    _, _, bootstrap = begun_in(tmp_path / "d")
    store = MemoryStore()
    store.loses_answers = True
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await fill_store(store, bootstrap, member_id, Protection())
    store.loses_answers = False
    protection = Protection()
    await fill_store(store, bootstrap, member_id, protection)
    assert len(protection.passwords) == 1


async def test_an_etcd_that_holds_another_cluster_is_left_alone(tmp_path: Path) -> None:
    """A mistake must not mix two."""
    _, _, one = begun_in(tmp_path / "one")
    _, _, other = begun_in(tmp_path / "other")
    store = MemoryStore()
    await fill_store(store, one, member_id, Protection())
    before = await store.list("")
    with pytest.raises(BootstrapError, match="another control plane"):
        await fill_store(store, other, member_id, Protection())
    assert await store.list("") == before


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """With what to do."""
    path = tmp_path / "bootstrap.json"
    path.write_text("{")
    with pytest.raises(BootstrapError, match=r"bootstrap.json is damaged. Run 'ucp uninstall'"):
        read_bootstrap(path)


async def test_a_control_plane_begins_again_from_a_backup(tmp_path: Path) -> None:
    """With the same authority and nodes; tokens are new; who was left behind is not followed."""
    _, begun, bootstrap = begun_in(tmp_path / "d")
    store = MemoryStore()
    await fill_store(store, bootstrap, member_id, Protection())
    worker = bootstrap.node.changed(id="w" * 26, name="worker", host_address="10.0.0.2")
    await store.commit(
        [
            Put(keys.node(worker.id), worker.encoded()),
            Put(keys.report(worker.id), b"{}"),
            Put(f"{keys.SESSIONS}x", b"{}"),
            Put(f"{keys.DTR}cluster", b'{"id": "x"}'),
        ]
    )
    kept = await backup(ApiRequest(store=store, caller="admin", now=NOW))
    assert isinstance(kept, dict)
    documents = kept["documents"]
    assert isinstance(documents, dict)
    directory = NodeDirectory(tmp_path / "new")
    later = NOW + 1000
    again = begin_again(directory, FirstNode("first", "10.0.0.9", 8443), documents, later)
    assert len({again.token, again.worker_token, begun.token, begun.worker_token}) == 4
    assert again.ca_pem == begun.ca_pem
    assert again.identity.node_id == begun.identity.node_id
    restored = read_bootstrap(directory.bootstrap)
    assert restored is not None
    assert restored.secrets.ca_key == bootstrap.secrets.ca_key
    assert restored.secrets.etcd_password != bootstrap.secrets.etcd_password
    assert not any(key.startswith((keys.KEYRING, keys.NODE_KEYS)) for key in documents)
    assert restored.keyring.newest != bootstrap.keyring.newest
    new = MemoryStore()
    await fill_store(new, restored, member_id, Protection())
    entries = {entry.key: entry for entry in (await new.list("/ucp/"))[0]}
    assert entries[keys.node(worker.id)].document(Node) == worker
    assert entries[keys.node(again.identity.node_id)].document(Node).host_address == "10.0.0.9"
    assert f"{keys.DTR}cluster" in entries
    assert not any(key.startswith((keys.SESSIONS, keys.REPORTS)) for key in entries)
    assert restored.cluster.epoch > bootstrap.cluster.epoch
    assert restored.wanted().epoch == restored.cluster.epoch
    assert restored.manager.phase is ManagerPhase.VOTER


def test_what_is_no_backup_begins_nothing(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    directory = NodeDirectory(tmp_path / "new")
    with pytest.raises(BootstrapError, match="incomplete"):
        begin_again(directory, FIRST, {keys.CLUSTER: {"id": "x"}}, NOW)
    assert not directory.root.exists()
