"""The pool for balancers of the user's own."""

import subprocess
from pathlib import Path

import pytest
from tests.support.processes import requires

from dtr.cluster.model import PoolMember
from dtr.cluster.pool_formats import PoolFormat, PoolOptions, render
from dtr.ucp.authority import Authority

FIRST = PoolMember(id="aaaaaaaaaaaa", address="10.0.0.1", https_port=443, http_port=80)
SECOND = PoolMember(id="bbbbbbbbbbbb", address="10.0.0.2", https_port=8443, http_port=8080)
DRAINING = PoolMember(
    id="cccccccccccc", address="10.0.0.3", https_port=443, http_port=80, is_draining=True
)
POOL = (FIRST, SECOND, DRAINING)


@pytest.mark.parametrize("form", list(PoolFormat))
def test_every_format_names_every_replica_that_takes_connections(form: PoolFormat) -> None:
    """Keepalived has the addresses for whoever copies the file to them."""
    text = render(form, POOL, PoolOptions(host="images.example.org"))
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


@pytest.mark.parametrize("form", [PoolFormat.TRAEFIK, PoolFormat.CADDY])
def test_a_replica_that_drains_is_left_out_where_that_cuts_nothing(form: PoolFormat) -> None:
    """These two take requests, not connections; the last resort is to ask who drains."""
    assert "10.0.0.3" not in render(form, POOL, PoolOptions())
    assert "10.0.0.3" in render(form, (DRAINING,), PoolOptions())


@pytest.mark.parametrize("form", list(PoolFormat))
def test_an_empty_pool_is_refused(form: PoolFormat) -> None:
    """No program would start with it."""
    with pytest.raises(ValueError, match="no replica"):
        render(form, (), PoolOptions())


def test_haproxy_finds_its_own_valid(tmp_path: Path, authority: Authority) -> None:
    """With its own check, where it is installed."""
    program = requires("haproxy")
    ca = tmp_path / "ca.crt"
    ca.write_text(authority.certificate_pem)
    file = tmp_path / "haproxy.cfg"
    file.write_text(render(PoolFormat.HAPROXY, POOL, PoolOptions(ca_file=str(ca))))
    done = subprocess.run([program, "-c", "-f", file], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize(
    ("form", "command"),
    [
        (PoolFormat.NGINX, ("nginx", "-t", "-c")),
        (PoolFormat.CADDY, ("caddy", "validate", "--adapter", "caddyfile", "--config")),
    ],
)
def test_the_real_program_finds_it_valid(
    tmp_path: Path, authority: Authority, form: PoolFormat, command: tuple[str, ...]
) -> None:
    """Where it is installed."""
    program = requires(command[0])
    ca = tmp_path / "ca.crt"
    ca.write_text(authority.certificate_pem)
    file = tmp_path / "configuration"
    options = PoolOptions(host="192.0.2.10", ca_file=str(ca))
    file.write_text(render(form, POOL, options))
    done = subprocess.run(
        [program, *command[1:], file], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
