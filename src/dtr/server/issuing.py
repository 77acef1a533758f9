"""X.509 certificates in the two forms that DTR's authorities make: their own, and a leaf.

Who signs whom, for how long and under which names is the caller's; the extensions are here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

CLOCK_SKEW: Final = timedelta(hours=1)
"""How much earlier a certificate begins: another machine's clock may be behind."""

SigningKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a certificate counts; whole seconds, as X.509 has them."""

    start: datetime
    end: datetime

    @classmethod
    def of(cls, start: datetime, lifetime: timedelta) -> "Validity":
        """Return what begins at `start`, cut to its second, and lasts for `lifetime`."""
        begun = start.astimezone(UTC).replace(microsecond=0)
        return cls(begun, begun + lifetime)


def subject_of(organization: str, common_name: str) -> x509.Name:
    """Return a name as certificates have it."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def issue_authority(key: SigningKey, name: x509.Name, validity: Validity) -> x509.Certificate:
    """Return the certificate of an authority, signed by itself; it may sign leaves only."""
    public_key = key.public_key()
    return (
        _builder(name, name, validity)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue_leaf(
    public_key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    names: Iterable[x509.GeneralName],
    usages: Iterable[x509.ObjectIdentifier],
    validity: Validity,
    *,
    authority: x509.Certificate,
    key: SigningKey,
) -> x509.Certificate:
    """Return the certificate of a server or client under these names, signed with `key`."""
    return (
        _builder(subject, authority.subject, validity)
        .public_key(public_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(_authority_identifier(authority), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, validity: Validity) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.start)
        .not_valid_after(validity.end)
    )


def _authority_identifier(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Name the authority's key as the authority itself does, which verifiers compare."""
    try:
        own = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
