"""`dtr serve`: check everything, then start and watch the web workers and the job runner."""

import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from granian.constants import HTTPModes, Interfaces, Loops, RuntimeModes, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels

from dtr.asgi.peers import PeerTable
from dtr.model.errors import StorageFullError
from dtr.model.failures import reason_of
from dtr.server.app import build_application
from dtr.server.background import run_jobs
from dtr.server.bootstrap import FirstAdministrator, bootstrap, is_good_copy
from dtr.server.certificates import CertificateError, check_certificate, ensure_certificates
from dtr.server.datadir import DataDirectory
from dtr.server.drivers import (
    check_storage,
    has_own_disk,
    open_drivers,
    recognise_storage,
    shortage_of_room,
)
from dtr.server.front import Front, front_host, listen_for_balancers
from dtr.server.listening import stop_listening
from dtr.server.logs import GRANIAN_LOGGING, configure_logging
from dtr.server.metrics import Metrics, use_directory
from dtr.server.open_files import allow_open_files, most_connections
from dtr.server.parent import (
    STOP_LISTENING,
    end_at_signals,
    heed_signals,
    held_signals,
    leave_with_parent,
)
from dtr.server.plain import PlainListener
from dtr.server.settings import Settings
from dtr.server.start_checks import StartError, check_start
from dtr.server.workers import WebServer

_LOG = structlog.get_logger()
_RUNTIME_THREADS = 2  # of Rust; they move the bytes (design 5 has the measurement)
_FIRST_PAUSE_SECONDS = 0.5
_MOST_RESTARTS_SECONDS = 30.0
_PEERS = Path("run", "peers")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS is served with, and the authority that clients must trust, where it is known."""

    cert: Path
    key: Path
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a person wants to know once the server is about to answer."""

    url: str
    administrator: FirstAdministrator | None
    ca: Path | None


def serve(settings: Settings, announce: Callable[[Started], None]) -> None:
    """Serve until SIGTERM or SIGINT; `announce` is called when all checks have passed.

    Raises:
        StartError, DataDirectoryError, CertificateError, RegistryError: something is wrong, and the
            message says what and what to do.

    """
    configure_logging(settings.log.format, settings.log.level)
    os.umask(0o077)  # nothing that the registry keeps is for other users
    allow_open_files(settings.server.connections)
    check_start(settings)
    with DataDirectory.open(settings.data.directory) as directory:
        if shortage := shortage_of_room(settings):
            _LOG.warning(shortage)
        use_directory(directory.metrics)
        certificate = _certificate(settings, directory)
        administrator = _prepare(settings, directory)
        web = _web_server(settings, directory, certificate)
        for companion in _companions(settings, directory, certificate):
            web.on_startup(companion.start)
            web.on_shutdown(companion.stop)
        ca = certificate.ca if certificate else None
        announce(Started(_url(settings, certificate), administrator, ca))
        load = partial(load_application, settings, directory.path, ca)
        web.run(load, partial(_problem_of_certificate, settings, directory))


def load_application(
    settings: Settings, directory: Path, ca: Path | None, tell: Callable[[], None]
) -> Any:
    """Return the application of one web worker; called in the worker's process.

    `tell` is called as soon as the application is served.
    """

    def on_served() -> None:
        # Not earlier: Granian forgets a signal that comes while the application starts.
        heed_signals()
        tell()

    configure_logging(settings.log.format, settings.log.level)
    leave_with_parent()
    signal.signal(STOP_LISTENING, lambda *_: stop_listening(settings.server.listen.port))
    metrics = Metrics()
    drivers = open_drivers(settings, directory, metrics)
    peers = None
    if settings.server.proxy_listen is not None:
        peers = PeerTable(directory / _PEERS, front_host(settings.server.listen))
    application = build_application(
        settings, drivers, metrics, ca_certificate=ca, on_served=on_served, peers=peers
    )
    # What is here now stays. To search it for garbage again and again would stop all requests for
    # 80 ms each time, as a push of a large manifest did.
    gc.collect()
    gc.freeze()
    return application


def _companions(
    settings: Settings, directory: DataDirectory, certificate: Certificate | None
) -> "list[Supervised]":
    """Return what runs beside the web workers."""
    found = [Supervised("job runner", partial(run_jobs, settings, directory.path))]
    if settings.server.http_listen is not None:
        listener = PlainListener(settings, is_tls=certificate is not None)
        found.append(Supervised("plain listener", listener.run))
    if settings.server.proxy_listen is not None:
        table = directory.path / _PEERS
        PeerTable.create(table)
        # Kept here, so that connections wait in it while the front is started again.
        listening = listen_for_balancers(settings.server.proxy_listen)
        front = Front(settings, table, listening, is_tls=certificate is not None)
        found.append(Supervised("front", front.run))
    if has_own_disk(settings):
        from dtr.server.replica import run_peer_endpoint  # noqa: PLC0415 - see there

        endpoint = partial(run_peer_endpoint, settings, directory.path)
        found.append(Supervised("peer endpoint", endpoint))
    return found


