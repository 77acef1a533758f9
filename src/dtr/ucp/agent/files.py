"""Files that the agent writes for the processes that it runs, which may be other users'."""

import os
import pwd
from hashlib import sha256
from pathlib import Path
from typing import Final

from dtr.server.datadir import sync_directory
from dtr.ucp.agent.port import NodeDirectory

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


def copy_identity(directory: NodeDirectory, target: Path, *, user: str = "") -> str:
    """Copy the node's certificate, key and authority into `target`, and return their digest.

    `target` becomes that user's (0700), the files `ca.crt`, `node.crt` and `node.key` too (0600).
    To be called at each `converge`: the node's certificate is renewed now and then.

    Raises:
        OSError: one cannot be read or written.
        KeyError: there is no such user.

    """
    make_directory(target, user=user)
    copied = sha256()
    for source in (directory.ca, directory.certificate, directory.key):
        copied.update(write_for(target / source.name, source.read_bytes(), user=user).encode())
    return copied.hexdigest()


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
