"""`dtr load-balancer`."""

from typing import Annotated, Any

import typer
from pydantic import JsonValue

from dtr.cli.cluster.asking import choose_node
from dtr.cli.cluster.following import carry_out, show_plan
from dtr.cli.cluster.options import DryRunOption, NodeOption
from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, fail, show_json
from dtr.cli.ucp.connection import ConnectionOptions, connected, takes_connection
from dtr.cluster import operations
from dtr.cluster.model import HTTP_PORT, HTTPS_PORT, PoolMember
from dtr.cluster.pool_formats import (
    DEFAULT_CA_FILE,
    DEFAULT_HOST,
    PoolFormat,
    PoolOptions,
    render,
)

commands = typer.Typer(no_args_is_help=True, help="The load balancer in front of the replicas.")

_MAX_PORT = 65_535
HttpsPort = Annotated[
    int,
    typer.Option("--https-port", min=1, max=_MAX_PORT, help="Port of the load balancer for HTTPS."),
]
HttpPort = Annotated[
    int,
    typer.Option("--http-port", min=1, max=_MAX_PORT, help="Port of the load balancer for HTTP."),
]


@commands.command("install")
@takes_connection
def install(
    options: ConnectionOptions,
    ucp_node: NodeOption = None,
    https_port: HttpsPort = HTTPS_PORT,
    http_port: HttpPort = HTTP_PORT,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run a load balancer on a node; joins and removals update its pool automatically."""
    with connected(options) as client:
        arguments: dict[str, JsonValue] = {
            "node": choose_node(client, ucp_node, free_of="balancer"),
            "https_port": https_port,
            "http_port": http_port,
        }
        if dry_run:
            show_plan(client, operations.INSTALL_BALANCER, arguments, as_json=as_json)
        done = carry_out(client, operations.INSTALL_BALANCER, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
        else:
            echo(f"The load balancer runs on {arguments['node']}, port {https_port}.")


@commands.command("remove")
@takes_connection
def remove(
    options: ConnectionOptions,
    ucp_node: NodeOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove the load balancer from a node."""
    with connected(options) as client:
        arguments: dict[str, JsonValue] = {"node": choose_node(client, ucp_node)}
        if dry_run:
            show_plan(client, operations.REMOVE_BALANCER, arguments, as_json=as_json)
        done = carry_out(client, operations.REMOVE_BALANCER, arguments, as_json=as_json)
        if as_json:
            show_json(done.model_dump(mode="json"))
        else:
            echo(f"Removed the load balancer from {arguments['node']}.")


@commands.command("config")
@takes_connection
def config(
    options: ConnectionOptions,
    form: Annotated[
        PoolFormat, typer.Option("--format", help="Load balancer software.")
    ] = PoolFormat.HAPROXY,
    https_port: HttpsPort = HTTPS_PORT,
    http_port: HttpPort = HTTP_PORT,
    host: Annotated[
        str, typer.Option(help="Host of the external URL. For keepalived: the virtual address.")
    ] = DEFAULT_HOST,
    ca_file: Annotated[
        str,
        typer.Option(help="Path of the replicas' CA certificate on the balancer."),
    ] = DEFAULT_CA_FILE,
) -> None:
    """Print a configuration with all replicas for a load balancer of your own."""
    with connected(options) as client:
        found: dict[str, Any] = client.call("GET", "/dtr/balancers")
        pool = [PoolMember.model_validate(each) for each in found["pool"]]
        own = PoolOptions(
            https_port=https_port,
            http_port=http_port,
            host=host,
            ca_file=ca_file,
            has_proxy_protocol=bool(found.get("others")),
            has_users_certificate=bool(found.get("has_users_certificate")),
        )
        try:
            echo(render(form, pool, own), nl=False)
        except ValueError as error:
            fail(str(error))
