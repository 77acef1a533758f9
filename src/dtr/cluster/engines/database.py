"""A replica's database: Patroni, and through it PostgreSQL, kept as wanted and fenced."""

import asyncio
import json
import os
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import structlog

from dtr import __version__
from dtr.cluster.engines import patroni
from dtr.cluster.engines.fence import Fence, Postmaster, end_primary
from dtr.cluster.engines.last_transaction import LastTransaction
from dtr.cluster.engines.patroni import DatabasePlace, Machine, join_host
from dtr.cluster.engines.probes import MutualTls, ask
from dtr.cluster.engines.programs import PACKAGED, find_programs
from dtr.cluster.model import PATRONI_PORT, DatabaseReport, ReplicaSpecification
from dtr.model.errors import UnavailableError
from dtr.ucp.agent.files import forget_identity, give_keys, make_directory, write_for
from dtr.ucp.agent.port import NodeDirectory, ProcessSpecification, SupervisionError, Supervisor
from dtr.ucp.agent.users import user_for
from dtr.ucp.keyring import DATABASE, PATRONI
from dtr.ucp.model import NodeIdentity, Wanted

PROCESS: Final = "patroni"

_PROGRAM: Final = "dtr.cluster.engines.patroni_process"
_LOG = structlog.get_logger()
_LOOK_SECONDS: Final = 1.0
_ANSWER_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 90.0  # a checkpoint of all that shared_buffers hold, on a slow disk
_FAST_SHUTDOWN_SECONDS: Final = 60.0
_IMMEDIATE_SHUTDOWN_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.1


