"""The pool for balancers of the user's own: what is written, and what the programs say of it."""

import subprocess
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from tests.support.processes import requires

from dtr.cluster.model import PoolMember
from dtr.cluster.pool_formats import PoolFormat, PoolOptions, render
from dtr.ucp.authority import Authority

FIRST = PoolMember(id="aaaaaaaaaaaa", address="10.0.0.1", https_port=443, http_port=80)
SECOND = PoolMember(id="bbbbbbbbbbbb", address="10.0.0.2", https_port=8443, http_port=8080)
DRAINING = PoolMember(
    id="cccccccccccc", address="10.0.0.3", https_port=443, http_port=80, is_draining=True
)
SIX = PoolMember(id="dddddddddddd", address="fd00::4", https_port=443, http_port=80)
POOL = (FIRST, SECOND, DRAINING)
OPTIONS = PoolOptions(host="192.0.2.10")
CHECKS = {
    PoolFormat.HAPROXY: ("haproxy", "-c", "-f"),
    PoolFormat.NGINX: ("nginx", "-t", "-c"),
    PoolFormat.CADDY: ("caddy", "validate", "--adapter", "caddyfile", "--config"),
}


@pytest.mark.parametrize("form", list(PoolFormat))
def test_every_format_names_every_replica_that_takes_connections(form: PoolFormat) -> None:
    """Keepalived has the addresses for whoever copies the file to them."""
    text = render(form, POOL, OPTIONS)
    assert "10.0.0.1" in text
    assert "10.0.0.2" in text


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (PoolFormat.HAPROXY, "server cccccccccccc 10.0.0.3:443 weight 0"),
        (PoolFormat.NGINX, "server 10.0.0.3:443 down;"),
    ],
)
def test_a_replica_that_drains_is_named_as_such(form: PoolFormat, expected: str) -> None:
    """Running connections go on."""
    assert expected in render(form, POOL, PoolOptions())


@pytest.mark.parametrize(
    ("form", "word"),
    [(PoolFormat.HAPROXY, "send-proxy-v2"), (PoolFormat.NGINX, "proxy_protocol on;")],
)
def test_a_balancer_that_replicas_know_says_whose_each_connection_is(
    form: PoolFormat, word: str
) -> None:
    """One that they do not know must not, for it would be refused; nor to an older replica."""
    pool = tuple(each.model_copy(update={"proxy_port": 8446}) for each in POOL)
    known = PoolOptions(has_proxy_protocol=True)
    assert word in render(form, pool, known)
    assert "10.0.0.1:8446" in render(form, pool, known)
    for unknown in (render(form, pool, OPTIONS), render(form, (*pool[:1], SECOND), known)):
        assert word not in unknown
        assert "10.0.0.1:443" in unknown
    assert "server.balancers" in render(form, pool, OPTIONS)


@pytest.mark.parametrize(
    ("form", "words"),
    [
        (PoolFormat.HAPROXY, "reject if { sc0_conn_cur gt 2000 }"),
        (PoolFormat.NGINX, "limit_conn sources 1024;"),
    ],
)
def test_one_address_cannot_have_all_connections_of_a_balancer(
    form: PoolFormat, words: str
) -> None:
    """A share that is printed, and that the user may change there."""
    assert words in render(form, POOL, OPTIONS)


@pytest.mark.parametrize("form", [PoolFormat.TRAEFIK, PoolFormat.CADDY])
def test_a_replica_that_drains_is_left_out_where_that_cuts_nothing(form: PoolFormat) -> None:
    """These two take requests, not connections; the last resort is to ask who drains."""
    assert "10.0.0.3" not in render(form, POOL, PoolOptions())
    assert "10.0.0.3" in render(form, (DRAINING,), PoolOptions())


@pytest.mark.parametrize("form", [PoolFormat.HAPROXY, PoolFormat.TRAEFIK, PoolFormat.CADDY])
def test_it_says_what_verifies_the_certificate_that_replicas_show(form: PoolFormat) -> None:
    """With the user's own, UCP's authority would take every replica out."""
    assert "what a replica answers at /ca" in render(form, POOL, PoolOptions())
    users = render(form, POOL, PoolOptions(has_users_certificate=True))
    assert "the root certificate of your web certificate's authority" in users
    assert "/ca\n" not in users


