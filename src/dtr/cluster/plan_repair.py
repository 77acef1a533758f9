"""`dtr emergency-repair`: a majority of the replicas is lost for ever, one is chosen to go on from.

It needs the control plane: with etcd's own majority lost, UCP has to be repaired first. Invariants:
it is refused while the cluster can still help itself; the lost replicas are locked out of etcd
before anything else changes, so that none that returns can become the primary; no data of a replica
that is there is deleted (one that has more than the chosen one is rewound by Patroni); data of lost
ones only when their machines return, after the chosen one accepts writes.
"""

from typing import Any, Final

from pydantic import JsonValue

from dtr.cluster.model import Replica, ReplicaPhase
from dtr.cluster.operations import ended, failing, noted
from dtr.cluster.plan_actions import (
    Act,
    Action,
    AddEtcdUser,
    AskSwitchover,
    Context,
    DeletePatroniMember,
    Done,
    Fail,
    ForgetLeader,
    Outcome,
    PatchPatroni,
    PutCluster,
    PutOperation,
    PutReplica,
    RemoveEtcdUser,
    Script,
    Step,
    Wait,
    sequence,
)
from dtr.cluster.plan_checks import clear_probes
from dtr.cluster.plan_majority import advice, patroni_values, summary, synchronous_nodes
from dtr.cluster.plan_replica import PRIMARY_SECONDS, delete_data, forget, of
from dtr.cluster.view import UNREACHABLE_SECONDS, illness
from dtr.ucp.model import Operation

_DROPPED: Final = "dropped"
_LOOK_SECONDS: Final = 6.0
"""In so many, a machine that is there reports three times."""


def repair_script(operation: Operation) -> Script:
    """Return how a cluster goes on from one replica."""
    chosen = str(operation.arguments.get("existing_replica_id", ""))
    return Script(
        steps=(
            Step("checking the cluster", lambda context: _check(context, chosen)),
            Step("dropping the lost replicas", lambda context: _drop(context, chosen)),
            Step("waiting for the primary", lambda context: _wait_for_primary(context, chosen)),
            Step("forgetting the lost replicas", _forget_dropped),
        ),
        cleanup=lambda _context: Done(),
        result=lambda context: {
            "replica_id": chosen,
            "removed": [*_dropped(context)],
            **summary(context.view),
        },
        why_not_cancelled=lambda context: (
            "the lost replicas are dropped already" if _dropped(context) else ""
        ),
    )


def problem_of_repair(context: Context, chosen: str) -> str:
    """Return why there is nothing to repair, or not from this replica; empty where there is."""
    view = context.view
    replica = view.replica(chosen)
    if view.cluster is None or replica is None:
        known = ", ".join(each.id for each in view.replicas) or "none"
        return f"There is no replica {chosen!r}. The replicas are: {known}."
    report = view.report_of(replica)
    if not view.is_fresh(view.machine_of(replica), context.now) or report is None:
        return f"Replica {chosen} does not report. Choose one whose machine is there."
    lost = _lost(context)
    if not lost:
        return (
            "The machines of all replicas report, or have not been silent for long enough. There "
            "is nothing to drop: see dtr status, and use dtr remove for single replicas."
        )
    primary = view.replica(view.patroni.leader)
    is_alive = primary is not None and not illness(view, primary, context.now)
    if is_alive and len(lost) * 2 < len(view.counted):
        return (
            f"Replica {view.patroni.leader} is the primary and a majority is there. Use dtr "
            f"remove --replica-ids {','.join(each.id for each in lost)} instead."
        )
    return ""


def _lost(context: Context) -> list[Replica]:
    view = context.view
    return [each for each in view.replicas if view.is_unreachable(each, context.now)]


def _check(context: Context, chosen: str) -> Outcome:
    other = next((each for each in context.view.operations if each.id == context.view.lock), None)
    if other is not None and other.id != context.operation.id:
        error = "An emergency repair has taken over. See what is left with dtr status."
        stopped = ended(failing(other, error, context.now), context.now, other.result)
        return Act((*clear_probes(context), PutOperation(stopped)))
    problem = problem_of_repair(context, chosen)
    if problem and _may_change(context):
        return Wait("for machines to report, or to be silent for long enough")
    return Fail(problem) if problem else Done()


def _may_change(context: Context) -> bool:
    """Return whether a machine that has just died may not be known to be dead yet."""
    view = context.view
    machines = [view.machine_of(each) for each in view.replicas]
    ages = [
        context.now - (machine.report.received_at if machine and machine.report else 0.0)
        for machine in machines
    ]
    if context.phase is None or context.waited < _LOOK_SECONDS:
        return True
    is_silent = any(age > _LOOK_SECONDS for age in ages)
    return is_silent and context.waited < UNREACHABLE_SECONDS + _LOOK_SECONDS


def _drop(context: Context, chosen: str) -> Outcome:
    """Lock the lost out, count the rest, and have Patroni begin anew from the chosen one."""
    view = context.view
    if _dropped(context) or view.cluster is None:
        return Done()
    lost = _lost(context)
    staying = [each for each in view.replicas if each not in lost and _may_stay(each, chosen)]
    count = len(staying)
    actions: list[Action] = [RemoveEtcdUser(each.id) for each in lost]
    actions += [AddEtcdUser(each.id) for each in staying]
    actions += [DeletePatroniMember(each.id) for each in lost]
    actions += [PutReplica(each.changed(is_counted=False)) for each in lost]
    actions += [
        PutReplica(each.changed(phase=ReplicaPhase.SERVING, is_counted=True)) for each in staying
    ]
    counting: Any = view.cluster.changed(
        synchronous_node_count=synchronous_nodes(count),
        members_revision=view.cluster.members_revision + 1,
    )
    dropped: list[JsonValue] = [each.id for each in lost]
    note = noted(context.operation, context.now, **{_DROPPED: dropped})
    if view.patroni.config is not None:
        actions.append(PatchPatroni(patroni_values(count)))
    actions += [
        PutCluster(counting),
        ForgetLeader(),
        AskSwitchover("", chosen),
        PutOperation(note),
    ]
    return Act(tuple(actions))


def _may_stay(replica: Replica, chosen: str) -> bool:
    """Return whether a replica that is there counts from now on; one that was leaving goes on."""
    return replica.id == chosen or (
        replica.is_counted and replica.phase is not ReplicaPhase.LEAVING
    )


def _wait_for_primary(context: Context, chosen: str) -> Outcome:
    view = context.view
    replica = view.replica(chosen)
    if replica is None:
        return Fail("The chosen replica's record is gone. See dtr status.")
    if view.patroni.leader == chosen and not illness(view, replica, context.now):
        return Done()
    if context.waited > PRIMARY_SECONDS:
        return Fail(
            f"Replica {chosen} did not become the primary within {PRIMARY_SECONDS:.0f} s. See its "
            "Patroni's log, repair from another replica, or restore a backup."
        )
    is_switching = view.patroni.is_switching
    if not view.patroni.leader and not is_switching:
        return Act((AskSwitchover("", chosen),))
    return Wait(f"for {chosen} to accept writes")


def _forget_dropped(context: Context) -> Outcome:
    steps = [of(each, step) for each in _dropped(context) for step in (delete_data, forget)]
    outcome = sequence(*steps)(context) if steps else Done()
    if isinstance(outcome, Done):
        return Done(warning=advice(len(context.view.counted)))
    return outcome


def _dropped(context: Context) -> list[str]:
    found: JsonValue = context.operation.result.get(_DROPPED)
    return [str(each) for each in found] if isinstance(found, list) else []
