"""`dtr reconfigure`: settings of all replicas, taken by one after the other.

Invariant: a replica is given new settings only while every other one is healthy, so that there are
never two that are not; if one does not become healthy with them, all go back to the old ones.
"""

from typing import Any

from pydantic import JsonValue

from dtr.cluster.model import DtrCluster, Replica, ReplicaPhase, WebCertificate
from dtr.cluster.operations import noted
from dtr.cluster.plan_actions import (
    Act,
    Action,
    Context,
    DeleteCertificate,
    Done,
    Fail,
    Outcome,
    PutCertificate,
    PutCluster,
    PutOperation,
    PutReplica,
    PutWebKey,
    Script,
    Step,
    Wait,
    sequence,
)
from dtr.cluster.plan_checks import problem_of_others
from dtr.cluster.plan_install import take_certificate
from dtr.cluster.plan_majority import summary
from dtr.cluster.plan_replica import REGISTRY_SECONDS
from dtr.cluster.view import illness
from dtr.ucp.model import Operation

_BEFORE = "before"


def reconfigure_script(_operation: Operation) -> Script:
    """Return how replicas take new settings."""
    return Script(
        steps=(
            Step("checking the cluster", _check),
            Step("recording the settings", _record),
            Step("restarting registries, one after the other", _roll),
        ),
        cleanup=sequence(_go_back, _roll, _drop_backup),
        result=lambda context: {
            "settings_revision": context.view.cluster.settings_revision
            if context.view.cluster
            else 0,
            **summary(context.view),
        },
    )


def merged(
    old: dict[str, dict[str, JsonValue]], new: dict[str, dict[str, JsonValue]]
) -> dict[str, dict[str, JsonValue]]:
    """Return settings with others above them.

    >>> merged({"log": {"level": "info"}}, {"log": {"format": "json"}})
    {'log': {'level': 'info', 'format': 'json'}}
    """
    return {
        section: {**old.get(section, {}), **new.get(section, {})}
        for section in dict.fromkeys((*old, *new))
    }


def _check(context: Context) -> Outcome:
    view = context.view
    if view.cluster is None:
        return Fail("DTR is not installed yet. Start with dtr install.")
    sick = problem_of_others(context, view.replicas)
    if sick:
        return Fail(
            f"Not every replica is healthy: {sick}. Registries restart one after the other, which "
            "needs all of them: make them healthy, or remove them first (dtr remove)."
        )
    problem = take_certificate(context)[1]
    return Fail(problem) if problem else Done()


def _record(context: Context) -> Outcome:
    """Write the new settings, and keep the old ones for the way back."""
    cluster = context.view.cluster
    if cluster is None:
        return Fail("The cluster's record is gone: somebody destroyed it.")
    if _BEFORE in context.operation.result:
        return Done()
    certificate, problem = take_certificate(context)
    if problem:
        return Fail(problem)
    before: dict[str, JsonValue] = {
        "settings": {section: dict(values) for section, values in cluster.settings.items()},
        "external_url": cluster.external_url,
    }
    operation = noted(context.operation, context.now, **{_BEFORE: before})
    if context.is_set("is_certificate_generated"):
        certificate = WebCertificate(id="", certificate="", key="", created_at=context.now)
    changed = _changed(context, cluster, certificate)
    return Act(
        (*_certificate_actions(context, certificate), PutCluster(changed), PutOperation(operation))
    )


def _changed(
    context: Context, cluster: DtrCluster, certificate: WebCertificate | None
) -> DtrCluster:
    arguments = context.operation.arguments
    settings: Any = arguments.get("settings") or {}
    values: dict[str, Any] = {
        "settings": merged(cluster.settings, settings),
        "settings_revision": cluster.settings_revision + 1,
    }
    if "external_url" in arguments:
        values["external_url"] = context.text("external_url")
    if certificate is not None:
        values["web_certificate"] = certificate.certificate
    changed: DtrCluster = cluster.changed(**values)
    return changed


def _certificate_actions(
    context: Context, certificate: WebCertificate | None
) -> tuple[Action, ...]:
    """Return what puts a web certificate in place, and the old one aside.

    An empty one is in place of the user's where replicas are to show a generated one again.
    """
    view = context.view
    if certificate is None or view.cluster is None or view.secrets is None:
        return ()
    old = WebCertificate(
        id=context.operation.id,
        certificate=view.cluster.web_certificate,
        key=view.secrets.web_key,
        created_at=context.now,
    )
    taken = (DeleteCertificate(certificate.id),) if certificate.id else ()
    return (PutCertificate(old), PutWebKey(certificate.key), *taken)


def _roll(context: Context) -> Outcome:
    """Give the settings to one replica after the other: standbys first, the primary's last."""
    view = context.view
    wanted = view.cluster.settings_revision if view.cluster else 0
    serving = [each for each in view.replicas if each.phase is ReplicaPhase.SERVING]
    waiting = [each for each in serving if each.settings_revision < wanted]
    for each in serving:
        if each in waiting:
            continue
        why = _not_there(context, each, wanted)
        if why and context.waited > REGISTRY_SECONDS * max(1, len(serving)):
            return Fail(
                f"Replica {each.id} is not healthy with the new settings: {why}. "
                f"See its log on {view.name_of(each.node_id)}."
            )
        if why:
            return Wait(f"for {each.id}: {why}")
    if not waiting:
        return _drop_backup(context)
    sick = "" if context.operation.error else problem_of_others(context, waiting)
    if sick and context.waited > REGISTRY_SECONDS * max(1, len(serving)):
        return Fail(f"Not every replica is healthy: {sick}. See dtr status.")
    if sick:
        return Wait(f"for all to be healthy: {sick}")
    following = min(waiting, key=lambda each: (each.id == view.patroni.leader, each.id))
    return Act(
        (PutReplica(following.changed(settings_revision=wanted)),), f"{following.id} restarts"
    )


def _not_there(context: Context, replica: Replica, wanted: int) -> str:
    view = context.view
    if context.operation.error and view.is_unreachable(replica, context.now):
        return ""  # on the way back nobody waits for a machine that is gone
    report = view.report_of(replica)
    if report is not None and report.settings_revision != wanted:
        return "its registry restarts"
    return illness(view, replica, context.now)


def _go_back(context: Context) -> Outcome:
    """Write the old settings as a new revision."""
    cluster, before = context.view.cluster, context.operation.result.get(_BEFORE)
    if cluster is None or not isinstance(before, dict) or "restored" in before:
        return Done()
    old = context.view.certificates.get(context.operation.id)
    values: dict[str, Any] = {
        "settings": before.get("settings"),
        "external_url": before.get("external_url"),
        "settings_revision": cluster.settings_revision + 1,
    }
    actions: tuple[Action, ...] = ()
    if old is not None:
        values["web_certificate"] = old.certificate
        actions = (PutWebKey(old.key),)
    note: dict[str, JsonValue] = {**before, "restored": True}
    operation = noted(context.operation, context.now, **{_BEFORE: note})
    return Act((*actions, PutCluster(cluster.changed(**values)), PutOperation(operation)))


def _drop_backup(context: Context) -> Outcome:
    if context.operation.id in context.view.certificates:
        return Act((DeleteCertificate(context.operation.id),))
    return Done()
