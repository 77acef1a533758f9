"""How a control plane goes on from one manager when a majority of etcd's voters is lost for ever.

`ucp emergency-repair` only writes down that it is wanted (`Repair`). The agent's etcd component
does it: it copies the member's data aside, has etcd make itself the only member, with nobody but
the component listening, does `go_on_alone`, and only then deletes the file and starts etcd as ever.
So whoever sees the store again sees it repaired, and what is cut short anywhere is begun again.

The new epoch is needed although revisions go on: the survivor may lack the last of them, so that
agents know greater ones; and lost managers that return with a majority among themselves count on
from there. Agents follow the greater epoch, and those never. Nor are they nodes any more: a
controller of the survivor tells their agents so, which then end what they run, and keep its data.
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from dtr.server.datadir import sync_directory, write_atomically
from dtr.ucp import keys
from dtr.ucp.agent.port import NodeDirectory
from dtr.ucp.model import ClusterRecord, Document, Node, Wanted
from dtr.ucp.store import Delete, IsUnchanged, Put, Store

_FILE: Final = "etcd-force-new-cluster"
_VALID_SECONDS: Final = 600.0


class RepairError(Exception):
    """The control plane cannot go on so; one sentence of what and one of what to do."""


class Repair(Document):
    """`etcd-force-new-cluster`: there from when an operator asks for it until it is done."""

    asked_at: float
    epoch: int
    """That of the control plane from then on."""
    lost: tuple[str, ...]
    """The addresses of the managers that are lost for ever."""

    def copy_in(self, directory: NodeDirectory) -> Path:
        """Return where the member's data as they were are copied to; there once they are."""
        moment = datetime.fromtimestamp(self.asked_at, UTC).strftime("%Y%m%dT%H%M%SZ")
        return directory.root / f"etcd-before-repair-{moment}"

    def is_begun(self, directory: NodeDirectory) -> bool:
        """Return whether etcd may have been started alone, after which there is no way back."""
        return self.copy_in(directory).is_dir()

    def is_outdated(self, now: float) -> bool:
        """Return whether it was asked so long ago that what the operator saw may be otherwise."""
        return not 0 <= now - self.asked_at <= _VALID_SECONDS


def repair_of(wanted: Wanted, lost: tuple[str, ...], now: float) -> Repair:
    """Return what an operator asks for now."""
    return Repair(asked_at=now, epoch=max(int(now), wanted.epoch + 1), lost=lost)


def write_repair(directory: NodeDirectory, repair: Repair) -> None:
    """Ask for it."""
    write_atomically(directory.root / _FILE, repair.encoded())


def read_repair(directory: NodeDirectory) -> Repair | None:
    """Return what is asked for; None where nothing is.

    Raises:
        RepairError: the file is damaged.

    """
    path = directory.root / _FILE
    try:
        return Repair.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise RepairError(
            f"The file {path} is damaged. Delete it, and run 'ucp emergency-repair' again."
        ) from None


def forget_repair(directory: NodeDirectory) -> None:
    """Delete the request, durably; idempotent."""
    path = directory.root / _FILE
    if path.exists():
        path.unlink()
        sync_directory(path.parent)


def copy_aside(data: Path, target: Path) -> None:
    """Copy a member's data, whose etcd does not run, durably: whole, or not by this name."""
    if target.exists():
        return
    unfinished = target.with_name(target.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    try:
        # Links stay links: the directory is that of etcd's user, who is not to be followed.
        shutil.copytree(data, unfinished / data.name, symlinks=True, copy_function=_copy)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    unfinished.rename(target)
    sync_directory(target.parent)


async def go_on_alone(store: Store, repair: Repair, node_id: str) -> list[str]:
    """Raise the epoch, and make the lost managers no nodes any more; return their names.

    To be called while nobody else uses the store. What belonged to their nodes goes with them, as
    by `ucp node rm --force`; their replicas' records stay, for `dtr emergency-repair`. Repeated, it
    ends the same.

    Raises:
        RepairError: the store has no control plane in it.
        UnavailableError: it did not answer.

    """
    found = await store.get(keys.CLUSTER)
    if found is None:
        raise RepairError(
            "etcd on this machine holds no control plane. Begin it again from a backup: see "
            "'ucp restore'."
        )
    record = found.document(ClusterRecord)
    if record.epoch != repair.epoch:
        raised = record.changed(epoch=max(repair.epoch, record.epoch + 1))
        await store.commit(
            [Put(keys.CLUSTER, raised.encoded())], [IsUnchanged(keys.CLUSTER, found.modified)]
        )
    entries, _ = await store.list(keys.NODES)
    nodes = (entry.document(Node) for entry in entries)
    lost = [each for each in nodes if each.host_address in repair.lost and each.id != node_id]
    for node in lost:
        await store.commit(
            [
                Delete(keys.manager(node.id)),
                Delete(keys.report(node.id)),
                Delete(keys.probe(node.id)),
                Delete(f"{keys.SERVICES}{node.id}/", is_prefix=True),
                Delete(keys.node(node.id)),
            ]
        )
    return [node.name for node in lost]


def managers_besides(wanted: Wanted) -> dict[str, tuple[int, ...]]:
    """Return the other managers' addresses, with the ports that their controllers listen on."""
    own = wanted.node.host_address
    found: dict[str, tuple[int, ...]] = {}
    for url in (*(f"https://{each}" for each in wanted.controllers), *wanted.etcd_urls):
        parts = urlsplit(url)
        if parts.hostname and parts.port and parts.hostname != own:
            found[parts.hostname] = (*found.get(parts.hostname, ()), parts.port)
    return found


def _copy(source: str, target: str) -> str:
    shutil.copy2(source, target, follow_symlinks=False)
    if not Path(target).is_symlink():
        with Path(target).open("rb") as file:
            os.fsync(file.fileno())
    return target
