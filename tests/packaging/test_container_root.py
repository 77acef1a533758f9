"""The container image: small, and it has everything that runs the registry."""

import json
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from tests.support.processes import ProcessGroup, free_port, requires_root, wait_until
from tests.support.server import answers

pytestmark = pytest.mark.server

PROJECT = Path(__file__).parents[2]
MOST_BYTES = 150_000_000
_TAR_BLOCK = 512
_PINNED = re.compile(r"^([A-Za-z0-9._-]+(?:\[[^]]*\])?==\S+(?: ; [^\\]*)?)", re.MULTILINE)


def locked() -> Iterator[Requirement]:
    """Yield what the lock file installs on this machine."""
    for line in _PINNED.findall((PROJECT / "requirements.lock").read_text()):
        found = Requirement(line.strip())
        if found.marker is None or found.marker.evaluate():
            yield found


def install(prefix: Path) -> None:
    """Make an environment as the Dockerfile does, of the packages that the tests run with."""
    venv.create(prefix, symlinks=True, with_pip=False)
    (packages,) = prefix.glob("lib/python*/site-packages")
    for requirement in locked():
        found = distribution(requirement.name)
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                copy = packages / file
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(found.locate_file(file)), copy)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "src" / "dtr", packages / "dtr", ignore=ignored)
    shutil.copy(PROJECT / "deploy" / "healthcheck.py", prefix / "bin")


def size_of(root: Path) -> int:
    """Return how many bytes a directory has as a layer, which is a tar file."""
    count = 0
    for path in root.rglob("*"):
        is_file = path.is_file() and not path.is_symlink()
        blocks = -(-path.stat().st_size // _TAR_BLOCK) if is_file else 0
        count += (1 + blocks) * _TAR_BLOCK
    return count


@dataclass(frozen=True)
class Built:
    """An image's root, the environment in it, and how large it was before anything ran in it."""

    image: Path
    prefix: Path
    size: int

    def command(self, *words: str) -> list[str]:
        """Return how the image's Python is called with nothing of this machine beside it."""
        return ["chroot", str(self.image), str(self.prefix / "bin" / "python"), *words]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Give what the image would have, of this machine's Python and packages."""
    requires_root("chroot")
    if shutil.which("strip") is None:
        pytest.skip("not on this machine: strip (apt-get install binutils)")
    directory = tmp_path_factory.mktemp("container")
    prefix, target = directory / "dtr", directory / "image"
    target.mkdir()
    install(prefix)
    script = PROJECT / "deploy" / "container_root.py"
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    subprocess.run([base, script, target, prefix], check=True)
    return Built(target, prefix, size_of(target))


def test_the_image_is_under_150_megabytes(built: Built) -> None:
    """Every layer counted; nothing in it installs, compiles or describes foreign services."""
    assert built.size < MOST_BYTES
    names = {path.name for path in built.image.rglob("*")}
    assert not names & {"pip", "ensurepip", "apt", "dpkg", "ec2", "perl", "locale"}
    assert {"s3", "sts", "ca-certificates.crt", "sh"} <= names


def test_the_programs_that_the_page_calls_in_the_container_are_there(built: Built) -> None:
    """`docker exec dtr cat .../initial_admin_password` once found no `cat`."""
    page = (PROJECT / "docs" / "operating.md").read_text()
    called = re.findall(r"^docker exec (?:-\S+ )*dtr (\S+)", page, re.MULTILINE)
    assert called == ["cat", "dtr"]
    (built.image / "note").write_text("a word\n")
    shown = subprocess.run(
        ["chroot", str(built.image), "cat", "/note"], check=True, capture_output=True, text=True
    )
    assert shown.stdout == "a word\n"


def test_what_is_in_the_image_serves(built: Built, tmp_path: Path) -> None:
    """With nothing of this machine beside it: start, log in, push, pull, and the health check."""
    image, port, environment = (
        built.image,
        free_port(),
        {"PATH": "/usr/sbin:/usr/bin:/bin", "DTR_SERVER__WORKERS": "1"},
    )
    environment["DTR_SERVER__LISTEN"] = f"127.0.0.1:{port}"
    (image / "dev").mkdir()
    for name in ("null", "urandom"):
        (image / "dev" / name).write_bytes(b"0" * 64)
    password = image / "password"
    password.write_text("a long enough password\n")
    dtr = built.command("-m", "dtr")
    options = ["--data-dir", "/root/data", "--admin-password-file", "/password"]
    server = ProcessGroup(
        [*dtr, "serve", *options], log=tmp_path / "server.log", environment=environment
    )
    server.start()
    try:
        server.wait_until_ready(lambda: answers(f"http://127.0.0.1:{port}/_ping"))
        auth = ("admin", "a long enough password")
        url = f"http://127.0.0.1:{port}/v2/admin/app/blobs"
        digest = f"sha256:{'0' * 64}"
        assert httpx.post(f"{url}/uploads/", auth=auth).status_code == 202
        assert httpx.get(f"{url}/{digest}", auth=auth).status_code == 404
        health = built.command(str(built.prefix / "bin" / "healthcheck.py"))
        wait_until(
            lambda: (
                subprocess.run(health, env=environment, check=False, capture_output=True).returncode
                == 0
            ),
            "the health check says that it is well",
        )
        listed = subprocess.run(
            [*dtr, "repo", "list", "--json", "--data-dir", "/root/data"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        assert [each["name"] for each in json.loads(listed.stdout)] == ["admin/app"]
    finally:
        server.stop()


@pytest.mark.parametrize("module", ["obstore", "psycopg", "alembic.command", "aiobotocore.session"])
def test_what_is_loaded_late_is_there(built: Built, module: str) -> None:
    """Object stores, PostgreSQL and migrations, which a first start does not all need."""
    subprocess.run(built.command("-c", f"import {module}"), check=True)


@pytest.mark.parametrize("service", ["s3", "sts", "sso", "sso-oidc"])
def test_the_services_that_are_called_are_described(built: Built, service: str) -> None:
    """The blobs' own, and those that credentials are got from."""
    code = f"botocore.session.get_session().create_client({service!r}, region_name='eu-west-1')"
    subprocess.run(built.command("-c", f"import botocore.session; {code}"), check=True)
