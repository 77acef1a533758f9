"""TLS among replicas: both show a certificate of the authority that signs nothing but these."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from dtr.model.errors import InvalidError
from dtr.model.failures import reason_of
from dtr.storage.replication import Credentials


class PinnedSSLObject(ssl.SSLObject):
    """A connection to the node that `server_hostname` names by its id.

    Any replica's certificate is signed by the authority, and only one may answer as this replica:
    the name is compared with the certificate's common name, which is the node's id.
    """

    def do_handshake(self) -> None:
        """Shake hands, then look at whom."""
        super().do_handshake()
        if common_name(self.getpeercert()) != self.server_hostname:
            raise ssl.SSLCertVerificationError("another node uses this replica's address")


def common_name(certificate: Any) -> str | None:
    """Return the common name of a certificate as `getpeercert` gives it."""
    for part in (certificate or {}).get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    return None


class Contexts:
    """A TLS context that takes certificates anew when their files change.

    Connections that are there stay; new ones are made with what is in the files then.
    """

    def __init__(self, credentials: Credentials, make: Callable[[], ssl.SSLContext]) -> None:
        self._credentials = credentials
        self._make = make
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._context: ssl.SSLContext | None = None
        self._trusted = b""

    def following(self) -> ssl.SSLContext:
        """Return a context for a server: each handshake is with what is current then.

        Raises:
            InvalidError: there was never a readable certificate.

        """
        self.current()
        return _FollowingContext(self)

    def current(self) -> ssl.SSLContext:
        """Return the context; costs three `stat` where nothing has changed.

        Raises:
            InvalidError: there was never a readable certificate. One that cannot be read later
                leaves the one before it in use: the agent is about to write it.

        """
        try:
            stamp = tuple(_stamp(path) for path in self._paths)
            if stamp != self._stamp:
                # Loaded apart first, so that a half-written pair never spoils what works.
                fresh, trusted = self._make(), self._credentials.ca.read_bytes()
                self._load(fresh)
                # Whom a context trusts can only become more, so that another takes its place.
                if self._context is None or trusted != self._trusted:
                    self._context, self._trusted = fresh, trusted
                else:
                    self._load(self._context)
                self._stamp = stamp
        except (OSError, ssl.SSLError) as error:
            if self._context is None:
                names = ", ".join(map(str, self._paths))
                raise InvalidError(
                    f"the certificate of this node cannot be used ({names}): {reason_of(error)}; "
                    "the node's agent writes it, its log says why it did not"
                ) from None
        assert self._context is not None  # noqa: S101 - loaded above
        return self._context

    @property
    def _paths(self) -> tuple[Path, Path, Path]:
        return (self._credentials.certificate, self._credentials.key, self._credentials.ca)

    def _load(self, context: ssl.SSLContext) -> None:
        context.load_cert_chain(self._credentials.certificate, self._credentials.key)
        context.load_verify_locations(self._credentials.ca)


class _FollowingContext(ssl.SSLContext):
    """Makes connections with another context: a server keeps the one that it was started with."""

    _contexts: Contexts

    def __new__(cls, contexts: Contexts) -> Self:
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        made._contexts = contexts
        return made

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the standard library's own order
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection."""
        current = self._contexts.current()
        return current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def server_contexts(credentials: Credentials) -> Contexts:
    """Return contexts that let nobody in without a certificate of the authority."""

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    return Contexts(credentials, make)


def client_contexts(credentials: Credentials) -> Contexts:
    """Return contexts that show the replica's certificate and pin whom they speak to."""

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # PinnedSSLObject looks for the node's id instead
        context.verify_mode = ssl.CERT_REQUIRED
        context.sslobject_class = PinnedSSLObject
        return context

    return Contexts(credentials, make)


def _stamp(path: Path) -> tuple[int, int]:
    found = os.stat(path)  # noqa: PTH116 - before every connection
    return found.st_mtime_ns, found.st_ino
