"""Service `replica` of a node: its database and its registry, brought in and out by phase."""

import asyncio
import re
import shutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import JsonValue

from dtr import __version__
from dtr.cluster.engines.database import Database
from dtr.cluster.engines.fence import Postmaster
from dtr.cluster.engines.patroni import DatabasePlace
from dtr.cluster.engines.programs import PACKAGED
from dtr.cluster.engines.registry import Registry
from dtr.cluster.engines.registry_settings import RegistryPlace
from dtr.cluster.model import (
    REPLICA_SERVICE,
    ReplicaPhase,
    ReplicaReport,
    ReplicaSpecification,
)
from dtr.ucp.agent.port import Component, Controllers, NodeDirectory, Supervisor
from dtr.ucp.model import NodeIdentity, Wanted

REPLICAS: Final = "replicas"
"""Below the node's directory: a directory for each replica that ever was here, by its id."""

_ID: Final = re.compile(r"[0-9a-f]{12}")
_SHORT_DRAIN_SECONDS: Final = 45.0
"""How long requests may go on before the database is ended with the agent: systemd kills all after
90 seconds, and PostgreSQL needs some of them."""
_LOG = structlog.get_logger()


class ReplicaProblemError(Exception):
    """Something of the replica is not as wanted; a sentence of what and what to do."""


class _Parts:
    """The database and the registry of one replica."""

    def __init__(
        self,
        replica_id: str,
        root: Path,
        make: Callable[[DatabasePlace, RegistryPlace], tuple[Database, Registry]],
    ) -> None:
        self.id = replica_id
        self.root = root
        self.database_place = DatabasePlace(root / "database")
        self.database, self.registry = make(self.database_place, RegistryPlace(root / "registry"))

    async def end(self) -> None:
        """End the registry after what is in flight, then the database under it."""
        await self.registry.end()
        await self.database.end()


