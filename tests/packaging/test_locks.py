"""The lock files hold on any later day: newer versions in the index change nothing.

`pip` of Debian 12 takes `coverage[toml]` for a requirement that `coverage==7.17.3` does not pin, as
soon as the index has a newer coverage. So each lock is installed here from an index of empty wheels
that have the real requirements, in which every pinned package has a newer version, too.
"""

import hashlib
import importlib.metadata
import re
import subprocess
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.processes import ROOT

pytestmark = pytest.mark.packages

LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
NEWER = "99999"
_PINNED = re.compile(
    r"^(?P<name>[\w.-]+)(?P<extras>\[[\w,-]+\])?==(?P<version>[^ ;\\]+)", re.MULTILINE
)
_HASHES = re.compile(r"( \\)?\n    --hash=sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Index:
    """A directory of wheels, and the locks with the hashes of those wheels."""

    wheels: Path
    locks: Path

    def lock(self, name: str) -> Path:
        """Return the lock of that name that this index can satisfy."""
        return self.locks / name


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Give an index that has every pinned package, and a newer version of each."""
    made = Index(tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("locks"))
    for name in LOCKS:
        lines = [
            line
            if (pinned := _PINNED.match(line)) is None
            else with_hash(made.wheels, line, pinned)
            for line in _HASHES.sub("", (ROOT / name).read_text()).splitlines()
        ]
        made.lock(name).write_text("\n".join(lines) + "\n")
    return made


def with_hash(wheels: Path, line: str, pinned: re.Match[str]) -> str:
    """Make the wheels of a pinned package, and pin the one that the lock names."""
    wheel = make_wheel(wheels, pinned["name"], pinned["version"])
    make_wheel(wheels, pinned["name"], NEWER)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    return f"{line.rstrip()} --hash=sha256:{digest}"


def make_wheel(directory: Path, name: str, version: str) -> Path:
    """Make a wheel without content that asks for what the real package asks for."""
    stem = f"{name.replace('-', '_')}-{version}"
    path = directory / f"{stem}-py3-none-any.whl"
    if path.exists():
        return path
    metadata: list[str] = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    try:
        real = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:  # another platform's
        pass
    else:
        metadata += [f"Provides-Extra: {each}" for each in real.get_all("Provides-Extra", [])]
        metadata += [f"Requires-Dist: {each}" for each in real.get_all("Requires-Dist", [])]
    files = {
        "METADATA": "\n".join(metadata) + "\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{stem}.dist-info/{file}", text)
    return path


@pytest.fixture(scope="module", params=["pip==23.0", "pip"])
def pip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the Python of an environment that has this pip, and nothing else."""
    directory = tmp_path_factory.mktemp("pip")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python3"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "1"]
    done = subprocess.run(
        [python, "-m", "pip", *quiet, "install", "--upgrade", request.param],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"{request.param} cannot be had here: {done.stderr.strip()[-200:]}")
    return python


def install(python: Path, index: Index, lock: Path) -> subprocess.CompletedProcess[str]:
    """Let pip say whether it would install a lock."""
    arguments = [
        "--isolated",
        "install",
        "--dry-run",
        "--require-hashes",
        "--no-index",
        "--no-cache-dir",
    ]
    return subprocess.run(
        [python, "-I", "-m", "pip", *arguments, "--find-links", index.wheels, "-r", lock],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_when_everything_has_newer_versions(
    pip: Path, index: Index, name: str
) -> None:
    """What is pinned is what is installed, by Debian 12's pip and by the newest."""
    done = install(pip, index, index.lock(name))
    assert done.returncode == 0, done.stderr
    assert NEWER not in done.stdout.rpartition("Would install")[2]


@pytest.mark.parametrize("pip", ["pip==23.0"], indirect=True)
def test_a_lock_without_its_extras_does_not_hold(pip: Path, index: Index, tmp_path: Path) -> None:
    """The index above is one in which that mistake is seen."""
    stripped = tmp_path / "stripped.lock"
    text = index.lock("requirements-dev.lock").read_text()
    stripped.write_text(re.sub(r"^([\w.-]+)\[[\w,-]+\]==", r"\1==", text, flags=re.MULTILINE))
    done = install(pip, index, stripped)
    assert done.returncode
    assert "must have their versions pinned" in done.stderr


def test_what_is_built_is_built_by_what_is_pinned() -> None:
    """Packages without wheels would be built by whatever setuptools is the newest that day."""
    steps = re.findall(r"pip\) install .*", (ROOT / "Makefile").read_text(), re.IGNORECASE)
    [build, run, in_place, *_] = [step for step in steps if "lock" in step or "editable" in step]
    assert "requirements-build.lock" in build
    assert "--no-build-isolation -r requirements.lock" in run
    assert "--no-build-isolation" in in_place
    image = re.sub(r"\s*\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    assert re.search(r"pip wheel [^&]*--no-build-isolation [^&]*-r requirements.lock", image)
    locked = (ROOT / "requirements-build.lock").read_text()
    assert {"setuptools", "wheel"} <= {pinned["name"] for pinned in _PINNED.finditer(locked)}
