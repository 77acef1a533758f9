"""`dtr remove`: one replica after the other leaves.

Invariants: no data is deleted on a node before the cluster has acknowledged without it: it no
longer acknowledges commits, those that stay have every commit and enough copies of every blob, and
one of them is primary. Until then a failure or a wish to stop puts the replica back. At every
moment a majority of the replicas that count acknowledges each commit; and while more than a
majority of them lives, any one may die and writes go on.
"""

from typing import Final

from pydantic import JsonValue

from dtr.cluster.model import Replica, ReplicaPhase, StorageReport
from dtr.cluster.operations import REPLICATED
from dtr.cluster.plan_actions import (
    Act,
    AskSwitchover,
    Context,
    Done,
    Fail,
    Outcome,
    PutReplica,
    Script,
    Step,
    StepFunction,
    Wait,
    sequence,
)
from dtr.cluster.plan_checks import problem_of_existing, problem_of_others
from dtr.cluster.plan_majority import advice, summary
from dtr.cluster.plan_primary import successors
from dtr.cluster.plan_replica import (
    PRIMARY_SECONDS,
    acknowledges,
    caught_up,
    count_in,
    count_out,
    delete_data,
    forget,
    of,
)
from dtr.cluster.view import ClusterView, illness, is_streaming
from dtr.ucp.model import Operation

DRAIN_SECONDS: Final = 10.0
"""How long a balancer of the user's own has to see the health endpoint answer 503."""
_MOST_DRAIN_SECONDS: Final = 60.0
_MOST_SILENT_SECONDS: Final = 300.0
_CHECKING: Final = "checking the cluster"


def remove_script(operation: Operation) -> Script:
    """Return how replicas leave."""
    ids = replica_ids(operation)
    steps = [Step(_CHECKING, _check)]
    for replica_id in ids:
        steps += [
            Step(f"draining {replica_id}", of(replica_id, _drain)),
            Step(f"copying the blobs of {replica_id}", of(replica_id, _copy_blobs)),
            Step(f"moving the primary away from {replica_id}", of(replica_id, _move_primary)),
            Step(
                f"acknowledging without {replica_id}",
                sequence(of(replica_id, _noticed), of(replica_id, _count_out)),
            ),
            Step(f"catching up without {replica_id}", of(replica_id, caught_up)),
            Step(f"deleting {replica_id}", of(replica_id, delete_data)),
            Step(f"forgetting {replica_id}", of(replica_id, forget)),
        ]
    steps.append(Step("looking at what is left", _advise))
    return Script(
        steps=tuple(steps),
        cleanup=sequence(*(of(replica_id, _put_back) for replica_id in ids)),
        result=lambda context: _result(context, ids),
        why_not_cancelled=lambda context: _why_not(context, ids),
    )


def replica_ids(operation: Operation) -> tuple[str, ...]:
    """Return the replicas that an operation removes, in order."""
    found = operation.arguments.get("replica_ids")
    return tuple(str(each) for each in found) if isinstance(found, list) else ()


def problem_of_removal(context: Context) -> str:
    """Return why these replicas cannot be removed now; empty where they can."""
    view, ids = context.view, replica_ids(context.operation)
    unknown = [each for each in ids if view.replica(each) is None]
    if unknown:
        known = ", ".join(each.id for each in view.replicas) or "none"
        return f"There is no replica {', '.join(unknown)}. The replicas are: {known}."
    staying = tuple(each for each in view.replicas if each.id not in ids)
    if not any(each.is_counted for each in staying):
        return (
            "Nothing would be left: the last replica of a cluster is removed with dtr destroy "
            f"--replica-id {ids[-1]}, which deletes all that it has."
        )
    problem = problem_of_existing(context, staying=staying)
    if problem:
        return problem
    sick = problem_of_others(context, staying)
    if sick and not context.is_set("force"):
        return (
            f"Not every replica that stays is healthy: {sick}. Make them healthy, remove those "
            "first, or pass --force and risk to lose what only the removed ones have."
        )
    return ""


def _check(context: Context) -> Outcome:
    problem = problem_of_removal(context)
    return Fail(problem) if problem else Done()


def _drain(context: Context, replica: Replica) -> Outcome:
    """Have balancers leave it alone, while it still answers what comes."""
    view = context.view
    if view.is_unreachable(replica, context.now):
        return Done(f"{view.name_of(replica.node_id)} does not report")
    if replica.phase is not ReplicaPhase.DRAINING:
        return Act((PutReplica(replica.changed(phase=ReplicaPhase.DRAINING)),))
    report = view.report_of(replica)
    is_told = report is not None and report.phase is ReplicaPhase.DRAINING
    sending = [
        view.name_of(each.node_id)
        for each in view.balancers
        if _sends_to(view, each.node_id, replica.id, context.now)
    ]
    if is_told and not sending:
        return Done()
    if context.waited > _MOST_DRAIN_SECONDS:
        return Done("it or a balancer did not answer in time; connections may have been cut")
    return Wait(f"for the load balancer on {', '.join(sending)}" if sending else "for it to drain")


def _noticed(context: Context, replica: Replica) -> Outcome:
    """Wait until balancers that nobody can ask have had their time to see that it drains.

    Its blobs are copied and the primary moves meanwhile. After that it counts no longer, and the
    sooner it is gone the shorter those that stay are one fewer.
    """
    name = f"draining {replica.id}"
    drained = [each.ended_at for each in context.operation.phases if each.name == name]
    since = context.now - (drained[-1] or context.now) if drained else DRAIN_SECONDS
    if replica.phase is not ReplicaPhase.DRAINING or since >= DRAIN_SECONDS:
        return Done()
    return Wait("for balancers to notice that it drains")