class Supervised:
    """A child process that is started again when it ends unasked, less and less eagerly."""

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._name = name
        self._target = target
        self._stopping = threading.Event()
        self._process: multiprocessing.process.BaseProcess | None = None

    def start(self) -> None:
        """Start the process and a thread that watches it."""
        self._spawn()
        threading.Thread(target=self._watch, name=self._name, daemon=True).start()

    def stop(self, timeout_seconds: float = 10) -> None:
        """Ask the process to end, and end it."""
        self._stopping.set()
        if self._process is not None:
            self._process.terminate()
            self._process.join(timeout_seconds)
            self._process.kill()

    def _spawn(self) -> None:
        method = multiprocessing.get_context("fork")
        self._process = method.Process(target=self._run, name=self._name)
        with held_signals():
            self._process.start()

    def _run(self) -> None:
        end_at_signals()
        self._target()

    def _watch(self) -> None:
        pause, started = _FIRST_PAUSE_SECONDS, time.monotonic()
        while True:
            if self._process is not None:
                self._process.join()
            # What ends one that ran for long is not what ended it before.
            if time.monotonic() - started > 2 * _MOST_RESTARTS_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            if self._stopping.wait(pause):
                return
            _LOG.error("process ended and is started again", process=self._name)
            self._spawn()
            pause, started = min(pause * 2, _MOST_RESTARTS_SECONDS), time.monotonic()


def _prepare(settings: Settings, directory: DataDirectory) -> FirstAdministrator | None:
    check_storage(settings, directory.path)
    drivers = open_drivers(settings, directory.path)
    try:
        can_write = drivers.database.wait_until_there(
            seconds=settings.database.failover_wait_seconds, is_enough=is_good_copy
        )
        administrator = bootstrap(settings, directory, drivers.database) if can_write else None
        if not can_write:
            _LOG.warning("no primary answers: pulls are answered, pushes wait for one")
    finally:
        drivers.database.close()
    try:
        recognise_storage(settings, directory.path)
    except StorageFullError:
        raise StartError(
            f"{shortage_of_room(settings)} A first start also needs space: free some, or "
            "choose a directory on another disk."
        ) from None
    return administrator


def _web_server(
    settings: Settings, directory: DataDirectory, certificate: Certificate | None
) -> WebServer:
    server = settings.server
    return WebServer(
        drain_seconds=server.drain_seconds,
        target="dtr.server.serve:load_application",
        address=server.listen.host,
        port=server.listen.port,
        interface=Interfaces.ASGI,
        workers=server.workers or os.cpu_count() or 1,
        runtime_mode=RuntimeModes.mt,
        runtime_threads=_RUNTIME_THREADS,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            # Granian's one limit holds for a head and for the pause before it; the first is
            # bounded by `asgi.connections`.
            header_read_timeout=round(
                1000 * max(server.keep_alive_seconds, server.header_read_seconds)
            ),
            max_buffer_size=_buffer_bytes(settings),
        ),
        websockets=False,
        backlog=2048,
        backpressure=most_connections(server.connections),
        log_level=LogLevels.warning,
        log_dictconfig=GRANIAN_LOGGING,
        ssl_cert=certificate.cert if certificate else None,
        ssl_key=certificate.key if certificate else None,
        ssl_protocol_min=SSLProtocols.tls12,
        respawn_failed_workers=True,
        respawn_interval=0.5,
        working_dir=directory.path,
    )


def _buffer_bytes(settings: Settings) -> int:
    """Return how much of a connection is buffered: it bounds a request's head, too."""
    return max(8192 + 4096 * 100, 2 * settings.limits.header_bytes)


def _certificate(settings: Settings, directory: DataDirectory) -> Certificate | None:
    """Return what to serve TLS with: the operator's, or our own, or nothing on loopback."""
    server = settings.server
    if server.tls_cert is not None and server.tls_key is not None:
        check_certificate(server.tls_cert, server.tls_key)
        return Certificate(server.tls_cert, server.tls_key, server.tls_ca)
    if server.insecure_http or server.listen.is_loopback:
        return None
    made = ensure_certificates(directory.tls, _names(settings), datetime.now(UTC))
    return Certificate(made.cert_path, made.key_path, made.ca_path)


def _problem_of_certificate(settings: Settings, directory: DataDirectory) -> str:
    """Return why the certificate that is there now cannot be served with; nothing where it can.

    One of our own is renewed where it is due.
    """
    try:
        _certificate(settings, directory)
    except CertificateError as error:
        return str(error)
    except OSError as error:
        return f"The certificate cannot be used: {reason_of(error)}."
    return ""


def _names(settings: Settings) -> list[str]:
    """Return the names and addresses under which clients may reach this server."""
    host = settings.server.listen.host
    public = urlsplit(settings.server.public_url).hostname
    own = _own_addresses() if host in {"0.0.0.0", "::"} else [host]
    return [*own, *([public] if public else [])]


def _own_addresses() -> list[str]:
    """Return the addresses that this machine speaks from; asking sends nothing."""
    found = []
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.append(str(probe.getsockname()[0]))
    return found


def _url(settings: Settings, certificate: Certificate | None) -> str:
    """Return an address that answers: of the loopback addresses, only this one is localhost."""
    listen = settings.server.listen
    host = "localhost" if listen.host == "127.0.0.1" else listen.host
    if host in {"0.0.0.0", "::"}:
        with suppress(OSError):
            host = socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    return f"{'https' if certificate else 'http'}://{host}:{listen.port}"
