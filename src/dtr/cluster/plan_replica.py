"""Steps that several operations share: how one replica comes up, begins to count, and leaves."""

from collections.abc import Callable
from typing import Final

from dtr.cluster.model import DtrCluster, Replica, ReplicaPhase
from dtr.cluster.operations import noted
from dtr.cluster.plan_actions import (
    Act,
    Action,
    AddEtcdUser,
    Context,
    DeletePatroniMember,
    DeleteReplica,
    Done,
    Fail,
    MakeSecrets,
    Outcome,
    PatchPatroni,
    PutCluster,
    PutOperation,
    PutReplica,
    RemoveEtcdUser,
    StepFunction,
    Wait,
)
from dtr.cluster.plan_majority import is_configured, patroni_values, synchronous_nodes
from dtr.cluster.view import ClusterView, illness, is_streaming

PRIMARY_SECONDS: Final = 120.0
"""How long a step waits for a primary: several times what a failover takes (`engines.md` 3.1)."""
DATABASE_SECONDS: Final = 300.0
REGISTRY_SECONDS: Final = 300.0
_COPYING: Final = "creating replica"
_DELETE_SECONDS: Final = 300.0
_CAUGHT_UP_SECONDS: Final = 600.0
_SINCE: Final = "not_acknowledging_since"
_POSITION: Final = "acknowledged_position"
_CLOCKS_DIFFER_SECONDS: Final = 2.0

ReplicaStep = Callable[[Context, Replica], Outcome]

GONE: Final = Fail("The replica's record is gone: somebody else removed it. See dtr status.")


def credentials(context: Context) -> Outcome:
    """Have the passwords that a new replica needs; etcd's user is added with its record."""
    view, replica_id = context.view, context.text("replica_id")
    if view.secrets is None or replica_id not in view.secrets.etcd_passwords:
        return Act((MakeSecrets(replica_id, context.operation.created_by),))
    return Done()


def begin_database(replica: Replica) -> tuple[Action, ...]:
    """Return what starts a replica's database: its etcd user comes first."""
    return (AddEtcdUser(replica.id), PutReplica(replica))


def wait_for_database(context: Context, replica: Replica) -> Outcome:
    """Wait until the replica's database is the primary, or streams from it."""
    view = context.view
    if is_streaming(view, replica, context.now):
        return Done()
    name = view.name_of(replica.node_id)
    if view.is_unreachable(replica, context.now):
        return Fail(f"The node {name} no longer reports. See that it and its agent run.")
    report = view.report_of(replica)
    if report and report.database.state == _COPYING:
        return Wait("for the database to be copied")
    if context.waited > DATABASE_SECONDS:
        return Fail(
            f"The database on {name} is not there after {DATABASE_SECONDS:.0f} s: "
            f"{_state(view, replica)}. See the log of Patroni on {name}."
        )
    return Wait(f"for the database on {name}: {_state(view, replica)}")


def serve(context: Context, replica: Replica) -> Outcome:
    """Start the registry and wait until it is healthy."""
    view = context.view
    if replica.phase is not ReplicaPhase.SERVING:
        return Act((PutReplica(replica.changed(phase=ReplicaPhase.SERVING)),))
    name, report = view.name_of(replica.node_id), view.report_of(replica)
    why = illness(view, replica, context.now)
    if not why and report is not None and report.phase is ReplicaPhase.SERVING:
        return Done()
    if view.is_unreachable(replica, context.now):
        return Fail(f"The node {name} no longer reports. See that it and its agent run.")
    if context.waited > REGISTRY_SECONDS:
        return Fail(
            f"The registry on {name} is not healthy after {REGISTRY_SECONDS:.0f} s: {why}. "
            f"See its log on {name}."
        )
    return Wait(f"for the registry on {name}" + (f": {why}" if why else ""))


