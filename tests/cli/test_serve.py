"""`dtr serve`: what it prints, when it refuses, how it ends."""

import hashlib
import os
import re
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.cli.command import LOG_LINE, CommandLine, clean_environment
from tests.support.processes import ProcessGroup, free_port, requires_root, wait_until
from tests.support.server import DTR, RunningServer, answers

from dtr.cli.serve import _announce
from dtr.server.bootstrap import FirstAdministrator
from dtr.server.serve import Started

pytestmark = pytest.mark.server

Serve = Callable[..., ProcessGroup]


@pytest.fixture
def new(tmp_path: Path) -> CommandLine:
    """Give the command line on a data directory that is yet to be made."""
    return CommandLine(tmp_path, tmp_path / "data")


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give a function that starts a server with these options; all are ended afterwards."""
    started: list[ProcessGroup] = []

    def start(log: str, *options: str | Path) -> ProcessGroup:
        server = ProcessGroup(
            [*DTR, "serve", "--data-dir", tmp_path / "data", "--workers", "1", *options],
            log=tmp_path / log,
            environment=clean_environment(),
        )
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


def said(server: ProcessGroup) -> str:
    """Give what a server has printed but for its log lines."""
    lines = server.log.read_text().splitlines()
    return "\n".join(line for line in lines if not LOG_LINE.match(line))


def test_the_first_start_prints_what_one_needs_and_a_later_one_does_not(
    tmp_path: Path, serve: Serve
) -> None:
    """Address, administrator, the password's file and three lines; then the address only.

    What is printed goes to a journal here: the password itself is not in it.
    """
    address = f"127.0.0.1:{free_port()}"
    first = serve("first.log", "--listen", address)
    first.wait_until_ready(lambda: answers(f"http://{address}/_ping"))
    shown = said(first)
    host = address.replace("127.0.0.1", "localhost")
    assert f"Registry at http://{host}\n" in shown
    kept = tmp_path / "data" / "initial_admin_password"
    assert f"\n  Administrator  admin\n  Password       in {kept}\n" in shown
    password = kept.read_text().removesuffix("\n")
    assert len(password) > 16
    assert password not in first.log.read_text()
    for line in (f"docker login {host} -u admin", "docker push", f"docker pull {host}/"):
        assert line in shown
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    assert log_in(address, "admin", password) == httpx.codes.OK
    assert first.stop() == 0
    second = serve("second.log", "--listen", address)
    second.wait_until_ready(lambda: answers(f"http://{address}/_ping"))
    assert said(second) == f"Registry at http://{host}"
    assert log_in(address, "admin", password) == httpx.codes.OK


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_made_password_is_shown_at_a_terminal_only(
    is_terminal: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its file is named in both cases."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    made = FirstAdministrator("admin", "made-up", Path("/data/initial"))
    _announce(Started("http://localhost:5000", made, None))
    shown = capsys.readouterr().out
    assert ("made-up" in shown) is is_terminal
    assert "/data/initial" in shown


def log_in(address: str, name: str, password: str) -> int:
    """Give the status of a request with basic authentication."""
    url = f"http://{address}/v2/"
    return httpx.get(url, auth=(name, password), trust_env=False).status_code


def test_the_printed_address_is_one_that_answers(serve: Serve) -> None:
    """Only 127.0.0.1 is localhost; of the other loopback addresses each is itself."""
    address = f"127.0.0.2:{free_port('127.0.0.2')}"
    server = serve("server.log", "--listen", address)
    server.wait_until_ready(lambda: answers(f"http://{address}/_ping"))
    match = re.search(r"Registry at (\S+)\n", said(server))
    assert match is not None
    assert answers(f"{match[1]}/_ping")
    assert f"docker login {address} -u admin" in said(server)


def test_a_given_password_is_taken_and_not_printed(tmp_path: Path, serve: Serve) -> None:
    """`--admin-password-file` names the first administrator's password."""
    file = tmp_path / "password"
    file.write_text("a password of my own\n")
    file.chmod(0o600)
    address = f"127.0.0.1:{free_port()}"
    server = serve("server.log", "--listen", address, "--admin-password-file", file)
    server.wait_until_ready(lambda: answers(f"http://{address}/_ping"))
    assert "a password of my own" not in said(server)
    assert not (tmp_path / "data" / "initial_admin_password").exists()
    assert log_in(address, "admin", "a password of my own") == httpx.codes.OK


