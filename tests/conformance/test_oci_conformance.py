"""The official OCI conformance program: everything in it, the optional parts too."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from xml.etree import ElementTree as ET

import pytest
from tests.support.balanced import BalancedServers
from tests.support.postgresql import RunningPostgresql, temporary_database
from tests.support.processes import ROOT, requires
from tests.support.registry import USER, Registry, registry_under_test
from tests.support.seaweed import RunningS3

pytestmark = pytest.mark.conformance

REPORT = ROOT / "results" / "conformance"
DEADLINE_SECONDS = 240

# What the program leaves off unless told, or may in a later version; the rest it does by itself.
SWITCHES = (
    *("OCI_API_PING", "OCI_API_PULL", "OCI_API_PUSH", "OCI_API_REFERRER"),
    *("OCI_API_BLOBS_ATOMIC", "OCI_API_BLOBS_DELETE", "OCI_API_BLOBS_DIGEST_HEADER"),
    *("OCI_API_BLOBS_MOUNT_ANONYMOUS", "OCI_API_BLOBS_UPLOAD_CANCEL"),
    *("OCI_API_MANIFESTS_ATOMIC", "OCI_API_MANIFESTS_DELETE"),
    *("OCI_API_MANIFESTS_DIGEST_HEADER", "OCI_API_MANIFESTS_TAG_PARAM"),
    *("OCI_API_TAGS_ATOMIC", "OCI_API_TAGS_DELETE", "OCI_API_TAGS_LIST"),
    *("OCI_DATA_IMAGE", "OCI_DATA_INDEX", "OCI_DATA_INDEX_LIST", "OCI_DATA_SPARSE"),
    *("OCI_DATA_ARTIFACT", "OCI_DATA_SUBJECT", "OCI_DATA_SUBJECT_MISSING"),
    *("OCI_DATA_ARTIFACT_LIST", "OCI_DATA_SUBJECT_LIST", "OCI_DATA_DATA_FIELD"),
    *("OCI_DATA_NONDISTRIBUTABLE", "OCI_DATA_CUSTOM_FIELDS", "OCI_DATA_NO_LAYERS"),
    *("OCI_DATA_EMPTY_BLOB", "OCI_DATA_SHA512"),
)
ON_POSTGRESQL = (pytest.mark.postgresql,)
ON_S3 = (pytest.mark.postgresql, pytest.mark.s3)
DEPLOYMENTS = (
    "embedded",
    pytest.param("postgresql-files-one", marks=ON_POSTGRESQL),
    pytest.param("postgresql-files-three", marks=ON_POSTGRESQL),
    pytest.param("postgresql-s3-one", marks=ON_S3),
    pytest.param("postgresql-s3-three", marks=ON_S3),
)
MINIMUM_CHECKS = 900  # 992 at this version; fewer would mean that it did not run as wanted


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a place for what the registries store."""
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture
def registry(request: pytest.FixtureRequest, directory: Path) -> Iterator[Registry]:
    """Give the registry of a deployment; `TEST_REGISTRY` aims `embedded` at another one."""
    deployment: str = request.param
    (directory / deployment).mkdir()
    if deployment == "embedded":
        with registry_under_test(directory / deployment) as registry:
            yield registry
        return
    postgresql: RunningPostgresql = request.getfixturevalue("postgresql")
    s3: RunningS3 | None = request.getfixturevalue("s3") if "s3" in deployment else None
    with (
        temporary_database(postgresql) as url,
        BalancedServers(
            directory / deployment,
            count=3 if "three" in deployment else 1,
            database_url=url,
            storage_url=s3.url_of(deployment) if s3 else "",
            environment=s3.environment if s3 else {},
        ) as servers,
    ):
        [first, *others] = servers.servers
        account = first.add_user(*USER)
        address = servers.balancer.address if others else first.address
        yield Registry(address, *account, log=first.log, server=first)


def run_conformance(registry: Registry, report: Path) -> str:
    """Run the program with everything switched on; give what it printed."""
    program = requires("conformance")
    report.mkdir(parents=True, exist_ok=True)
    for old in report.iterdir():
        old.unlink()
    settings = {
        **dict.fromkeys(SWITCHES, "true"),
        "OCI_VERSION": "dev",
        "OCI_TLS": "disabled",
        "OCI_REGISTRY": registry.address,
        "OCI_REPO1": registry.new_repository("conformance-one").name,
        "OCI_REPO2": registry.new_repository("conformance-two").name,
        "OCI_USERNAME": registry.username,
        "OCI_PASSWORD": registry.password,
        "OCI_RESULTS_DIR": str(report),
        "OCI_LOG": "error",
    }
    ended = subprocess.run(
        [program],
        cwd=report,
        env={"PATH": os.environ.get("PATH", os.defpath), **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    (report / "output.txt").write_text(ended.stdout + ended.stderr)
    return ended.stdout + ended.stderr


@dataclass(frozen=True)
class Checks:
    """What the program's JUnit report says."""

    total: int
    failures: int
    errors: int
    skipped: int
    others: tuple[str, ...]
    """Those that did not pass, as `status: name`; some are grouped, so that these are fewer."""

    @classmethod
    def from_report(cls, junit: Path) -> Self:
        """Read the report."""
        suites = ET.parse(junit).getroot()
        cases = [
            (case.get("status", "error"), case.get("name")) for case in suites.iter("testcase")
        ]
        others = (f"{status}: {name}" for status, name in cases if status != "passed")
        return cls(
            total=int(suites.get("tests", "0")),
            failures=int(suites.get("failures", "0")),
            errors=int(suites.get("errors", "0")),
            skipped=int(suites.get("skipped", "0")),
            others=tuple(sorted(others)),
        )


def summary(results: Path) -> dict[str, str]:
    """Give the `apis` and `data` sections of the program's results, which are flat YAML."""
    section = ""
    found = {}
    for line in results.read_text().splitlines():
        key, _, value = line.strip().partition(":")
        if not line.startswith(" "):
            section = key
        elif section in {"apis", "data"}:
            found[f"{section}/{key}"] = value.strip()
    return found


@pytest.mark.timeout(DEADLINE_SECONDS + 60)
@pytest.mark.parametrize("registry", DEPLOYMENTS, indirect=True)
def test_every_conformance_check_passes(registry: Registry, request: pytest.FixtureRequest) -> None:
    """No check of the official program fails, errs or is skipped; its report is kept."""
    report = REPORT / request.node.callspec.id
    output = run_conformance(registry, report)
    junit = report / "junit.xml"
    assert junit.exists(), f"the program left no report:\n{output}"
    checks = Checks.from_report(junit)
    print(
        f"\nconformance: {checks.total} checks, {checks.failures} failures,"
        f" {checks.errors} errors, {checks.skipped} skipped; report in {report}"
    )
    listing = "\n".join(checks.others[:60])
    assert (checks.failures, checks.errors, checks.skipped) == (0, 0, 0), listing
    assert checks.others == (), listing
    assert checks.total >= MINIMUM_CHECKS
    groups = summary(report / "results.yaml")
    assert groups
    assert {name: status for name, status in groups.items() if status != "Pass"} == {}
