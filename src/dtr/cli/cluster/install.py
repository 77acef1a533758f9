"""`dtr install`, `dtr join` and `dtr destroy`."""

from dataclasses import replace
from typing import Annotated, Any

import typer
from pydantic import JsonValue

from dtr.cli.cluster.asking import choose_existing, choose_leaving, choose_node, list_replicas
from dtr.cli.cluster.following import carry_out, show_plan
from dtr.cli.cluster.machine import install_ucp, join_ucp, offers_ucp
from dtr.cli.cluster.options import (
    AuthorityOption,
    CertificateOption,
    DryRunOption,
    ExistingReplicaOption,
    ExternalUrlOption,
    HttpPortOption,
    HttpsPortOption,
    KeyOption,
    LogLevelOption,
    NewReplicaOption,
    NfsOption,
    NodeOption,
    SettingOption,
    YesOption,
    refuse_nfs,
    settings_of,
    web_certificate,
)
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, show_json
from dtr.cli.ucp.connection import (
    ConnectionOptions,
    connected,
    identity_of,
    takes_connection,
)
from dtr.cli.ucp.join import TokenFileOption, TokenOption, join_command
from dtr.cluster import operations
from dtr.cluster.model import HTTP_PORT, HTTPS_PORT
from dtr.ucp.client import UcpClient, UcpError
from dtr.ucp.model import Operation


