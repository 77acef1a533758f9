"""`ucp emergency-repair`: this manager is left, a majority of the others is lost for ever."""

import asyncio
import contextlib
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from dtr.cli.output import echo
from dtr.cli.terminal import JsonOption, confirm, show_json
from dtr.cli.ucp.agents import agent_pid, wait_for
from dtr.cli.ucp.connection import DATA_DIRECTORY, ucp_failures_as_sentences
from dtr.cli.ucp.options import DataDirOption
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.client import UcpError
from dtr.ucp.etcd.component import client_files, is_healthy
from dtr.ucp.model import ETCD_CLIENT_PORT, ETCD_PEER_PORT, EtcdWanted, Wanted
from dtr.ucp.repair import (
    Repair,
    RepairError,
    managers_besides,
    read_repair,
    repair_of,
    write_repair,
)
from dtr.ucp.wanted import authority

_CONNECT_SECONDS: Final = 3.0
_REPAIR_SECONDS: Final = 300.0
_FOLLOW_SECONDS: Final = 120.0
_REPLICA: Final = "replica"
_RUN_AGAIN: Final = "then run this again: it goes on where it was"


@dataclass(frozen=True, slots=True)
class _Survivor:
    """What this machine knows, and which of the other managers answer."""

    directory: NodeDirectory
    wanted: Wanted
    reachable: Mapping[str, int]
    """A port that answers, by address."""
    silent: tuple[str, ...]

    @property
    def replica(self) -> str:
        """The id of the replica here; empty where there is none."""
        specification = self.wanted.services.get(_REPLICA)
        has_members = isinstance(specification, dict) and specification.get("members")
        return str(specification["id"]) if isinstance(specification, dict) and has_members else ""


