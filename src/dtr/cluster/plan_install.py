"""`dtr install` and `dtr destroy`: the first replica, and the last."""

from dtr.cluster.model import DtrCluster, Replica, ReplicaPhase, WebCertificate
from dtr.cluster.operations import REPLICATED
from dtr.cluster.plan_actions import (
    Act,
    Action,
    Context,
    DeleteCertificate,
    DeleteCluster,
    Done,
    Fail,
    Outcome,
    PutCluster,
    PutWebKey,
    Script,
    Step,
    Wait,
    sequence,
)
from dtr.cluster.plan_checks import (
    clear_probes,
    find_node,
    probe_new_node,
    problem_of_new_replica,
    remains,
    wait_for_new_node,
    wanted_ports,
)
from dtr.cluster.plan_majority import summary
from dtr.cluster.plan_replica import (
    GONE,
    begin_database,
    count_in,
    credentials,
    delete_data,
    drop_password,
    forget,
    made_here,
    of,
    serve,
    wait_for_database,
)
from dtr.ucp.model import Operation

_REMAINS_SECONDS = 60.0


def install_script(operation: Operation) -> Script:
    """Return how the first replica comes up; nothing is left where it fails."""
    replica_id = str(operation.arguments.get("replica_id", ""))
    return Script(
        steps=(
            Step("checking the node", _check),
            Step("testing the ports", test_ports),
            Step("making credentials", credentials),
            Step("recording the replica", _record),
            Step("starting the database", of(replica_id, wait_for_database, gone=GONE)),
            Step("starting the registry", of(replica_id, serve, gone=GONE)),
            Step("counting the replica", of(replica_id, count_in, gone=GONE)),
        ),
        cleanup=sequence(
            _clear,
            made_here(replica_id, delete_data),
            made_here(replica_id, forget),
            drop_password(replica_id),
            _delete_own_cluster,
        ),
        result=lambda context: {
            "replica_id": replica_id,
            "node": context.view.name_of(_node_id(context, replica_id)),
            **summary(context.view),
        },
        why_not_cancelled=lambda context: _is_counted(context, replica_id),
    )


def destroy_script(operation: Operation) -> Script:
    """Return how the last replica goes, and the cluster with it."""
    replica_id = str(operation.arguments.get("replica_id", ""))

    def last(context: Context) -> Outcome:
        problem = _problem_of_destroying(context, replica_id)
        return Fail(problem) if problem else Done()

    def end(context: Context) -> Outcome:
        found = context.view.replicas
        return delete_data(context, found[0]) if found else Done()

    def forget_all(context: Context) -> Outcome:
        found = context.view.replicas
        return forget(context, found[0]) if found else _delete_cluster(context)

    return Script(
        steps=(
            Step("checking the cluster", last),
            Step("deleting the replica", end),
            Step("forgetting the cluster", forget_all),
        ),
        cleanup=_clear,
        result=lambda _context: {"replica_id": replica_id, "replicas": 0},
        why_not_cancelled=lambda context: (
            "the replica's data is being deleted"
            if context.phase and context.phase.name != "checking the cluster"
            else ""
        ),
    )


def test_ports(context: Context) -> Outcome:
    """See that the ports of a new replica are free on its node."""
    machine = find_node(context)
    if isinstance(machine, str):
        return Fail(machine)
    outcome = probe_new_node(context, machine, wanted_ports(context), ())
    return Done(actions=clear_probes(context)) if isinstance(outcome, Done) else outcome


def wait_for_remains(context: Context) -> Outcome:
    """Wait until a node has deleted what it had of a former replica."""
    machine = find_node(context)
    if isinstance(machine, str):
        return Fail(machine)
    what = remains(context, machine)
    if not what:
        return Done()
    if context.waited > _REMAINS_SECONDS:
        return Fail(f"Waited {_REMAINS_SECONDS:.0f} s for {what}. See the agent's log there.")
    return Wait(f"for {what}")


