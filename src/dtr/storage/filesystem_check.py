"""Whether a directory can hold blobs, found by doing with it what the driver does."""

import fcntl
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dtr.model.errors import UnavailableError
from dtr.model.failures import reason_of
from dtr.storage.filesystem_writer import sync_directory

_CONTENT = b"dtr checks whether this directory can hold blobs"


def check_directory(directory: Path) -> None:
    """Make, lock, rename, sync, read, list and delete a file.

    Raises:
        UnavailableError: the message says which of these failed and why.

    """
    first = directory / f"check-{uuid.uuid4()}"
    second = first.with_suffix(".renamed")
    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("write and lock", lambda: _write(first)),
        ("rename", lambda: _rename(first, second)),
        ("read back", lambda: _read(second)),
        ("list", lambda: _list(second)),
        ("delete", second.unlink),
    )
    try:
        for step, call in steps:
            try:
                call()
            except OSError as error:
                raise UnavailableError(
                    f"the storage directory {directory.parent} cannot be used: "
                    f"it failed to {step} a file ({error.strerror or reason_of(error)}); "
                    "check that it is mounted, and that this user may write there"
                ) from error
    finally:
        for path in (first, second):
            with suppress(OSError):
                path.unlink()


def _write(path: Path) -> None:
    with path.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write(_CONTENT)
        file.flush()
        os.fsync(file.fileno())


def _rename(path: Path, target: Path) -> None:
    path.rename(target)
    sync_directory(target.parent)


def _read(path: Path) -> None:
    with path.open("rb") as file:
        file.seek(4)
        if file.read() != _CONTENT[4:]:
            raise OSError("other bytes than were written")


def _list(path: Path) -> None:
    if path not in path.parent.iterdir():
        raise OSError("the file is not in its directory")