def test_a_request_in_flight_is_finished_before_the_end(tmp_path: Path) -> None:
    """SIGTERM in the middle of a push: the push is acknowledged, then the exit status is 0."""
    with RunningServer(tmp_path, options=("--workers", "2")) as server:
        content = b"sent slowly"
        sending, may_go_on = threading.Event(), threading.Event()
        answer: list[bytes] = []
        push = threading.Thread(
            target=lambda: answer.append(push_slowly(server, content, sending, may_go_on))
        )
        push.start()
        assert sending.wait(10)
        ending = threading.Thread(target=server.stop)
        ending.start()
        wait_until(lambda: not server.is_ready, "the server takes no more connections")
        assert server.is_running
        may_go_on.set()
        push.join(20)
        ending.join(20)
        assert answer[0].startswith(b"HTTP/1.1 201 ")
        assert server.stop() == 0
        server.start()
        digest = hashlib.sha256(content).hexdigest()
        url = f"{server.url}/v2/admin/drained/blobs/sha256:{digest}"
        assert httpx.get(url, auth=server.admin, trust_env=False).content == content


def push_slowly(
    server: RunningServer, content: bytes, sending: threading.Event, may_go_on: threading.Event
) -> bytes:
    """Push a blob of which the second half waits for the event; give the start of the answer."""
    digest = hashlib.sha256(content).hexdigest()
    secret = b64encode(":".join(server.admin).encode()).decode()
    head = (
        f"POST /v2/admin/drained/blobs/uploads/?digest=sha256:{digest} HTTP/1.1\r\n"
        f"Host: {server.address}\r\nAuthorization: Basic {secret}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=30) as connection:
        connection.sendall(head.encode() + content[:4])
        # The request is in flight once its handler has begun: the staged bytes come later.
        time.sleep(0.5)
        sending.set()
        may_go_on.wait(20)
        connection.sendall(content[4:])
        return connection.recv(4096)


@pytest.mark.measuring
def test_an_idle_server_ends_at_once_with_status_0(tmp_path: Path) -> None:
    """Nothing in flight, nothing to wait for, and every process is gone."""
    with RunningServer(tmp_path) as server:
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 10
        assert (server.data_dir / "dtr.lock").read_text() == ""


def test_any_other_address_gets_tls_from_an_authority_of_our_own(
    tmp_path: Path, serve: Serve
) -> None:
    """A client that trusts what is served at /ca is content; one that does not is refused."""
    port = free_port()
    server = serve("server.log", "--listen", f"0.0.0.0:{port}")
    authority = tmp_path / "data" / "tls" / "ca.crt"
    url = f"https://localhost:{port}"
    server.wait_until_ready(lambda: authority.exists() and is_served(url, authority))
    assert f"Clients must trust {authority}, also served at https://" in said(server)
    trusting = httpx.Client(
        verify=ssl.create_default_context(cafile=str(authority)), trust_env=False
    )
    with trusting:
        assert trusting.get(f"{url}/ca").text == authority.read_text()
        assert trusting.get(f"{url}/v2/").status_code == httpx.codes.UNAUTHORIZED
        challenge = trusting.get(f"{url}/v2/").headers["WWW-Authenticate"]
        assert f'realm="{url}/auth/token"' in challenge
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{url}/_ping", trust_env=False)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://localhost:{port}/_ping", trust_env=False)
    assert stat.S_IMODE((authority.parent / "ca.key").stat().st_mode) == 0o600


def is_served(url: str, authority: Path) -> bool:
    """Whether the server answers over TLS by now."""
    try:
        verify = ssl.create_default_context(cafile=str(authority))
        return httpx.get(f"{url}/_ping", verify=verify, trust_env=False).is_success
    except (httpx.TransportError, OSError):
        return False


def test_plain_http_elsewhere_has_to_be_asked_for(serve: Serve) -> None:
    """`--insecure-http` does what it says."""
    port = free_port()
    server = serve("server.log", "--listen", f"0.0.0.0:{port}", "--insecure-http")
    server.wait_until_ready(lambda: answers(f"http://127.0.0.1:{port}/_ping"))
    assert "Clients must trust" not in said(server)


