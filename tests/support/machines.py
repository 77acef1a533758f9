"""Machines for tests of clusters: addresses, names, processes and disks of their own.

A machine is a set of namespaces: network, host name, processes, mounts and shared memory. What runs
there believes that it is alone: it has `eth0`, `/var/lib/ucp`, `/run`, and process ids that begin
at one. The kernel is the host's: a machine that dies takes its processes and their sockets along,
but what was written to its disk without a flush survives; and all machines have the host's clock,
which cannot be set for one of them (a kernel's time namespaces shift only the clocks that count
from the start, not the time of day). Where a test asks for it, the C library of a machine's
programs is misled instead (`wall_clock.c`).
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Self

import pexpect
from tests.support.disks import Disk
from tests.support.installation import installed_python
from tests.support.namespaces import NamespaceThread, Network, require_namespaces
from tests.support.processes import requires, wait_until

DATA = Path("/var/lib/ucp")
"""Where a machine's disk is: the default data directory."""
PROCESSES = {
    "agent": r"ucp agent ",
    "controller": r"ucp controller ",
    "etcd": r"/etcd ",
    "patroni": r"patroni\S* .*\.ya?ml",
    "postgresql": r"postgres -D ",
    "registry": r"dtr serve ",
    "balancer": r"haproxy ",
}
"""What runs on a node, by a regular expression of its command line."""
IPV4 = "10.77.0."
IPV6 = "fd77::"
_FIRST_ADDRESS = 11
_BOOT = """\
set -e
hostname {name}
mount -t tmpfs -o mode=755 tmpfs /run
if [ -n "{clock}" ]; then
	mkdir /run/clock
	mount --bind {clock} /run/clock
	cp -a /etc /run/etc
	mount --bind /run/etc /etc
	echo /run/clock/wall_clock.so >/etc/ld.so.preload
fi
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir {data} /run/home
mount --bind {disk} {data}
mount --bind {directory}/hosts /etc/hosts
mount --bind {directory}/nothing /etc/resolv.conf
: >/run/booted
exec env --ignore-signal=CHLD sleep infinity
"""
"""The first process ignores the ends of its children, so that the kernel collects orphans."""
_KEEP_AGENT = f"""\
while :; do
	if running=$(pgrep -o -f 'ucp agent '); then
		tail --pid="$running" -f /dev/null
	else
		ucp agent --data-dir {DATA}
	fi
	sleep 1
done
"""


class Direction(Enum):
    """What a machine that is cut off no longer has."""

    BOTH = auto()
    """The cable is pulled."""
    INCOMING = auto()
    """What it sends arrives; nothing comes back."""
    OUTGOING = auto()
    """What is sent to it arrives; nothing comes back."""


@dataclass(frozen=True)
class Process:
    """A process of a machine; the id is the host's."""

    pid: int
    command: str

    @property
    def state(self) -> str:
        """The kernel's letter for it: `S`, `T`, `Z`, …; empty once it is gone."""
        return self._stat()[0]

    @property
    def parent(self) -> int:
        """The id of what it is a child of; itself once it is gone."""
        return int(self._stat()[1])

    def _stat(self) -> Sequence[str]:
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "", str(self.pid)


class CommandError(Exception):
    """A command on a machine failed; with all that it printed."""