class Database:
    """Patroni and PostgreSQL of one replica, below one directory of their own user.

    Patroni is started with etcd out of reach as well, and then waits; a primary that it was to
    adopt is ended by the fence, since nobody can know whether another has taken over.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        directory: NodeDirectory,
        supervisor: Supervisor,
        place: DatabasePlace,
        packaged: Path = PACKAGED,
    ) -> None:
        self._packaged = packaged
        self._identity = identity
        self._directory = directory
        self._supervisor = supervisor
        self._place = place
        self._tls = MutualTls(place.keys)
        self._watch: asyncio.Task[None] | None = None
        self._last_transaction = LastTransaction(place)
        self._address = ""
        self._fenced = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """What an operator should know."""
        return (self._fenced,) if self._fenced else ()

    async def converge(self, wanted: Wanted, specification: ReplicaSpecification) -> None:
        """Have Patroni run with this configuration; changes reach it, and PostgreSQL, by SIGHUP.

        Raises:
            SupervisionError, ProgramsMissingError, KeysMissingError, OSError: it cannot run; the
                message says why.

        """
        own = next(each for each in specification.members if each.id == specification.id)
        user = self._user()
        place = self._place
        if place.problem:
            raise SupervisionError(place.problem)
        programs = find_programs(place.data, self._packaged)
        make_directory(place.root, user=user)
        make_directory(place.sockets, user=user)
        certificates, interface_ca = self._give_keys(wanted, user)
        machine = Machine(programs, sys.executable, user, wanted.etcd_urls, interface_ca)
        write_for(place.role_password, f"{specification.database_password}\n", user=user)
        content = patroni.render(specification, place, machine)
        written = write_for(place.configuration, content, user=user)
        for other in set(place.root.glob("interface-ca-*.crt")) - {interface_ca}:
            other.unlink(missing_ok=True)
        forget_identity(self._directory, wanted.keys, place.root)
        self._address = join_host(own.address, PATRONI_PORT)
        self._last_transaction.use(own.database_port, specification.database_password)
        await self._supervisor.ensure(
            ProcessSpecification(
                name=PROCESS,
                command=(sys.executable, "-I", "-m", _PROGRAM, str(place.configuration)),
                user=user,
                directory=place.root,
                restart_key=__version__,
                reload_key=f"{certificates} {written}",
                stop_seconds=_STOP_SECONDS,
                orphan_signal=signal.SIGKILL,
                is_ready=self._is_live,
                is_patient_after_exit=False,
            )
        )
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._fence())

    async def end(self) -> None:
        """End Patroni, which ends PostgreSQL, and PostgreSQL also where Patroni did not.

        Raises:
            SupervisionError: PostgreSQL cannot be ended.

        """
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
            self._watch = None
        await self._supervisor.remove(PROCESS)
        await end_postgresql(self._place.data)

    async def report(self) -> DatabaseReport:
        """Tell what Patroni says; takes about a second at most."""
        if not self._address:
            return DatabaseReport()
        try:
            url = f"https://{self._address}/patroni"
            _, body = await ask(url, self._tls.context(), seconds=_REPORT_SECONDS)
            found = reported(json.loads(body))
        except (UnavailableError, ValueError, TypeError, AttributeError):
            return DatabaseReport()
        at = await self._last_transaction.find()
        times = [each for each in (found.last_transaction_at, at) if each is not None]
        changed: DatabaseReport = found.changed(last_transaction_at=max(times, default=None))
        return changed

    def _give_keys(self, wanted: Wanted, user: str) -> tuple[str, Path]:
        """Write both keys; return what differs when one does, and whom the interface trusts."""
        place, keys = self._place, wanted.keys
        own = give_keys(self._directory, keys, DATABASE, place.keys, user=user)
        etcd = give_keys(self._directory, keys, PATRONI, place.etcd_keys, user=user)
        interface_ca = place.interface_ca(own.trust)
        write_for(interface_ca, place.keys.ca.read_bytes(), user=user)
        return f"{own} {etcd}", interface_ca

    def _user(self) -> str:
        user = user_for(self._identity, "database")
        if os.geteuid() == 0 and not user:
            raise SupervisionError(
                "There is no system user for PostgreSQL, which refuses to run as root."
                " Install it (apt-get install postgresql), or name its user with --database-user."
            )
        return user

    async def _is_live(self) -> bool:
        try:
            url = f"https://{self._address}/liveness"
            status, _ = await ask(url, self._tls.context(), seconds=_ANSWER_SECONDS)
        except UnavailableError:
            return False
        return status == 200  # noqa: PLR2004

    async def _fence(self) -> None:
        fence = Fence()
        while True:
            is_live = await self._is_live()
            if is_live:
                self._fenced = ""
            if fence.observe(time.monotonic(), is_live=is_live):
                self._end_primary()
            await asyncio.sleep(_LOOK_SECONDS)

    def _end_primary(self) -> None:
        pid = end_primary(self._place.data)
        if pid is None:
            return
        self._fenced = (
            "Patroni has not answered for 10 seconds, so PostgreSQL, which was primary here, was"
            " ended: another replica may take over. See why Patroni does not run in its log."
        )
        _LOG.error("fenced: PostgreSQL was ended because Patroni is silent", pid=pid)


async def end_postgresql(data: Path) -> None:
    """Have no PostgreSQL run in this directory: after a checkpoint, else at once.

    Raises:
        SupervisionError: it goes on running.

    """
    postmaster = Postmaster.find(data)
    if postmaster is None:
        return
    try:
        for number, seconds in (
            (signal.SIGINT, _FAST_SHUTDOWN_SECONDS),
            (signal.SIGQUIT, _IMMEDIATE_SHUTDOWN_SECONDS),
        ):
            postmaster.send(number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if postmaster.has_ended:
                    return
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        postmaster.close()
    raise SupervisionError(
        f"PostgreSQL (process {postmaster.pid}) does not end. Its data stays in {data};"
        " look for what its disk waits for."
    )


def reported(answer: dict[str, Any]) -> DatabaseReport:
    """Return Patroni's answer to `GET /patroni` in our words.

    >>> reported({"state": "running", "role": "replica", "server_version": 150018}).version
    '15.18'
    """
    wal = answer.get("xlog") or {}
    role = str(answer.get("role", ""))
    is_primary = role in {"primary", "master"}
    version = int(answer.get("server_version") or 0)
    return DatabaseReport(
        is_answering=True,
        state=str(answer.get("state", "unknown")),
        role="primary" if is_primary else "standby" if role else "",
        is_streaming=answer.get("replication_state") == "streaming",
        timeline=int(answer.get("timeline") or 0),
        wal_position=int(wal.get("location" if is_primary else "replayed_location") or 0),
        last_transaction_at=_seconds(wal.get("replayed_timestamp")),
        version=f"{version // 10_000}.{version % 10_000}" if version else "",
        is_pending_restart=bool(answer.get("pending_restart")),
    )


def _seconds(stamp: object) -> float | None:
    if not isinstance(stamp, str):
        return None
    return datetime.fromisoformat(stamp).timestamp()
