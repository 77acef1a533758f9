"""What happens in the demonstration, in order."""

from tests.cluster.strikes import until_another_leads

from demo.stage import Stage

_PATIENCE_SECONDS = 900.0
"""With the control plane, which says itself when it gives up: a busy computer is slow."""
_LOOK_SECONDS = 8.0
"""For whoever watches to see how a cluster is that lacks a machine."""


def tell(stage: Stage) -> None:
    """Install, join, lose a machine, get it back, remove; with clients all the while."""
    _install(stage)
    _join(stage)
    _lose_a_machine(stage)
    _remove(stage)


def _install(stage: Stage) -> None:
    cluster = stage.cluster
    first, *others = (cluster.machines[name] for name in (*cluster.node_names, "balancer"))
    with stage.step(f"{first.name}$ ucp install --host-address {first.address}"):
        cluster.install_ucp(first)
    stage.watch_status()
    for machine in others:
        with stage.step(f"{machine.name}$ UCP_JOIN_TOKEN=… ucp join {first.address}"):
            cluster.join_ucp(machine)
    with stage.step(f"{first.name}$ dtr install --ucp-node {first.name}"):
        cluster.dtr("install", "--ucp-node", first.name)
    with stage.step(f"{first.name}$ dtr load-balancer install --ucp-node balancer"):
        cluster.dtr("load-balancer", "install", "--ucp-node", "balancer")
    with stage.step("clients begin to push and pull through the balancer"):
        cluster.until_whole()
        stage.start_clients()


def _join(stage: Stage) -> None:
    cluster = stage.cluster
    first = cluster.node_names[0]
    for name in cluster.node_names[1:]:
        with stage.step(f"{first}$ dtr join --ucp-node {name}"):
            cluster.dtr("join", "--ucp-node", name, seconds=_PATIENCE_SECONDS)
    with stage.step("three replicas, and any one may die"):
        cluster.until_whole()
        stage.until_more(3)


def _lose_a_machine(stage: Stage) -> None:
    cluster = stage.cluster
    machine = cluster.machines[cluster.primary()]
    pulls = stage.load.pulls.done
    with stage.step(f"{machine.name}, which has the primary, loses its power") as step:
        stage.switch_off(machine)
        until_another_leads(cluster, machine)
        step.note = f"{cluster.primary()} leads now"
    with stage.step("pushes and pulls go on with two replicas") as step:
        stage.until_more(3)
        stage.until_later(_LOOK_SECONDS)
        step.note = f"{stage.load.pulls.done - pulls} pulls since"
    with stage.step(f"{machine.name} has power again, and catches up"):
        stage.switch_on(machine)
        cluster.until_whole()
    stage.until_more(3)


def _remove(stage: Stage) -> None:
    cluster = stage.cluster
    name, on = cluster.standbys()[-1], cluster.primary()
    ids = ("--existing-replica-id", cluster.replicas[on], "--replica-id", cluster.replicas[name])
    with stage.step(f"{on}$ dtr remove {' '.join(ids)}"):
        cluster.dtr("remove", *ids, on=on, seconds=_PATIENCE_SECONDS)
    stage.until_more(3)
    stage.until_later(1)  # the last picture is of a quiet cluster
    stage.stop_clients()
