"""`dtr load-balancer install` and `remove`."""

from typing import Final

from dtr.cluster.model import Balancer
from dtr.cluster.plan_actions import (
    Act,
    Context,
    DeleteBalancer,
    Done,
    Fail,
    Outcome,
    PutBalancer,
    Script,
    Step,
    Wait,
    sequence,
)
from dtr.cluster.plan_checks import clear_probes, find_node, probe_new_node, wait_for_new_node
from dtr.ucp.model import Operation

_READY_SECONDS: Final = 60.0


def install_balancer_script(_operation: Operation) -> Script:
    """Return how a balancer comes up."""
    return Script(
        steps=(
            Step("checking the node", _check),
            Step("testing the ports", _test_ports),
            Step("starting the load balancer", _start),
        ),
        cleanup=sequence(_clear, _end),
        result=lambda context: {
            "node": context.text("node"),
            "pool": [each.id for each in context.view.counted],
        },
    )


def remove_balancer_script(_operation: Operation) -> Script:
    """Return how a balancer goes."""
    return Script(
        steps=(
            Step("checking the node", _check_present),
            Step("ending the load balancer", _end),
        ),
        cleanup=lambda _context: Done(),
        result=lambda context: {"node": context.text("node")},
    )


def _check(context: Context) -> Outcome:
    view = context.view
    if view.cluster is None:
        return Fail("DTR is not installed yet. Start with dtr install.")
    machine = find_node(context)
    if isinstance(machine, str):
        return wait_for_new_node(context) or Fail(machine)
    node = machine.node
    if view.balancer_on(node.id) is not None:
        return Fail(f"The node {node.name} has a load balancer already.")
    replica = view.replica_on(node.id)
    wanted = {context.number("https_port"), context.number("http_port")}
    if replica is not None and wanted & {replica.https_port, replica.http_port}:
        return Fail(
            f"The replica on {node.name} has a port that the load balancer would need. "
            "Choose another node, or other ports: --https-port, --http-port."
        )
    return Done()


def _test_ports(context: Context) -> Outcome:
    machine = find_node(context)
    if isinstance(machine, str):
        return Fail(machine)
    ports = (context.number("https_port"), context.number("http_port"))
    outcome = probe_new_node(context, machine, ports, ())
    return Done(actions=clear_probes(context)) if isinstance(outcome, Done) else outcome


def _start(context: Context) -> Outcome:
    machine = find_node(context)
    if isinstance(machine, str):
        return Fail(machine)
    node = machine.node
    if context.view.balancer_on(node.id) is None:
        return Act(
            (
                PutBalancer(
                    Balancer(
                        node_id=node.id,
                        https_port=context.number("https_port"),
                        http_port=context.number("http_port"),
                    )
                ),
            )
        )
    report = machine.balancer
    if report is not None and report.is_ready and not report.is_gone:
        return Done()
    why = report.message if report else ""
    if context.waited > _READY_SECONDS:
        return Fail(
            f"The load balancer on {node.name} is not ready after {_READY_SECONDS:.0f} s"
            f"{': ' + why if why else ''}. See its log on {node.name}."
        )
    return Wait(f"for the load balancer on {node.name}" + (f": {why}" if why else ""))


def _check_present(context: Context) -> Outcome:
    view, name = context.view, context.text("node")
    if _find(context) is None:
        known = ", ".join(view.name_of(each.node_id) for each in view.balancers) or "none"
        return Fail(f"The node {name} has no load balancer. Nodes that have one: {known}.")
    return Done()


def _end(context: Context) -> Outcome:
    """End it; a node that does not report is told when it returns."""
    balancer = _find(context)
    if balancer is None:
        return Done()
    if not balancer.is_leaving:
        return Act((PutBalancer(balancer.changed(is_leaving=True)),))
    machine = context.view.machines.get(balancer.node_id)
    is_gone = machine is not None and machine.balancer is not None and machine.balancer.is_gone
    if is_gone or not context.view.is_fresh(machine, context.now):
        return Act((DeleteBalancer(balancer.node_id),))
    if context.waited > _READY_SECONDS:
        return Act((DeleteBalancer(balancer.node_id),))
    return Wait("for connections to end")


def _find(context: Context) -> Balancer | None:
    """Return the balancer on the named node, or on the node with that id, also one long gone."""
    view, name = context.view, context.text("node")
    machine = view.machine_named(name)
    return view.balancer_on(machine.node.id if machine else name)


def _clear(context: Context) -> Outcome:
    probes = clear_probes(context)
    return Act(probes) if probes else Done()
