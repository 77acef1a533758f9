"""A cluster that is only simulated: agents, Patroni and PostgreSQL, and a load of commits.

Everything goes through the store, as in a real cluster: agents read what they are told there and
report there, Patroni keeps its keys there. Time is what `tick` makes it. What is simulated is mean
where it may be: a commit goes to as few standbys as acknowledge it, and the others lag.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from pydantic import JsonValue
from tests.cluster_plan.parts import Database, Killed, Machine, Users
from tests.cluster_plan.plain import wrong_form, wrong_sentence
from tests.cluster_plan.promises import check_majority

from dtr import __version__
from dtr.cluster import model
from dtr.cluster.engines.patroni import tags
from dtr.cluster.loop import ClusterLoop, read_view
from dtr.cluster.model import (
    BALANCER_SERVICE,
    REPLICA_SERVICE,
    BalancerReport,
    BalancerSpecification,
    DatabaseReport,
    Replica,
    ReplicaPhase,
    ReplicaReport,
    ReplicaSpecification,
    StorageReport,
)
from dtr.cluster.operations import REMOVE, WARNINGS, checked
from dtr.cluster.view import ClusterView
from dtr.model.errors import UnavailableError
from dtr.model.members import MemberState
from dtr.testing.store import MemoryStore
from dtr.ucp import keys
from dtr.ucp.model import (
    Administrator,
    Node,
    NodeReport,
    Operation,
    OperationState,
    Probe,
    ProbeReport,
)
from dtr.ucp.store import Change, Condition, Delete, Entry, FencedStore, Leadership, Put

VERSION = __version__
LEASE_SECONDS = 20.0
_COPY_TICKS = 3
_START_TICKS = 2
_IDLE = 0.3
_CATCHES_UP = 0.5


class FaultyStore:
    """The store as one controller sees it: it may die before or after any of its commits."""

    def __init__(self, store: MemoryStore, simulation: "Simulation") -> None:
        self._store = store
        self._simulation = simulation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, changes: Sequence[Change], conditions: Sequence[Condition] = ()) -> bool:
        simulation = self._simulation
        simulation.commits += 1
        if simulation.dies_at == (simulation.commits, "before"):
            raise Killed
        is_made = await self._store.commit(changes, conditions)
        simulation.check()
        if simulation.dies_at == (simulation.commits, "after"):
            raise Killed
        return is_made


@dataclass
class Simulation:
    """A cluster of machines, and its clock."""

    count: int
    seed: int = 0
    now: float = 1_000_000.0
    commits: int = 0
    dies_at: tuple[int, str] = (0, "")
    loses_reports: float = 0.0
    leader_key_at: float = 0.0
    acknowledged: int = 0
    """The last position that a client was told is safe."""
    acknowledgers: frozenset[str] = frozenset()
    gives_up_durability: bool = False
    """Whether an operator has chosen to go on without some replicas."""
    slow: frozenset[str] = frozenset()
    """Replicas that stream and never get any further."""
    machines: dict[str, Machine] = field(default_factory=dict)
    under_copied: int | None = 0
    """Blobs that lack copies; None where nobody can tell."""
    shared_store: MemoryStore | None = None
    """Of a control plane that is there besides; else it has one of its own."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.store = self.shared_store or MemoryStore(lambda: self.now)
        self.users = Users()
        self.operations = 0
        self.old_reports: dict[str, bytes] = {}
        for at in range(1, self.count + 1):
            node = Node(
                id=f"node-id-{at}",
                name=f"node{at}",
                host_address=f"10.0.0.{at}",
                fingerprint="f",
                joined_at=self.now,
            )
            self.machines[node.id] = Machine(node)

    async def begin(self) -> "Simulation":
        """Write what UCP writes, and have a controller lead."""
        for machine in self.machines.values():
            await self.store.commit([Put(keys.node(machine.node.id), machine.node.encoded())])
        if self.shared_store is None:
            administrator = Administrator(name="admin", password_hash="$argon2id$", changed_at=0)
            await self.store.commit([Put(keys.administrator("admin"), administrator.encoded())])
        await self.elect()
        return self

    async def elect(self) -> None:
        """Have a new controller lead; the one before does not know."""
        await self.store.commit([Delete(keys.LEADER)])
        await self.store.commit([Put(keys.LEADER, b"controller")])
        entry = await self.store.get(keys.LEADER)
        assert entry is not None
        leadership = Leadership(keys.LEADER, entry.created)
        self.fenced = FencedStore(FaultyStore(self.store, self), leadership)
        self.loop = ClusterLoop(self.users, version=VERSION)

    # What a test does.

    async def start(self, kind: str, **arguments: Any) -> str:
        """Ask for an operation, as the controllers' API writes it down."""
        self.operations += 1
        operation = Operation(
            id=f"operation-{self.operations}",
            kind=kind,
            arguments=checked(kind, arguments),
            created_by="admin",
            created_at=self.now,
            updated_at=self.now,
        )
        lock = (
            [] if kind == "emergency-repair" else [Put(keys.OPERATION_LOCK, operation.id.encode())]
        )
        await self.store.commit([Put(keys.operation(operation.id), operation.encoded()), *lock])
        return operation.id

    async def run(self, kind: str, *, seconds: int = 900, **arguments: Any) -> Operation:
        """Ask for an operation and wait until it ends."""
        return await self.follow(await self.start(kind, **arguments), seconds=seconds)

    async def follow(self, operation_id: str, *, seconds: int = 900) -> Operation:
        """Let time pass until an operation has ended."""
        for _ in range(seconds):
            operation = await self.operation(operation_id)
            if operation.state is not OperationState.RUNNING:
                return operation
            await self.tick()
        last = await self.operation(operation_id)
        raise AssertionError(f"it did not end: {last.phases[-1]} {last.error}")

    async def operation(self, operation_id: str) -> Operation:
        """Return an operation as it is."""
        entry = await self.store.get(keys.operation(operation_id))
        assert entry is not None
        return entry.document(Operation)

    async def cancel(self, operation_id: str) -> None:
        """Ask an operation to stop."""
        cancelled = (await self.operation(operation_id)).changed(is_cancelled=True)
        await self.store.commit([Put(keys.operation(operation_id), cancelled.encoded())])

    async def view(self) -> ClusterView:
        """Return what the store holds."""
        return await read_view(self.store, VERSION, 0)

    def machine(self, number: int) -> Machine:
        """Return the n-th machine."""
        return self.machines[f"node-id-{number}"]

    def kill(self, number: int) -> None:
        """Turn a machine off."""
        machine = self.machine(number)
        machine.is_alive = False
        if machine.database is not None:
            machine.database.is_running = False

    def revive(self, number: int) -> None:
        """Turn a machine on again."""
        self.machine(number).is_alive = True

    async def tick(self, times: int = 1) -> None:
        """Let a second pass: agents, Patroni, commits, then the controller."""
        for _ in range(times):
            self.now += 1
            for machine in self.machines.values():
                if machine.is_alive:
                    await self._agent(machine)
            await self._patroni()
            self._commit()
            for machine in self.machines.values():
                if machine.is_alive and machine.is_reporting:
                    await self._report(machine)
            await self.control()
            self.check()

    async def control(self) -> None:
        """Have the leading controller look once; where it is killed, another one leads."""
        try:
            await self.loop.cycle(self.fenced, self.now)
        except Killed:
            self.dies_at = (0, "")
            await self.elect()
        except UnavailableError:
            return

    # What must always be so.

    def entries(self) -> Mapping[str, Entry]:
        """Return all that the store holds now."""
        return self.store._entries

    def records(self) -> list[Replica]:
        """Return the records of replicas."""
        return [
            entry.document(Replica)
            for key, entry in self.entries().items()
            if key.startswith(model.REPLICAS)
        ]

    def check(self) -> None:
        """Hold the invariants against the store and the machines."""
        counted = [each for each in self.records() if each.is_counted]
        config = self.object_of_patroni("config")
        if counted and config and not self.gives_up_durability:
            assert config["synchronous_node_count"] >= len(counted) // 2
            assert config["synchronous_mode_strict"] or len(counted) < 3
        nodes = [each.node_id for each in self.records()]
        assert len(nodes) == len(set(nodes)), "two replicas on one node"
        moving = [
            each.id
            for each in self.records()
            if not each.is_counted and each.phase is not ReplicaPhase.LEAVING
        ]
        self._check_words()
        assert len(moving) <= 1 or self.gives_up_durability, f"two changes at once: {moving}"
        if not self.gives_up_durability:
            best = max((each.wal for each in self._databases() if each.has_data), default=0)
            assert best >= self.acknowledged, "a commit that was acknowledged is gone"

    def _check_words(self) -> None:
        """Hold that whoever watches an operation reads plain words, whatever happens to it."""
        for key, entry in self.entries().items():
            if not key.startswith(keys.OPERATIONS):
                continue
            operation = entry.document(Operation)
            for phase in operation.phases:
                is_failed = phase.state is OperationState.FAILED
                wrong = (wrong_sentence if is_failed else wrong_form)(phase.message)
                assert not wrong, f"{phase.name}: {phase.message}: {wrong}"
            assert not wrong_sentence(operation.error), operation.error
            warnings = operation.result.get(WARNINGS)
            for warning in warnings if isinstance(warnings, list) else ():
                assert not wrong_sentence(str(warning)), warning

    # Agents.

    async def _agent(self, machine: Machine) -> None:
        told = self._service(machine, REPLICA_SERVICE)
        specification = ReplicaSpecification.model_validate(told) if told else None
        balancer = self._service(machine, BALANCER_SERVICE)
        machine.balancer = BalancerSpecification.model_validate(balancer) if balancer else None
        machine.balancer_is_gone = machine.balancer is not None and machine.balancer.is_leaving
        if specification is None:
            machine.specification = None
            return
        machine.specification = specification
        if specification.phase is ReplicaPhase.LEAVING:
            self._delete(machine, specification.id)
            return
        if machine.database is None:
            machine.database = Database(specification.id)
        database = machine.database
        assert database.id == specification.id, "another replica's data are still there"
        database.is_running = database.id in self.users.names
        if not machine.ignores_tags:
            own = next(each for each in specification.members if each.id == database.id)
            told = tags(specification, own)
            database.is_voter_allowed = not told["nosync"]
            database.is_candidate = not told["nofailover"]
        is_up = database.has_data and database.is_running
        wants = specification.phase is not ReplicaPhase.DATABASE
        if machine.settings_revision != specification.settings_revision:
            machine.settings_revision, machine.serving_ticks = specification.settings_revision, 0
        machine.serving_ticks = machine.serving_ticks + 1 if wants and is_up else 0

    def _delete(self, machine: Machine, replica_id: str) -> None:
        """Stop; at the next look, delete."""
        database = machine.database
        if database is not None and database.is_running:
            database.is_running = False
            return
        if database is not None and database.has_data and not self.gives_up_durability:
            self._check_copies(replica_id)
        if is_destroyed(self):
            self.acknowledged = 0
        machine.database, machine.deleted_id, machine.serving_ticks = None, replica_id, 0

    def _check_copies(self, replica_id: str) -> None:
        """Hold that a majority of what counts has every acknowledged commit without a replica."""
        counted = {each.id for each in self.records() if each.is_counted}
        assert replica_id not in counted, "the data of a replica that counts is deleted"
        running = [each for each in self.running() if each.id in counted]
        holders = [each for each in running if each.wal >= self.acknowledged]
        needed = min(len(counted) // 2 + 1, len(running))
        assert len(holders) >= needed, "commits are acknowledged by what is deleted"

    async def _report(self, machine: Machine) -> None:
        database, specification = machine.database, machine.specification
        services: dict[str, JsonValue] = {}
        if specification is not None:
            services[REPLICA_SERVICE] = self._replica_report(
                machine, specification, database
            ).model_dump(mode="json")
        if machine.balancer is not None:
            pool = {
                each.id: "DRAIN" if each.is_draining else "UP" for each in machine.balancer.pool
            }
            report = BalancerReport(
                is_ready=not machine.balancer_is_gone, pool=pool, is_gone=machine.balancer_is_gone
            )
            services[BALANCER_SERVICE] = report.model_dump(mode="json")
        entry = self.entries().get(keys.probe(machine.node.id))
        report_of_node = NodeReport(
            node_id=machine.node.id,
            at=self.now,
            received_at=self.now,
            version=VERSION,
            revision=1,
            services=services,
            probe=self._probe(machine, entry.document(Probe)) if entry else None,
            disk_free_bytes=machine.disk_free_bytes,
        ).encoded()
        if self.random.random() < self.loses_reports:
            # It is lost, or the one before arrives once more.
            report_of_node = self.old_reports.get(machine.node.id, report_of_node)
        self.old_reports[machine.node.id] = report_of_node
        await self.store.commit([Put(keys.report(machine.node.id), report_of_node)])

    def _replica_report(
        self, machine: Machine, specification: ReplicaSpecification, database: Database | None
    ) -> ReplicaReport:
        is_leader = database is not None and self.leader == database.id
        is_up = database is not None and database.is_running and database.has_data
        is_streaming = is_up and bool(self.leader) and not is_leader
        is_healthy = (
            machine.serving_ticks > _START_TICKS
            and specification.phase is ReplicaPhase.SERVING
            and not (machine.refuses_settings and machine.settings_revision == 2)
            and bool(self.leader)
        )
        return ReplicaReport(
            id=specification.id,
            phase=specification.phase,
            settings_revision=machine.settings_revision,
            database=DatabaseReport(
                is_answering=is_up,
                state="running" if is_up else "creating replica",
                role="primary" if is_leader else "standby",
                is_streaming=is_streaming,
                wal_position=database.wal if database else 0,
            ),
            is_healthy=is_healthy,
            health_error="" if is_healthy else "it starts",
            storage=None
            if self.under_copied is None
            else StorageReport(
                under_copied=self.under_copied,
                counted_replicas=tuple(
                    each.id for each in specification.members if each.state is MemberState.SERVING
                ),
            ),
            is_data_deleted=database is None and specification.phase is ReplicaPhase.LEAVING,
        )

    def _probe(self, machine: Machine, probe: Probe) -> ProbeReport:
        return ProbeReport(
            id=probe.id,
            listening={
                port: "it is in use" if port in machine.busy_ports else "" for port in probe.listen
            },
            connected={
                target: "no route" if target in machine.unreachable else ""
                for target in probe.connect
            },
        )

    # Patroni.

    @property
    def leader(self) -> str:
        """Who holds the leader key."""
        entry = self.entries().get(f"{keys.PATRONI}leader")
        return entry.value.decode() if entry else ""

    @property
    def primary(self) -> Database | None:
        """The database that runs as primary; None where none does."""
        return next((each for each in self.running() if each.id == self.leader), None)

    def _databases(self) -> Iterator[Database]:
        for machine in self.machines.values():
            if machine.database is not None:
                yield machine.database

    def running(self) -> list[Database]:
        """Return the databases that run and have data."""
        return [each for each in self._databases() if each.is_running and each.has_data]

    async def _patroni(self) -> None:
        """Renew keys, fail over, copy databases, and keep the set of those that acknowledge."""
        for database in self._databases():
            if database.is_running:
                database.seen_at = self.now
                await self._put(f"members/{database.id}", {"state": "running", "role": "replica"})
        members = f"{keys.PATRONI}members/"
        alive = {each.id for each in self._databases() if self.now - each.seen_at < LEASE_SECONDS}
        for key in [key for key in self.entries() if key.startswith(members)]:
            if key.removeprefix(members) not in alive:
                await self._drop(key)
        await self._bootstrap()
        await self._lead()
        await self._stream()
        await self._keep_voters()

    async def _bootstrap(self) -> None:
        if f"{keys.PATRONI}initialize" in self.entries():
            return
        for machine in self.machines.values():
            database, specification = machine.database, machine.specification
            if machine.is_alive and database and specification and specification.is_bootstrap:
                database.has_data, database.wal = True, 1
                await self._put("initialize", 7)
                config = {"ttl": 20, "synchronous_node_count": 1, "synchronous_mode_strict": False}
                await self._put("config", config)
                await self._set_leader(database.id)

    async def _lead(self) -> None:
        holder = next((each for each in self.running() if each.id == self.leader), None)
        if holder is not None:
            self.leader_key_at = self.now
        elif self.leader and self.now - self.leader_key_at > LEASE_SECONDS:
            await self._drop(f"{keys.PATRONI}leader")
        asked = self.object_of_patroni("failover") or {}
        candidate = next((each for each in self.running() if each.id == asked.get("member")), None)
        sync = self.object_of_patroni("sync") or {}
        voters = set(str(sync.get("sync_standby") or "").split(",")) - {""}
        if holder is not None and asked.get("leader") == holder.id:
            able = [each for each in self.running() if each.id in voters and each.is_candidate]
            if not asked.get("member") and able:
                candidate = self.random.choice(able)
            if candidate is not None and candidate in able:
                candidate.wal = holder.wal
                await self._set_leader(candidate.id)
            await self._drop(f"{keys.PATRONI}failover")
        elif not self.leader:
            await self._elect_leader(candidate, sync, voters)

    async def _elect_leader(
        self, candidate: Database | None, sync: Mapping[str, Any], voters: set[str]
    ) -> None:
        """Fail over. Who was named for it does not ask others how far they are, as in Patroni."""
        if candidate is not None:
            await self._drop(f"{keys.PATRONI}failover")
            await self._set_leader(candidate.id)
            return
        allowed = voters | {str(sync.get("leader", ""))}
        seen = [each for each in self.running() if each.id in allowed or not sync]
        votes = len([each for each in seen if each.id in voters])
        is_old = any(each.id == sync.get("leader") for each in seen)
        able = [each for each in seen if each.is_candidate]
        if able and (is_old or votes > int(sync.get("quorum") or 0) or not sync):
            best = max(able, key=lambda each: each.wal)
            if best.wal < max(each.wal for each in seen):
                return  # nobody takes over from who is ahead and may not
            await self._drop(f"{keys.PATRONI}failover")
            await self._set_leader(best.id)

    async def _stream(self) -> None:
        """Copy new databases, and let a random part of the standbys catch up."""
        primary = self.primary
        if primary is None:
            return
        for machine in self.machines.values():
            database = machine.database
            if database is None or database is primary or not database.is_running:
                continue
            if not database.has_data:
                database.copied += 1
                if database.copied >= _COPY_TICKS:
                    database.has_data, database.wal = True, primary.wal
            elif self.random.random() < _CATCHES_UP and database.id not in self.slow:
                database.wal = primary.wal

    async def _keep_voters(self) -> None:
        primary = self.primary
        config = self.object_of_patroni("config")
        if primary is None or config is None:
            return
        wanted = int(config["synchronous_node_count"])
        active = self.active(primary, wanted)
        number = min(wanted, len(active))
        await self._put(
            "sync",
            {
                "leader": primary.id,
                "sync_standby": ",".join(active),
                "quorum": len(active) - number,
            },
        )

    def active(self, primary: Database, wanted: int) -> list[str]:
        """Return who acknowledges; of those that may not take over no more than are lacking."""
        able = [each for each in self.running() if each is not primary and each.is_voter_allowed]
        found = [each.id for each in able if each.is_candidate]
        others = [each.id for each in able if not each.is_candidate]
        return sorted([*found, *others[: max(0, wanted - len(found))]])

    def _commit(self) -> None:
        """Write something; it is acknowledged once as many standbys as are asked for have it."""
        primary = self.primary
        sync, config = self.object_of_patroni("sync") or {}, self.object_of_patroni("config")
        if primary is None or config is None or sync.get("leader") != primary.id:
            return
        voters = [
            each for each in self.running() if each.id in str(sync["sync_standby"]).split(",")
        ]
        number = len(voters) - int(sync["quorum"])
        if number < (1 if config["synchronous_mode_strict"] else 0):
            return
        able = [each for each in voters if each.id not in self.slow]
        if self.random.random() < _IDLE or number > len(able):
            return
        primary.wal += 10
        takers = self.random.sample(able, number)
        for each in takers:
            each.wal = primary.wal
        self.acknowledged = primary.wal
        self.acknowledgers = frozenset({primary.id, *(each.id for each in takers)})
        check_majority(self)

    async def _set_leader(self, name: str) -> None:
        self.leader_key_at = self.now
        database = next(each for each in self._databases() if each.id == name)
        if not self.gives_up_durability:
            assert database.wal >= self.acknowledged, "a primary lacks acknowledged commits"
        else:
            self.acknowledged = database.wal
        await self.store.commit([Put(f"{keys.PATRONI}leader", name.encode())])
        for each in self.running():
            each.wal = min(each.wal, database.wal)

    def _service(self, machine: Machine, name: str) -> dict[str, Any] | None:
        entry = self.entries().get(keys.service(machine.node.id, name))
        return json.loads(entry.value)["specification"] if entry else None

    def object_of_patroni(self, name: str) -> dict[str, Any] | None:
        """Return one of the documents that Patroni keeps; None where it is not there."""
        entry = self.entries().get(f"{keys.PATRONI}{name}")
        return json.loads(entry.value) if entry else None

    async def _put(self, name: str, value: Any) -> None:
        key, encoded = f"{keys.PATRONI}{name}", json.dumps(value).encode()
        entry = self.entries().get(key)
        if entry is None or entry.value != encoded:
            await self.store.commit([Put(key, encoded)])

    async def _drop(self, key: str) -> None:
        await self.store.commit([Delete(key)])


def is_destroyed(simulation: Simulation) -> bool:
    """Return whether the last replica is being deleted."""
    return not any(each.phase is not ReplicaPhase.LEAVING for each in simulation.records())


async def cluster_of(count: int, *, machines: int = 0, seed: int = 0) -> Simulation:
    """Return a cluster of so many replicas, made by its own operations."""
    simulation = await Simulation(machines or count, seed).begin()
    await simulation.tick(2)
    for number in range(1, count + 1):
        kind = "install" if number == 1 else "join"
        done = await simulation.run(kind, node=f"node{number}", replica_id=replica_id(number))
        assert done.state is OperationState.SUCCEEDED, done.error
    return simulation


def replica_id(number: int) -> str:
    """Return the id of the n-th machine's replica in tests."""
    return f"{number:012x}"


__all__ = ["REMOVE", "Killed", "Simulation", "cluster_of", "replica_id"]