@takes_connection
def install(
    options: ConnectionOptions,
    ucp_node: NodeOption = None,
    replica_id: NewReplicaOption = None,
    replica_https_port: HttpsPortOption = HTTPS_PORT,
    replica_http_port: HttpPortOption = HTTP_PORT,
    dtr_external_url: ExternalUrlOption = None,
    storage: Annotated[
        str,
        typer.Option(
            envvar="DTR_STORAGE",
            metavar="replicated|URL",
            help="Storage of the blobs. replicated: the replicas' own disks, with copies on "
            "several. Else a storage URL that all replicas can reach (docs/storage.md).",
        ),
    ] = operations.REPLICATED,
    storage_is_shared: Annotated[
        bool,
        typer.Option(
            "--storage-is-shared",
            envvar="DTR_STORAGE_IS_SHARED",
            help="The directory of a file:/// storage is the same on all nodes (NFS).",
        ),
    ] = False,
    nfs_storage_url: NfsOption = None,
    dtr_cert: CertificateOption = None,
    dtr_key: KeyOption = None,
    dtr_ca: AuthorityOption = None,
    log_level: LogLevelOption = None,
    setting: SettingOption = None,
    with_ucp: Annotated[
        bool,
        typer.Option(
            "--with-ucp",
            envvar="DTR_WITH_UCP",
            help="Install UCP on this machine first, if it is not a node yet.",
        ),
    ] = False,
    host_address: Annotated[
        str | None,
        typer.Option(
            envvar="UCP_HOST_ADDRESS",
            help="With --with-ucp: address at which the other nodes reach this machine.",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Create a cluster with one replica on one node.

    If this machine is not a node of UCP yet, --with-ucp makes it the first one. Add further
    replicas with 'dtr join'.
    """
    refuse_nfs(nfs_storage_url)
    certificate = web_certificate(dtr_cert, dtr_key, dtr_ca)
    is_new = not dry_run and (with_ucp or offers_ucp(options))
    if is_new and identity_of(options.data_directory) is None:
        options = install_ucp(options, host_address, quiet=as_json)
        ucp_node = ucp_node or _own_node(options)
    arguments: dict[str, JsonValue] = {
        "replica_id": replica_id or "",
        "https_port": replica_https_port,
        "http_port": replica_http_port,
        "external_url": dtr_external_url or "",
        "storage": storage,
        "is_storage_shared": storage_is_shared,
        "settings": _json(settings_of(setting, log_level)),
    }
    with connected(options) as client:
        arguments["node"] = choose_node(client, ucp_node, free_of="replica")
        if dry_run:
            show_plan(client, operations.INSTALL, arguments, as_json=as_json)
        done = carry_out(
            client,
            operations.INSTALL,
            arguments,
            as_json=as_json,
            prepare=lambda: bring(client, certificate),
        )
        token = _join_token(client) if is_new else ""
        _tell_installed(done, token, client.address, as_json=as_json)


@takes_connection
def join(
    options: ConnectionOptions,
    address: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOST[:PORT]]", help="With a join token: address of any controller of UCP."
        ),
    ] = None,
    ucp_node: NodeOption = None,
    token: TokenOption = None,
    token_file: TokenFileOption = None,
    host_address: Annotated[
        str | None,
        typer.Option(
            envvar="UCP_HOST_ADDRESS",
            help="With a join token: address at which the other nodes reach this machine.",
        ),
    ] = None,
    existing_replica_id: ExistingReplicaOption = None,
    replica_id: NewReplicaOption = None,
    replica_https_port: HttpsPortOption = HTTPS_PORT,
    replica_http_port: HttpPortOption = HTTP_PORT,
    unsafe_join: Annotated[
        bool,
        typer.Option(
            "--unsafe-join",
            envvar="DTR_UNSAFE_JOIN",
            help="Join even if replicas are unhealthy. Content that only those have may be lost.",
        ),
    ] = False,
    skip_network_test: Annotated[
        bool,
        typer.Option(
            "--skip-network-test",
            envvar="DTR_SKIP_NETWORK_TEST",
            help="Do not test whether the nodes can reach each other.",
        ),
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Add a replica to the cluster, on another node.

    It uses the settings, certificates and storage of the cluster. A cluster should have 3, 5 or 7
    replicas. With a join token, this machine first becomes a node of UCP, if it is not one yet.
    """
    if token is not None or token_file is not None:
        given = (token, token_file)
        options = join_ucp(options, given, address or options.url, host_address, quiet=as_json)
        ucp_node = ucp_node or _own_node(options)
    elif address is not None:
        options = replace(options, url=address)
    arguments: dict[str, JsonValue] = {
        "replica_id": replica_id or "",
        "https_port": replica_https_port,
        "http_port": replica_http_port,
        "unsafe_join": unsafe_join,
        "skip_network_test": skip_network_test,
    }
    with connected(options) as client:
        arguments["node"] = choose_node(client, ucp_node, free_of="replica")
        replicas = list_replicas(client)
        arguments["existing_replica_id"] = choose_existing(replicas, existing_replica_id, options)
        if dry_run:
            show_plan(client, operations.JOIN, arguments, as_json=as_json)
        done = carry_out(client, operations.JOIN, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
            return
        echo(f"Replica {done.result['replica_id']} has joined on {done.result['node']}.")
        tell_numbers(done)


@takes_connection
def destroy(
    options: ConnectionOptions,
    replica_id: Annotated[
        str | None,
        typer.Option(
            "--replica-id",
            envvar="DTR_DESTROY_REPLICA_ID",
            metavar="ID",
            help="ID of the last replica of the cluster.",
        ),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete the last replica, and with it all content of the registry.

    To remove any other replica, use 'dtr remove'.
    """
    with connected(options) as client:
        replicas = list_replicas(client)
        arguments: dict[str, JsonValue] = {"replica_id": _last(replicas, replica_id)}
        if dry_run:
            show_plan(client, operations.DESTROY, arguments, as_json=as_json)
        confirm("Delete the whole registry, with all repositories and images?", yes=yes)
        done = carry_out(client, operations.DESTROY, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
        else:
            echo("The registry is deleted. UCP and its nodes stay.")


def bring(client: UcpClient, certificate: dict[str, str] | None) -> dict[str, JsonValue]:
    """Hand a web certificate to the control plane, and return the argument that names it."""
    if certificate is None:
        return {}
    body: dict[str, JsonValue] = {**certificate}
    brought: dict[str, Any] = client.call("POST", "/dtr/certificates", body)
    return {"certificate_id": brought["id"]}


def tell_numbers(done: Operation) -> None:
    """Print how many replicas there are now, and how many may fail."""
    count, tolerated = done.result.get("replicas"), done.result.get("failures_tolerated")
    echo(f"Replicas: {count}. Failures tolerated: {tolerated}.")


def _join_token(client: UcpClient) -> str:
    """Return the join token of managers; empty where there is none that is valid."""
    try:
        return str(client.call("GET", "/token")["token"])
    except UcpError:
        return ""


def _last(replicas: list[dict[str, Any]], given: str | None) -> str:
    if given or not replicas:
        return given or ""
    variable = "DTR_DESTROY_REPLICA_ID"
    return choose_leaving(replicas, None, variable=variable, leaves_one=False)[0]


def _tell_installed(done: Operation, token: str, address: str, *, as_json: bool) -> None:
    if as_json:
        join_line = join_command("dtr", token, address) if token else None
        show_json({**done.model_dump(mode="json"), "join": join_line})
        return
    replica = done.result["replica_id"]
    echo(f"DTR is installed on {done.result['node']}. Replica id: {replica}")
    echo(f"Later commands may name it: --existing-replica-id {replica}")
    echo("\nOn each further machine, to add a replica:")
    echo(
        f"  {join_command('dtr', token, address)}" if token else "  dtr join --ucp-node <its name>"
    )


def _own_node(options: ConnectionOptions) -> str | None:
    identity = identity_of(options.data_directory)
    return identity.name if identity else None


def _json(value: Any) -> JsonValue:
    found: JsonValue = value
    return found