def _sends_to(view: ClusterView, node_id: str, replica_id: str, now: float) -> bool:
    machine = view.machines.get(node_id)
    report = machine.balancer if machine and view.is_fresh(machine, now) else None
    return report is not None and report.pool.get(replica_id) == "UP"


def _copy_blobs(context: Context, replica: Replica) -> Outcome:
    """Wait until enough of those that stay have every blob; no limit while copies are made.

    A replica that is dead can give nothing: what it had is copied from others after its removal.
    Nor is anything waited for where the removal is forced.
    """
    view = context.view
    is_replicated = view.cluster is not None and view.cluster.storage == REPLICATED
    if not is_replicated or view.is_unreachable(replica, context.now):
        return Done()
    if replica.phase is not ReplicaPhase.DRAINING or context.is_set("force"):
        return Done()
    lacking, silent = 0, []
    for each in view.counted:
        if each.id == replica.id or illness(view, each, context.now):
            continue
        report = view.report_of(each)
        storage = report.storage if report else None
        if storage is None or not _counts_without(storage, each, replica):
            silent.append(each.id)
        else:
            lacking = max(lacking, storage.under_copied)
    if silent and context.waited > _MOST_SILENT_SECONDS:
        return Fail(
            f"Replica {', '.join(silent)} does not tell which blobs lack copies. See dtr status; "
            "--force removes without knowing."
        )
    if silent:
        return Wait(f"for {', '.join(silent)} to tell which blobs lack copies")
    return Wait(f"for copies of {lacking} blobs") if lacking else Done()


def _counts_without(storage: StorageReport, teller: Replica, leaving: Replica) -> bool:
    """Return whether a replica has counted copies since it was told that another one leaves."""
    return teller.id in storage.counted_replicas and leaving.id not in storage.counted_replicas


def _move_primary(context: Context, replica: Replica) -> Outcome:
    """Have another replica be the primary."""
    view = context.view
    leader = view.patroni.leader
    if leader and leader != replica.id:
        return Done()
    if context.waited > PRIMARY_SECONDS:
        return Fail(
            f"Another replica did not become the primary within {PRIMARY_SECONDS:.0f} s. See dtr "
            "status; if a majority is lost for ever, use dtr emergency-repair."
        )
    if not leader:
        return Wait("for a failover")
    able = successors(view, replica.id, context.now)
    if view.patroni.is_switching or not able:
        return Wait("for the primary to move" if able else "for a standby that has all")
    # Nobody is named. Should the primary die before it has handed over, Patroni would promote whom
    # is named without a look at who has more; unnamed, whoever has every commit takes over.
    return Act((AskSwitchover(leader, ""),), "the primary moves")


def _count_out(context: Context, replica: Replica) -> Outcome:
    """Count a replica no longer, once those that stay can acknowledge commits without it.

    Until then it acknowledges with them, and may become the primary again by a failover.
    """
    steps: tuple[StepFunction, ...] = (of(replica.id, count_out),)
    if replica.is_counted:
        steps = (of(replica.id, _move_primary), of(replica.id, _enough_stay), *steps)
    return sequence(*steps)(context)


def _enough_stay(context: Context, replica: Replica) -> Outcome:
    """Wait until a majority of those that stay acknowledges; one that gives nothing may go."""
    view = context.view
    if context.is_set("force") or not acknowledges(view, replica):
        return Done()
    staying = [each for each in view.counted if each.id != replica.id]
    able = [
        each
        for each in staying
        if acknowledges(view, each) and is_streaming(view, each, context.now)
    ]
    needed = len(staying) // 2 + 1
    if len(able) >= needed:
        return Done()
    if context.waited > PRIMARY_SECONDS:
        return Fail(
            f"Of the {len(staying)} replicas that stay, {len(able)} acknowledge commits, and "
            f"{needed} must. Make them healthy, or remove first those that are not."
        )
    return Wait(f"for {needed} of the {len(staying)} that stay to acknowledge commits")


def _put_back(context: Context, replica: Replica) -> Outcome:
    """Have a replica that was to leave serve and count again; one that is leaving goes on to."""
    if replica.phase is ReplicaPhase.LEAVING:
        finish: tuple[StepFunction, ...] = (of(replica.id, delete_data), of(replica.id, forget))
        return sequence(*finish)(context)
    if replica.phase is ReplicaPhase.DRAINING:
        return Act((PutReplica(replica.changed(phase=ReplicaPhase.SERVING)),))
    was_counted = any(
        phase.name == f"acknowledging without {replica.id}" for phase in context.operation.phases
    )
    return count_in(context, replica) if was_counted and not replica.is_counted else Done()


def _advise(context: Context) -> Outcome:
    return Done(warning=advice(len(context.view.counted)))


def _result(context: Context, ids: tuple[str, ...]) -> dict[str, JsonValue]:
    removed = [each for each in ids if context.view.replica(each) is None]
    return {"removed": [*removed], **summary(context.view)}


def _why_not(context: Context, ids: tuple[str, ...]) -> str:
    left = [each for each in context.view.replicas if each.id in ids]
    leaving = [each.id for each in left if each.phase is ReplicaPhase.LEAVING]
    has_begun = context.phase is not None and context.phase.name != _CHECKING
    if leaving:
        return f"the data of {leaving[0]} is being deleted"
    return "all of it is done" if has_begun and not left else ""
