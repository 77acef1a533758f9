"""The cluster's decisions: what the leading controller does next, and why.

`decide` is a pure function of a view. Its invariants, which `tests/cluster_plan` checks after every
step of operations that are interrupted, repeated and raced:

- At most one membership change is under way: that of the operation that holds the lock.
- A commit is acknowledged by a majority of the counted replicas, and by those only. More
  acknowledgements are asked for before a replica counts; it stops to give any before it does not.
- No data is deleted on a node before the cluster has acknowledged without it.
- Everything may be repeated: a decision that was carried out finds nothing to do the next time.
- Every operation ends; what failed is undone, or its error says what is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from dtr.cluster import operations
from dtr.cluster.operations import running_phase
from dtr.cluster.plan_actions import (
    Act,
    Action,
    ClearProbe,
    Context,
    Decision,
    DeleteCertificate,
    DeleteReplica,
    Done,
    Fail,
    PatchPatroni,
    PutOperation,
    RemoveEtcdUser,
    Script,
    Step,
    Wait,
)
from dtr.cluster.plan_balancer import install_balancer_script, remove_balancer_script
from dtr.cluster.plan_install import destroy_script, install_script
from dtr.cluster.plan_join import join_script
from dtr.cluster.plan_majority import is_configured, patroni_values
from dtr.cluster.plan_primary import off_full_disk
from dtr.cluster.plan_reconfigure import reconfigure_script
from dtr.cluster.plan_remove import remove_script
from dtr.cluster.plan_repair import repair_script
from dtr.cluster.specifications import service_changes
from dtr.cluster.view import ClusterView
from dtr.ucp.model import Operation

CLEANING_UP: Final = "cleaning up"
_CANCELLED: Final = "It was cancelled. Run the command again to begin anew."
_CERTIFICATE_SECONDS: Final = 3600.0

SCRIPTS: Final[Mapping[str, Callable[[Operation], Script]]] = {
    operations.INSTALL: install_script,
    operations.JOIN: join_script,
    operations.REMOVE: remove_script,
    operations.DESTROY: destroy_script,
    operations.RECONFIGURE: reconfigure_script,
    operations.EMERGENCY_REPAIR: repair_script,
    operations.INSTALL_BALANCER: install_balancer_script,
    operations.REMOVE_BALANCER: remove_balancer_script,
}


def decide(view: ClusterView, now: float) -> Decision:
    """Return the next thing to do; nothing, where something has to be waited for."""
    changes = service_changes(view)
    if changes:
        return Decision(changes, "nodes are told what the records say")
    operation = current_operation(view)
    if operation is None:
        return _tend(view, now)
    return _drive(SCRIPTS[operation.kind](operation), view, operation, now)


def current_operation(view: ClusterView) -> Operation | None:
    """Return the operation that goes on: an emergency repair before any other."""
    ours = [each for each in view.operations if operations.is_ours(each.kind)]
    repairs = (each for each in ours if each.kind == operations.EMERGENCY_REPAIR)
    return next(repairs, None) or next((each for each in ours if each.id == view.lock), None)


def _drive(script: Script, view: ClusterView, operation: Operation, now: float) -> Decision:
    """Take an operation one step further."""
    context = Context(view, now, operation, running_phase(operation))
    if operation.error:
        return _clean_up(script, context)
    why_not = script.why_not_cancelled(context) if operation.is_cancelled else ""
    if operation.is_cancelled and not why_not:
        return _failing(context, _CANCELLED)
    late = f"It was to be cancelled, too late: {why_not}." if why_not else ""
    return _step(script, replace(context, operation=operations.warned(operation, late)))


def _step(script: Script, context: Context) -> Decision:
    """Run the step that an operation is in."""
    if context.phase is None:
        return _decision(context, (_entering(context, script.steps[0]),))
    names = [step.name for step in script.steps]
    if context.phase.name not in names:
        return _failing(
            context, "Another version of DTR began this operation. Run the command again."
        )
    index = names.index(context.phase.name)
    outcome = script.steps[index].run(context)
    if isinstance(outcome, Fail):
        return _failing(context, outcome.error)
    if not isinstance(outcome, Done):
        return _going_on(context, outcome)
    warned = operations.warned(context.operation, outcome.warning)
    said = replace(context, operation=operations.waiting(warned, outcome.message, context.now))
    is_last = index + 1 == len(script.steps)
    following = _ending(script, said) if is_last else _entering(said, script.steps[index + 1])
    return _decision(context, (*outcome.actions, following))


def _failing(context: Context, error: str) -> Decision:
    failed = operations.failing(context.operation, error, context.now)
    return _decision(context, (PutOperation(failed),))


def _clean_up(script: Script, context: Context) -> Decision:
    """Undo what a failed operation did; where that fails too, say so and end."""
    outcome = script.cleanup(context)
    operation, now = context.operation, context.now
    if isinstance(outcome, Done):
        said = replace(context, operation=operations.warned(operation, outcome.warning))
        return _decision(context, (*outcome.actions, _ending(script, said)))
    if isinstance(outcome, Fail):
        error = f"{operation.error} Cleaning up did not succeed either: {outcome.error}"
        said = replace(context, operation=operations.failing(operation, error, now))
        return _decision(context, (_ending(script, said),))
    if context.phase is None:
        return _decision(context, (_entering(context, Step(CLEANING_UP, script.cleanup)),))
    return _going_on(context, outcome)


def _going_on(context: Context, outcome: Act | Wait) -> Decision:
    """Stay in the phase: do what the step asks for, and say what it waits for."""
    actions = outcome.actions if isinstance(outcome, Act) else ()
    warning = outcome.warning if isinstance(outcome, Act) else ""
    if any(isinstance(each, PutOperation) for each in actions):
        return _decision(context, actions)
    operation = operations.warned(context.operation, warning)
    operation = operations.waiting(operation, outcome.message, context.now)
    if operation != context.operation:
        actions = (*actions, PutOperation(operation))
    return _decision(context, actions, outcome.message)


def _entering(context: Context, step: Step) -> PutOperation:
    return PutOperation(operations.entered(context.operation, step.name, context.now))


def _ending(script: Script, context: Context) -> PutOperation:
    result = script.result(context)
    warnings = context.operation.result.get(operations.WARNINGS)
    if warnings:
        result = {**result, operations.WARNINGS: warnings}
    return PutOperation(operations.ended(context.operation, context.now, result))


def _decision(context: Context, actions: tuple[Action, ...], message: str = "") -> Decision:
    name = context.phase.name if context.phase else "beginning"
    what = f"{context.operation.kind} {context.operation.id}: {name}"
    return Decision(actions, f"{what}, waiting {message}" if message else what)


def _tend(view: ClusterView, now: float) -> Decision:
    """Keep right what no operation is changing."""
    if any(each.id == view.lock for each in view.operations):
        return Decision((), "an operation of UCP's runs")
    return off_full_disk(view, now) or _tidy(view, now)


def _tidy(view: ClusterView, now: float) -> Decision:
    """Take away what nobody needs any more, and put right how Patroni is configured."""
    if view.probes:
        probes = tuple(ClearProbe(node_id) for node_id in sorted(view.probes))
        return Decision(probes, "network tests that nobody waits for are ended")
    known = {each.id for each in view.replicas}
    for replica_id in view.secrets.etcd_passwords if view.secrets else ():
        if replica_id not in known:
            actions = (RemoveEtcdUser(replica_id), DeleteReplica(replica_id))
            return Decision(actions, f"what is left of replica {replica_id} is locked out of etcd")
    for certificate in view.certificates.values():
        if now - certificate.created_at > _CERTIFICATE_SECONDS:
            return Decision(
                (DeleteCertificate(certificate.id),), "a certificate that nobody used is deleted"
            )
    count, config = len(view.counted), view.patroni.config
    if count and config is not None and not is_configured(config, count):
        return Decision(
            (PatchPatroni(patroni_values(count)),),
            f"Patroni is configured for {count} replicas",
        )
    return Decision((), f"{count} replicas, nothing to do")
