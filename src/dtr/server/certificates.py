"""The server's TLS certificate: made by a small authority of our own, or checked when given."""

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

from dtr.server.datadir import write_atomically
from dtr.server.issuing import (
    CLOCK_SKEW,
    SigningKey,
    Validity,
    issue_authority,
    issue_leaf,
    subject_of,
)

AUTHORITY_LIFETIME: Final = timedelta(days=3650)
SERVER_LIFETIME: Final = timedelta(days=825)  # the longest that Apple's clients accept
RENEW_BEFORE: Final = timedelta(days=30)

_ALWAYS: Final = ("localhost", "127.0.0.1", "::1")
_HOST_NAME: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class CertificateError(Exception):
    """A certificate or its key cannot be used; the message is one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The files of a server certificate and of the authority that clients must trust."""

    ca_path: Path
    cert_path: Path
    key_path: Path


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key_path: Path

    def key(self) -> SigningKey:
        key = _load_key(self.key_path)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise CertificateError(f"The TLS key {self.key_path} is neither an EC nor an RSA key.")
        if key.public_key() != self.certificate.public_key():
            raise CertificateError(f"The TLS key {self.key_path} is not that of its authority.")
        return key


def ensure_certificates(directory: Path, hosts: Sequence[str], now: datetime) -> ServerCertificate:
    """Have a server certificate for these hosts, this machine's name and the loopback addresses.

    What is there and good is kept. The server certificate is made anew when fewer than 30 days
    remain, a host is missing from it, it is damaged, or another authority stands beside it. The
    authority is made once: its key is never replaced, because every client trusts it.

    Raises:
        CertificateError: a host is no name or address, or the authority's files are damaged.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = ServerCertificate(
        directory / "ca.crt", directory / "server.crt", directory / "server.key"
    )
    names = _subject_names(hosts)
    authority = _ensure_authority(files.ca_path, directory / "ca.key", now)
    if not _is_good(files, authority.certificate, names, now):
        _issue(files, authority, names, now)
    return files


def check_certificate(cert: Path, key: Path, now: datetime | None = None) -> None:
    """Promise that the files are a certificate, valid now, and its private key.

    Raises:
        CertificateError: they are not; the message says which file and why.
    """
    leaf = _load_certificate(cert)
    moment = now or datetime.now(UTC)
    if _load_key(key).public_key() != leaf.public_key():
        raise CertificateError(
            f"The TLS key {key} does not belong to the certificate {cert}. Give the two that do."
        )
    if moment > leaf.not_valid_after_utc:
        raise CertificateError(
            f"The TLS certificate {cert} expired on {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC."
            " Give a newer one."
        )
    if moment < leaf.not_valid_before_utc:
        raise CertificateError(
            f"The TLS certificate {cert} is not valid before"
            f" {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC."
            " See that this machine's clock is right."
        )


def check_authority(path: Path) -> None:
    """Promise that the file holds a certificate, for clients to fetch.

    Raises:
        CertificateError: it cannot be read, or holds none.

    """
    _load_certificate(path)


def _load_certificate(path: Path) -> x509.Certificate:
    content = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(content)[0]
    except ValueError:
        raise CertificateError(
            f"The TLS certificate {path} is not in PEM format. Give a PEM file."
        ) from None


def _load_key(path: Path) -> PrivateKeyTypes:
    content = _read(path, "key")
    try:
        return serialization.load_pem_private_key(content, password=None)
    except TypeError:
        raise CertificateError(
            f"The TLS key {path} is encrypted. Give DTR one without a passphrase."
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"The TLS key {path} is not in PEM format. Give a PEM file."
        ) from None


def _read(path: Path, noun: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CertificateError(
            f"The TLS {noun} {path} does not exist. Name another file."
        ) from None
    except OSError as error:
        raise CertificateError(
            f"The TLS {noun} {path} cannot be read: {error.strerror}. "
            "Make it readable for this user."
        ) from None


def _subject_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Return each host once, as a certificate has it; addresses that mean "any" are left out."""
    names = dict.fromkeys(_subject_name(host) for host in [*hosts, *_ALWAYS])
    # The machine may have a name that no certificate can have; that is not the operator's wish.
    with contextlib.suppress(CertificateError):
        names[_subject_name(socket.gethostname())] = None
    return [name for name in names if name is not None]


def _subject_name(host: str) -> x509.GeneralName | None:
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        pass
    else:
        return None if address.is_unspecified else x509.IPAddress(address)
    try:
        name = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        name = ""
    if not _HOST_NAME.fullmatch(name):
        raise CertificateError(f"{host!r} is neither a host name nor an IP address.")
    return x509.DNSName(name)


def _ensure_authority(cert_path: Path, key_path: Path, now: datetime) -> _Authority:
    if not cert_path.exists():
        # A key without its certificate is what a first start that was cut short leaves behind.
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(key_path, key)
        return _Authority(_self_sign(cert_path, key, now), key_path)
    authority = _Authority(_load_certificate(cert_path), key_path)
    certificate = authority.certificate
    is_own = certificate.issuer == certificate.subject
    if is_own and certificate.not_valid_after_utc - now < RENEW_BEFORE:
        # With the same key and name: what it signed before stays valid under the new one.
        renewed = _self_sign(cert_path, authority.key(), now, certificate.subject)
        return _Authority(renewed, key_path)
    return authority


def _self_sign(
    path: Path, key: SigningKey, now: datetime, name: x509.Name | None = None
) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two authorities of one name confuse trust stores, so part of the key is in the name.
    name = name or subject_of("DTR", f"DTR authority {identifier.digest.hex()[:8]}")
    certificate = issue_authority(key, name, Validity.of(now - CLOCK_SKEW, AUTHORITY_LIFETIME))
    write_atomically(path, _pem(certificate), mode=0o644)
    return certificate


def _issue(
    files: ServerCertificate,
    authority: _Authority,
    names: Sequence[x509.GeneralName],
    now: datetime,
) -> None:
    ca = authority.certificate
    lifetime = min(SERVER_LIFETIME, ca.not_valid_after_utc - (now - CLOCK_SKEW))
    if lifetime <= CLOCK_SKEW:
        raise CertificateError(f"The TLS certificate {files.ca_path} has expired.")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_leaf(
        key.public_key(),
        subject_of("DTR", "DTR server"),
        names,
        [ExtendedKeyUsageOID.SERVER_AUTH],
        Validity.of(now - CLOCK_SKEW, lifetime),
        authority=ca,
        key=authority.key(),
    )
    # The key first: a crash in between leaves a pair that does not match, which is made anew.
    _write_key(files.key_path, key)
    write_atomically(files.cert_path, _pem(certificate), mode=0o644)


def _is_good(
    files: ServerCertificate,
    ca: x509.Certificate,
    names: Iterable[x509.GeneralName],
    now: datetime,
) -> bool:
    try:
        check_certificate(files.cert_path, files.key_path, now)
        certificate = _load_certificate(files.cert_path)
        certificate.verify_directly_issued_by(ca)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (CertificateError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    remaining = certificate.not_valid_after_utc - now
    return remaining >= RENEW_BEFORE and set(names) <= set(extension.value)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    content = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_atomically(path, content)
