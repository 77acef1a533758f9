"""The data directory: one place with all state of a server, opened by one server at a time."""

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Final, Self

FORMAT_VERSION: Final = 1
MINIMUM_FREE_BYTES: Final = 64 * 2**20

_FORMAT_NAME: Final = "FORMAT"
_FORMAT_WORD: Final = "dtr-data"
_LOCK_NAME: Final = "dtr.lock"
_TEMPORARY: Final = ".tmp"
# What a new directory may hold before it has a FORMAT file: what a first start that was cut short
# leaves behind, and what the root of a fresh ext4 volume has.
_IGNORED: Final = frozenset({_LOCK_NAME, _FORMAT_NAME + _TEMPORARY, "lost+found"})


class DataDirectoryError(Exception):
    """The data directory cannot be used: `what` is the matter, `remedy` what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace the file as a whole and durably: after a crash it is the old one or the new one.

    The file has `mode` from its first byte on. One writer at a time.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DataDirectory:
    """An open data directory; its attributes are the paths of what it holds.

    `open` gives it to a server, alone, until `close`; `open_shared` gives the paths to the offline
    command line, which may run beside a server.
    """

    def __init__(self, path: Path, lock: int | None = None) -> None:
        self.path = path.absolute()
        self.database = self.path / "dtr.db"
        self.blobs = self.path / "blobs"
        self.tls = self.path / "tls"
        self.initial_admin_password = self.path / "initial_admin_password"
        self.metrics = self.path / "run" / "metrics"
        self._lock = lock

    @classmethod
    def open(cls, path: Path, minimum_free_bytes: int = MINIMUM_FREE_BYTES) -> Self:
        """Make the directory if need be (0700) and hold it exclusively.

        Raises:
            DataDirectoryError: it is not ours to use, not writable, full, or used by a server.
        """
        _make(path)
        _check_owner(path)
        _check_format(path)
        _check_room(path, minimum_free_bytes)
        lock = _acquire(path)
        try:
            opened = cls(path, lock)
            # Asked again under the lock: another server may have been first.
            opened._prepare(is_new=_check_format(path))
        except OSError as error:
            os.close(lock)
            raise _not_writable(path, error) from error
        except BaseException:
            os.close(lock)
            raise
        return opened

    @classmethod
    def check(
        cls,
        path: Path,
        minimum_free_bytes: int = MINIMUM_FREE_BYTES,
        *,
        may_be_anothers: bool = False,
    ) -> bool:
        """Promise that a server could open it; tell whether it has been set up. Changes nothing.

        With `may_be_anothers` the server is one of the user who owns the directory.

        Raises:
            DataDirectoryError: as `open` would, but for a server that has it.
        """
        if not path.exists():
            _check_can_be_made(path)
            return False
        if not path.is_dir():
            raise _not_a_directory(path)
        if not may_be_anothers:
            _check_owner(path)
        is_new = _check_format(path)
        _check_writable(path)
        _check_room(path, minimum_free_bytes)
        return not is_new

    @classmethod
    def open_shared(cls, path: Path) -> Self:
        """Give the paths of an existing directory, without holding or changing it.

        Raises:
            DataDirectoryError: there is none, or it is not ours to use.
        """
        _check_owner(path)
        if _check_format(path):
            raise DataDirectoryError(
                f"The directory {path} is empty.", "Name the directory that a server uses."
            )
        return cls(path)

    def _prepare(self, *, is_new: bool) -> None:
        # First of all, so that a start that is cut short here does not leave a directory that
        # looks like somebody else's.
        if is_new:
            content = f"{_FORMAT_WORD} {FORMAT_VERSION}\n".encode()
            write_atomically(self.path / _FORMAT_NAME, content)
        for directory in (self.blobs, self.tls, self.metrics.parent):
            directory.mkdir(mode=0o700, exist_ok=True)
        if self.metrics.exists():
            shutil.rmtree(self.metrics)
        self.metrics.mkdir(mode=0o700)

    def close(self) -> None:
        """Let the next server have the directory; closing twice does no harm."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.ftruncate(lock, 0)
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except FileExistsError:
        if path.is_dir():
            return
        raise _not_a_directory(path) from None
    except OSError as error:
        raise _not_made(path, error) from error
    with contextlib.suppress(PermissionError):  # a parent that may be written but not read
        sync_directory(path.parent)


