"""Requests that wait for the metadata in vain, and clients that do not wait that long."""

import socket
from pathlib import Path

import pytest
from tests.http.client import basic
from tests.http.wire import say
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.processes import wait_until
from tests.support.server import ADMIN, ADMIN_PASSWORD, RunningServer

from dtr.model.digest import Digest

pytestmark = [pytest.mark.server, pytest.mark.postgresql]

AUTH = f"Authorization: {basic(ADMIN, ADMIN_PASSWORD)}\r\n".encode()
DIGEST = Digest.of(b"hello").encode()
ENVIRONMENT = {"DTR_SERVER__WORKERS": "1", "DTR_DATABASE__FAILOVER_WAIT_SECONDS": "1"}
REQUESTS = [
    b"GET /v2/_catalog",
    b"GET /v2/admin/app/blobs/" + DIGEST,
    b"PUT /v2/admin/app/manifests/latest",
    b"POST /v2/admin/app/blobs/uploads/",
    b"POST /v2/admin/app/blobs/uploads/?digest=" + DIGEST,
    b"GET /auth/token?service=dtr",
]


def test_a_request_that_is_given_up_leaves_no_traceback(tmp_path: Path) -> None:
    """By the server, which answers 503, or by its client, which is gone: one line for each."""
    with (
        RunningPostgresql() as postgresql,
        temporary_database(postgresql) as url,
        RunningServer(tmp_path, database_url=url, environment=ENVIRONMENT) as server,
    ):
        head = b" HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n" + AUTH + b"\r\n"
        pushed = say(server.url, REQUESTS[4] + head + b"hello", until=b"\r\n\r\n")
        assert pushed.status == 201
        postgresql.kill()
        try:
            for line in REQUESTS:
                # Gone while its request waits, in the middle of its body.
                with socket.create_connection((server.host, server.port)) as gone:
                    gone.sendall(line + head + b"he")
                heard = say(server.url, line + head + b"hello", until=b"errors", seconds=30)
                assert heard.status == 503
            wait_until(
                lambda: server.log.read_text().count("request refused") >= len(REQUESTS),
                "the log has a line for each",
            )
        finally:
            postgresql.start()
        server.stop()
        log = server.log.read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
