"""The node's certificate is renewed when a third of its life is left, with a new key each time.

And at once where an engine had a copy of its key, as versions before made them.

Key and certificate are two files, and a crash may come between them. So the new ones are made
beside the old ones, `next.key` first; once `next.crt` is there, the new pair counts, and `settle`
moves both to their places: the key first, the certificate last. A crash on the way is made good by
the next `settle`, which every agent calls before it reads either. Other programs that read them
between the two renames, microseconds, find a pair that does not match, and read again.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from pydantic import JsonValue

from dtr.model.errors import UnavailableError
from dtr.server.datadir import sync_directory, write_atomically
from dtr.ucp.agent.convergence import sentence
from dtr.ucp.agent.port import Controllers, NodeDirectory
from dtr.ucp.api import ApiError
from dtr.ucp.authority import AuthorityError, common_name, load_certificate, make_request

_LOG = structlog.get_logger()
_RENEWED_PART: Final = 1 / 3


class Renewal:
    """Renews one node's certificate; components see the changed files by themselves."""

    def __init__(
        self,
        directory: NodeDirectory,
        node_id: str,
        controllers: Controllers,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._node_id = node_id
        self._controllers = controllers
        self._clock = clock
        self.problem = ""
        """Why the last attempt failed; empty where there is nothing to say."""

    async def turn(self) -> bool:
        """Renew the certificate if it is time; return False where that failed."""
        try:
            if await asyncio.to_thread(self._is_due):
                await self._renew()
        except (AuthorityError, ApiError, UnavailableError, OSError, ValueError) as error:
            why = sentence(error).rstrip(".")
            self.problem = f"The node's certificate could not be renewed: {why}. It is tried again."
            _LOG.warning("the certificate could not be renewed", error=str(error))
            return False
        self.problem = ""
        return True

    def _is_due(self) -> bool:
        if self._directory.renewal_wish.exists():
            return True
        certificate = load_certificate(self._directory.certificate.read_text(encoding="ascii"))
        ends = certificate.not_valid_after_utc.timestamp()
        life = ends - certificate.not_valid_before_utc.timestamp()
        return self._clock() >= ends - life * _RENEWED_PART

    async def _renew(self) -> None:
        await asyncio.to_thread(settle, self._directory)
        made = make_request()
        next_key, next_certificate = _next(self._directory)
        await asyncio.to_thread(write_atomically, next_key, made.key_pem.encode())
        answer = await self._controllers.call(
            "POST", "/agent/certificate", {"csr": made.request_pem}
        )
        certificate = self._checked(answer, made.key_pem)
        await asyncio.to_thread(write_atomically, next_certificate, certificate.encode(), 0o644)
        settle(self._directory)  # not in a thread: nobody in this process sees it half done
        await asyncio.to_thread(self._directory.renewal_wish.unlink, missing_ok=True)
        _LOG.info("the node's certificate was renewed")

    def _checked(self, answer: JsonValue, key_pem: str) -> str:
        """Return the certificate of an answer if this node can use it.

        Raises:
            AuthorityError: it cannot.

        """
        pem = answer.get("certificate") if isinstance(answer, dict) else None
        if not isinstance(pem, str):
            raise AuthorityError("The controller answered without a certificate.")
        certificate = load_certificate(pem)
        authority = load_certificate(self._directory.ca.read_text(encoding="ascii"))
        key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        if certificate.public_key() != key.public_key():
            raise AuthorityError("The controller certified another key.")
        if common_name(certificate) != self._node_id:
            raise AuthorityError("The controller certified another node.")
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            raise AuthorityError("Another authority signed the new certificate.") from None
        return pem


def settle(directory: NodeDirectory) -> None:
    """Finish a renewal that a crash cut short, or forget one that had not come so far.

    Raises:
        OSError: the directory cannot be written.

    """
    next_key, next_certificate = _next(directory)
    if not next_certificate.exists():
        next_key.unlink(missing_ok=True)
        return
    if next_key.exists():
        next_key.replace(directory.key)
        sync_directory(directory.key.parent)
    next_certificate.replace(directory.certificate)
    sync_directory(directory.certificate.parent)


def _next(directory: NodeDirectory) -> tuple[Path, Path]:
    return directory.key.with_name("next.key"), directory.certificate.with_name("next.crt")