def test_a_port_that_is_taken_is_said(new: CommandLine) -> None:
    """With the address, and what to do; and nothing is made."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        message = new.fails("serve", "--listen", address)
    assert message.startswith(f"Cannot listen on {address}: Address already in use.")
    assert "--listen" in message
    assert not new.data_dir.exists()


def test_a_second_server_on_one_directory_is_refused(tmp_path: Path) -> None:
    """It says which process has the directory, and the first serves on."""
    with RunningServer(tmp_path) as server:
        second = CommandLine(tmp_path, server.data_dir)
        message = second.fails("serve", "--listen", f"127.0.0.1:{free_port()}")
        assert f"in use by another DTR server (process {server.pid})" in message
        assert server.is_ready


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tls-cert", "no.crt", "--tls-key", "no.key"), "certificate no.crt does not exist"),
        (("--tls-cert", "text", "--tls-key", "text"), "is not in PEM format"),
        (("--tls-cert", "text"), "tls_cert and tls_key go together"),
        (("--tls-cert", "text", "--tls-key", "text", "--insecure-http"), "cannot be combined"),
        (("--log-format", "xml"), "log.format"),
        (("--listen", "127.0.0.1"), "server.listen"),
        (("--admin-password-file", "none"), "cannot be read"),
        (("--config", "none.toml"), "cannot be read"),
    ],
)
def test_what_is_wrong_with_the_options_is_said(
    new: CommandLine, options: tuple[str, ...], message: str
) -> None:
    """Exit status 1 and one message."""
    (new.place / "text").write_text("no certificate")
    listen = () if "--listen" in options else ("--listen", f"127.0.0.1:{free_port()}")
    ended = new.run("serve", *listen, *options)
    assert ended.status == 1
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_a_setting_that_does_not_exist_is_said(new: CommandLine) -> None:
    """With the one that was probably meant."""
    ended = new.run("serve", environment={"DTR_SERVER__LISTN": "127.0.0.1:1"})
    assert "did you mean DTR_SERVER__LISTEN?" in ended.message


def test_a_directory_of_another_version_or_program_is_refused(new: CommandLine) -> None:
    """Nothing in it is touched."""
    new.data_dir.mkdir()
    (new.data_dir / "FORMAT").write_text("dtr-data 99\n")
    listen = ("--listen", f"127.0.0.1:{free_port()}")
    assert "newer DTR" in new.fails("serve", *listen)
    (new.data_dir / "FORMAT").write_text("something else\n")
    assert "not written by DTR" in new.fails("serve", *listen)
    (new.data_dir / "FORMAT").rename(new.data_dir / "photo")
    assert "DTR did not make it" in new.fails("serve", *listen)
    assert [entry.name for entry in new.data_dir.iterdir()] == ["photo"]


def test_a_directory_of_another_user_is_refused(new: CommandLine) -> None:
    """It says whose it is."""
    requires_root("giving a directory to somebody else")
    new.data_dir.mkdir()
    os.chown(new.data_dir, 12345, 12345)
    message = new.fails("serve", "--listen", f"127.0.0.1:{free_port()}")
    assert "belongs to user 12345, and this is user 0" in message


def test_metadata_of_a_newer_version_is_refused(dtr: CommandLine) -> None:
    """By the server and by every other command."""
    with sqlite3.connect(dtr.data_dir / "dtr.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("INSERT INTO settings VALUES ('schema.oldest_program', '9999')")
    connection.close()
    for words in (("serve", "--listen", f"127.0.0.1:{free_port()}"), ("user", "list")):
        message = dtr.fails(*words)
        assert "schema 9999" in message
        assert "use a newer version" in message


def test_a_damaged_metadata_file_is_said_in_a_sentence(dtr: CommandLine) -> None:
    """The server and the other commands say which, and what to do."""
    (dtr.data_dir / "dtr.db").write_bytes(b"this is not a database" * 1000)
    for words in (("serve", "--listen", f"127.0.0.1:{free_port()}"), ("user", "list")):
        assert "metadata" in dtr.fails(*words)


def test_a_start_that_fails_does_not_hide_the_password(tmp_path: Path, serve: Serve) -> None:
    """The first start that succeeds is the one that prints it."""
    address = f"127.0.0.1:{free_port()}"
    new = CommandLine(tmp_path, tmp_path / "data")
    new.fails("serve", "--listen", address, "--tls-cert", "no.crt", "--tls-key", "no.key")
    server = serve("server.log", "--listen", address)
    server.wait_until_ready(lambda: answers(f"http://{address}/_ping"))
    assert "Password" in said(server)


def test_the_metrics_are_those_of_every_process(tmp_path: Path) -> None:
    """Requests that several workers answered are all counted, whoever is asked."""
    with RunningServer(tmp_path, options=("--workers", "2")) as server:
        for _ in range(20):
            httpx.get(f"{server.url}/v2/", auth=server.admin, trust_env=False)

        def counted() -> float:
            answer = httpx.get(f"{server.url}/metrics", auth=server.admin, trust_env=False)
            line = r'^dtr_http_requests_total\{.*route="/v2/".*\} (\S+)$'
            return sum(map(float, re.findall(line, answer.text, re.MULTILINE)))

        # A request is counted when its answer has been sent: the last one may not be yet.
        wait_until(lambda: counted() >= 20, "all are counted")
        assert counted() == 20


def test_the_containers_health_check_knows_a_well_server(tmp_path: Path) -> None:
    """deploy/healthcheck.py is content with a server that is well, and not with none."""
    script = Path(__file__).parents[2] / "deploy" / "healthcheck.py"
    with RunningServer(tmp_path) as server:
        assert run_check(script, server.address) == 0
    assert run_check(script, server.address) == 1


def run_check(script: Path, address: str) -> int:
    """Give the exit status of the container's health check."""
    environment = clean_environment({"DTR_SERVER__LISTEN": address})
    return subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, check=False, timeout=30
    ).returncode
