"""Parsing of manifests so that no other request waits for it, however large they are."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from dtr.model.documents import LARGE_BYTES
from dtr.model.errors import UnavailableError
from dtr.model.manifest_process import manifest_of, request_of
from dtr.model.manifests import Limits, Manifest, parse_manifest

OWN_PROCESS_BYTES: Final = 256 << 10
"""A manifest of more is parsed in a process of its own, one of this size takes a thread 10 ms."""
MOST_WAITING: Final = 32
"""Large manifests in memory that wait for their turn, in one worker; more are refused."""

_SECONDS: Final = 30.0
# Nothing is imported from the directory that the server was started in, nor from where its own
# interpreter would not.
_ISOLATION: Final = "-I" if sys.flags.isolated else "-P"
_COMMAND: Final = (sys.executable, _ISOLATION, "-m", "dtr.model.manifest_process")
_SHOWN_BYTES: Final = 2000
_LOG = structlog.get_logger()


class Turns:
    """How many large manifests wait to be parsed; they are, one after another."""

    def __init__(self) -> None:
        self._waiting = 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Wait here with a manifest of `size` bytes.

        Raises:
            UnavailableError: there are too many.

        """
        if size <= LARGE_BYTES:
            yield
            return
        if self._waiting >= MOST_WAITING:
            raise UnavailableError("too many large manifests at once; try again")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def parsed(payload: bytes, content_type: str, limits: Limits) -> Manifest:
    """Return what a manifest says (`parse_manifest`); on a thread, where it is large.

    Raises:
        ManifestInvalidError: whatever is wrong with it.
        UnavailableError: the process that should parse it died, and the log says how. The next
            manifest has another one.

    """
    if len(payload) <= OWN_PROCESS_BYTES:
        return parse_manifest(payload, content_type, limits)
    try:
        done = subprocess.run(  # noqa: S603 - nothing of the command is a client's
            _COMMAND,
            input=request_of(payload, content_type, limits),
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except OSError as error:
        # Better that others wait than that a machine without room for a process takes nothing.
        _LOG.warning("a large manifest is parsed without a process of its own", error=str(error))
        return parse_manifest(payload, content_type, limits)
    except subprocess.SubprocessError as error:
        said = getattr(error, "stderr", None) or b""
        shown = said[-_SHOWN_BYTES:].decode(errors="replace")
        _LOG.exception("a large manifest was not parsed", error=str(error), said=shown)
        raise UnavailableError("the manifest could not be parsed; try again") from None
    return manifest_of(done.stdout)
