"""Tables of what proxies write: X-Forwarded-*, Forwarded, and who is believed."""

from ipaddress import ip_network
from typing import Any

import pytest
from tests.http.asgi import ask
from tests.http.conftest import OpenRegistry

from dtr.asgi import Request
from dtr.asgi.forwarded import ForwardedHeader, Proxies
from dtr.asgi.request import Message

NETWORKS = tuple(map(ip_network, ("10.0.0.0/8", "fd00::/8", "127.0.0.1")))
Lines = list[tuple[str, str]]
CLIENT = "203.0.113.9"
V6 = "2001:db8::1"
FOR, PROTO, HOST = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"


def request(lines: Lines, peer: str = "10.0.0.1") -> Request:
    """Return a request over plain HTTP to inside:5000, with these headers."""
    headers = [("host", "inside:5000"), *((name.lower(), value) for name, value in lines)]
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/v2/",
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
        "client": (peer, 40000),
        "server": ("127.0.0.1", 5000),
    }

    async def receive() -> Message:
        raise AssertionError("nobody reads a body here")

    return Request(scope, receive)


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([(FOR, CLIENT)], CLIENT),
        ([(FOR, f"{CLIENT}:4711")], CLIENT),
        ([(FOR, f"::ffff:{CLIENT}")], CLIENT),
        ([(FOR, f"[::ffff:{CLIENT}]:4711")], CLIENT),
        ([(FOR, V6)], V6),
        ([(FOR, "2001:DB8:0:0::1")], V6),
        ([(FOR, f"[{V6}]")], V6),
        ([(FOR, f"[{V6}]:443")], V6),
        ([(FOR, f'"[{V6}]:443"')], V6),
        ([(FOR, f"6.6.6.6, {CLIENT}")], CLIENT),
        ([(FOR, f"6.6.6.6,{CLIENT},10.0.0.2")], CLIENT),
        ([(FOR, f"{CLIENT}, 10.0.0.2:99")], CLIENT),
        ([(FOR, f"{CLIENT}, ::ffff:10.0.0.2")], CLIENT),
        ([(FOR, f"{CLIENT}, fd00::7")], CLIENT),
        ([(FOR, f" , {CLIENT} , , ")], CLIENT),
        ([(FOR, "6.6.6.6"), (FOR, CLIENT)], CLIENT),
        ([(FOR, CLIENT), (FOR, "10.0.0.2")], CLIENT),
        ([(FOR, "10.0.0.5, 10.0.0.6")], "10.0.0.5"),
        ([(FOR, "unknown")], "unknown"),
        ([(FOR, "x" * 500)], "x" * 64),
        ([(FOR, "")], "10.0.0.1"),
        ([], "10.0.0.1"),
        ([("Forwarded", f"for={CLIENT}")], CLIENT),
        ([("Forwarded", f"For={CLIENT};Proto=https")], CLIENT),
        ([("Forwarded", f'for="{CLIENT}:4711"')], CLIENT),
        ([("Forwarded", f'for="[{V6}]:4711"; proto=https; by=10.0.0.1')], V6),
        ([("Forwarded", f"for=6.6.6.6, for={CLIENT}")], CLIENT),
        ([("Forwarded", f"for=6.6.6.6, for={CLIENT}, for=10.0.0.2")], CLIENT),
        ([("Forwarded", "for=6.6.6.6"), ("Forwarded", f"for={CLIENT}")], CLIENT),
        ([("Forwarded", "for=_hidden")], "_hidden"),
        ([("Forwarded", "proto=https;host=a")], "10.0.0.1"),
        ([("Forwarded", f'for="6.6.6.6, for={CLIENT}')], CLIENT),
        ([("Forwarded", f'host="a, for=6.6.6.6", for={CLIENT}')], CLIENT),
        ([("Forwarded", "for=6.6.6.6, nonsense")], "10.0.0.1"),
        ([("Forwarded", 'for="6.6.6.6')], "10.0.0.1"),
        ([("Forwarded", "for=6.6.6.6"), (FOR, CLIENT)], CLIENT),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxys(
    lines: Lines, client: str
) -> None:
    """However it is written, and whatever the client itself put before it."""
    assert Proxies(NETWORKS).client(request(lines)) == client
    assert Proxies(NETWORKS).client(request(lines, "192.0.2.1")) == "192.0.2.1"
    assert Proxies().client(request(lines)) == "10.0.0.1"


