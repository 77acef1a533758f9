"""The authority says who a certificate is for, never the request."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from dtr.ucp.authority import (
    NODE_LIFETIME,
    Authority,
    AuthorityError,
    Purpose,
    checked_host_address,
    checked_name,
    common_name,
    expires_at,
    fingerprint,
    fingerprint_of_der,
    is_for_clients,
    load_certificate,
    make_request,
    new_node_id,
    node_names,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
NAMES = node_names("node1", "10.0.0.1")


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Give an authority."""
    return Authority.create("test", NOW)


def names_of(certificate: x509.Certificate) -> set[str]:
    """Give all names and addresses in a certificate."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_a_node_gets_a_certificate_for_ninety_days_signed_by_the_authority(
    authority: Authority,
) -> None:
    """With its id as its name, good for servers and for clients."""
    pem = authority.sign(make_request().request_pem, common_name="abc", names=NAMES, now=NOW)
    certificate = load_certificate(pem)
    certificate.verify_directly_issued_by(load_certificate(authority.certificate_pem))
    assert common_name(certificate) == "abc"
    assert names_of(certificate) == {"node1", "10.0.0.1", "localhost", "127.0.0.1"}
    assert is_for_clients(certificate)
    assert expires_at(pem) == (NOW + NODE_LIFETIME).timestamp()
    assert certificate.not_valid_before_utc < NOW


def test_what_a_request_asks_for_is_not_granted(authority: Authority) -> None:
    """A request that calls itself another node, with other names and as an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=True)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = authority.sign(
        greedy.public_bytes(serialization.Encoding.PEM).decode(),
        common_name="abc",
        names=NAMES,
        now=NOW,
    )
    certificate = load_certificate(pem)
    assert common_name(certificate) == "abc"
    assert "bank.example" not in names_of(certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca
    assert certificate.public_key() == key.public_key()


def test_a_web_certificate_proves_no_client(authority: Authority) -> None:
    """A registry that is broken into cannot use it to speak as a node."""
    pem = authority.sign(
        make_request().request_pem,
        common_name="abc",
        names=["registry.example"],
        now=NOW,
        purpose=Purpose.WEB,
    )
    assert not is_for_clients(load_certificate(pem))
    assert not is_for_clients(load_certificate(authority.certificate_pem))


def rsa_request() -> str:
    """Give a request with a key of another kind."""
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(rsa.generate_private_key(65537, 2048), hashes.SHA256())
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize("request_pem", ["", "hello", "-" * 20_000, rsa_request()])
def test_what_is_no_request_is_refused(authority: Authority, request_pem: str) -> None:
    """In a sentence."""
    with pytest.raises(AuthorityError, match="certificate request"):
        authority.sign(request_pem, common_name="abc", names=NAMES, now=NOW)


@pytest.mark.parametrize("name", ["", "a b", "x" * 300, "a..b", "-a", "über", "a\n", "a/b"])
def test_what_is_no_name_never_gets_into_a_certificate(authority: Authority, name: str) -> None:
    """Not even when a controller says so."""
    if name.strip() != name:
        assert checked_name(name) == name.strip()
        return
    with pytest.raises(AuthorityError):
        authority.sign(make_request().request_pem, common_name="abc", names=[name], now=NOW)


def test_an_address_is_kept_in_one_form() -> None:
    """However it was typed: addresses are compared as text."""
    assert checked_host_address(" 10.0.0.1") == "10.0.0.1"
    assert checked_host_address("FD00:0:0::0001") == "fd00::1"
    assert checked_host_address("::ffff:127.0.0.1") == "127.0.0.1"
    assert checked_host_address("0:0::FFFF:a00:1") == "10.0.0.1"
    assert checked_name("::ffff:10.0.0.1") == "10.0.0.1"


NO_ADDRESSES = [
    *("", "node1", "0.0.0.0", "::", "fe80::1%eth0", "ff02::1", "[::1]", "fd00::1%eth0"),
    *("::ffff:0.0.0.0", "::ffff:169.254.1.1", "::ffff:224.0.0.1"),
]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_an_address_that_others_cannot_reach_is_refused(text: str) -> None:
    """Before anything listens there."""
    with pytest.raises(AuthorityError, match=r"no IP address|cannot reach"):
        checked_host_address(text)


def test_a_certificate_has_at_least_one_name(authority: Authority) -> None:
    """And not hundreds."""
    request = make_request().request_pem
    for names in ([], [f"n{number}" for number in range(65)]):
        with pytest.raises(AuthorityError, match="1 to 64 names"):
            authority.sign(request, common_name="abc", names=names, now=NOW)


def test_no_certificate_outlives_its_authority(authority: Authority) -> None:
    """It would be refused anyway, later and less clearly."""
    late = NOW + timedelta(days=3640)
    pem = authority.sign(make_request().request_pem, common_name="a", names=NAMES, now=late)
    assert expires_at(pem) == expires_at(authority.certificate_pem)


def test_an_authority_is_the_same_when_loaded_again(authority: Authority) -> None:
    """From its two files."""
    again = Authority.load(authority.certificate_pem, authority.key_pem)
    assert again.fingerprint == authority.fingerprint
    der = ssl.PEM_cert_to_DER_cert(authority.certificate_pem)
    assert fingerprint_of_der(der) == authority.fingerprint == fingerprint(again.certificate_pem)


def test_an_authority_with_the_key_of_another_is_refused(authority: Authority) -> None:
    """It would sign what nobody trusts."""
    other = Authority.create("other", NOW)
    with pytest.raises(AuthorityError, match="not that of its certificate"):
        Authority.load(authority.certificate_pem, other.key_pem)
    with pytest.raises(AuthorityError, match="cannot be read"):
        Authority.load(authority.certificate_pem, "nothing")
    with pytest.raises(AuthorityError, match="PEM"):
        Authority.load("nothing", other.key_pem)


def test_a_request_can_be_made_for_a_key_that_is_there(authority: Authority) -> None:
    """Renewal after a crash goes on with the key that is on the disk."""
    first = make_request()
    again = make_request(first.key_pem)
    one, two = (
        load_certificate(authority.sign(request.request_pem, common_name="a", names=NAMES, now=NOW))
        for request in (first, again)
    )
    assert one.public_key() == two.public_key()
    assert "PRIVATE" not in repr(first)


def test_node_ids_are_26_characters_and_never_the_same() -> None:
    """They are never given again."""
    ids = {new_node_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(one) for one in ids} == {26}