def count_in(context: Context, replica: Replica) -> Outcome:
    """Have commits acknowledged by a majority with the new replica, and count it.

    First more acknowledgements are asked of those that count, then the new one may give them, so
    that at no moment a majority of what is counted lacks a commit. (With the second replica there
    is a moment in which one of two has it: two tolerate no loss, and nobody is told otherwise
    before the step ends.)
    """
    view = context.view
    if view.cluster is None:
        return GONE
    count = len({*(each.id for each in view.counted), replica.id})
    if view.patroni.config is None:
        return _or_fail(context, "for Patroni's configuration", PRIMARY_SECONDS)
    if not is_configured(view.patroni.config, count):
        return Act((PatchPatroni(patroni_values(count)),))
    if not replica.is_counted:
        return Act(
            (
                PutReplica(replica.changed(is_counted=True)),
                PutCluster(_counting(view.cluster, count)),
            )
        )
    is_late = context.waited > PRIMARY_SECONDS
    if not acknowledges(view, replica) and not is_late:
        return Wait("for the replica to acknowledge commits")
    late = f"Replica {replica.id} does not acknowledge commits yet; dtr status shows when it does."
    return Done(warning=late if is_late else "")


def acknowledges(view: ClusterView, replica: Replica) -> bool:
    """Return whether a replica is the primary or one of the standbys that acknowledge commits."""
    return bool(view.patroni.leader) and (
        view.patroni.leader == replica.id or replica.id in view.patroni.voters
    )


def count_out(context: Context, replica: Replica) -> Outcome:
    """Have commits acknowledged without a replica, and count it no longer.

    It stops to acknowledge before fewer acknowledgements are asked for. Done when no commit since
    relies on it; what others lack of those before is waited for by `caught_up`.
    """
    view = context.view
    rest = [each for each in view.counted if each.id != replica.id]
    if replica.is_counted and view.cluster is not None:
        cluster = _counting(view.cluster, len(rest))
        return Act((PutReplica(replica.changed(is_counted=False)), PutCluster(cluster)))
    if not rest or view.cluster is None:
        return Done()
    if not view.patroni.leader or _is_relied_on(context, replica):
        what = f"for a primary whose commits do not rely on {replica.id}"
        return _or_fail(context, what, PRIMARY_SECONDS)
    if not is_configured(view.patroni.config, len(rest)):
        return Act((PatchPatroni(patroni_values(len(rest))),))
    return Done()


def caught_up(context: Context, replica: Replica) -> Outcome:
    """Wait until those that stay have every commit that the leaving replica may have acknowledged.

    When the replica has ceased to acknowledge is noted, then where the primary was at a later time;
    every standby that acknowledges commits must come that far.
    """
    view = context.view
    primary = view.replica(view.patroni.leader)
    if view.cluster is None or not view.counted:
        return Done()
    if primary is None or primary.id == replica.id:
        return _or_fail(context, "for a primary")
    since = context.operation.result.get(f"{_SINCE}-{replica.id}")
    if not isinstance(since, float):
        return _note(context, f"{_SINCE}-{replica.id}", context.now)
    position = context.operation.result.get(f"{_POSITION}-{replica.id}")
    if not isinstance(position, int):
        return _note_position(context, replica, primary, since)
    voters = (each for each in view.counted if each.id in view.patroni.voters)
    behind = [each.id for each in voters if _position(view, each) < position]
    what = f"for {', '.join(behind)} to have every commit"
    return _or_fail(context, what) if behind else Done()


def delete_data(context: Context, replica: Replica) -> Outcome:
    """End what runs on the replica's node and delete its data; a node that is gone is left.

    Whatever happens, its node is told to delete when it returns.
    """
    view = context.view
    if replica.phase is not ReplicaPhase.LEAVING:
        return Act((PutReplica(replica.changed(phase=ReplicaPhase.LEAVING, is_counted=False)),))
    machine, report = view.machine_of(replica), view.report_of(replica)
    if report and report.is_data_deleted and report.phase is ReplicaPhase.LEAVING:
        return Done()
    name = view.name_of(replica.node_id)
    if view.is_unreachable(replica, context.now):
        later = "its data is deleted when it returns" if machine else "delete its data by hand"
        return Done(
            message=f"{name} does not report: {later}",
            warning=f"The node {name} did not report, so that replica {replica.id} was removed "
            f"without it; {later}.",
        )
    if context.waited > _DELETE_SECONDS:
        return Done(
            warning=f"The node {name} has not deleted the data of replica {replica.id} yet; "
            f"it goes on trying. See the problems of {name} in dtr status.",
        )
    return Wait(f"for {name} to delete the replica's data")


