"""How the control plane is: for `ucp status`, with what to do about what is wrong."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from pydantic import JsonValue

from dtr import __version__
from dtr.ucp import keys
from dtr.ucp.api import Access, ApiError, ApiRequest, ApiRoute
from dtr.ucp.authority import expires_at
from dtr.ucp.controller.machines import Machine, Machines, read_machines
from dtr.ucp.etcd import EtcdMember
from dtr.ucp.etcd.component import QUOTA_BYTES
from dtr.ucp.etcd.members import EtcdStatus
from dtr.ucp.etcd.releases import FAULTS, Fault, faults_of
from dtr.ucp.keyring import Keyring, Stage
from dtr.ucp.leading import leader_of
from dtr.ucp.model import ClusterRecord, ManagerPhase, ProcessState
from dtr.ucp.store import Store
from dtr.ucp.wanted import client_url

_DAY: Final = 86_400.0
_EXPIRES_SOON: Final = 14 * _DAY
_AUTHORITY_EXPIRES_SOON: Final = 365 * _DAY
_MOST_SKEW_SECONDS: Final = 2.0
_LEAST_FREE_SHARE: Final = 0.05
_MOST_USED_SHARE: Final = 0.6
_MAX_PROBLEMS: Final = 200
_SLOW_KEYS_SECONDS: Final = 1800.0


class Members(Protocol):
    """etcd's own view of its members."""

    async def list(self) -> Sequence[EtcdMember]:
        """Return all members."""
        ...

    async def status(self, client_url: str) -> EtcdStatus | None:
        """Return what one says of itself; None where it does not answer."""
        ...


@dataclass(frozen=True, slots=True)
class Voter:
    """A manager's member of etcd, as it answers now."""

    machine: Machine
    status: EtcdStatus | None


@dataclass(frozen=True, slots=True)
class View:
    """All that the status is made from."""

    cluster: ClusterRecord
    machines: Machines
    voters: tuple[Voter, ...]
    leader: str
    """The id of the node whose controller leads; empty where none does."""
    keyring: Keyring | None = None
    """Without the authorities' keys it would do as well: nothing of them is shown."""