def _check_can_be_made(path: Path) -> None:
    parent = next(each for each in path.absolute().parents if each.exists())
    try:
        if not parent.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _check_writable(parent)
    except DataDirectoryError:
        raise _not_made(path, PermissionError(0, f"{parent} cannot be written")) from None
    except OSError as error:
        raise _not_made(path, error) from None


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_writable(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def _not_a_directory(path: Path) -> DataDirectoryError:
    return DataDirectoryError(
        f"The path {path} is not a directory.", "Choose another path for the data directory."
    )


def _not_made(path: Path, error: OSError) -> DataDirectoryError:
    return DataDirectoryError(
        f"The data directory {path} cannot be made: {error.strerror}.",
        "Make it yourself and give it to this user, or choose another path.",
    )


def _check_owner(path: Path) -> None:
    try:
        owner, user = path.stat().st_uid, os.geteuid()
    except OSError as error:
        raise _not_readable(path, error) from error
    if owner != user:
        raise DataDirectoryError(
            f"The data directory {path} belongs to user {owner}, and this is user {user}.",
            f"Run DTR as user {owner}, or choose another directory.",
        )


def _check_format(path: Path) -> bool:
    """Tell whether the directory is still to be set up; refuse what another program wrote."""
    try:
        content = (path / _FORMAT_NAME).read_bytes()
    except FileNotFoundError:
        _check_empty(path)
        return True
    except OSError as error:
        raise _not_readable(path, error) from error
    word, _, version = content[:64].decode(errors="replace").strip().partition(" ")
    if word != _FORMAT_WORD or not (version.isascii() and version.isdigit()):
        raise DataDirectoryError(
            f"The file {path / _FORMAT_NAME} was not written by DTR.",
            "Choose another directory, or restore the file from a backup.",
        )
    if int(version) != FORMAT_VERSION:
        age = "a newer" if int(version) > FORMAT_VERSION else "an older"
        raise DataDirectoryError(
            f"The data directory {path} was written by {age} DTR"
            f" (format {version}, and this one reads format {FORMAT_VERSION}).",
            "Use the version of DTR that wrote it, or choose another directory.",
        )
    return False


def _check_empty(path: Path) -> None:
    try:
        names = {entry.name for entry in path.iterdir()} - _IGNORED
    except OSError as error:
        raise _not_readable(path, error) from error
    if names:
        raise DataDirectoryError(
            f"The directory {path} is not empty and has no FORMAT file, so DTR did not make it.",
            "Choose a new or empty directory, or restore the file from a backup.",
        )


def _check_room(path: Path, minimum_free_bytes: int) -> None:
    free = shutil.disk_usage(path).free
    if free < minimum_free_bytes:
        raise DataDirectoryError(
            f"The disk of the data directory {path} has {free // 2**20} MiB free,"
            f" and at least {minimum_free_bytes // 2**20} MiB are needed.",
            "Free some space, or choose a directory on another disk.",
        )


def _acquire(path: Path) -> int:
    """Lock the directory for this process, and write down who has it."""
    try:
        lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise DataDirectoryError(
            f"The data directory {path} is in use by another DTR server (process {holder}).",
            "Stop that server first, or choose another directory.",
        ) from None
    except OSError as error:
        os.close(lock)
        raise _not_writable(path, error) from error
    return lock


def _not_writable(path: Path, error: OSError) -> DataDirectoryError:
    return DataDirectoryError(
        f"The data directory {path} cannot be written: {error.strerror}.",
        "Make it writable for the user that runs DTR, or choose another directory.",
    )


def _not_readable(path: Path, error: OSError) -> DataDirectoryError:
    if isinstance(error, FileNotFoundError):
        return DataDirectoryError(
            f"The data directory {path} does not exist.",
            "Name the directory that a server uses, with --data-dir.",
        )
    return DataDirectoryError(
        f"The data directory {path} cannot be read: {error.strerror}.",
        "Make it readable for the user that runs DTR, or name another directory.",
    )
