"""Certificates: what is made, when it is made anew, and what is refused."""

import socket
import ssl
import stat
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dtr.server.certificates import (
    CertificateError,
    ServerCertificate,
    check_certificate,
    ensure_certificates,
)

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def load(path: Path) -> x509.Certificate:
    """Read one certificate."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def handshake(files: ServerCertificate, host: str, trusted: bytes | None = None) -> None:
    """Let a strict client that trusts the authority greet a server that has the certificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.cert_path, files.key_path)
    client = ssl.create_default_context(
        cadata=trusted.decode() if trusted else files.ca_path.read_text(encoding="ascii")
    )
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=host),
        server.wrap_bio(there, back, server_side=True),
    )
    for end in [*ends, *ends]:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ends[0].version() == "TLSv1.3"


def authority(
    directory: Path,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
    *,
    until: datetime = NOW + 3650 * DAY,
    issuer: str = "theirs",
) -> bytes:
    """Put an authority of the operator's own into the directory, and return its certificate."""
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in ("theirs", issuer)
    ]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .serial_number(1)
        .not_valid_before(NOW - 400 * DAY)
        .not_valid_after(until)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    content = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "ca.crt").write_bytes(content)
    (directory / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return content


@pytest.mark.parametrize(
    "host",
    ["registry.example.com", "a.wild.example.com", "bücher.example", "192.0.2.7", "2001:db8::7",
     "localhost", "127.0.0.1", "::1"],
)  # fmt: skip
def test_a_client_that_trusts_the_authority_trusts_the_server(tmp_path: Path, host: str) -> None:
    """A real TLS handshake, strictly verified, succeeds for every host that was named."""
    hosts = ["Registry.example.com", "*.wild.example.com", "bücher.example", "192.0.2.7",
             "[2001:db8::7]"]  # fmt: skip
    handshake(ensure_certificates(tmp_path / "tls", hosts, NOW), host)


def test_a_host_that_was_not_named_is_not_trusted(tmp_path: Path) -> None:
    """The certificate is for what was asked, not for everything."""
    files = ensure_certificates(tmp_path, ["registry.example.com"], NOW)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(files, "other.example.com")


def test_the_authority_lives_ten_years_and_the_certificate_825_days(tmp_path: Path) -> None:
    """Both are P-256 and begin an hour ago, because clocks differ."""
    files = ensure_certificates(tmp_path, [], NOW)
    for path, days in ((files.ca_path, 3650), (files.cert_path, 825)):
        certificate = load(path)
        assert certificate.not_valid_before_utc == NOW - timedelta(hours=1)
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == days * DAY
        key = certificate.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"


def test_keys_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    """Key files are 0600, and nothing temporary stays."""
    files = ensure_certificates(tmp_path / "tls", [], NOW)
    assert {path.name for path in files.key_path.parent.iterdir()} == {
        "ca.crt",
        "ca.key",
        "server.crt",
        "server.key",
    }
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600


def test_this_machines_name_is_in_the_certificate_when_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine's name that no certificate can hold is left out without a word."""
    files = ensure_certificates(tmp_path / "a", [], NOW)
    assert socket.gethostname().lower() in names_of(files)
    monkeypatch.setattr(socket, "gethostname", lambda: "x" * 64)
    files = ensure_certificates(tmp_path / "b", [], NOW)
    assert names_of(files) == {"localhost"}


def names_of(files: ServerCertificate) -> set[str]:
    """Return the host names that a server certificate is for."""
    extensions = load(files.cert_path).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def test_addresses_that_mean_any_are_not_in_the_certificate(tmp_path: Path) -> None:
    """What the server listens on may be passed as it is."""
    files = ensure_certificates(tmp_path, ["0.0.0.0", "::"], NOW)
    extensions = load(files.cert_path).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1"}


@pytest.mark.parametrize("host", ["", "a b", "a:5000", "https://a", "a..b", "x" * 64, "a/b", "*"])
def test_a_host_that_is_none_is_refused(tmp_path: Path, host: str) -> None:
    """A mistake in a name shows at the start, not in a client."""
    with pytest.raises(CertificateError, match="neither a host name nor an IP address"):
        ensure_certificates(tmp_path, [host], NOW)


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("hosts", [["a.example", "b.example"], ["b.example"], ["A.EXAMPLE"], []])
def test_what_is_good_is_kept(tmp_path: Path, hosts: Sequence[str]) -> None:
    """The next start changes nothing, also when it asks for fewer hosts."""
    ensure_certificates(tmp_path, ["a.example", "b.example"], NOW)
    before = contents(tmp_path)
    ensure_certificates(tmp_path, hosts, NOW + 794 * DAY)
    assert contents(tmp_path) == before


def test_a_certificate_is_renewed_before_it_expires(tmp_path: Path) -> None:
    """With fewer than 30 days left the same authority signs another."""
    files = ensure_certificates(tmp_path, [], NOW)
    before = contents(tmp_path)
    later = NOW + 796 * DAY
    ensure_certificates(tmp_path, [], later)
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"server.crt", "server.key"}
    assert load(files.cert_path).not_valid_after_utc > later + 820 * DAY


