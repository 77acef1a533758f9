"""Replicas that hold blobs on disks of their own: certificates, members files, peer endpoints."""

import os
import stat
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from tests.support.processes import free_port

from dtr.model.members import Member, Members, MembersFile, MemberState
from dtr.storage import Credentials, FilesystemBlobStore, Replication
from dtr.storage.replicated import Pace, PeerServer, ReplicatedBlobStore
from dtr.ucp.authority import Authority, make_request, node_names

HOST = "127.0.0.1"
# Machines that run tests are busy: a handshake takes its time, and a dead peer is dead at once.
PACE = Pace(
    patience_seconds=20, connect_seconds=5, answer_seconds=2, read_seconds=1, down_seconds=1
)
HASTY = Pace(patience_seconds=1, connect_seconds=2, answer_seconds=2, down_seconds=1)


def make_credentials(directory: Path, authority: Authority, node_id: str) -> Credentials:
    """Write a node's certificate, key and authority below `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    request = make_request()
    certificate = authority.sign(
        request.request_pem,
        common_name=node_id,
        names=node_names(node_id, HOST),
        now=datetime.now(UTC),
    )
    files = Credentials(directory / "node.pem", directory / "node.key", directory / "ca.pem")
    for path, content in (
        (files.certificate, certificate),
        (files.key, request.key_pem),
        (files.ca, authority.certificate_pem),
    ):
        replace_file(path, content)
    return files


def replace_file(path: Path, content: str) -> None:
    """Write a file as the agent does: the old content or the new one, never a part."""
    staged = path.with_suffix(".new")
    staged.write_text(content)
    staged.chmod(0o600)
    os.replace(staged, path)  # noqa: PTH105


class Machine:
    """One replica: its disk, its certificate, its members file, and its peer endpoint."""

    def __init__(self, directory: Path, number: int, authority: Authority) -> None:
        self.id = f"{number:012x}"
        self.node_id = f"node-{number}"
        self.directory = directory
        self.port = free_port(HOST)
        self.data = directory / "data"
        self.members_file = directory / "members.json"
        self.credentials = make_credentials(directory / "tls", authority, self.node_id)
        self._server: PeerServer | None = None
        self._local: FilesystemBlobStore | None = None

    @property
    def replication(self) -> Replication:
        """How it knows the others."""
        return Replication(self.members_file, self.credentials)

    def open(self, pace: Pace = PACE) -> ReplicatedBlobStore:
        """Open the driver, as a process of this replica does."""
        return ReplicatedBlobStore(self.disk(), self.replication, pace=pace)

    def disk(self, *, reserve_bytes: int = 0) -> FilesystemBlobStore:
        """Open its disk."""
        self.data.mkdir(exist_ok=True)
        return FilesystemBlobStore(self.data, reserve_bytes=reserve_bytes)

    def files(self) -> dict[str, int]:
        """Return the sizes of the blobs on its disk, by key."""
        root = self.data / "blobs"
        found: dict[str, int] = {}
        for path in root.rglob("*"):
            # What a running replica has not committed may be gone since it was listed.
            with suppress(FileNotFoundError):
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    found[str(path.relative_to(root))] = status.st_size
        return found

    def staged(self) -> list[Path]:
        """Return what is staged on its disk."""
        return sorted((self.data / "uploads").iterdir())

    def file(self, key: str) -> Path:
        """Return where it keeps a blob."""
        return self.data / "blobs" / key

    @property
    def environment(self) -> dict[str, str]:
        """What `dtr serve` is told of it."""
        files = self.credentials
        return {
            "DTR_STORAGE__URL": "replicated:",
            "DTR_CLUSTER__MEMBERS_FILE": str(self.members_file),
            "DTR_CLUSTER__CERTIFICATE": str(files.certificate),
            "DTR_CLUSTER__KEY": str(files.key),
            "DTR_CLUSTER__CA": str(files.ca),
            "DTR_CLUSTER__PEER_LISTEN": f"{HOST}:{self.port}",
        }

    async def start(self, *, reserve_bytes: int = 0) -> None:
        """Start the peer endpoint."""
        self._local = self.disk(reserve_bytes=reserve_bytes)
        members = MembersFile(self.members_file)
        self._server = PeerServer(self._local, members, self.credentials)
        await self._server.start(HOST, self.port)

    async def stop(self) -> None:
        """End the peer endpoint as a crash does: its connections break."""
        if self._server is not None and self._local is not None:
            runner = self._server._runner
            assert runner is not None
            assert runner.server is not None
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
            await self._server.stop()
            await self._local.close()
        self._server = self._local = None


class Replicas:
    """Several machines of one cluster, on loopback."""

    def __init__(self, directory: Path, count: int) -> None:
        self.authority = Authority.create("test", datetime.now(UTC))
        self.machines = [
            Machine(directory / f"replica-{number}", number, self.authority)
            for number in range(1, count + 1)
        ]
        self._states = {machine.id: MemberState.SERVING for machine in self.machines}
        self.write_members()

    def set_state(self, machine: Machine, state: MemberState | None) -> None:
        """Change a member's state, or take it out of the cluster."""
        if state is None:
            del self._states[machine.id]
        else:
            self._states[machine.id] = state
        self.write_members()

    def write_members(self) -> None:
        """Write every machine's members file."""
        members = tuple(
            Member(machine.id, machine.node_id, HOST, peer_port=machine.port, state=state)
            for machine in self.machines
            if (state := self._states.get(machine.id)) is not None
        )
        for machine in self.machines:
            replace_file(machine.members_file, Members(machine.id, members).render())

    async def start(self) -> None:
        """Start every peer endpoint."""
        for machine in self.machines:
            await machine.start()

    async def stop(self) -> None:
        """Stop all of them."""
        for machine in self.machines:
            await machine.stop()
