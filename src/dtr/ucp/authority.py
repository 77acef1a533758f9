"""The control plane's certificate authority, and what nodes need to be known by it."""

import hashlib
import ipaddress
import re
import secrets
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dtr.server.issuing import CLOCK_SKEW, Validity, issue_authority, issue_leaf, subject_of

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
NODE_LIFETIME: Final = timedelta(days=90)
MAX_REQUEST_BYTES: Final = 16 * 1024
MAX_NAMES: Final = 64

_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_MAX_NAME: Final = 253
_COMMON_NAME: Final = 64


class AuthorityError(Exception):
    """A certificate, key, request or name cannot be used; one sentence for whoever gave it."""


class Purpose(StrEnum):
    """What a certificate proves; it can do nothing else."""

    NODE = "node"
    """That it is a node: to its servers' clients, and to servers."""
    WEB = "web"
    """That it is a server of these names. Controllers, etcd and databases refuse it as a client."""
    ENGINE = "engine"
    """That it is an engine, to the others of its realm, as server and as client."""
    CLIENT = "client"
    """That it is a client of the servers of its realm."""


_USAGES: Final = {
    Purpose.NODE: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    Purpose.WEB: [ExtendedKeyUsageOID.SERVER_AUTH],
    Purpose.ENGINE: [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH],
    Purpose.CLIENT: [ExtendedKeyUsageOID.CLIENT_AUTH],
}


@dataclass(frozen=True, slots=True)
class KeyAndRequest:
    """A private key that stays where it was made, and the request that goes to the authority."""

    key_pem: str
    request_pem: str

    def __repr__(self) -> str:
        return "KeyAndRequest(***)"