def test_a_new_host_makes_a_new_certificate(tmp_path: Path) -> None:
    """The authority stays, so clients need not do anything."""
    files = ensure_certificates(tmp_path, ["a.example"], NOW)
    trusted = files.ca_path.read_bytes()
    handshake(ensure_certificates(tmp_path, ["b.example"], NOW), "b.example", trusted)


@pytest.mark.parametrize("name", ["server.crt", "server.key"])
@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_damaged_server_certificate_is_made_anew(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    """Nothing is lost with it, so nobody is bothered."""
    files = ensure_certificates(tmp_path, [], NOW)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    handshake(ensure_certificates(tmp_path, [], NOW), "localhost", files.ca_path.read_bytes())


def test_a_crash_between_key_and_certificate_is_repaired(tmp_path: Path) -> None:
    """A new key beside the old certificate is noticed."""
    files = ensure_certificates(tmp_path / "a", [], NOW)
    other = ensure_certificates(tmp_path / "b", [], NOW)
    other.key_path.replace(files.key_path)
    handshake(ensure_certificates(tmp_path / "a", [], NOW), "localhost")


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_another_authority_makes_a_new_certificate(tmp_path: Path, kind: str) -> None:
    """An operator may put an authority of their own there, with either sort of key."""
    ensure_certificates(tmp_path, [], NOW)
    key = (
        ec.generate_private_key(ec.SECP384R1())
        if kind == "ec"
        else rsa.generate_private_key(65537, 2048)
    )
    trusted = authority(tmp_path, key)
    files = ensure_certificates(tmp_path, [], NOW)
    load(files.cert_path).verify_directly_issued_by(x509.load_pem_x509_certificate(trusted))
    before = contents(tmp_path)
    ensure_certificates(tmp_path, [], NOW)
    assert contents(tmp_path) == before


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    """The last certificate of an authority is as short as what is left of it."""
    authority(tmp_path, ec.generate_private_key(ec.SECP256R1()), until=NOW + 100 * DAY)
    files = ensure_certificates(tmp_path, [], NOW)
    assert load(files.cert_path).not_valid_after_utc == NOW + 100 * DAY


def test_our_authority_is_renewed_with_the_same_key(tmp_path: Path) -> None:
    """What it signed is valid under the new certificate, and under the old one while it lasts."""
    files = ensure_certificates(tmp_path, [], NOW - 3630 * DAY)
    old = files.ca_path.read_bytes()
    key = (tmp_path / "ca.key").read_bytes()
    files = ensure_certificates(tmp_path, [], NOW)
    assert (tmp_path / "ca.key").read_bytes() == key
    assert load(files.ca_path).not_valid_after_utc > NOW + 3600 * DAY
    handshake(files, "localhost")
    handshake(files, "localhost", trusted=old)


def test_a_foreign_authority_that_expired_is_refused(tmp_path: Path) -> None:
    """We cannot renew what somebody else signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    authority(tmp_path, key, until=NOW - DAY, issuer="somebody else")
    with pytest.raises(CertificateError, match=r"ca\.crt has expired"):
        ensure_certificates(tmp_path, [], NOW)


def test_a_damaged_authority_is_refused_and_never_replaced(tmp_path: Path) -> None:
    """Every client would have to trust another one, which is for a person to decide."""
    ensure_certificates(tmp_path, [], NOW)
    (tmp_path / "ca.crt").write_bytes(b"damaged")
    with pytest.raises(CertificateError, match=r"ca\.crt is not in PEM format"):
        ensure_certificates(tmp_path, [], NOW)
    assert (tmp_path / "ca.crt").read_bytes() == b"damaged"


def test_the_authoritys_key_may_be_kept_elsewhere_until_it_is_needed(tmp_path: Path) -> None:
    """Starting with a good certificate does not need it; issuing another does."""
    ensure_certificates(tmp_path, [], NOW)
    (tmp_path / "ca.key").unlink()
    ensure_certificates(tmp_path, [], NOW)
    with pytest.raises(CertificateError, match=r"ca\.key does not exist"):
        ensure_certificates(tmp_path, ["new.example"], NOW)


def test_an_authority_with_the_wrong_key_is_refused(tmp_path: Path) -> None:
    """A certificate signed with it would not be trusted, nor can every sort of key sign."""
    key = ec.generate_private_key(ec.SECP256R1())
    ensure_certificates(tmp_path, [], NOW)
    ca = (tmp_path / "ca.crt").read_bytes()
    authority(tmp_path, key)
    (tmp_path / "ca.crt").write_bytes(ca)
    with pytest.raises(CertificateError, match="is not that of its authority"):
        ensure_certificates(tmp_path, ["new.example"], NOW)
    authority(tmp_path, ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(CertificateError, match="neither an EC nor an RSA key"):
        ensure_certificates(tmp_path, ["new.example"], NOW)


def test_a_certificate_with_its_key_passes(tmp_path: Path) -> None:
    """The time is that of the machine unless another is given."""
    files = ensure_certificates(tmp_path, [], NOW)
    check_certificate(files.cert_path, files.key_path)
    check_certificate(files.cert_path, files.key_path, NOW + 800 * DAY)


def test_an_expired_or_future_certificate_is_refused(tmp_path: Path) -> None:
    """The sentence says since when, or from when on."""
    files = ensure_certificates(tmp_path, [], datetime(2026, 1, 2, 4, 4, 5, tzinfo=UTC))
    pair = (files.cert_path, files.key_path)
    with pytest.raises(CertificateError, match=r"server\.crt expired on 2028-04-06 03:04 UTC\."):
        check_certificate(*pair, datetime(2028, 4, 7, tzinfo=UTC))
    with pytest.raises(CertificateError, match=r"is not valid before 2026-01-02 03:04 UTC\."):
        check_certificate(*pair, datetime(2026, 1, 1, tzinfo=UTC))


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """Both files are named."""
    files = ensure_certificates(tmp_path, [], NOW)
    ca_key = tmp_path / "ca.key"
    with pytest.raises(CertificateError) as caught:
        check_certificate(files.cert_path, ca_key)
    expected = f"The TLS key {ca_key} does not belong to the certificate {files.cert_path}."
    assert str(caught.value) == f"{expected} Give the two that do."


def test_files_that_cannot_be_used_are_refused_with_the_reason(tmp_path: Path) -> None:
    """Missing, unreadable, not PEM, or encrypted: one sentence each."""
    files = ensure_certificates(tmp_path, [], NOW)
    cert, key = files.cert_path, files.key_path
    missing, text = tmp_path / "missing", tmp_path / "text"
    text.write_text("-----BEGIN NOTHING-----")
    encrypted = tmp_path / "encrypted"
    encrypted.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    for pair, message in (
        ((missing, key), f"The TLS certificate {missing} does not exist. Name another file."),
        ((cert, missing), f"The TLS key {missing} does not exist. Name another file."),
        (
            (tmp_path, key),
            (
                f"The TLS certificate {tmp_path} cannot be read: Is a directory. "
                "Make it readable for this user."
            ),
        ),
        ((text, key), f"The TLS certificate {text} is not in PEM format. Give a PEM file."),
        ((key, key), f"The TLS certificate {key} is not in PEM format. Give a PEM file."),
        ((cert, text), f"The TLS key {text} is not in PEM format. Give a PEM file."),
        (
            (cert, encrypted),
            f"The TLS key {encrypted} is encrypted. Give DTR one without a passphrase.",
        ),
    ):
        with pytest.raises(CertificateError) as caught:
            check_certificate(*pair)
        assert str(caught.value) == message
