"""Whom strangers may have this machine connect to, and who may have a password."""

import pytest

from dtr.model.errors import InvalidError
from dtr.remote import Origin, Targets

REGISTRY = Targets.parse("https://registry.example.com")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1"),
        *("::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a9fe:a9fe::1"),
        *("2001:0:4136:e378:8000:63bf:5601:5601", "127.1", "0x7f000001", "", "registry"),
    ],
)
def test_private_addresses_are_not_for_strangers_to_name(address: str) -> None:
    """Of every kind, also inside of another, and what is no address at all."""
    assert not REGISTRY.may_be_reached(address)


@pytest.mark.parametrize("address", ["9.9.9.9", "2620:fe::fe", "::ffff:9.9.9.9"])
def test_public_addresses_may_be_reached(address: str) -> None:
    """Most blobs are there."""
    assert REGISTRY.may_be_reached(address)


def test_only_the_networks_that_are_allowed_are_opened() -> None:
    """Neither the one beside them nor all of them."""
    targets = Targets.parse("https://registry.example.com", networks=["10.1.0.0/16", "fd00::1"])
    found = {a: targets.may_be_reached(a) for a in ("10.1.9.9", "10.2.0.1", "fd00::1", "fd00::2")}
    assert found == {"10.1.9.9": True, "10.2.0.1": False, "fd00::1": True, "fd00::2": False}
    assert targets.may_be_reached("::ffff:10.1.9.9")


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://registry.example.com/token", True),
        ("https://REGISTRY.example.com:443/token", True),
        ("https://auth.example.com/token", True),
        ("https://registry.example.com:8443/token", False),
        ("http://registry.example.com/token", False),
        ("https://registry.example.com.evil.example/token", False),
        ("https://evil.example/registry.example.com", False),
    ],
)
def test_the_password_is_for_the_server_that_was_named(url: str, may: bool) -> None:  # noqa: FBT001
    """And for token services that the operator listed: scheme, host and port count."""
    targets = Targets.parse("https://registry.example.com", ["auth.example.com"])
    assert targets.may_have_password(Origin.parse(url)) is may


def test_the_token_service_of_docker_hub_is_known() -> None:
    """Its registry and its token service have two names, and always had."""
    hub = Targets.parse("https://registry-1.docker.io")
    assert hub.may_have_password(Origin.parse("https://auth.docker.io/token"))
    assert not REGISTRY.may_have_password(Origin.parse("https://auth.docker.io/token"))


@pytest.mark.parametrize(
    ("services", "networks", "said"),
    [
        (["http://auth.example.com"], [], "needs a token service at https"),
        (["x:y"], [], "write the registry"),
        ([], ["10.0.0.0/40"], "is not a network"),
        ([], ["localhost"], "is not a network"),
    ],
)
def test_what_an_operator_allows_is_checked(
    services: list[str], networks: list[str], said: str
) -> None:
    """In one sentence, before anybody is asked."""
    with pytest.raises(InvalidError, match=said):
        Targets.parse("https://registry.example.com", services, networks)
