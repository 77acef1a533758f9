"""The certificate that a replica shows to clients: the user's, or one of UCP's authority."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from pydantic import JsonValue

from dtr.cluster.model import ReplicaSpecification
from dtr.model.errors import RegistryError
from dtr.model.failures import reason_of
from dtr.ucp.agent.port import Controllers
from dtr.ucp.api import ApiError
from dtr.ucp.authority import (
    AuthorityError,
    Purpose,
    checked_name,
    is_for_clients,
    load_certificate,
    make_request,
    node_names,
)
from dtr.ucp.model import NodeIdentity

_RETRY_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 10.0
_LEFT_TO_RENEW: Final = 1 / 3
"""Of a certificate's life."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate chain and its key, as PEM; `repr` shows neither."""

    certificate: str
    key: str
    is_own_authority: bool = True
    """Whether UCP's authority signed it."""
    problem: str = ""

    def __repr__(self) -> str:
        return f"Pair(is_own_authority={self.is_own_authority}, problem={self.problem!r})"


class WebCertificateMissingError(Exception):
    """There is nothing to show yet; one sentence of why."""


class WebCertificate:
    """Chooses what to show, and has a certificate made that has the external URL's host in it.

    The user's wins. Else controllers are asked, in the background, for one with the node's names
    and that host, which can prove nothing but these names: the node's own certificate opens the
    agents' API, and its key is not for an engine. Until they answer, what was shown before stays.
    """

    def __init__(self, identity: NodeIdentity, controllers: Controllers) -> None:
        self._names = node_names(identity.name, identity.host_address)
        self._controllers = controllers
        self._asking: asyncio.Task[Pair] | None = None
        self._asked_at: float | None = None
        self._error = ""

    def choose(self, specification: ReplicaSpecification, node: Pair, kept: Pair | None) -> Pair:
        """Return what to show now. `kept` is what was shown before, the node's own is `node`.

        Raises:
            WebCertificateMissingError: nothing was shown before, and controllers have not answered.

        """
        users = Pair(specification.web_certificate, specification.web_key, is_own_authority=False)
        problem = ""
        if users.certificate:
            problem = _fault(users, datetime.now(UTC))
            if not problem:
                return users
        own = self._of_authority(specification.external_url, node, kept)
        return Pair(own.certificate, own.key, problem=problem or own.problem)

    async def stop(self) -> None:
        """Ask nobody any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _of_authority(self, external_url: str, node: Pair, kept: Pair | None) -> Pair:
        host = (urlsplit(external_url).hostname or "") if external_url else ""
        wanted = {*self._names, host} - {""}
        now = datetime.now(UTC)
        found = [pair for pair in (self._answer(), kept) if pair is not None]
        for pair in found:
            if not _is_nodes(pair) and _is_for(pair, wanted, node, now):
                if _left_of(pair, now) < _LEFT_TO_RENEW:
                    self._ask(host, node)
                return Pair(pair.certificate, pair.key)
        self._ask(host, node)
        why = f": {self._error}" if self._error else ""
        problem = (
            f"No certificate has the name {host or self._names[0]} of the external URL yet{why}."
            " It is asked for again; see whether controllers answer."
        )
        for pair in found:
            if _is_for(pair, self._names, node, now):
                return Pair(pair.certificate, pair.key, problem=problem)
        raise WebCertificateMissingError(problem)

    def _answer(self) -> Pair | None:
        """Return what controllers answered, once."""
        if self._asking is None or not self._asking.done():
            return None
        asking, self._asking = self._asking, None
        try:
            answered = asking.result()
        except (RegistryError, ApiError, AuthorityError, TimeoutError) as error:
            self._error = str(error) or reason_of(error)
            return None
        self._error = answered.problem
        return answered

    def _ask(self, host: str, node: Pair) -> None:
        now = time.monotonic()
        is_soon = self._asked_at is not None and now - self._asked_at < _RETRY_SECONDS
        if self._asking is not None or is_soon:
            return
        self._asked_at = now
        # Without names it is certified for all that this node may have.
        is_known = not host or host in names_of(node.certificate)
        names = [] if is_known else sorted({*self._names, host})
        self._asking = asyncio.create_task(self._request(names))

    async def _request(self, names: list[str]) -> Pair:
        try:
            return await self._requested(names)
        except ApiError as error:
            if not names:
                raise
            # A name that is refused is no reason to show nothing at all.
            pair = await self._requested([])
            return Pair(pair.certificate, pair.key, problem=str(error))

    async def _requested(self, names: list[str]) -> Pair:
        made = make_request()
        body: dict[str, JsonValue] = {
            "csr": made.request_pem,
            "names": list(names),
            "purpose": Purpose.WEB.value,
        }
        async with asyncio.timeout(_CALL_SECONDS):
            answer = await self._controllers.call("POST", "/agent/certificate", body)
        certificate = answer.get("certificate") if isinstance(answer, dict) else None
        if not isinstance(certificate, str):
            raise AuthorityError("A controller answered without a certificate.")
        return Pair(certificate, made.key_pem)


def names_of(certificate: str) -> frozenset[str]:
    """Return the host names and addresses of the first certificate; none where it has none."""
    try:
        leaf = x509.load_pem_x509_certificate(certificate.encode())
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return frozenset()
    names = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    return frozenset({*(name.lower() for name in names), *map(str, addresses)})


def has_roots(pem: str) -> bool:
    """Tell whether each of these certificates goes back to a self-signed one among them.

    True for none at all. A chain as certificate authorities give it ends before its root.
    """
    try:
        found = x509.load_pem_x509_certificates(pem.encode()) if pem.strip() else []
        return all(any(_is_signed(each, other) for other in found) for each in found)
    except ValueError:
        return False


def _is_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def read_pair(certificate: Path, key: Path) -> Pair | None:
    """Return what two files hold; None where one is missing."""
    try:
        return Pair(certificate.read_text(encoding="ascii"), key.read_text(encoding="ascii"))
    except (OSError, UnicodeDecodeError):
        return None


def _is_for(pair: Pair, names: Iterable[str], node: Pair, now: datetime) -> bool:
    """Tell whether the authority of the node's certificate signed this pair for these names."""
    try:
        wanted = {checked_name(name) for name in names}
        has_authority = _authority_of(pair.certificate) == _authority_of(node.certificate)
    except (ValueError, x509.ExtensionNotFound, AuthorityError):
        return False
    return has_authority and wanted <= names_of(pair.certificate) and not _fault(pair, now)


