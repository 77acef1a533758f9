"""A cluster as an operator makes it, with the real commands, on machines of namespaces."""

import json
import re
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from tests.outages.docker import HttpOptions
from tests.support.machines import IPV4, CommandError, Machine, Machines
from tests.support.processes import requires, wait_until

from dtr.ucp.agent.files import KeyFiles

USERNAME = "admin"
PASSWORD = "a password of the test's own"
BALANCER = "balancer"
CLIENT = "client"
CREDENTIALS = {"UCP_USERNAME": USERNAME, "UCP_PASSWORD": PASSWORD}
_ASK_SECONDS = 5.0


class RunningCluster:
    """Nodes `node1`, `node2`, …, each with a replica; a balancer on a node of its own; a client.

    Spares are nodes of UCP that have no replica yet. Not installed, there are only the machines.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 3,
        spares: int = 0,
        disk_bytes: int = 0,
        is_installed: bool = True,
        addresses: str = IPV4,
        own_clocks: bool = False,
    ) -> None:
        self._directory = directory
        self.node_names = [f"node{number}" for number in range(1, replicas + spares + 1)]
        self._replica_names = self.node_names[:replicas]
        names = [*self.node_names, BALANCER, CLIENT]
        self.machines = Machines(
            names, directory, disk_bytes=disk_bytes, addresses=addresses, own_clocks=own_clocks
        )
        self._is_installed = is_installed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for program in ("etcd", "haproxy", "openssl"):
            requires(program)
        with ExitStack() as stack:
            stack.enter_context(self.machines)
            self.client = self.machines.thread_on(CLIENT)
            stack.callback(self.client.close)
            if self._is_installed:
                self.install()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # --- making it -------------------------------------------------------------------------------

    def install(self) -> None:
        """Install UCP, join the other nodes, install DTR, join replicas, install the balancer."""
        first, *others = (self.machines[name] for name in [*self.node_names, BALANCER])
        self.install_ucp(first)
        for machine in others:
            self.join_ucp(machine)
        first_replica, *other_replicas = self._replica_names
        self.dtr("install", "--ucp-node", first_replica, "--ucp-insecure-tls")
        for name in other_replicas:
            self.join(name)
        self.install_balancer()
        self.until_whole()

    def install_balancer(self) -> None:
        """Put HAProxy on the node that is there for it."""
        self.dtr("load-balancer", "install", "--ucp-node", BALANCER, "--ucp-insecure-tls")

    def install_ucp(self, machine: Machine) -> None:
        """Make the first manager."""
        command = ["ucp", "install", "--host-address", machine.address]
        machine.run(command, environment={"UCP_ADMIN_PASSWORD": PASSWORD}, seconds=180)
        machine.keep_agent()

    def join_ucp(self, machine: Machine) -> None:
        """Make a machine a node, with the token that any manager gives."""
        token = self.token()
        manager = self.machines[self.node_names[0]].address
        role = ["--role", "worker"] if machine.name == BALANCER else []
        command = ["ucp", "join", *role, manager]
        machine.run(command, environment={"UCP_JOIN_TOKEN": token}, seconds=180)
        machine.keep_agent()

    def join(self, name: str) -> None:
        """Make a replica on a node."""
        self.dtr("join", "--ucp-node", name, "--ucp-insecure-tls")

    def remove(self, name: str) -> None:
        """Remove the replica of a node, through another one's machine."""
        other = next(each for each in self.replicas if each != name)
        replicas = self.replicas
        ids = ["--existing-replica-id", replicas[other], "--replica-id", replicas[name]]
        self.dtr("remove", *ids, "--ucp-insecure-tls", on=other)

    def token(self) -> str:
        """Give what lets machines join."""
        shown = self.on_any_node(["ucp", "token", "show", "--ucp-insecure-tls"])
        return shown.split()[-1]

    def dtr(self, *arguments: str, on: str = "", seconds: float = 300) -> str:
        """Run a command of `dtr` on a node, as the administrator; give what it printed."""
        if not on:
            return self.on_any_node(["dtr", *arguments], seconds=seconds)
        command = ["dtr", *arguments]
        return self.machines[on].run(command, environment=CREDENTIALS, seconds=seconds).stdout

    def on_any_node(self, command: list[str], *, seconds: float = 300) -> str:
        """Run a command on the first node that has power."""
        node = next(each for each in self.nodes if each.is_on)
        return node.run(command, environment=CREDENTIALS, seconds=seconds).stdout

    # --- looking at it ---------------------------------------------------------------------------

    @property
    def nodes(self) -> list[Machine]:
        """The machines that may have replicas."""
        return [self.machines[name] for name in self.node_names]

    @property
    def replicas(self) -> dict[str, str]:
        """The ids of the replicas by the names of their machines, as the nodes' disks say."""
        found = {}
        for machine in self.nodes:
            service = _wanted(machine).get("services", {}).get("replica")
            if service and service["members"]:
                found[machine.name] = str(service["id"])
        return found

    def listed_replicas(self) -> set[str]:
        """Give the ids of the replicas that the control plane knows."""
        told = json.loads(self.on_any_node(["dtr", "status", "--json", "--ucp-insecure-tls"]))
        return set(told["replica_health"])

    @property
    def url(self) -> str:
        """The registry through the balancer."""
        return f"https://{self.machines[BALANCER].host}"

    def url_of(self, name: str) -> str:
        """Give the address of one machine's registry."""
        return f"https://{self.machines[name].host}"

    @property
    def http(self) -> HttpOptions:
        """How clients connect: they trust UCP's authority, whatever the name of the balancer."""
        context = ssl.create_default_context(cafile=self.nodes[0].disk.path / "pki" / "ca.crt")
        context.check_hostname = False  # the balancer's address is in no replica's certificate
        return HttpOptions(verify=context, keeps_connections=False)

    def location(self, name: str) -> str:
        """Where the database of a machine is for a process there: libpq's words."""
        service = _wanted(self.machines[name])["services"]["replica"]
        return (
            f"host=127.0.0.1 port=5432 dbname=registry user=dtr sslmode=require connect_timeout=2"
            f" password={service['database_password']}"
        )

    def pool(self) -> list[str]:
        """Give the ids of the replicas that the balancer sends clients to."""
        text = (self.machines[BALANCER].disk.path / "balancer" / "haproxy.cfg").read_text()
        section = text.partition("listen registry")[2].partition("listen ")[0]
        return re.findall(r"^ *server (\S+) (?!.*weight 0)", section, re.MULTILINE)

    def patroni(self, path: str) -> Any:
        """Ask any Patroni that answers; None where none does."""
        found = None
        for machine in (self.machines[name] for name in self.replicas):
            if machine.is_on:
                found = found or self._ask_patroni(machine, path)
        return found

    def primary(self) -> str:
        """Give the name of the primary's machine.

        Raises:
            LookupError: there is none.

        """
        names = {replica: name for name, replica in self.replicas.items()}
        for member in (self.patroni("cluster") or {}).get("members", []):
            if member["role"] == "leader" and member["name"] in names:
                return names[member["name"]]
        raise LookupError("there is no primary")

    def standbys(self) -> list[str]:
        """Give the names of the machines that have a replica and not the primary."""
        primary = self.primary()
        return [name for name in self.replicas if name != primary]

    # --- waiting for it -------------------------------------------------------------------------

    def faults(self) -> list[str]:
        """Say what is not as it should be; nothing where the cluster is whole."""
        replicas = self.replicas
        found = []
        members = (self.patroni("cluster") or {}).get("members", [])
        states = {each["name"]: f"{each['role']}, {each['state']}" for each in members}
        for name, replica in replicas.items():
            state = states.get(replica, "unknown to Patroni")
            if state not in {"leader, running", "quorum_standby, streaming"}:
                found.append(f"the database on {name}: {state}")
            if problem := self._health_problem(name):
                found.append(f"the registry on {name}: {problem}")
        if set(states) != set(replicas.values()):
            found.append(
                f"Patroni knows {sorted(states)}, and there are {sorted(replicas.values())}"
            )
        if "leader, running" not in states.values():
            found.append("there is no primary")
        if len({each.get("timeline") for each in members}) > 1:
            found.append("timelines differ")
        return found

    def until_whole(self, *, seconds: float = 120) -> float:
        """Return once nothing is amiss, and how long that took.

        Raises:
            TimeoutError: with what was still amiss.

        """
        started = time.monotonic()
        faults: list[str] = []

        def is_whole() -> bool:
            faults[:] = self.faults()
            return not faults

        try:
            wait_until(is_whole, "the cluster is whole", seconds=seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {'; '.join(faults)}\n{self.status()}") from None
        return time.monotonic() - started

    def status(self) -> str:
        """Give what `dtr status` shows, or why it shows nothing."""
        try:
            return self.dtr("status", "--ucp-insecure-tls", seconds=60)
        except (CommandError, subprocess.TimeoutExpired) as error:
            return str(error)

    def _health_problem(self, name: str) -> str:
        async def ask() -> str:
            async with self.http.client(self.url_of(name)) as http:
                answer = await http.get("/health", timeout=_ASK_SECONDS)
                return "" if answer.status_code == httpx.codes.OK else answer.text[:300]

        try:
            return self.client.call(ask(), seconds=2 * _ASK_SECONDS)
        except (httpx.TransportError, TimeoutError) as error:
            return repr(error)

    @staticmethod
    def _database_context(place: Path) -> ssl.SSLContext | None:
        """Give what Patroni's interface lets in: the databases' own key. None: it is not there."""
        files = KeyFiles.of(place, "database")
        try:
            context = ssl.create_default_context(cafile=files.ca)
            context.load_cert_chain(files.certificate, files.key)
        except (OSError, ssl.SSLError):
            return None  # the agent is about to write it
        return context

    def _ask_patroni(self, machine: Machine, path: str) -> Any:
        service = _wanted(machine).get("services", {}).get("replica")
        if not service:
            return None
        place = machine.disk.path / "replicas" / service["id"] / "database"
        context = self._database_context(place)
        if context is None:
            return None

        async def ask() -> Any:
            async with httpx.AsyncClient(verify=context, trust_env=False) as http:
                url = f"https://{machine.host}:8008/{path}"
                return (await http.get(url, timeout=_ASK_SECONDS)).json()

        try:
            return self.client.call(ask(), seconds=2 * _ASK_SECONDS)
        except (httpx.TransportError, TimeoutError, json.JSONDecodeError):
            return None


def _wanted(machine: Machine) -> dict[str, Any]:
    """Read what a node is wanted to run, from its disk."""
    path = machine.disk.path / "wanted.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def holds(condition: Callable[[], bool]) -> bool:
    """Ask a condition that may also have nothing to look at."""
    try:
        return condition()
    except LookupError:
        return False