def take_certificate(context: Context) -> tuple[WebCertificate | None, str]:
    """Return the web certificate that was brought for the operation, and what is wrong with it."""
    certificate_id = context.text("certificate_id")
    if not certificate_id:
        return None, ""
    found = context.view.certificates.get(certificate_id)
    if found is None:
        return None, "The web certificate that was brought is gone. Give the command again."
    return found, ""


def _check(context: Context) -> Outcome:
    view = context.view
    if view.cluster is not None:
        known = ", ".join(each.id for each in view.replicas) or "none"
        return Fail(
            f"DTR is installed already; its replicas are: {known}. "
            "Add a replica with dtr join, or remove all with dtr destroy."
        )
    machine = find_node(context)
    if isinstance(machine, str):
        return wait_for_new_node(context) or Fail(machine)
    problem = problem_of_new_replica(context, machine) or take_certificate(context)[1]
    return Fail(problem) if problem else wait_for_remains(context)


def _record(context: Context) -> Outcome:
    """Write the cluster and its first replica at once."""
    view, replica_id = context.view, context.text("replica_id")
    if view.replica(replica_id) is not None:
        return Done()
    machine = find_node(context)
    certificate, problem = take_certificate(context)
    if isinstance(machine, str) or problem:
        return Fail(problem or str(machine))
    replica = Replica(
        id=replica_id,
        node_id=machine.node.id,
        phase=ReplicaPhase.DATABASE,
        https_port=context.number("https_port"),
        http_port=context.number("http_port"),
        created_at=context.now,
        settings_revision=1,
        operation_id=context.operation.id,
    )
    actions: tuple[Action, ...] = (PutCluster(_cluster(context, certificate)),)
    if certificate is not None:
        actions += (PutWebKey(certificate.key), DeleteCertificate(certificate.id))
    return Act((*begin_database(replica), *actions))


def _cluster(context: Context, certificate: WebCertificate | None) -> DtrCluster:
    settings = context.operation.arguments.get("settings")
    return DtrCluster.model_validate(
        {
            "id": context.operation.id,
            "storage": context.text("storage") or REPLICATED,
            "is_storage_shared": context.is_set("is_storage_shared"),
            "settings": settings or {},
            "external_url": context.text("external_url"),
            "web_certificate": certificate.certificate if certificate else "",
            "settings_revision": 1,
            "version": context.view.version,
            "first_administrator": context.operation.created_by,
            "created_at": context.now,
        }
    )


def _problem_of_destroying(context: Context, replica_id: str) -> str:
    view = context.view
    others = [each.id for each in view.replicas if each.id != replica_id]
    if view.cluster is None:
        return "DTR is not installed: there is nothing to destroy."
    if len(view.replicas) > 1:
        return (
            f"The cluster has other replicas: {', '.join(others)}. To destroy one without telling "
            f"them would leave a ghost: use dtr remove --replica-ids {replica_id}."
        )
    if others or (view.replicas and not replica_id):
        return f"There is no replica {replica_id!r}. The last replica is {view.replicas[0].id}."
    return ""


def _delete_cluster(context: Context) -> Outcome:
    """Forget the cluster once it has no replica."""
    view = context.view
    if view.replicas or (view.cluster is None and view.secrets is None):
        return Done()
    return Act((DeleteCluster(),))


def _delete_own_cluster(context: Context) -> Outcome:
    """Forget the cluster that this operation has made, or the secrets for one; no other."""
    cluster = context.view.cluster
    is_other = cluster is not None and cluster.id != context.operation.id
    return Done() if is_other else _delete_cluster(context)


def _clear(context: Context) -> Outcome:
    probes = clear_probes(context)
    return Act(probes) if probes else Done()


def _node_id(context: Context, replica_id: str) -> str:
    replica = context.view.replica(replica_id)
    return replica.node_id if replica else ""


def _is_counted(context: Context, replica_id: str) -> str:
    replica = context.view.replica(replica_id)
    return "the replica counts already" if replica and replica.is_counted else ""