def _is_nodes(pair: Pair) -> bool:
    """Tell whether it is a node's own, which versions before showed; perhaps one of before."""
    try:
        return is_for_clients(load_certificate(pair.certificate))
    except AuthorityError:
        return False


def _authority_of(certificate: str) -> bytes | None:
    leaf = x509.load_pem_x509_certificate(certificate.encode())
    extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier


def _left_of(pair: Pair, now: datetime) -> float:
    """Return which part of its life a certificate has before it."""
    leaf = x509.load_pem_x509_certificate(pair.certificate.encode())
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    return (leaf.not_valid_after_utc - now) / life


def _fault(pair: Pair, now: datetime) -> str:
    """Say why a pair cannot be served; empty where it can."""
    advice = "Give another with dtr reconfigure; UCP's own certificate is shown until then."
    try:
        leaf = x509.load_pem_x509_certificates(pair.certificate.encode())[0]
        key = serialization.load_pem_private_key(pair.key.encode(), password=None)
        is_pair = key.public_key() == leaf.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        return f"The web certificate or its key is not in PEM format. {advice}"
    if not is_pair:
        return f"The web certificate's key is that of another certificate. {advice}"
    if now > leaf.not_valid_after_utc:
        return f"The web certificate expired on {leaf.not_valid_after_utc:%Y-%m-%d}. {advice}"
    if now < leaf.not_valid_before_utc:
        return f"The web certificate is not valid before {leaf.not_valid_before_utc}. {advice}"
    return ""
