"""What anybody sends wrongly to the controllers is answered, costs little and fills no log."""

import gzip
import logging
import socket
import ssl
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.ucp.plane import ControlPlane

from dtr.ucp.api import PREFIX

LOGIN = b"POST /auth/login HTTP/1.1\r\nHost: x\r\n"
SOON = 10.0


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    with ControlPlane(tmp_path) as running:
        yield running


def answer_to(plane: ControlPlane, said: bytes) -> bytes:
    """Say something, and nothing more; return the whole answer."""
    context = ssl.create_default_context(cadata=plane.ca)
    address = ("127.0.0.1", plane.ports[0])
    with (
        socket.create_connection(address, timeout=SOON) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(said)
        return secured.recv(65536)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
        LOGIN + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        LOGIN + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=["version", "hosts", "header", "chunk", "coding"],
)
def test_a_malformed_request_is_400_and_no_line_in_the_log(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    """A traceback for a few bytes of anybody's would fill the disk."""
    with caplog.at_level(logging.WARNING):
        assert answer_to(plane, said).split(b" ")[1] == b"400"
    assert caplog.records == []
    assert plane.logs == []


def test_a_body_that_breaks_off_is_no_line_in_the_log(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    """Its client is gone, and nothing failed here."""
    context = ssl.create_default_context(cadata=plane.ca)
    address = ("127.0.0.1", plane.ports[0])
    with caplog.at_level(logging.WARNING):
        plain = socket.create_connection(address, timeout=SOON)
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            secured.sendall(LOGIN + b"Content-Length: 10\r\n\r\n{")
        with plane.http() as http:
            assert http.get("/_ping").status_code == 200
            assert http.get(f"{PREFIX}/nodes").status_code == 401
    assert caplog.records == []
    assert plane.logs == []


def test_a_packed_body_is_not_unpacked(plane: ControlPlane) -> None:
    """Twenty kilobytes would be twenty megabytes."""
    packed = gzip.compress(b" " * (20 << 20))
    head = LOGIN + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    tracemalloc.start()
    try:
        assert answer_to(plane, head + packed).split(b" ")[1] == b"400"
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
