"""Files that the agent writes for the processes that it runs, which may be other users'."""

import os
import pwd
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from dtr.server.datadir import sync_directory
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.keyring import OLDEST, KeyKind, Realm
from dtr.ucp.model import NodeKeys

_TEMPORARY: Final = ".tmp"


def write_for(path: Path, content: bytes | str, *, user: str = "", mode: int = 0o600) -> str:
    """Give `path` this content, owner and mode, and return the content's digest.

    The digest is what `restart_key` and `reload_key` of a specification are for. The file is
    replaced as a whole and durably, and only if something differs. An empty `user` is the agent's
    own, and so is any where the agent is not root.

    Raises:
        OSError: it cannot be written.
        KeyError: there is no such user.

    """
    wanted = content.encode() if isinstance(content, str) else content
    owner = _owner(user)
    if not _is_so(path, wanted, owner, mode):
        _replace(path, wanted, owner, mode)
    return sha256(wanted).hexdigest()


def make_directory(path: Path, *, user: str = "", mode: int = 0o700) -> Path:
    """Make a directory of this owner and mode, or give them to the one that is there.

    Parents that are missing are the agent's own; anybody may enter them, and nobody list them.

    Raises:
        OSError: it cannot be made, or is something else.
        KeyError: there is no such user.

    """
    owner = _owner(user)
    for parent in reversed(path.parents):
        if not parent.exists():
            _make(parent, 0o711)
    if not path.exists():
        _make(path, 0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _give(descriptor, owner, mode)
    finally:
        os.close(descriptor)
    return path


class KeysMissingError(Exception):
    """An engine has to wait for its keys; one sentence."""


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where an engine finds whom it trusts and what it proves who it is with."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, directory: Path, name: str) -> Self:
        """Return the files of a key in a directory."""
        return cls(
            directory / f"{name}-ca.crt", directory / f"{name}.crt", directory / f"{name}.key"
        )


@dataclass(frozen=True, slots=True)
class KeyDigests:
    """Another digest is another content."""

    trust: str
    pair: str


def give_keys(
    directory: NodeDirectory,
    keys: NodeKeys | None,
    kind: KeyKind,
    files: KeyFiles,
    *,
    user: str = "",
) -> KeyDigests:
    """Write one of the node's keys (0600) for its engine, into a directory that is there.

    To be called at each `converge`: keys and those whom to trust are renewed now and then. Where
    the control plane has no keys for engines yet, or not for all, the node's own are copied.

    Raises:
        KeysMissingError: this key has not come yet.
        OSError: one cannot be read or written.
        KeyError: there is no such user.

    """
    trusted = trusted_in(directory, keys, kind.realm)
    if shows_identity(keys):
        certificate, key = directory.certificate.read_bytes(), directory.key.read_bytes()
    elif keys is not None and kind.name in keys.pairs:
        pair = keys.pairs[kind.name]
        certificate, key = pair.certificate.encode(), pair.key.encode()
    else:
        raise KeysMissingError(
            f"The key {kind.name!r} of this node has not arrived yet. The leading controller "
            "sends it."
        )
    trust = write_for(files.ca, trusted, user=user)
    # The key first: a crash in between leaves a pair that does not match, which is made anew.
    written = write_for(files.key, key, user=user) + write_for(
        files.certificate, certificate, user=user
    )
    return KeyDigests(trust, sha256(written.encode()).hexdigest())


def trusted_in(directory: NodeDirectory, keys: NodeKeys | None, realm: Realm) -> str:
    """Return PEM of whom engines trust in a realm.

    Raises:
        KeysMissingError: that has not come yet.
        OSError: the node's own authority cannot be read.

    """
    if keys is not None and realm in keys.authorities:
        return keys.authorities[realm]
    if shows_identity(keys):
        return directory.ca.read_text(encoding="ascii")
    raise KeysMissingError(
        f"The authority of {realm} has not arrived yet. The leading controller sends it."
    )


def shows_identity(keys: NodeKeys | None) -> bool:
    """Tell whether engines show the node's own certificate, for want of their own."""
    return keys is None or keys.generation == OLDEST


def forget_identity(directory: NodeDirectory, keys: NodeKeys | None, place: Path) -> None:
    """Delete the copies of the node's own key that versions before made for an engine.

    Whoever broke out of that engine may have kept one, so that the node gets another key at once.
    """
    if shows_identity(keys):
        return
    if (place / "node.key").exists():
        directory.renewal_wish.touch(mode=0o600)
        (place / "node.key").unlink()
    (place / "node.crt").unlink(missing_ok=True)


def _owner(user: str) -> tuple[int, int]:
    if not user or os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def _is_so(path: Path, content: bytes, owner: tuple[int, int], mode: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        return (
            (status.st_uid, status.st_gid) == owner
            and status.st_mode & 0o7777 == mode
            and file.read(len(content) + 1) == content
        )


def _replace(path: Path, content: bytes, owner: tuple[int, int], mode: int) -> None:
    # The directory may belong to the other user, who could have put a link there: a new file is
    # made, never one that is there opened, and owner and mode are given to what we hold open.
    temporary = path.with_name(path.name + _TEMPORARY)
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        _give(file.fileno(), owner, mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def _give(descriptor: int, owner: tuple[int, int], mode: int) -> None:
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != owner:
        os.fchown(descriptor, *owner)
    if status.st_mode & 0o7777 != mode:
        os.fchmod(descriptor, mode)


def _make(path: Path, mode: int) -> None:
    path.mkdir(mode=mode)
    path.chmod(mode)  # whatever the umask is
    sync_directory(path.parent)