def forget(context: Context, replica: Replica) -> Outcome:
    """Revoke the replica's credentials and delete all records of it."""
    view = context.view
    actions: tuple[Action, ...] = (
        RemoveEtcdUser(replica.id),
        DeletePatroniMember(replica.id),
        DeleteReplica(replica.id),
    )
    if view.cluster is not None:
        former = (*view.cluster.former_replicas, replica.id)
        actions += (PutCluster(view.cluster.changed(former_replicas=former)),)
    return Act(actions)


def drop_password(replica_id: str) -> StepFunction:
    """Drop the password and etcd user of a replica that never got a record."""

    def run(context: Context) -> Outcome:
        view = context.view
        is_known = view.secrets is not None and replica_id in view.secrets.etcd_passwords
        if is_known and view.replica(replica_id) is None:
            return Act((RemoveEtcdUser(replica_id), DeleteReplica(replica_id)))
        return Done()

    return run


def of(replica_id: str, step: ReplicaStep, *, gone: Outcome | None = None) -> StepFunction:
    """Return the step for one replica; without a record of it nothing is left to do, or `gone`."""

    def run(context: Context) -> Outcome:
        replica = context.view.replica(replica_id)
        return step(context, replica) if replica is not None else gone or Done()

    return run


def made_here(replica_id: str, step: ReplicaStep) -> StepFunction:
    """Return the step for a replica that this operation has made, and for no other.

    An operation that was refused because there is such a replica must not undo that one.
    """

    def run(context: Context) -> Outcome:
        replica = context.view.replica(replica_id)
        is_ours = replica is not None and replica.operation_id == context.operation.id
        return step(context, replica) if replica is not None and is_ours else Done()

    return run


def _counting(cluster: DtrCluster, count: int) -> DtrCluster:
    changed: DtrCluster = cluster.changed(
        synchronous_node_count=synchronous_nodes(count),
        members_revision=cluster.members_revision + 1,
    )
    return changed


def _position(view: ClusterView, replica: Replica) -> int:
    report, member = view.report_of(replica), view.patroni.members.get(replica.id)
    told = report.database.wal_position if report else 0
    return max(told, member.wal_position if member else 0)


def _state(view: ClusterView, replica: Replica) -> str:
    report = view.report_of(replica)
    if report is None:
        return "the agent has not begun"
    problem = report.problems[0] if report.problems else ""
    return problem or f"it is {report.database.state}"


def _note_position(context: Context, replica: Replica, primary: Replica, since: float) -> Outcome:
    """Note how far the primary was, once it has told so after a moment."""
    machine, report = context.view.machine_of(primary), context.view.report_of(primary)
    told_at = machine.report.received_at if machine and machine.report else 0.0
    is_later = told_at > since + _CLOCKS_DIFFER_SECONDS
    if report is None or not is_later or not report.database.wal_position:
        return _or_fail(context, "for the primary's position")
    return _note(context, f"{_POSITION}-{replica.id}", report.database.wal_position)


def _note(context: Context, name: str, value: float) -> Act:
    return Act((PutOperation(noted(context.operation, context.now, **{name: value})),))


def _is_relied_on(context: Context, replica: Replica) -> bool:
    """Return whether commits may still be acknowledged by a replica.

    One that neither UCP nor Patroni hears of is not: Patroni takes acknowledgements only of those
    whose key is in etcd. Its name may stay among the voters where it was the last of them.
    """
    patroni = context.view.patroni
    is_dead = (
        context.view.is_unreachable(replica, context.now) and replica.id not in patroni.members
    )
    return patroni.leader == replica.id or (replica.id in patroni.voters and not is_dead)


def _or_fail(context: Context, what: str, seconds: float = _CAUGHT_UP_SECONDS) -> Outcome:
    if context.waited > seconds:
        return Fail(f"Waited {seconds:.0f} s {what}, in vain. See dtr status, and try again.")
    return Wait(what)
