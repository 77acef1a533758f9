"""DTR as it is installed on a machine: readable by every user, apart from this checkout.

The interpreter of a checkout often lives in somebody's home, where the user `postgres` cannot look.
What is made here lives below `/var/tmp` and is kept between runs, in two layers: the locked
packages (`packages-<digest of the lock>`, a minute's work) and, for each state of the sources, an
environment with a copy of them and the commands (`dtr-<digest>`, half a second). A cluster that
runs from one of those is never touched by a later change of the checkout.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.processes import ROOT

_BASE_PYTHON = Path("/usr/bin/python3")
_SOURCE = ROOT / "src" / "dtr"
_LOCK_FILE = ROOT / "requirements.lock"
_BUILD_LOCK_FILE = ROOT / "requirements-build.lock"
_COMPLETE = "complete"
_KEPT_SECONDS = 2 * 86_400
_COMMANDS = {"dtr": "dtr.cli.application:main", "ucp": "dtr.cli.ucp.application:main"}


def installed_python() -> Path:
    """Give the interpreter of an installation of this checkout as it is now.

    Beside it are the commands `dtr`, `ucp`, `patroni` and `patronictl`. Everybody may read and run
    it; nobody but its owner can have changed it. Several processes may ask at once: one makes it.
    Skips the test on a machine whose own Python cannot make environments.
    """
    _require_base_python()
    base = _own_directory(Path(f"/var/tmp/dtr-tests-{os.geteuid()}"))
    with _locked(base / "lock"):
        packages = _packages(base)
        os.utime(packages / _COMPLETE)
        environment = _environment(base, packages)
        os.utime(environment / _COMPLETE)
    return environment / "bin" / "python3"


def installed_command(name: str) -> Path:
    """Give one of the commands beside `installed_python()`."""
    return installed_python().parent / name


def _require_base_python() -> None:
    """Skip where there is no Python that all users can run, or one that is too old."""
    probe = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))"
    try:
        done = subprocess.run([_BASE_PYTHON, "-c", probe], check=False, capture_output=True)
    except OSError:
        pytest.skip(f"not on this machine: {_BASE_PYTHON}")
    if done.returncode:
        pytest.skip(f"{_BASE_PYTHON} makes no environments, or is older than 3.11 (python3-venv)")


def _own_directory(path: Path) -> Path:
    """Make a directory that others may read, or make sure that the one there is ours alone.

    Raises:
        PermissionError: somebody else made it first, where everybody may make directories.

    """
    path.mkdir(mode=0o755, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} is not a directory that only we can write: remove it")
    path.chmod(0o755)
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only process that makes installations."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _packages(base: Path) -> Path:
    """Give an environment with the locked packages."""
    version = subprocess.run(
        [_BASE_PYTHON, "--version"], check=True, capture_output=True, text=True
    ).stdout
    locks = _BUILD_LOCK_FILE.read_bytes() + _LOCK_FILE.read_bytes()
    digest = hashlib.sha256(version.encode() + locks).hexdigest()[:16]
    environment = base / f"packages-{digest}"
    if (environment / _COMPLETE).exists():
        return environment
    _run(_BASE_PYTHON, "-m", "venv", "--clear", environment)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install")
    python = environment / "bin" / "python3"
    _run(python, *pip, "--require-hashes", "--requirement", _BUILD_LOCK_FILE)
    _run(python, *pip, "--require-hashes", "--no-build-isolation", "--requirement", _LOCK_FILE)
    (environment / _COMPLETE).touch()
    return environment


def _digest_of_source(packages: str) -> str:
    """Digest every file of the sources, by name and content, and what they run with."""
    digest = hashlib.sha256(packages.encode())
    for path in sorted(_SOURCE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(_SOURCE)}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _environment(base: Path, packages: Path) -> Path:
    """Give an environment with the sources as they are, also while somebody edits them."""
    while True:
        environment = base / f"dtr-{_digest_of_source(packages.name)}"
        if (environment / _COMPLETE).exists():
            return environment
        _remove_old(base)
        _make_environment(environment, packages)
        if environment.name == f"dtr-{_digest_of_source(packages.name)}":
            (environment / _COMPLETE).touch()


def _make_environment(environment: Path, packages: Path) -> None:
    """Make an environment that sees the packages and a copy of the sources."""
    _run(_BASE_PYTHON, "-m", "venv", "--clear", "--without-pip", environment)
    (site,) = environment.glob("lib/python3*/site-packages")
    (theirs,) = packages.glob("lib/python3*/site-packages")
    seen = site / "packages.pth"
    seen.write_text(f"{theirs}\n")
    seen.chmod(0o644)
    copy = site / "dtr"
    shutil.copytree(_SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    python = environment / "bin" / "python3"
    _run(python, "-m", "compileall", "-q", copy)
    for name, target in _COMMANDS.items():
        module, function = target.split(":")
        _write_command(python, name, f"from {module} import {function}\n{function}()\n")
    for name in ("patroni", "patronictl"):
        text = (packages / "bin" / name).read_text().partition("\n")[2]
        _write_command(python, name, text)


def _write_command(python: Path, name: str, text: str) -> None:
    path = python.with_name(name)
    path.write_text(f"#!{python}\n{text}")
    path.chmod(0o755)


def _remove_old(base: Path) -> None:
    """Remove what nobody has asked for in two days, and what was never finished."""
    for environment in (*base.glob("dtr-*"), *base.glob("packages-*")):
        mark = environment / _COMPLETE
        if not mark.exists() or mark.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(environment, ignore_errors=True)


def _run(*command: str | Path) -> None:
    """Run a step without what this process was told about Python, for all to read."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        command, check=False, env=kept, umask=0o022, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.stdout.write(f"{installed_python()}\n")