def emergency_repair(
    lost: Annotated[
        list[str] | None,
        typer.Option(
            "--lost",
            metavar="NODE",
            help="A manager that is lost for good, by address or host name. If used, name all "
            "lost managers.",
        ),
    ] = None,
    data_dir: DataDirOption = DATA_DIRECTORY,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make this manager the only one, after the majority was lost for good.

    Run it as root on a remaining manager. It is refused while a majority still answers. If the
    other managers can be started again, start them instead. Services on this machine keep running
    meanwhile, and pulls work. Afterwards run 'dtr emergency-repair', and join new machines.
    """
    directory = NodeDirectory(data_dir.absolute())
    with ucp_failures_as_sentences(), _repair_failures_as_sentences():
        repair = read_repair(directory)
        wanted, etcd = _manager(directory)
        if repair is None or dry_run:
            survivor = _look(directory, wanted)
            _check(survivor, etcd, lost or [])
            repair = repair_of(wanted, survivor.silent, time.time())
            told = _told(survivor, repair)
            if dry_run:
                _tell(told, as_json=as_json)
                return
            if not as_json:
                _tell(told, as_json=False)
            confirm(
                f"Are {_listed(survivor.silent)} switched off or wiped for good, and should UCP go "
                "on from this machine alone?",
                yes=yes,
            )
            write_repair(directory, repair)
        elif not as_json:
            echo("A repair is running already; waiting for it.")
        _follow(directory, repair)
        _tell_done(_told(_Survivor(directory, wanted, {}, repair.lost), repair), as_json=as_json)


@contextlib.contextmanager
def _repair_failures_as_sentences() -> Iterator[None]:
    try:
        yield
    except RepairError as error:
        raise UcpError(str(error)) from None


def _manager(directory: NodeDirectory) -> tuple[Wanted, EtcdWanted]:
    """Return what this machine is wanted to run; refuse one that cannot go on alone."""
    try:
        wanted = Wanted.model_validate_json(directory.wanted.read_bytes())
    except FileNotFoundError:
        raise UcpError(
            f"There is no node of UCP in {directory.root}.",
            "Run this on a manager that is left, or name its directory with --data-dir.",
        ) from None
    except OSError as error:
        raise UcpError(
            f"The file {directory.wanted} cannot be read: {error.strerror}.", "Run this as root."
        ) from None
    except ValidationError:
        raise UcpError(
            f"The file {directory.wanted} is damaged.",
            "Repair from another manager, or begin again from a backup: see 'ucp restore'.",
        ) from None
    if wanted.etcd is None or wanted.controller is None or not _data(directory).is_dir():
        raise UcpError(
            "This machine is no manager, or has lost its part of etcd: it cannot go on alone.",
            "Run this on a manager that is left. Where none is, begin again from a backup: see "
            "'ucp restore'.",
        )
    if agent_pid(directory) is None:
        raise UcpError(
            "The agent of this machine does not run, and it does the repair.",
            "Start it ('systemctl start ucp-agent', or 'ucp agent'), and run this again.",
        )
    return wanted, wanted.etcd


def _data(directory: NodeDirectory) -> Path:
    return directory.of("etcd") / "data" / "member"


def _look(directory: NodeDirectory, wanted: Wanted) -> _Survivor:
    found = asyncio.run(_reachable(managers_besides(wanted)))
    return _Survivor(
        directory,
        wanted,
        reachable={address: port for address, port in found.items() if port},
        silent=tuple(address for address, port in found.items() if not port),
    )


async def _reachable(managers: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return a port that answers for each address; 0 where none does."""

    async def answering(address: str, ports: Sequence[int]) -> int:
        tried = dict.fromkeys((*ports, ETCD_CLIENT_PORT, ETCD_PEER_PORT))
        answers = await asyncio.gather(*(_answers(address, port) for port in tried))
        return next((port for port, is_there in zip(tried, answers, strict=True) if is_there), 0)

    ports = await asyncio.gather(*(answering(*each) for each in managers.items()))
    return dict(zip(managers, ports, strict=True))


async def _answers(address: str, port: int) -> bool:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _check(survivor: _Survivor, etcd: EtcdWanted, lost: Sequence[str]) -> None:
    """Refuse while there is, or could be, a majority; and what the operator has seen otherwise."""
    directory = survivor.directory
    if asyncio.run(is_healthy(etcd.client_url, client_files(directory))):
        raise UcpError(
            "etcd has its majority: there is nothing to repair.",
            "Remove single machines with 'ucp node rm'.",
        )
    managers = 1 + len(survivor.reachable) + len(survivor.silent)
    if not survivor.silent and not survivor.reachable:
        raise UcpError(
            "This is the only manager, so none is lost, but its etcd does not answer.",
            f"See {directory.logs / 'etcd.log'}.",
        )
    if 2 * (1 + len(survivor.reachable)) > managers:
        there = _listed([authority(*each) for each in survivor.reachable.items()])
        raise UcpError(
            f"Of the other managers {there} can be reached: a majority can be had with this one.",
            "Find out why etcd does not answer there. If such a machine has lost its data for "
            "ever, run 'ucp uninstall' on it, then this command again.",
        )
    named = {address for name in lost for address in _addresses(name)}
    if lost and not (
        named & set(survivor.silent) == set(survivor.silent)
        and all(set(_addresses(name)) & set(survivor.silent) for name in lost)
    ):
        raise UcpError(
            f"The managers that cannot be reached are {_listed(survivor.silent)}, and --lost names "
            "others.",
            "Name exactly these, or find out which machines they are.",
        )
    _check_room(directory)


def _check_room(directory: NodeDirectory) -> None:
    needed = sum(path.lstat().st_size for path in _data(directory).rglob("*") if path.is_file())
    free = shutil.disk_usage(directory.root).free
    if free < needed:
        raise UcpError(
            f"A copy of etcd's data needs {needed >> 20} MiB, and {directory.root} has "
            f"{free >> 20} MiB left.",
            "Free space on that disk first.",
        )


def _addresses(name: str) -> list[str]:
    """Return the addresses of a host name, or the address itself."""
    try:
        found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return [name]
    return [str(each[4][0]) for each in found]


def _told(survivor: _Survivor, repair: Repair) -> dict[str, Any]:
    node = survivor.wanted.node
    return {
        "node": node.name,
        "address": node.host_address,
        "lost": list(repair.lost),
        "reachable": sorted(survivor.reachable),
        "copy": str(repair.copy_in(survivor.directory)),
        "epoch": repair.epoch,
        "replica_id": survivor.replica or None,
    }


def _tell(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    echo(f"Goes on    {told['node']} ({told['address']}), as the only manager")
    echo(f"Lost       {_listed(told['lost'])}: no nodes any more, their certificates revoked")
    if told["reachable"]:
        echo(f"Stays      {_listed(told['reachable'])}: nodes; they become managers anew")
    echo(f"Copy       etcd's data as they are: {told['copy']}")
    echo(
        "May be lost: what the lost managers had agreed on last and this one had not heard yet,\n"
        "such as a machine that joined or a setting that was changed in that moment. Images and\n"
        "metadata of the registry are not touched. A lost machine that returns after this stops\n"
        "what it runs once it reaches this one; wipe it with 'ucp uninstall' before you join it."
    )


def _follow(directory: NodeDirectory, repair: Repair) -> None:
    """Wait until the agent has done it and follows the new epoch."""
    log = directory.logs / "agent.log"
    if not wait_for(lambda: read_repair(directory) is None, _REPAIR_SECONDS):
        raise UcpError(
            f"The agent has not ended the repair within {_REPAIR_SECONDS:.0f} s.",
            f"See {log} and {directory.logs / 'etcd.log'}, {_RUN_AGAIN}.",
        )
    if not wait_for(lambda: _epoch(directory) >= repair.epoch, _FOLLOW_SECONDS):
        what = (
            f"The controller of this machine does not answer {_FOLLOW_SECONDS:.0f} s after it."
            if repair.is_begun(directory)
            else "The agent did not make etcd the only member: it found that it has its majority."
        )
        raise UcpError(what, f"See {log}, and 'ucp status'.")


def _epoch(directory: NodeDirectory) -> int:
    try:
        return Wanted.model_validate_json(directory.wanted.read_bytes()).epoch
    except (OSError, ValidationError):
        return 0


def _tell_done(told: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(told)
        return
    echo(f"{told['node']} is the only manager now. etcd's data as they were: {told['copy']}")
    echo("Next:")
    if told["replica_id"]:
        echo(f"  dtr emergency-repair --existing-replica-id {told['replica_id']}")
    echo("  ucp token show, and 'ucp join' on new machines, as many as were lost")
    if told["replica_id"]:
        echo("  dtr join on each of them")


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