class ReplicaComponent:
    """Runs at most one replica; everything of it is below `<data dir>/replicas/<id>/`.

    - DATABASE: Patroni and PostgreSQL. SERVING: the registry, too. DRAINING: the same, and
      `/health` says 503.
    - LEAVING: the registry ends after what is in flight, then the database, then the directory is
      deleted, with all blobs. That is safe because a controller says LEAVING only once the cluster
      has let go of this replica: it is in no synchronous set, not primary, no holder that a blob's
      copies count on, and not among the members. It is the one phase that deletes anything.
    - No specification at all: everything ends and the data stays, since nobody knows why; so does
      the data of a replica with another id. Each is told as a problem.

    What takes long (ending, deleting) goes on beside the calls of `converge`; an error of it is
    raised at the next one, and it is tried again.
    """

    def __init__(
        self,
        identity: NodeIdentity,
        directory: NodeDirectory,
        supervisor: Supervisor,
        controllers: Controllers,
        packaged: Path = PACKAGED,
    ) -> None:
        """Look for the versions of PostgreSQL in `packaged`."""
        self._packaged = packaged
        self._identity = identity
        self._directory = directory
        self._supervisor = supervisor
        self._controllers = controllers
        self._parts: _Parts | None = None
        self._specification: ReplicaSpecification | None = None
        self._phase = ReplicaPhase.DATABASE
        self._task: asyncio.Task[None] | None = None
        self._is_deleted = False
        self._problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """For the log and the report."""
        return REPLICA_SERVICE

    async def converge(self, wanted: Wanted) -> None:
        """Bring the replica a step closer to what is wanted.

        Raises:
            Exception: a sentence of what is wrong; the next call tries again.

        """
        given = wanted.services.get(REPLICA_SERVICE)
        specification = None if given is None else ReplicaSpecification.model_validate(given)
        self._specification = specification
        if not self._is_idle():
            return
        wanted_id = "" if specification is None else _checked_id(specification.id)
        self._problems = self._kept_data(wanted_id)
        if self._parts is not None and self._parts.id != wanted_id:
            self._begin(self._end(self._parts))
        elif leftover := self._leftover(wanted_id):
            self._begin(self._end(leftover))
        elif specification is not None and specification.phase is ReplicaPhase.LEAVING:
            if not self._is_deleted:
                self._begin(self._leave(specification.id))
        elif specification is not None:
            await self._run(wanted, specification)
        if self._problems:
            raise ReplicaProblemError(" ".join(self._problems))

    async def report(self) -> JsonValue:
        """Return a `ReplicaReport`; None where no replica is wanted."""
        specification, parts = self._specification, self._parts
        if specification is None:
            return None
        report = ReplicaReport(
            id=specification.id,
            phase=self._phase,
            version=__version__,
            is_data_deleted=self._is_deleted,
            problems=self._problems,
        )
        if parts is None or parts.id != specification.id:
            return report.model_dump(mode="json")
        database, error = await asyncio.gather(parts.database.report(), parts.registry.health())
        whole: ReplicaReport = report.changed(
            settings_revision=parts.registry.settings_revision,
            members_revision=parts.registry.members_revision,
            database=database,
            is_healthy=not error,
            health_error=error,
            is_read_only=parts.registry.is_read_only,
            storage=parts.registry.storage(),
            proxy_port=parts.registry.proxy_port,
            problems=(*self._problems, *parts.database.problems, *parts.registry.problems),
        )
        return whole.model_dump(mode="json")

    async def stop(self) -> None:
        """End what runs, because the agent ends; the data stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._parts is not None:
            ending = asyncio.create_task(self._parts.registry.end())
            await asyncio.wait({ending}, timeout=_SHORT_DRAIN_SECONDS)
            await self._parts.database.end()
            await ending

    def _is_idle(self) -> bool:
        """Tell whether nothing is still ending; raise what went wrong with it."""
        if self._task is None:
            return True
        if not self._task.done():
            return False
        task, self._task = self._task, None
        task.result()
        return True

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._task = asyncio.create_task(work)

    async def _run(self, wanted: Wanted, specification: ReplicaSpecification) -> None:
        if all(each.id != specification.id for each in specification.members):
            raise ReplicaProblemError(
                f"Replica {specification.id} is to run here, but is not a member of its cluster."
                " Nothing is changed; a controller must send another desired state."
            )
        self._is_deleted = False
        if self._parts is None:
            self._parts = self._made(specification.id)
        parts = self._parts
        await parts.database.converge(wanted, specification)
        if specification.phase is not ReplicaPhase.DATABASE:
            await parts.registry.converge(wanted, specification)
        self._phase = specification.phase

    async def _end(self, parts: _Parts) -> None:
        _LOG.info("a replica is ended", replica=parts.id)
        await parts.end()
        self._parts = None

    async def _leave(self, replica_id: str) -> None:
        parts = self._parts or self._made(replica_id)
        _LOG.info("a replica leaves: it is ended and its data deleted", replica=replica_id)
        await parts.end()
        self._parts = None
        if parts.root.exists():
            await asyncio.to_thread(shutil.rmtree, parts.root)
        self._is_deleted = True
        self._phase = ReplicaPhase.LEAVING

    def _leftover(self, wanted_id: str) -> "_Parts | None":
        """Return what is not wanted and still runs: PostgreSQL outlives an agent that is killed."""
        for directory in self._others(wanted_id):
            found = Postmaster.find(DatabasePlace(directory / "database").data)
            if found is not None:
                found.close()
                return self._made(directory.name)
        return None

    def _made(self, replica_id: str) -> _Parts:
        def make(database: DatabasePlace, registry: RegistryPlace) -> tuple[Database, Registry]:
            common = (self._identity, self._directory, self._supervisor)
            return (
                Database(*common, database, self._packaged),
                Registry(*common, self._controllers, registry),
            )

        return _Parts(replica_id, self._directory.of(REPLICAS) / replica_id, make)

    def _others(self, wanted_id: str) -> list[Path]:
        """Return the directories of replicas that were here and are not wanted."""
        found = sorted(self._directory.of(REPLICAS).glob("*"))
        return [each for each in found if each.is_dir() and each.name != wanted_id]

    def _kept_data(self, wanted_id: str) -> tuple[str, ...]:
        return tuple(
            f"The data of replica {each.name}, which is not wanted here, is kept in {each}."
            " Delete the directory once you are sure that nobody needs it."
            for each in self._others(wanted_id)
        )


def _checked_id(replica_id: str) -> str:
    """Return an id that is one: it becomes part of a path that may be deleted."""
    if not _ID.fullmatch(replica_id):
        raise ReplicaProblemError(
            f"{replica_id[:40]!r} is not a replica's id (12 hexadecimal digits). Nothing is"
            " changed; a controller must send another desired state."
        )
    return replica_id


if TYPE_CHECKING:
    _: type[Component] = ReplicaComponent
