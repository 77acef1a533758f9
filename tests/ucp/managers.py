"""Managers with real members of etcd, run by the product's own component, on loopback addresses."""

import asyncio
import os
import pwd
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.support.etcd import LIMITS
from tests.support.processes import free_port

from dtr.model.errors import UnavailableError
from dtr.testing.stores import until
from dtr.ucp import keys, plan_keys
from dtr.ucp.agent.files import KeysMissingError
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.agent.supervisor import ProcessSupervisor
from dtr.ucp.authority import Authority, fingerprint, make_request, node_names
from dtr.ucp.etcd import EtcdConnection, EtcdMembers, EtcdRefusedError, EtcdStore
from dtr.ucp.etcd import component as module
from dtr.ucp.etcd.component import EtcdComponent, client_files
from dtr.ucp.keyring import OF_MANAGERS, Keyring, issue
from dtr.ucp.keys_loop import KeysLoop
from dtr.ucp.model import (
    ClusterRecord,
    EtcdWanted,
    Manager,
    ManagerPhase,
    Node,
    NodeIdentity,
    NodeKeys,
    NodeReport,
    ProcessState,
    Wanted,
)
from dtr.ucp.store import Change, Delete, FencedStore, Leadership, Put
from dtr.ucp.voters import peer_url
from dtr.ucp.wanted import client_url, wanted_of

LEADER = "/test/leader"


@dataclass
class ManagerMachine:
    """A machine: its files, its agent's component, and its node's record."""

    node: Node
    directory: NodeDirectory
    supervisor: ProcessSupervisor
    component: EtcdComponent
    problem: str = ""
    wanted: Wanted | None = None

    @classmethod
    def create(
        cls, root: Path, number: int, address: str, authority: Authority
    ) -> "ManagerMachine":
        """Make it as `ucp join` does."""
        directory = NodeDirectory(root / f"m{number}")
        directory.ca.parent.mkdir(parents=True)
        directory.root.chmod(0o711)
        directory.logs.mkdir()
        directory.run.mkdir()
        name, node_id = f"host{number}", f"m{number}"
        made = make_request()
        certificate = authority.sign(
            made.request_pem,
            common_name=node_id,
            names=node_names(name, address),
            now=datetime.now(UTC),
        )
        directory.ca.write_text(authority.certificate_pem)
        directory.certificate.write_text(certificate)
        directory.key.write_text(made.key_pem)
        node = Node(
            id=node_id,
            name=name,
            host_address=address,
            fingerprint=fingerprint(certificate),
            joined_at=number,
        )
        identity = NodeIdentity(
            node_id=node_id,
            name=name,
            host_address=address,
            cluster_id="c",
            controllers=(),
            users={"etcd": pwd.getpwuid(os.geteuid()).pw_name},
        )
        supervisor = ProcessSupervisor(directory)
        return cls(node, directory, supervisor, EtcdComponent(directory, identity, supervisor))

    async def turn(self, wanted: Wanted | None) -> None:
        """Do what an agent does each second."""
        self.wanted = wanted or self.wanted
        if self.wanted is None:
            return
        try:
            await self.component.converge(self.wanted)
            self.problem = ""
        except KeysMissingError as error:
            self.problem = str(error)

    async def report(self) -> NodeReport:
        """Tell how it is."""
        return NodeReport(
            node_id=self.node.id,
            at=time.time(),
            received_at=time.time(),
            version="1",
            revision=self.wanted.revision if self.wanted and not self.problem else 0,
            services={"etcd": await self.component.report()},
            takes_keys=True,
        )