class StatusRoutes:
    """The route of `ucp status`."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def routes(self) -> list[ApiRoute]:
        """Return the route."""
        return [ApiRoute("GET", "/status", Access.ADMINISTRATOR, self.status)]

    async def status(self, request: ApiRequest) -> JsonValue:
        """Return how everything is."""
        return shown(await self._look(request.store), request.now)

    async def _look(self, store: Store) -> View:
        cluster = await store.get(keys.CLUSTER)
        if cluster is None:
            raise ApiError(503, "UNAVAILABLE", "The control plane is not set up yet. Try again.")
        machines = await read_machines(store)
        managers = [machine for machine in machines.all if machine.manager is not None]
        statuses = await asyncio.gather(
            *(self._members.status(client_url(machine.node)) for machine in managers)
        )
        leader = await leader_of(store)
        keyring = await store.get(keys.KEYRING)
        return View(
            cluster.document(ClusterRecord),
            machines,
            tuple(map(Voter, managers, statuses)),
            leader.node_id if leader else "",
            keyring.document(Keyring) if keyring else None,
        )


def shown(view: View, now: float) -> dict[str, JsonValue]:
    """Return the status as it is sent."""
    voters = [voter for voter in view.voters if voter.machine.is_voter]
    answering = [voter for voter in voters if voter.status is not None]
    names = {machine.node.id: machine.node.name for machine in view.machines.all}
    return {
        "cluster_id": view.cluster.id,
        "version": __version__,
        "authority_expires_at": expires_at(view.cluster.ca_certificate),
        "leader": names.get(view.leader, view.leader),
        "failures_tolerated": failures_tolerated(len(voters), len(answering)),
        "managers": [_shown_voter(voter) for voter in view.voters],
        "nodes": [machine.shown(now) for machine in view.machines.all],
        "keys": view.keyring.stage if view.keyring else "none",
        "etcd_faults": [
            {"name": fault.name, "consequence": fault.consequence}
            for fault in _faults([voter.status for voter in answering if voter.status])
        ],
        "problems": list(problems(view, now)[:_MAX_PROBLEMS]),
    }


def _faults(statuses: Sequence[EtcdStatus]) -> list[Fault]:
    """Return the known holes of the releases that run, each once."""
    found = [fault for status in statuses for fault in faults_of(status.version)]
    return [fault for fault in FAULTS if fault in found]


def failures_tolerated(voters: int, answering: int) -> int:
    """Return how many more managers may be lost before etcd has no majority.

    >>> [failures_tolerated(voters, voters) for voters in (1, 2, 3, 4, 5)], failures_tolerated(3, 2)
    ([0, 0, 1, 1, 2], 0)
    """
    return max(0, answering - (voters // 2 + 1))


def problems(view: View, now: float) -> list[str]:
    """Return what an operator should know, each with what to do, the worst first."""
    voters = [voter for voter in view.voters if voter.machine.is_voter]
    found = [
        f"etcd on {voter.machine.node.name} does not answer. Start that machine, or look at its "
        f"log; if it is gone for good, {_removal(voter.machine)}."
        for voter in voters
        if voter.status is None
    ]
    found += [
        f"etcd on {voter.machine.node.name} does not answer yet, which becomes a manager. If that "
        "stays, look at its log there."
        for voter in view.voters
        if voter.status is None and _is_learner(voter.machine)
    ]
    found += _problems_of_room([voter.status for voter in voters if voter.status is not None])
    if not view.leader:
        found.append(
            "No controller leads, so nothing can be changed. If that lasts longer than some "
            "seconds, see the controllers' logs."
        )
    if len(voters) == len(view.voters) == 2:  # noqa: PLR2004 - and no third is on its way
        found.append(
            "Two managers are worse than one: the loss of either stops the control plane. Join a "
            "third machine, or demote one."
        )
    for machine in view.machines.all:
        found += _problems_of(machine, now)
    if expires_at(view.cluster.ca_certificate) - now < _AUTHORITY_EXPIRES_SOON:
        found.append(
            "UCP's authority expires within a year. Plan a new installation of UCP before that."
        )
    if problem := _problem_of_keys(view.keyring, now):
        found.append(problem)
    return found


def _problem_of_keys(keyring: Keyring | None, now: float) -> str:
    if keyring is None:
        return (
            "Engines still use the certificates of their nodes, and every node's certificate is "
            "accepted at etcd's ports. That ends by itself once the agent of every node runs this "
            "version."
        )
    if keyring.stage is Stage.SETTLED or now - keyring.stage_since <= _SLOW_KEYS_SECONDS:
        return ""
    return (
        "The keys of engines cannot be renewed, and the old ones are still accepted. Start the "
        "managers that do not answer; the leading controller's log says what it waits for."
    )


def _problems_of_room(statuses: Sequence[EtcdStatus]) -> list[str]:
    used = max((status.used_bytes for status in statuses), default=0)
    found = []
    if any(status.full_members for status in statuses):
        found.append(
            "etcd is full and accepts no writes: nothing can be changed, and a failover waits. It "
            "frees space by itself within a minute or two, once all managers answer. If it stays "
            "full, something fills it: look for 'etcd's room' in the controllers' logs."
        )
    elif used > _MOST_USED_SHARE * QUOTA_BYTES:
        found.append(
            f"etcd uses {used // 2**20} of {QUOTA_BYTES // 2**20} MiB. See what else writes to it, "
            "before it is full and accepts no writes."
        )
    return found


def _removal(machine: Machine) -> str:
    first = ""
    if machine.services:
        what = " and ".join(sorted(machine.services))
        first = f"first its {what} ('dtr remove', 'dtr load-balancer remove'), then "
    return f"remove {first or 'it: '}ucp node rm {machine.node.name}"


def _problems_of(machine: Machine, now: float) -> list[str]:
    name, report = machine.node.name, machine.report
    if report is None:
        return [f"{name} has never reported. Start its agent: systemctl start ucp-agent."]
    if machine.state(now) == "down":
        seconds = now - report.received_at
        what = f"{name} has not reported for {_duration(seconds)}. Start that machine or its agent;"
        return [f"{what} if it is gone for good, {_removal(machine)}."]
    found = [f"{name}: {problem}" for problem in report.problems]
    found += [
        f"On {name} {each.name} ends again and again{_because(each.message)} See its log there."
        for each in report.processes
        if each.state is ProcessState.BACKING_OFF
    ]
    if 0 < report.certificate_expires_at < now + _EXPIRES_SOON:
        left = max(0.0, report.certificate_expires_at - now)
        found.append(
            f"The certificate of {name} ends in {_duration(left)} and was not renewed. Look at the "
            "log of its agent."
        )
    skew = report.at - report.received_at
    if abs(skew) > _MOST_SKEW_SECONDS:
        found.append(
            f"The clock of {name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}. Have "
            "all machines take the time from the same servers (chrony)."
        )
    if report.disk_free_bytes < report.disk_total_bytes * _LEAST_FREE_SHARE:
        found.append(
            f"The disk of {name} has {report.disk_free_bytes // 2**20} MiB free. Free some "
            "space, or install a larger disk."
        )
    return found


def _is_learner(machine: Machine) -> bool:
    return machine.manager is not None and machine.manager.phase is ManagerPhase.LEARNER


def _because(message: str) -> str:
    return f": {message.rstrip('.')}." if message else "."


def _shown_voter(voter: Voter) -> dict[str, JsonValue]:
    manager, status = voter.machine.manager, voter.status
    shown_voter: dict[str, JsonValue] = {
        "node": voter.machine.node.name,
        "controller": voter.machine.controller,
        "phase": str(manager.phase) if manager else "",
        "is_answering": status is not None,
    }
    if status is not None:
        shown_voter |= {
            "member_id": status.member_id,
            "is_leader": bool(status.leader_id) and status.leader_id == status.member_id,
            "etcd_version": status.version,
            "database_bytes": status.database_bytes,
            "used_bytes": status.used_bytes,
        }
    return shown_voter


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> _duration(75), _duration(7_300), _duration(200_000)
    ('75 s', '2 h', '2 days')
    """
    if seconds < 120:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} days"