class Machine:
    """One machine, made by `Machines`."""

    def __init__(
        self,
        name: str,
        address: str,
        *,
        programs: Path,
        directory: Path,
        network: Network,
        disk: Disk,
        clock: Path | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.disk = disk
        self.directory = directory / name
        """Its logs."""
        self.namespace = network.plug_in(name, address)
        self._network = network
        self._programs = programs
        self._clock = clock
        self._holder: subprocess.Popen[bytes] | None = None
        self._agent: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._space = Path()
        """What the kernel calls its space of process ids."""

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    @property
    def host(self) -> str:
        """The address as it stands in a URL."""
        return f"[{self.address}]" if ":" in self.address else self.address

    @property
    def is_on(self) -> bool:
        """Whether it has power."""
        return self._holder is not None

    # --- power -------------------------------------------------------------------------------

    def start(self) -> None:
        """Give it power; if it is a node of UCP, its agent starts, as by systemd."""
        if self.is_on:
            raise RuntimeError(f"{self.name} is on")
        self.heal()
        script = _BOOT.format(
            name=self.name,
            data=DATA,
            disk=self.disk.path,
            directory=self.directory.parent,
            clock=self._clock or "",
        )
        into = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self.namespace}"]
        own = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"]
        with (self.directory / "boot.log").open("ab") as log:
            self._holder = subprocess.Popen(
                [*into, *own, "--mount-proc", "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children")
        wait_until(lambda: bool(children.read_text().split()), f"{self.name} begins", seconds=20)
        self._init = int(children.read_text().split()[0])
        self._space = Path(f"/proc/{self._init}/ns/pid").readlink()
        booted = Path(f"/proc/{self._init}/root/run/booted")
        wait_until(booted.exists, f"{self.name} has booted", seconds=20)
        if (self.disk.path / "node.json").exists():
            self.keep_agent()

    def power_off(self) -> None:
        """Kill everything at once; its kernel still says so to whoever is connected."""
        if self._holder is None:
            return
        self.disk.go_on()
        if self._init:  # 0, where it never came up, would be all processes of this test
            with suppress(ProcessLookupError):
                os.kill(self._init, signal.SIGKILL)
        dead = {"Z", "X", ""}
        wait_until(lambda: all(p.state in dead for p in self.processes()), f"{self.name} is off")
        if self._agent is not None:
            self._agent.wait(10)
        # Its first process stays for as long as an orphan of the host is not collected by the
        # host's first process, which some containers' never does: not worth waiting for.
        with suppress(subprocess.TimeoutExpired):
            self._holder.wait(1)
        self._holder.kill()
        self._holder.wait(10)
        self._holder, self._agent, self._init = None, None, 0

    def power_cut(self) -> None:
        """Pull the cable, then kill everything: to the others, it just falls silent."""
        self.cut_off()
        self.power_off()

    def keep_agent(self) -> None:
        """Keep the agent running as systemd does: again, one second after each of its ends."""
        if self._agent is not None and self._agent.poll() is None:
            return  # of a node that was removed and has joined anew
        script = self.directory / "keep-agent"
        script.write_text(_KEEP_AGENT)
        self._agent = self.begin(["sh", script], log=self.directory / "agent.log")

    def set_clock(self, ahead_seconds: int) -> None:
        """Set the time of day, which jumps, to so far ahead of the host's."""
        if self._clock is None:
            raise RuntimeError(f"{self.name} has the host's clock")
        with (self._clock / "ahead").open("r+b") as file:
            file.write(ahead_seconds.to_bytes(8, "little", signed=True))

    # --- the network ---------------------------------------------------------------------------

    def cut_off(self, direction: Direction = Direction.BOTH) -> None:
        """Let packets vanish until `heal`."""
        if direction is Direction.BOTH:
            self._network.pull_cable(self.name)
            return
        chain, interface = (
            ("INPUT", "--in-interface")
            if direction is Direction.INCOMING
            else ("OUTPUT", "--out-interface")
        )
        self._iptables("--append", chain, interface, "eth0", "--jump", "DROP")

    def heal(self) -> None:
        """Undo `cut_off`; idempotent."""
        self._network.put_cable_back(self.name)
        self._iptables("--flush")

    def _iptables(self, *arguments: str) -> None:
        enter: list[str | Path] = [requires("nsenter"), f"--net=/run/netns/{self.namespace}"]
        name = "ip6tables" if ":" in self.address else "iptables"
        program: list[str | Path] = [requires(name), "--wait", *arguments]
        subprocess.run([*enter, *program], check=True, capture_output=True)

    # --- processes -----------------------------------------------------------------------------

    def processes(self, which: str = "") -> list[Process]:
        """Give what runs there: all, those of a name in `PROCESSES`, or of a regular expression."""
        pattern = re.compile(PROCESSES.get(which, which))
        return [each for each in self._all_processes() if pattern.search(each.command)]

    def kill(self, which: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to processes (see `processes`), and give how many there were.

        Raises:
            LookupError: there was none.

        """
        found = self.processes(which)
        if not found:
            running = "\n".join(each.command for each in self.processes())
            raise LookupError(f"no {which} runs on {self.name}, but\n{running}")
        for each in found:
            with suppress(ProcessLookupError):
                os.kill(each.pid, number)
        return len(found)

    def freeze(self) -> None:
        """Stop everything in its tracks; the kernel goes on acknowledging packets."""

        def is_frozen() -> bool:
            moving = [each for each in self.processes() if each.state not in {"T", "Z", "X", ""}]
            for each in moving:
                with suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGSTOP)
            return not moving

        wait_until(is_frozen, f"{self.name} is frozen", seconds=20)

    def thaw(self) -> None:
        """Let it go on as if no time had passed."""
        for each in self.processes():
            # nsenter stops itself when what it runs is stopped, and is not in there itself.
            for pid in (each.pid, each.parent):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _all_processes(self) -> Iterator[Process]:
        """Yield what is in the same space of process ids, without its first process."""
        if not self.is_on:
            return
        for directory in Path("/proc").glob("[0-9]*"):
            pid = int(directory.name)
            with suppress(OSError):
                if pid != self._init and (directory / "ns" / "pid").readlink() == self._space:
                    words = (directory / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
                    yield Process(pid, b" ".join(words).decode(errors="replace") + " ")

    # --- commands ------------------------------------------------------------------------------

    def run(
        self,
        command: Sequence[str | Path],
        *,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
        check: bool = True,
        seconds: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end, without a terminal.

        Raises:
            CommandError: it failed, unless `check` is off.

        """
        done = subprocess.run(
            self._inside(command, environment),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        if check and done.returncode:
            words = " ".join(map(str, command))
            printed = f"{done.stdout}{done.stderr}"
            raise CommandError(f"{self.name}$ {words}\nexit status {done.returncode}\n{printed}")
        return done

    def begin(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command there; what it prints goes to a file of the host."""
        words = self._inside(command, environment)
        with log.open("ab") as output:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def type(self, command: Sequence[str], *, seconds: float = 60) -> "pexpect.spawn[str]":
        """Start a command at a terminal there."""
        words = self._inside(command, {"TERM": "xterm"})
        return pexpect.spawn(
            words[0], words[1:], encoding="utf-8", timeout=seconds, dimensions=(40, 160)
        )

    def _inside(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> list[str]:
        if not self.is_on:
            raise RuntimeError(f"{self.name} is off")
        path = f"{self._programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        enter = ["nsenter", "--target", str(self._init), "--mount", "--uts", "--ipc", "--pid"]
        network = [f"--net=/run/netns/{self.namespace}", "--wd=/"]
        variables = {"PATH": path, "HOME": "/run/home", "LANG": "C.UTF-8", "TERM": "dumb"}
        variables |= environment or {}
        given = [f"{name}={value}" for name, value in variables.items()]
        return [str(word) for word in (*enter, *network, "--", "env", "-i", *given, *command)]


class Machines:
    """Some machines on one bridge, which know each other's names; all are on when it is entered."""

    def __init__(
        self,
        names: Sequence[str],
        directory: Path,
        *,
        disk_bytes: int = 0,
        addresses: str = IPV4,
        own_clocks: bool = False,
    ) -> None:
        """`addresses` is what each address begins with; a number follows.

        With `own_clocks` the time of day of each machine can be set.
        """
        self._names = names
        self._addresses = addresses
        self._directory = directory / "machines"
        self._disk_bytes = disk_bytes
        self._own_clocks = own_clocks
        self._machines: dict[str, Machine] = {}
        self._network = Network()
        self._programs = Path()
        self._ending = ExitStack()

    def __getitem__(self, name: str) -> Machine:
        return self._machines[name]

    def __iter__(self) -> Iterator[Machine]:
        return iter(self._machines.values())

    def __enter__(self) -> Self:
        require_namespaces()
        # Once: all machines have the same, also when somebody edits the sources meanwhile.
        self._programs = installed_python().parent
        with ExitStack() as stack:
            self._build(stack)
            self._ending = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.close()

    def thread_on(self, name: str) -> NamespaceThread:
        """Give an event loop whose sockets are that machine's; the caller closes it."""
        return NamespaceThread(self[name].namespace)

    def _build(self, stack: ExitStack) -> None:
        self._directory.mkdir(parents=True)
        (self._directory / "nothing").touch()
        stack.callback(self._network.close)
        self._network.open()
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        for number, name in enumerate(self._names):
            address = f"{self._addresses}{_FIRST_ADDRESS + number}"
            lines.append(f"{address} {name}")
            disk = Disk(self._directory / name, self._disk_bytes)
            stack.callback(disk.close)
            disk.open()
            machine = Machine(
                name,
                address,
                programs=self._programs,
                directory=self._directory,
                network=self._network,
                disk=disk,
                clock=_own_clock(self._directory / f"{name}-clock") if self._own_clocks else None,
            )
            stack.callback(self._remove, machine)
            self._machines[name] = machine
        (self._directory / "hosts").write_text("\n".join(lines) + "\n")
        for machine in self:
            machine.start()

    @staticmethod
    def _remove(machine: Machine) -> None:
        """End a machine; its logs stay, its disk's content does not."""
        machine.power_off()
        logs = machine.disk.path / "log"
        if logs.is_dir():
            shutil.copytree(logs, machine.directory / "log", dirs_exist_ok=True)
        for path in machine.disk.path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _own_clock(directory: Path) -> Path:
    """Make a directory with a clock that can be set, and what makes programs go by it."""
    directory.mkdir()
    (directory / "ahead").write_bytes(bytes(8))
    source = Path(__file__).with_name("wall_clock.c")
    options = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror"]
    built = directory / "wall_clock.so"
    subprocess.run([requires("cc"), *options, "-o", built, source], check=True)
    return directory
