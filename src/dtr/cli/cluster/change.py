"""`dtr remove`, `dtr reconfigure` and `dtr emergency-repair`."""

from typing import Annotated, Any

import typer
from pydantic import JsonValue

from dtr.cli.cluster.asking import choose_existing, choose_leaving, need_replicas
from dtr.cli.cluster.following import carry_out, show_plan
from dtr.cli.cluster.install import bring, tell_numbers
from dtr.cli.cluster.options import (
    AuthorityOption,
    CertificateOption,
    DryRunOption,
    ExistingReplicaOption,
    ExternalUrlOption,
    GeneratedOption,
    KeyOption,
    LogLevelOption,
    NfsOption,
    SettingOption,
    YesOption,
    refuse_nfs,
    settings_of,
    web_certificate,
)
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, fail, show, show_json, time_of
from dtr.cli.ucp.connection import ConnectionOptions, connected, takes_connection
from dtr.cluster import operations


@takes_connection
def remove(
    options: ConnectionOptions,
    existing_replica_id: ExistingReplicaOption = None,
    replica_ids: Annotated[
        str | None,
        typer.Option(
            "--replica-ids",
            "--replica-id",
            envvar=["DTR_REMOVE_REPLICA_IDS", "DTR_REMOVE_REPLICA_ID"],
            metavar="ID[,ID…]",
            help="IDs of the replicas to remove, one after the other. They may be dead.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            envvar="DTR_FORCE_REMOVE_REPLICA",
            help="Remove even if other replicas are unhealthy. Content that only the removed "
            "replicas have may be lost.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove replicas from the cluster.

    Each replica is drained, and copies to the others what only it has. It is deleted when the
    others have confirmed that they work without it. A dead replica is removed through any healthy
    one.
    """
    with connected(options) as client:
        replicas = need_replicas(client)
        # First who leaves: so nobody is offered as the one to go through who is then removed.
        leaving = choose_leaving(
            replicas, replica_ids, variable="DTR_REMOVE_REPLICA_IDS", keeps=existing_replica_id
        )
        existing = choose_existing(_others(replicas, leaving), existing_replica_id, options)
        arguments: dict[str, JsonValue] = {
            "replica_ids": [*leaving],
            "existing_replica_id": existing,
            "force": force,
        }
        if dry_run:
            show_plan(client, operations.REMOVE, arguments, as_json=as_json)
        done = carry_out(client, operations.REMOVE, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
            return
        echo(f"Removed: {', '.join(leaving)}.")
        tell_numbers(done)


@takes_connection
def cancel(options: ConnectionOptions, as_json: JsonOption = False) -> None:
    """Cancel the running operation.

    Its changes are undone. If that is no longer possible, the operation continues and says why.
    """
    with connected(options) as client:
        running: dict[str, Any] | None = client.call("GET", "/dtr/status")["operation"]
        if running is None:
            fail("no operation is running.")
        cancelled = client.cancel(running["id"])
        if as_json:
            show_json(cancelled.model_dump(mode="json"))
        else:
            echo(f"The {running['kind']} is being cancelled. To see how it ends: dtr status")


def _others(replicas: list[dict[str, Any]], leaving: list[str]) -> list[dict[str, Any]]:
    """Return the replicas that can be gone through."""
    return [each for each in replicas if each["id"] not in leaving]


@takes_connection
def reconfigure(
    options: ConnectionOptions,
    dtr_external_url: ExternalUrlOption = None,
    dtr_cert: CertificateOption = None,
    dtr_key: KeyOption = None,
    dtr_ca: AuthorityOption = None,
    generated_cert: GeneratedOption = False,
    log_level: LogLevelOption = None,
    setting: SettingOption = None,
    storage: Annotated[str | None, typer.Option("--storage", hidden=True)] = None,
    nfs_storage_url: NfsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change settings of all replicas; the other settings do not change.

    The replicas get the new settings one after the other, so the registry is not interrupted. If a
    replica does not become healthy, all get the old settings back.
    """
    refuse_nfs(nfs_storage_url)
    if storage is not None:
        fail(
            "the storage of a registry is not changed like a setting: its blobs would be left "
            "behind. Copy them first: dtr storage copy (docs/storage.md)."
        )
    certificate = web_certificate(dtr_cert, dtr_key, dtr_ca)
    arguments: dict[str, JsonValue] = {"settings": {**settings_of(setting, log_level)}}
    if dtr_external_url is not None:
        arguments["external_url"] = dtr_external_url
    if generated_cert and certificate is not None:
        fail("--generated-cert and --dtr-cert exclude each other: give one of them.")
    if generated_cert:
        arguments["is_certificate_generated"] = True
    if arguments == {"settings": {}} and certificate is None:
        fail("nothing to change: name at least one setting, such as --setting log.level=debug.")
    with connected(options) as client:
        if dry_run:
            show_plan(client, operations.RECONFIGURE, arguments, as_json=as_json)
        done = carry_out(
            client,
            operations.RECONFIGURE,
            arguments,
            as_json=as_json,
            prepare=lambda: bring(client, certificate),
        )
        if as_json:
            show_json(done.model_dump(mode="json"))
            return
        echo("All replicas have the new settings.")


@takes_connection
def emergency_repair(
    options: ConnectionOptions,
    existing_replica_id: ExistingReplicaOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Continue with one replica after the majority was lost for good.

    Shows the state of each remaining replica, drops the replicas whose machines do not answer, and
    makes the replica that you choose the primary. Content that only lost replicas had is lost. If
    UCP has lost its majority, too, first run 'ucp emergency-repair'.
    """
    with connected(options) as client:
        replicas = need_replicas(client)
        if not as_json:
            _show_survivors(replicas)
        chosen = _newest(replicas, existing_replica_id, options)
        arguments: dict[str, JsonValue] = {"existing_replica_id": chosen}
        if dry_run:
            show_plan(client, operations.EMERGENCY_REPAIR, arguments, as_json=as_json)
        silent = [each["id"] for each in replicas if each["health"] != "OK"]
        confirm(
            f"Continue with {chosen}, and drop for good replicas whose machines do not answer? Not "
            f"healthy now: {', '.join(silent) or 'none'}.",
            yes=yes,
        )
        done = carry_out(client, operations.EMERGENCY_REPAIR, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
            return
        echo(f"Replica {chosen} is the primary. Add others with dtr join.")
        tell_numbers(done)


def _show_survivors(replicas: list[dict[str, Any]]) -> None:
    """Print what each replica had when it last told."""
    columns = {
        "replica": lambda each: each["id"],
        "node": lambda each: each["node"],
        "reported": lambda each: time_of(each["reported_at"]),
        "last transaction": lambda each: time_of(each["last_transaction_at"]),
        "timeline": lambda each: each["timeline"],
        "position": lambda each: each["wal_position"],
        "database": lambda each: each["database_state"],
    }
    show(replicas, columns, as_json=False)


def _newest(replicas: list[dict[str, Any]], given: str | None, options: ConnectionOptions) -> str:
    """Return the replica to go on from; at a terminal the one that has most is the default."""
    if given:
        return given
    alive = [each for each in replicas if each["database_state"] == "running"]
    ordered = sorted(alive, key=lambda each: (each["timeline"], each["wal_position"]), reverse=True)
    if not ordered:
        fail("No replica reports a database. If all are lost, restore a backup.")
    return choose_existing([{**ordered[0], "health": "OK"}], None, options)