@pytest.mark.parametrize(
    ("lines", "origin"),
    [
        ([(PROTO, "https")], "https://inside:5000"),
        ([(PROTO, "HTTPS")], "https://inside:5000"),
        ([(PROTO, "https,http")], "https://inside:5000"),
        ([(PROTO, "https, http"), (FOR, CLIENT)], "https://inside:5000"),
        ([(PROTO, "https"), (PROTO, "http")], "https://inside:5000"),
        ([(PROTO, "gopher")], "http://inside:5000"),
        ([(PROTO, "http,https")], "http://inside:5000"),
        ([(HOST, "r.example")], "http://r.example"),
        ([(HOST, "r.example:8443"), (PROTO, "https")], "https://r.example:8443"),
        ([(HOST, "evil.test, r.example")], "http://r.example"),
        ([(HOST, "evil.test"), (HOST, "r.example"), (FOR, CLIENT)], "http://r.example"),
        ([(HOST, "r.example, inner"), (FOR, f"{CLIENT}, 10.0.0.2")], "http://r.example"),
        ([(HOST, "r.example"), (FOR, f"{CLIENT}, 10.0.0.2")], "http://r.example"),
        ([(HOST, "a/b")], "http://inside:5000"),
        ([(HOST, "[2001:db8::1]:8443")], "http://[2001:db8::1]:8443"),
        ([("Forwarded", "proto=https;host=r.example")], "https://r.example"),
        ([("Forwarded", 'proto=HTTPS;host="r.example:8443"')], "https://r.example:8443"),
        ([("Forwarded", "host=evil.test, for=6.6.6.6;host=r.example")], "http://r.example"),
        (
            [("Forwarded", f"for={CLIENT};host=r.example;proto=https, for=10.0.0.2;proto=http")],
            "https://r.example",
        ),
        ([("Forwarded", "host=evil.test"), (PROTO, "https")], "https://inside:5000"),
    ],
)
def test_scheme_and_host_are_those_that_the_client_used(lines: Lines, origin: str) -> None:
    """Where a trusted proxy says so; from everybody else the headers count for nothing."""
    assert Proxies(NETWORKS).origin(request(lines)) == origin
    assert Proxies(NETWORKS).origin(request(lines, "192.0.2.1")) == "http://inside:5000"


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("127.0.0.1", CLIENT),
        ("::ffff:127.0.0.1", CLIENT),
        ("::ffff:10.9.9.9", CLIENT),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fd00::1", CLIENT),
        ("::1", "::1"),
    ],
)
def test_a_listener_on_all_addresses_knows_ipv4_proxies(peer: str, client: str) -> None:
    """A socket on [::] reports IPv4 peers as mapped addresses; they are the same machines."""
    assert Proxies(NETWORKS).client(request([(FOR, CLIENT)], peer)) == client


def test_a_network_of_mapped_addresses_is_one_of_ipv4() -> None:
    """What operators wrote because of the listener still holds."""
    for network in ("::ffff:10.0.0.0/104", "::/0"):
        proxies = Proxies((ip_network(network),))
        assert proxies.client(request([(FOR, CLIENT)], "::ffff:10.0.0.1")) != "10.0.0.1"


@pytest.mark.parametrize(
    ("header", "client"),
    [("auto", "1.1.1.1"), ("x-forwarded", "1.1.1.1"), ("forwarded", "2.2.2.2")],
)
def test_the_setting_says_which_headers_the_proxies_write(
    header: ForwardedHeader, client: str
) -> None:
    """The others may be the client's, and are not looked at."""
    both = request([(FOR, "1.1.1.1"), ("Forwarded", "for=2.2.2.2")])
    assert Proxies(NETWORKS, header).client(both) == client
    other = [("Forwarded", "for=2.2.2.2")] if header == "x-forwarded" else [(FOR, "1.1.1.1")]
    if header != "auto":
        assert Proxies(NETWORKS, header).client(request(other)) == "10.0.0.1"


async def test_the_setting_reaches_the_challenge(open_registry: OpenRegistry) -> None:
    """From the configuration to the realm that a client is sent to."""
    trusting = {"trusted_proxies": ("10.0.0.0/8",), "forwarded_header": "forwarded"}
    target = open_registry({"server": trusting})
    headers = [
        (b"host", b"inside"),
        (b"forwarded", b"for=203.0.113.9;proto=https;host=r.example"),
        (b"x-forwarded-host", b"evil.test"),
    ]
    answer = await ask(target.application, "GET", "/v2/", headers=headers, peer="::ffff:10.0.0.1")
    assert answer.header("www-authenticate").startswith('Bearer realm="https://r.example/')
