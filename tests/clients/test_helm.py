"""helm: charts pushed to and pulled from the registry."""

from pathlib import Path

import pytest
from tests.clients.client import Client, is_refusal
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--plain-http"
CHART = "apiVersion: v2\nname: {name}\nversion: {version}\ndescription: for tests\n"
TEMPLATE = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n"


@pytest.fixture
def helm(home: Path, registry: Registry) -> Client:
    """Give helm, logged in."""
    client = Client("helm", home)
    options = (PLAIN, "--username", registry.username, "--password-stdin")
    client.run("registry", "login", *options, registry.address, stdin=registry.password)
    return client


def push(helm: Client, repository: Repository, version: str) -> Path:
    """Package and push a chart named as the repository; give the package."""
    name = repository.name.rpartition("/")[2]
    chart = helm.home / name
    (chart / "templates").mkdir(parents=True, exist_ok=True)
    (chart / "Chart.yaml").write_text(CHART.format(name=name, version=version))
    (chart / "templates" / "map.yaml").write_text(TEMPLATE)
    helm.run("package", chart)
    package = helm.home / f"{name}-{version}.tgz"
    namespace = repository.location.rpartition("/")[0]
    helm.run("push", PLAIN, package, f"oci://{namespace}")
    return package


def test_a_pushed_chart_is_pulled_back(
    helm: Client, repository: Repository, tmp_path: Path
) -> None:
    """The package comes back byte for byte."""
    package = push(helm, repository, "1.2.3")
    config = repository.manifest("1.2.3")["config"]
    assert isinstance(config, dict)
    assert config["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
    out = tmp_path / "out"
    out.mkdir()
    chart = f"oci://{repository.location}"
    helm.run("pull", PLAIN, "--version=1.2.3", "--destination", out, chart)
    assert (out / package.name).read_bytes() == package.read_bytes()


def test_the_newest_version_that_fits_is_found(helm: Client, repository: Repository) -> None:
    """A range of versions is resolved with the list of tags."""
    for version in ("1.0.0", "1.4.0", "2.0.0"):
        push(helm, repository, version)
    chart = f"oci://{repository.location}"
    assert "version: 1.4.0" in helm.run("show", "chart", PLAIN, "--version=^1.0", chart)


def test_a_template_is_rendered_from_the_registry(helm: Client, repository: Repository) -> None:
    """A chart can be used straight from where it is stored."""
    push(helm, repository, "1.0.0")
    rendered = helm.run("template", PLAIN, "release", f"oci://{repository.location}")
    assert "name: release" in rendered


def test_a_push_after_logout_is_refused(helm: Client, repository: Repository) -> None:
    """Without an account nothing is stored."""
    push(helm, repository, "1.0.0")
    helm.run("registry", "logout", repository.registry.address)
    package = helm.home / f"{repository.name.rpartition('/')[2]}-1.0.0.tgz"
    namespace = repository.registry.new_repository("x").location.rpartition("/")[0]
    output = helm.refused("push", PLAIN, package, f"oci://{namespace}")
    assert is_refusal(output)
