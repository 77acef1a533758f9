"""Short questions to the engines of this machine: bounded in time and size, never by a proxy."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from dtr.model.errors import UnavailableError
from dtr.model.failures import reason_of
from dtr.ucp.agent.files import KeyFiles

_MAX_BYTES = 1 << 20


class MutualTls:
    """TLS with an engine's own key, which is read again when it was renewed."""

    def __init__(self, files: KeyFiles) -> None:
        self._files = files
        self._stamps: tuple[int, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return what to connect with.

        Raises:
            UnavailableError: the certificate cannot be read.

        """
        ca, certificate, key = self._files.ca, self._files.certificate, self._files.key
        files = (ca, certificate, key)
        try:
            stamps = tuple(path.stat().st_mtime_ns for path in files)
            if self._context is None or stamps != self._stamps:
                context = ssl.create_default_context(cafile=ca)
                context.load_cert_chain(certificate, key)
                self._context, self._stamps = context, stamps
        except OSError as error:
            raise UnavailableError(
                f"the certificate {certificate} cannot be used: {reason_of(error)}"
            ) from None
        return self._context


def own_server_context(ca: Path, certificate: Path) -> ssl.SSLContext:
    """Return what to ask a server of this machine with, which shows a certificate that we gave it.

    It may be the user's, signed by whomever, for names that are not ours: the very certificate is
    trusted, or one of the authority's while it is being replaced.

    Raises:
        UnavailableError: one cannot be read.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(ca)
        context.load_verify_locations(certificate)
    except OSError as error:
        raise UnavailableError(f"a certificate cannot be used: {reason_of(error)}") from None
    return context


async def ask(url: str, context: ssl.SSLContext, *, seconds: float) -> tuple[int, bytes]:
    """Return status and body of a GET.

    Raises:
        UnavailableError: no answer in time, or one that is too long.

    """
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=seconds), auto_decompress=False
            ) as session,
            session.get(url, ssl=context, allow_redirects=False) as response,
        ):
            body = b""
            async for part in response.content.iter_any():
                body += part
                if len(body) > _MAX_BYTES:
                    raise UnavailableError(f"the answer of {urlsplit(url).netloc} is too long")
            return response.status, body
    except (aiohttp.ClientError, OSError) as error:
        reason = reason_of(error, "it broke off the connection")
        raise UnavailableError(f"{urlsplit(url).netloc} does not answer: {reason}") from None
