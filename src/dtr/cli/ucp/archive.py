"""Backups of the control plane: a tar of one JSON file, which is as secret as anything can be."""

import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

from pydantic import JsonValue

from dtr import __version__
from dtr.ucp.client import UcpError

_MEMBER: Final = "ucp-backup.json"
_FORMAT: Final = 1
_MAX_BYTES: Final = 64 * 2**20


def write_archive(backup: Mapping[str, JsonValue], output: Path | None) -> None:
    """Write a backup to a new file that only its owner can read, or to standard output.

    Raises:
        UcpError: the output is a terminal, or the file is there or cannot be written.

    """
    content = _packed(backup)
    if output is None:
        refuse_terminal()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UcpError(
            f"The file {output} is there already.",
            "Name another file; an existing file is not replaced.",
        ) from None
    except OSError as error:
        raise _not_written(output, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            output.unlink()
        raise _not_written(output, error) from None


def refuse_terminal() -> None:
    """Refuse to write secrets where somebody looks, and where a scroll-back keeps them.

    Raises:
        UcpError: standard output is a terminal.

    """
    if sys.stdout.isatty():
        raise UcpError(
            "A backup holds all secrets of UCP and does not belong on a terminal.",
            "Name a file with --output, or pipe it somewhere safe.",
        )


def read_archive(path: Path | None) -> dict[str, JsonValue]:
    """Return the documents of a backup, from a file or from standard input.

    Raises:
        UcpError: it is none.

    """
    if path is None and sys.stdin.isatty():
        raise UcpError("The backup is empty.", "Name one with --input, or pipe it in.")
    try:
        content = _read(path)
        found = _unpacked(content)
    except (OSError, tarfile.TarError, ValueError, TypeError, KeyError, EOFError, RecursionError):
        raise UcpError(
            f"{path or 'Standard input'} is not a backup of UCP.",
            "Give a file that 'ucp backup' wrote.",
        ) from None
    if found.get("format") != _FORMAT:
        raise UcpError(
            "The backup is from another version of UCP.", "Restore it with that version."
        )
    documents = found.get("documents")
    if not isinstance(documents, dict):
        raise UcpError("The backup is incomplete.", "Use a complete one of 'ucp backup'.")
    return cast("dict[str, JsonValue]", documents)


def _packed(backup: Mapping[str, JsonValue]) -> bytes:
    content = json.dumps({"format": _FORMAT, "version": __version__, **backup}).encode()
    member = tarfile.TarInfo(_MEMBER)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _unpacked(content: bytes) -> dict[str, Any]:
    """Return what the one member has; nothing is ever written to the disk."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        member = archive.getmember(_MEMBER)
        file = archive.extractfile(member)
        if not member.isfile() or file is None:
            raise ValueError(_MEMBER)
        found = json.loads(file.read())
    if not isinstance(found, dict):
        raise TypeError(_MEMBER)
    return found


def _read(path: Path | None) -> bytes:
    if path is None:
        content = sys.stdin.buffer.read(_MAX_BYTES + 1)
    else:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError("larger than any backup")
    return content


def _not_written(output: Path, error: OSError) -> UcpError:
    return UcpError(
        f"The file {output} cannot be written: {error.strerror}.", "Name another with --output."
    )