class Authority:
    """Signs who is who. Whoever has its key can be any node: only controllers do."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def create(cls, name: str, now: datetime, *, realm: str = "authority") -> Self:
        """Make a new authority for ten years, called after its cluster and what it is for."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"UCP {realm} {name}")
        certificate = issue_authority(key, subject, _validity(now, AUTHORITY_LIFETIME))
        return cls(certificate, key)

    @classmethod
    def load(cls, certificate_pem: str, key_pem: str) -> Self:
        """Open an authority from what is kept of it.

        Raises:
            AuthorityError: they are no certificate and its key.

        """
        certificate = load_certificate(certificate_pem)
        try:
            key = serialization.load_pem_private_key(key_pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise AuthorityError("The key of the authority cannot be read.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError("The key of the authority is not an EC key.")
        if key.public_key() != certificate.public_key():
            raise AuthorityError("The key of the authority is not that of its certificate.")
        return cls(certificate, key)

    @property
    def certificate_pem(self) -> str:
        """The certificate that everybody trusts."""
        return _pem(self._certificate)

    @property
    def key_pem(self) -> str:
        """The private key."""
        return _key_pem(self._key)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, in hexadecimal: what join tokens pin."""
        return fingerprint(self.certificate_pem)

    def sign(
        self,
        request_pem: str,
        *,
        common_name: str,
        names: Iterable[str],
        now: datetime,
        purpose: Purpose = Purpose.NODE,
    ) -> str:
        """Return a certificate for the key of a request, valid for 90 days, as PEM.

        Only the key is taken from the request; who it is and what it may do is what the caller
        says, whatever the request asks for.

        Raises:
            AuthorityError: the request is none, is not signed by its own key, or has a key that is
                not EC P-256; or a name is none.

        """
        public_key = _requested_key(request_pem)
        ca = self._certificate
        until = min(now + NODE_LIFETIME, ca.not_valid_after_utc)
        certificate = issue_leaf(
            public_key,
            _subject(common_name),
            _general_names(names),
            _USAGES[purpose],
            _validity(now, until - now),
            authority=ca,
            key=self._key,
        )
        return _pem(certificate)


def make_request(key_pem: str | None = None) -> KeyAndRequest:
    """Make a key (or take one) and the request to have it certified; the request names nobody.

    A key that is given and cannot be used is replaced by a new one.
    """
    key = _usable_key(key_pem) or ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject("node"))
        .sign(key, hashes.SHA256())
    )
    pem = request.public_bytes(serialization.Encoding.PEM).decode()
    return KeyAndRequest(_key_pem(key), pem)


def _usable_key(key_pem: str | None) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = serialization.load_pem_private_key((key_pem or "").encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None


def new_node_id() -> str:
    """Return an id for a node: 128 random bits, 26 lower-case letters and digits."""
    return b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()


def node_names(name: str, host_address: str) -> tuple[str, ...]:
    """Return the names that a node's own certificate has."""
    return tuple(dict.fromkeys((name, host_address, "localhost", "127.0.0.1")))


def load_certificate(pem: str) -> x509.Certificate:
    """Return a certificate, the first where there are several.

    Raises:
        AuthorityError: it is none.

    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise AuthorityError("The certificate is not in PEM format.") from None


def fingerprint(certificate_pem: str) -> str:
    """Return SHA-256 of a certificate's DER form, in hexadecimal.

    Raises:
        AuthorityError: it is no certificate.

    """
    der = load_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)
    return fingerprint_of_der(der)


def fingerprint_of_der(certificate: bytes) -> str:
    """Return SHA-256 of a certificate as TLS shows it."""
    return hashlib.sha256(certificate).hexdigest()


def common_name(certificate: x509.Certificate) -> str:
    """Return whose certificate it is; empty where it does not say."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def is_for_clients(certificate: x509.Certificate) -> bool:
    """Tell whether it proves who a client is; a web certificate does not."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage


def expires_at(certificate_pem: str) -> float:
    """Return when a certificate ends, in seconds since the epoch."""
    return load_certificate(certificate_pem).not_valid_after_utc.timestamp()


def checked_name(name: str) -> str:
    """Return a host name or IP address as certificates have it.

    Raises:
        AuthorityError: it is neither.

    """
    text = name.strip().lower()
    try:
        return str(_ip_address(text))
    except ValueError:
        if len(text) > _MAX_NAME or not _HOST_NAME.fullmatch(text):
            raise AuthorityError(f"{name[:80]!r} is neither a host name nor an address.") from None
    return text


def checked_host_address(text: str) -> str:
    """Return the address at which other machines reach one, in the one form it is kept in.

    >>> checked_host_address("FD00:0::1"), checked_host_address("::ffff:10.0.0.1")
    ('fd00::1', '10.0.0.1')

    Raises:
        AuthorityError: it is no IP address, or one of no single machine, or of no network.

    """
    try:
        address = _ip_address(text.strip())
    except ValueError:
        raise AuthorityError(f"The host address {text[:80]!r} is no IP address.") from None
    if address.is_unspecified or address.is_multicast or address.is_link_local:
        raise AuthorityError(f"Other machines cannot reach a node at the address {address}.")
    return str(address)


def _ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an address in its one form.

    IPv4 written as IPv6 is IPv4: it is the same machine. One with an interface (`fd00::1%eth0`) is
    none: it means something on one machine only.

    Raises:
        ValueError: it is no address.

    """
    address = ipaddress.ip_address(text)
    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address.scope_id is not None:
        raise ValueError(text)
    return address.ipv4_mapped or address


def _requested_key(request_pem: str) -> ec.EllipticCurvePublicKey:
    if len(request_pem) > MAX_REQUEST_BYTES:
        raise AuthorityError("The certificate request is too large.")
    try:
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        is_own = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise AuthorityError("The certificate request is not in PEM format.") from None
    if not is_own:
        raise AuthorityError("The certificate request is not signed by its own key.")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise AuthorityError("The certificate request has a key that is not EC P-256.")
    return key


def _general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    checked = dict.fromkeys(checked_name(name) for name in names)
    if not 0 < len(checked) <= MAX_NAMES:
        raise AuthorityError(f"A certificate has 1 to {MAX_NAMES} names.")
    return [_general_name(name) for name in checked]


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _validity(now: datetime, lifetime: timedelta) -> Validity:
    """Return what lasts from now on, and counts a little earlier already."""
    lasting = Validity.of(now, lifetime)
    return Validity(lasting.start - CLOCK_SKEW, lasting.end)


def _subject(name: str) -> x509.Name:
    return subject_of("UCP", name[:_COMMON_NAME])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
