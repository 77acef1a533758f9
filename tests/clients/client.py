"""A client program with a home of its own: nothing of this machine's user, proxies or logins."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.processes import OWN_PROGRAMS, requires

REFUSALS = (
    "401",
    "unauthorized",
    "denied",
    "authentication required",
    "authorization failed",
    "no basic auth credentials",
    "credential required",
    "basic credential not found",
    "invalid username/password",
)
TRUST_ALL = '{"default": [{"type": "insecureAcceptAnything"}]}'


class ClientFailedError(AssertionError):
    """A client did not end as the test wanted; what it printed is in the message."""


class Client:
    """One installed program, run with the same options and environment every time.

    Only `home` is written to; a missing program skips the test.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        *options: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.program = requires(name)
        self.home = home
        self._options = options
        self._environment = {**isolated_environment(home), **(environment or {})}

    def run(self, *arguments: str | Path, stdin: str | None = None, seconds: float = 60) -> str:
        """Run the program, which must succeed; give its standard output.

        Raises:
            ClientFailedError: It failed.

        """
        ended = self._end(arguments, stdin, seconds)
        if ended.returncode != 0:
            raise ClientFailedError(describe(ended))
        return ended.stdout

    def refused(self, *arguments: str | Path, stdin: str | None = None) -> str:
        """Run the program, which must fail; give everything that it printed.

        Raises:
            ClientFailedError: It succeeded.

        """
        ended = self._end(arguments, stdin, 60)
        if ended.returncode == 0:
            raise ClientFailedError(describe(ended))
        return ended.stdout + ended.stderr

    def _end(
        self, arguments: tuple[str | Path, ...], stdin: str | None, seconds: float
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.program), *self._options, *map(str, arguments)],
            cwd=self.home,
            env=self._environment,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )


def isolated_environment(home: Path) -> dict[str, str]:
    """Make a home directory and give the environment which keeps a program inside it."""
    runtime = home / "run"
    temporary = home / "tmp"
    policy = home / ".config" / "containers" / "policy.json"
    for directory in (runtime, temporary, policy.parent):
        directory.mkdir(parents=True, exist_ok=True)
    policy.write_text(TRUST_ALL)
    return {
        "PATH": os.pathsep.join((str(OWN_PROGRAMS), os.environ.get("PATH", os.defpath))),
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "XDG_RUNTIME_DIR": str(runtime),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_DATA_HOME": str(home / ".local" / "share"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "DOCKER_CONFIG": str(home / ".docker"),
        "REGISTRY_AUTH_FILE": str(home / "auth.json"),
    }


def is_refusal(output: str) -> bool:
    """Whether a program's output says, in its own words, that the registry wants an account."""
    return any(word in output.lower() for word in REFUSALS)


def describe(ended: subprocess.CompletedProcess[str]) -> str:
    """Give a finished program's command line, exit status and both outputs."""
    command = " ".join(str(part) for part in ended.args)
    return f"{command}\nexit status {ended.returncode}\n{ended.stdout}{ended.stderr}"