@dataclass
class Managers:
    """Several of them, and the loop of whichever leads."""

    root: Path
    count: int = 3
    authority: Authority = field(
        default_factory=lambda: Authority.create("nodes", datetime.now(UTC))
    )
    machines: list[ManagerMachine] = field(default_factory=list)
    reason: str = ""

    def __post_init__(self) -> None:
        # Ports 2379 and 2380 are the product's, so that other tests must have other addresses.
        self.network = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250) + 1}"
        for number in range(1, self.count + 1):
            self.machines.append(
                ManagerMachine.create(self.root, number, f"{self.network}.{number}", self.authority)
            )
        self.connection = EtcdConnection(
            [client_url(each.node) for each in self.machines],
            client_files(self.machines[0].directory),
            limits=LIMITS,
        )
        self.store = EtcdStore(self.connection)
        self.members = EtcdMembers(self.connection)
        self.loop = KeysLoop(self.members)

    def initial(self, machine: ManagerMachine, held: NodeKeys | None) -> Wanted:
        """Give what a machine runs first; without keys, as before there were any of engines."""
        cluster = ",".join(f"{each.node.id}={peer_url(each.node)}" for each in self.machines)
        return Wanted(
            revision=0,
            cluster_id="c",
            node=machine.node,
            controllers=(),
            etcd_urls=(),
            etcd=EtcdWanted(
                name=machine.node.id,
                peer_url=peer_url(machine.node),
                client_url=client_url(machine.node),
                initial_cluster=cluster,
                is_new_cluster=True,
                cluster_token="c",
            ),
            keys=held,
        )

    async def start(self, keyring: Keyring | None = None) -> None:
        """Start all members, and write down who they are."""
        held = {
            each.node.id: issue(keyring, each.node, OF_MANAGERS, time.time())
            for each in self.machines
            if keyring is not None
        }
        for machine in self.machines:
            await machine.turn(self.initial(machine, held.get(machine.node.id)))
        await until(self._is_ready, "etcd is ready")
        ids = {each.name: each.id for each in await self.members.list()}
        changes: list[Change] = [Put(LEADER, b"{}")]
        cluster = ClusterRecord(
            id="c" * 26, created_at=1, ca_certificate=self.authority.certificate_pem, version="1"
        )
        changes.append(Put(keys.CLUSTER, cluster.encoded()))
        if keyring is not None:
            changes.append(Put(keys.KEYRING, keyring.encoded()))
            changes += [Put(keys.node_keys(each), held[each].encoded()) for each in held]
        for machine in self.machines:
            node, wanted = machine.node, machine.wanted
            assert wanted is not None
            assert wanted.etcd is not None
            manager = Manager(
                node_id=node.id,
                member_id=ids[node.id],
                peer_url=wanted.etcd.peer_url,
                phase=ManagerPhase.VOTER,
                initial_cluster=wanted.etcd.initial_cluster,
            )
            changes += [
                Put(keys.node(node.id), node.encoded()),
                Put(keys.manager(node.id), manager.encoded()),
            ]
        await self.store.commit(changes)
        entry = await self.store.get(LEADER)
        assert entry is not None
        self.fenced = FencedStore(self.store, Leadership(LEADER, entry.created))

    async def _is_ready(self) -> bool:
        return all(
            each.supervisor.report("etcd").state is ProcessState.READY for each in self.machines
        )

    async def cycle(self) -> None:
        """Let the leading controller and every agent do their part once."""
        with suppress(UnavailableError):
            self.reason = await self.loop.cycle(self.fenced, time.time())
        for machine in self.machines:
            with suppress(UnavailableError):
                await machine.turn(await wanted_of(self.store, machine.node.id))
                report = await machine.report()
                await self.store.commit([Put(keys.report(machine.node.id), report.encoded())])

    async def keyring(self) -> Keyring | None:
        """Return what is kept of it."""
        entry = await self.store.get(keys.KEYRING)
        return entry.document(Keyring) if entry else None

    async def remove(self, machine: ManagerMachine) -> None:
        """Have one leave: its member, its record and its node are gone; its machine goes on."""
        self.machines.remove(machine)
        entry = await self.store.get(keys.manager(machine.node.id))
        assert entry is not None
        member_id = entry.document(Manager).member_id

        async def is_removed() -> bool:
            try:
                await self.members.remove(member_id)
            except (EtcdRefusedError, UnavailableError):
                return False  # not before all have been connected for five seconds
            return True

        await until(is_removed, "etcd removes a member")
        await self.store.commit(
            [
                Delete(keys.manager(machine.node.id)),
                Delete(keys.node(machine.node.id)),
                Delete(keys.report(machine.node.id)),
            ]
        )

    async def close(self) -> None:
        """End everything."""
        await self.store.close()
        await asyncio.gather(*(each.supervisor.close() for each in self.machines))


def separate(monkeypatch_setattr: Callable[..., None]) -> None:
    """Let several members run on one machine: each listens at its own address only."""
    command = module.etcd_command

    def apart(etcd: EtcdWanted, place: Path) -> tuple[str, ...]:
        changed = {
            "--listen-client-urls": etcd.client_url,
            "--listen-metrics-urls": f"http://127.0.0.1:{_metrics_port(place)}",
        }
        words = (word.partition("=") for word in command(etcd, place))
        return tuple(f"{a}{b}{changed.get(a, c)}" for a, b, c in words)

    monkeypatch_setattr(module, "etcd_command", apart)
    monkeypatch_setattr(plan_keys, "SETTLE_SECONDS", 0)


_PORTS: dict[Path, int] = {}


def _metrics_port(place: Path) -> int:
    return _PORTS.setdefault(place, free_port())
