"""Files for other users: owner, mode, content, and a digest that changes with the content only."""

import os
import pwd
from pathlib import Path

import pytest
from tests.support.processes import requires_root

from dtr.ucp.agent.files import (
    KeyFiles,
    KeysMissingError,
    forget_identity,
    give_keys,
    make_directory,
    write_for,
)
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.users import closed_part
from dtr.ucp.keyring import REGISTRY, Realm
from dtr.ucp.model import KeyPair, NodeKeys

NOBODY = pwd.getpwnam("nobody").pw_uid


def test_a_file_has_its_mode_and_the_digest_is_that_of_its_content(tmp_path: Path) -> None:
    """Whatever the umask is."""
    path = tmp_path / "haproxy.cfg"
    before = os.umask(0o077)
    try:
        digest = write_for(path, "pool", mode=0o644)
    finally:
        os.umask(before)
    assert path.read_text() == "pool"
    assert path.stat().st_mode & 0o7777 == 0o644
    assert write_for(path, b"pool", mode=0o600) == digest
    assert path.stat().st_mode & 0o7777 == 0o600
    assert write_for(path, "another pool") != digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["haproxy.cfg"]


def test_a_file_that_is_as_it_should_be_is_not_touched(tmp_path: Path) -> None:
    """Components write at each look, and a disk is not there for that."""
    path = tmp_path / "patroni.yml"
    write_for(path, "scope: registry")
    inode = path.stat().st_ino
    write_for(path, "scope: registry")
    assert path.stat().st_ino == inode


def test_a_link_that_somebody_put_there_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """The directory may belong to a user who would like root to write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    path = tmp_path / "secret"
    path.symlink_to(victim)
    (tmp_path / "secret.tmp").symlink_to(victim)
    write_for(path, "untouched")
    assert not path.is_symlink()
    assert victim.read_text() == "untouched"
    write_for(path, "password")
    assert victim.read_text() == "untouched"


def test_files_and_directories_are_given_to_another_user(tmp_path: Path) -> None:
    """And taken back, when another user is named."""
    requires_root("giving files away")
    directory = make_directory(tmp_path / "etcd" / "pki", user="nobody")
    assert (directory.stat().st_uid, directory.stat().st_mode & 0o7777) == (NOBODY, 0o700)
    assert directory.parent.stat().st_uid == 0
    assert directory.parent.stat().st_mode & 0o7777 == 0o711
    write_for(directory / "key", "secret", user="nobody")
    assert (directory / "key").stat().st_uid == NOBODY
    write_for(directory / "key", "secret")
    assert (directory / "key").stat().st_uid == 0


def test_a_user_that_does_not_exist_is_an_error_for_root(tmp_path: Path) -> None:
    """Nothing is written for somebody else instead."""
    requires_root("giving files away")
    with pytest.raises(KeyError):
        write_for(tmp_path / "file", "content", user="nosuchuser")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def directory(tmp_path: Path) -> NodeDirectory:
    """Give a node's directory with its identity in it."""
    directory = NodeDirectory(tmp_path)
    directory.ca.parent.mkdir()
    for path in (directory.ca, directory.certificate, directory.key):
        path.write_text(path.name)
    return directory


def keys_of(word: str, generation: int = 1) -> NodeKeys:
    """Give keys of the registry, in which a word stands."""
    return NodeKeys(
        node_id="n",
        generation=generation,
        authorities={Realm.REGISTRY: f"authority {word}"},
        pairs={"registry": KeyPair(certificate=f"certificate {word}", key=f"key {word}")},
    )


def test_an_engine_gets_its_own_key_and_digests_change_with_it(directory: NodeDirectory) -> None:
    """A renewed one reaches the process by its reload key; the node's own goes nowhere."""
    target = KeyFiles.of(directory.root, "peer")
    first = give_keys(directory, keys_of("one"), REGISTRY, target)
    assert [path.read_text() for path in (target.ca, target.certificate, target.key)] == [
        "authority one",
        "certificate one",
        "key one",
    ]
    assert target.key.stat().st_mode & 0o777 == 0o600
    assert give_keys(directory, keys_of("one"), REGISTRY, target) == first
    second = give_keys(directory, keys_of("two"), REGISTRY, target)
    assert (second.trust != first.trust, second.pair != first.pair) == (True, True)


def test_an_engine_without_a_key_waits_and_never_takes_the_nodes(
    directory: NodeDirectory,
) -> None:
    """Where the control plane has keys for engines, none goes without."""
    target = KeyFiles.of(directory.root, "peer")
    for keys in (NodeKeys(node_id="n"), keys_of("one").changed(pairs={})):
        with pytest.raises(KeysMissingError):
            give_keys(directory, keys, REGISTRY, target)
    assert not target.key.exists()


def test_until_there_are_keys_engines_show_the_nodes_own(directory: NodeDirectory) -> None:
    """As they did before; copies of it go as soon as they do not any more."""
    target = KeyFiles.of(directory.root, "peer")
    for keys in (None, keys_of("one", generation=0)):
        give_keys(directory, keys, REGISTRY, target)
        assert (target.certificate.read_text(), target.key.read_text()) == ("node.crt", "node.key")
    assert target.ca.read_text() == "authority one"
    left = directory.root / "node.key"
    left.write_text("a copy")
    forget_identity(directory, keys_of("one", generation=0), directory.root)
    assert left.exists()
    forget_identity(directory, keys_of("one"), directory.root)
    assert not left.exists()
    assert directory.renewal_wish.exists()


def test_a_node_whose_key_no_engine_had_keeps_it(directory: NodeDirectory) -> None:
    """As every node that began with this version."""
    forget_identity(directory, keys_of("one"), directory.root)
    assert not directory.renewal_wish.exists()


def test_what_keeps_a_user_from_a_path_is_named(open_path: Path) -> None:
    """Also where a link leads through a closed directory."""
    closed = open_path / "closed"
    (closed / "python").mkdir(parents=True)
    program = closed / "python" / "python3"
    program.touch(mode=0o755)
    link = open_path / "link"
    link.symlink_to(closed)
    assert closed_part(program, "nobody") is None
    closed.chmod(0o700)
    assert closed_part(program, "nobody") == closed
    assert closed_part(link / "python" / "python3", "nobody") == closed
    closed.chmod(0o711)
    program.chmod(0o711)
    assert closed_part(program, "nobody") == program
    assert closed_part(program, "nobody", is_program=True) is None
    assert closed_part(program, "root") is None
    assert closed_part(closed / "nothing", "nobody") == closed / "nothing"
