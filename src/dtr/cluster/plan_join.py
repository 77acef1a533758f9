"""`dtr join`: one more replica.

Invariants: nothing is touched before every check has passed; a replica acknowledges no commit, and
no balancer sends it anything, before it counts; a join that does not succeed removes what it made,
and no data that a commit relies on.
"""

from pydantic import JsonValue

from dtr.cluster.model import Replica, ReplicaPhase
from dtr.cluster.plan_actions import (
    Act,
    Context,
    Done,
    Fail,
    Outcome,
    PatchPatroni,
    Script,
    Step,
    sequence,
)
from dtr.cluster.plan_checks import (
    address,
    clear_probes,
    find_node,
    ports_of,
    probe_from_others,
    probe_new_node,
    problem_of_existing,
    problem_of_new_replica,
    problem_of_others,
    problem_of_storage,
    wait_for_new_node,
    wanted_ports,
)
from dtr.cluster.plan_install import test_ports, wait_for_remains
from dtr.cluster.plan_majority import advice, is_configured, patroni_values, summary
from dtr.cluster.plan_replica import (
    GONE,
    begin_database,
    caught_up,
    count_in,
    count_out,
    credentials,
    delete_data,
    drop_password,
    forget,
    made_here,
    of,
    serve,
    wait_for_database,
)
from dtr.cluster.view import Machine
from dtr.ucp.model import Operation

_CHECKING = "checking the cluster"


def join_script(operation: Operation) -> Script:
    """Return how a replica joins."""
    replica_id = str(operation.arguments.get("replica_id", ""))

    def result(context: Context) -> dict[str, JsonValue]:
        replica = context.view.replica(replica_id)
        return {
            "replica_id": replica_id,
            "node": context.view.name_of(replica.node_id) if replica else "",
            **summary(context.view),
        }

    return Script(
        steps=(
            Step(_CHECKING, _check),
            Step("testing the network", _test_network),
            Step("making credentials", credentials),
            Step("recording the replica", _record),
            Step("copying the database", of(replica_id, wait_for_database, gone=GONE)),
            Step("starting the registry", of(replica_id, serve, gone=GONE)),
            Step("counting the replica", sequence(of(replica_id, count_in, gone=GONE), _advise)),
        ),
        cleanup=sequence(
            _clear,
            made_here(replica_id, _undo),
            drop_password(replica_id),
            _restore_majority,
        ),
        result=result,
        why_not_cancelled=lambda context: _why_not(context, replica_id),
    )


def problem_of_join(context: Context) -> str:
    """Return why nothing can join now; empty where it can."""
    view = context.view
    if view.cluster is None:
        return "DTR is not installed yet. Start with dtr install."
    problem = problem_of_storage(view)
    if problem:
        return problem
    sick = problem_of_others(context, view.replicas)
    if sick and not context.is_set("unsafe_join"):
        return (
            f"Not every replica is healthy: {sick}. Make them healthy or remove them first (dtr "
            "remove); or pass --unsafe-join and risk to lose what only unhealthy ones have."
        )
    return problem_of_existing(context, staying=view.replicas)


def _check(context: Context) -> Outcome:
    problem = problem_of_join(context)
    machine = find_node(context)
    if problem:
        return Fail(problem)
    if isinstance(machine, str):
        return wait_for_new_node(context) or Fail(machine)
    problem = problem_of_new_replica(context, machine)
    return Fail(problem) if problem else wait_for_remains(context)


def _test_network(context: Context) -> Outcome:
    """See that ports are free, and that the nodes reach each other both ways."""
    if context.is_set("skip_network_test"):
        return test_ports(context)
    machine = find_node(context)
    if isinstance(machine, str):
        return Fail(machine)
    others = _others(context)
    reach = tuple(address(each, port) for each, replica in others for port in ports_of(replica))
    ports = wanted_ports(context)
    outcome = probe_new_node(context, machine, ports, reach)
    if isinstance(outcome, Done):
        targets = tuple(address(machine, port) for port in ports)
        outcome = probe_from_others(context, machine, tuple(each for each, _ in others), targets)
    return Done(actions=clear_probes(context)) if isinstance(outcome, Done) else outcome


def _others(context: Context) -> list[tuple[Machine, Replica]]:
    """Return the machines of replicas that can be asked, with those replicas."""
    view = context.view
    found = ((view.machine_of(replica), replica) for replica in view.replicas)
    return [
        (machine, replica)
        for machine, replica in found
        if machine is not None and view.is_fresh(machine, context.now)
    ]


def _record(context: Context) -> Outcome:
    view, replica_id = context.view, context.text("replica_id")
    if view.replica(replica_id) is not None:
        return Done()
    machine = find_node(context)
    problem = "" if isinstance(machine, str) else problem_of_new_replica(context, machine)
    if isinstance(machine, str) or problem or view.cluster is None:
        return Fail(problem or str(machine))
    replica = Replica(
        id=replica_id,
        node_id=machine.node.id,
        phase=ReplicaPhase.DATABASE,
        https_port=context.number("https_port"),
        http_port=context.number("http_port"),
        created_at=context.now,
        settings_revision=view.cluster.settings_revision,
        operation_id=context.operation.id,
    )
    return Act(begin_database(replica))


def _advise(context: Context) -> Outcome:
    return Done(warning=advice(len(context.view.counted)))


def _undo(context: Context, replica: Replica) -> Outcome:
    """Take a replica out that has not come in: as a removal, where commits may rely on it."""
    is_relied_on = replica.is_counted or replica.id in context.view.patroni.voters
    steps = [delete_data, forget]
    if replica.phase is not ReplicaPhase.LEAVING and is_relied_on:
        steps = [count_out, caught_up, *steps]
    return sequence(*(of(replica.id, step) for step in steps))(context)


def _restore_majority(context: Context) -> Outcome:
    """Ask for no more acknowledgements than those that are left can give."""
    view = context.view
    count = len(view.counted)
    if not count or view.patroni.config is None or is_configured(view.patroni.config, count):
        return Done()
    return Act((PatchPatroni(patroni_values(count)),))


def _clear(context: Context) -> Outcome:
    probes = clear_probes(context)
    return Act(probes) if probes else Done()


def _why_not(context: Context, replica_id: str) -> str:
    replica = context.view.replica(replica_id)
    if replica is not None and replica.is_counted:
        return f"the replica counts already; remove it with dtr remove --replica-ids {replica_id}"
    return ""