@pytest.mark.parametrize("form", list(PoolFormat))
def test_an_empty_pool_is_refused(form: PoolFormat) -> None:
    """No program would start with it."""
    with pytest.raises(ValueError, match="no replica"):
        render(form, (), OPTIONS)


def test_keepalived_is_given_an_address() -> None:
    """A name it would leave out, and then move nothing."""
    with pytest.raises(ValueError, match="--host"):
        render(PoolFormat.KEEPALIVED, POOL, PoolOptions(host="images.example.org"))


@pytest.mark.parametrize("form", [PoolFormat.HAPROXY, PoolFormat.NGINX])
def test_replicas_of_ipv6_have_a_balancer_that_listens_there(form: PoolFormat) -> None:
    """And only they: a machine without IPv6 could not."""
    assert "[::]:443" in render(form, (SIX,), OPTIONS)
    assert "[::]" not in render(form, POOL, OPTIONS)


@pytest.mark.parametrize("pool", [POOL, (FIRST, SIX)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("form", list(CHECKS))
def test_the_real_program_finds_it_valid(
    tmp_path: Path, authority: Authority, form: PoolFormat, pool: tuple[PoolMember, ...]
) -> None:
    """With its own check, where it is installed; it has nothing to warn of."""
    requires(CHECKS[form][0])
    ca = tmp_path / "ca.crt"
    ca.write_text(authority.certificate_pem)
    file = tmp_path / "configuration"
    options = PoolOptions(host="192.0.2.10", ca_file=str(ca))
    file.write_text(render(form, pool, options))
    done = subprocess.run([*CHECKS[form], file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower()


# --- Traefik, which is in no distribution that the tests run on: its documented fields ------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


Duration = Annotated[str, Field(pattern=r"^[0-9]+(s|ms)$")]


class _Router(_Strict):
    entry_points: list[str]
    rule: Annotated[str, Field(pattern=r"^Host\(`[^`]+`\)$")]
    middlewares: list[str]
    service: str
    tls: dict[str, Any]


class _Retry(_Strict):
    attempts: int
    initial_interval: Duration


class _Middleware(_Strict):
    retry: _Retry


class _HealthCheck(_Strict):
    scheme: Literal["http", "https"]
    path: str
    interval: Duration
    timeout: Duration


class _Server(_Strict):
    url: str


class _LoadBalancer(_Strict):
    servers_transport: str
    health_check: _HealthCheck
    servers: list[_Server]


class _Service(_Strict):
    load_balancer: _LoadBalancer


class _Timeouts(_Strict):
    dial_timeout: Duration


class _Transport(_Strict):
    server_name: str
    root_authorities: list[str] = Field(alias="rootCAs")
    forwarding_timeouts: _Timeouts


class _Http(_Strict):
    routers: dict[str, _Router]
    middlewares: dict[str, _Middleware]
    services: dict[str, _Service]
    servers_transports: dict[str, _Transport]


class _Dynamic(_Strict):
    http: _Http


def test_traefik_is_given_fields_that_it_documents_and_that_fit_together() -> None:
    """Its dynamic configuration, as version 3 has it."""
    text = render(PoolFormat.TRAEFIK, (FIRST, SIX), PoolOptions(host="images.example.org"))
    http = _Dynamic.model_validate(yaml.safe_load(text)).http
    (router,) = http.routers.values()
    balancer = http.services[router.service].load_balancer
    assert [each.url for each in balancer.servers] == [
        "https://10.0.0.1:443",
        "https://[fd00::4]:443",
    ]
    assert set(router.middlewares) <= set(http.middlewares)
    transport = http.servers_transports[balancer.servers_transport]
    assert transport.server_name == "images.example.org"
    assert router.rule == "Host(`images.example.org`)"
