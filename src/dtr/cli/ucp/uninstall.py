"""`ucp uninstall`: make this machine no node any more."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, show_json
from dtr.cli.ucp.agents import agent_pid, stop_agent
from dtr.cli.ucp.connection import DATA_DIRECTORY, identity_of, ucp_failures_as_sentences
from dtr.cli.ucp.options import DataDirOption
from dtr.cli.ucp.system_user import left_user
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import UcpError


def uninstall(
    data_dir: DataDirOption = DATA_DIRECTORY,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop everything that UCP runs on this machine, and delete its data directory.

    This also deletes this machine's part of etcd, and the database and the blobs of a replica. If
    other machines stay in the cluster, first remove the replica ('dtr remove') and the node ('ucp
    node rm'), so that nothing waits for this machine.
    """
    directory = NodeDirectory(data_dir.absolute())
    with ucp_failures_as_sentences():
        _check(directory.root)
        identity = identity_of(directory.root)
        name = identity.name if identity else "an unfinished node"
        found = sorted(path.name for path in directory.root.iterdir())
        told = {
            "node": name,
            "agent": agent_pid(directory),
            "data_dir": str(directory.root),
            "deletes": found,
            "leaves_user": left_user(),
        }
        if dry_run:
            _tell(told, as_json=as_json)
            return
        confirm(f"Delete {directory.root} ({name}) with all that is in it?", yes=yes)
        was_running = stop_agent(directory)
        _delete(directory.root)
    if as_json:
        show_json({**told, "was_running": was_running})
        return
    echo(f"Uninstalled: {directory.root} is gone{', its agent has ended' * was_running}.")
    _tell_left_user(told)


def _check(root: Path) -> None:
    """Refuse what is no node's directory; nothing else is ever deleted."""
    is_ours = any((root / name).exists() for name in ("node.json", "bootstrap.json"))
    is_ours = is_ours or (root / "pki" / "node.key").exists()
    if not root.is_dir() or not is_ours or root.is_symlink():
        raise UcpError(f"There is no node of UCP in {root}.", "Name its directory with --data-dir.")


def _tell(told: Mapping[str, object], *, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    agent = told["agent"]
    echo(f"Node       {told['node']}")
    echo(f"Would end  {'its agent, process ' + str(agent) if agent else 'no agent'}")
    echo(f"Would delete {told['data_dir']} with")
    for name in told["deletes"] if isinstance(told["deletes"], list) else ():
        echo(f"  {name}")
    _tell_left_user(told)


def _tell_left_user(told: Mapping[str, object]) -> None:
    if user := told["leaves_user"]:
        echo(f"The system user {user} is left; 'userdel {user}' deletes it.")


def _delete(root: Path) -> None:
    # Who it was goes last: a deletion that is cut short can be begun again.
    for path in sorted(root.iterdir(), key=lambda each: each.name == "node.json"):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            raise UcpError(
                f"{path} cannot be deleted: {error.strerror}.",
                "Unmount what is below it or run this as root, and run it again.",
            ) from None
    try:
        root.rmdir()
    except OSError:
        return  # The directory itself may be a mount point; empty is as good as gone.
