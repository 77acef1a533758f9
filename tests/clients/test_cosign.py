"""cosign: signatures by a local key, without any transparency log."""

import json
from pathlib import Path

import pytest
from tests.clients.client import Client
from tests.clients.images import Layout, write_layout
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

Options = tuple[tuple[str, ...], tuple[str, ...]]

PASSWORD = {"COSIGN_PASSWORD": "a key's password", "COSIGN_EXPERIMENTAL": "1"}
NOBODY = {
    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    **{key: [] for key in ("tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities")},
}
TAGGED: Options = ((), ())
REFERRER: Options = (("--registry-referrers-mode=oci-1-1",), ("--experimental-oci11",))
BUNDLE: Options = (
    ("--new-bundle-format",),
    ("--new-bundle-format", "--trusted-root=nobody.json"),
)


@pytest.fixture
def cosign(home: Path, registry: Registry) -> Client:
    """Give cosign, logged in, with a new pair of keys and an authority that trusts nobody."""
    client = Client("cosign", home, environment=PASSWORD)
    options = ("--username", registry.username, "--password-stdin")
    client.run("login", *options, registry.address, stdin=registry.password)
    client.run("generate-key-pair")
    (home / "nobody.json").write_text(json.dumps(NOBODY))
    return client


@pytest.fixture
def image(cosign: Client, repository: Repository, tmp_path: Path) -> Layout:
    """Push an image that can be signed."""
    crane = Client("crane", cosign.home)
    layout = write_layout(tmp_path / "layout", repository.name)
    crane.run("push", layout.path, repository.at("v1"))
    return layout


def sign(cosign: Client, name: str, *options: str) -> None:
    """Sign with the local key; nothing leaves the machine."""
    local = ("--key=cosign.key", "--tlog-upload=false", "--yes", "--allow-http-registry")
    cosign.run("sign", *local, *options, name)


def verification(*options: str) -> tuple[str, ...]:
    """Give the arguments that verify with the local key and no log."""
    local = ("--key=cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry")
    return ("verify", *local, *options)


@pytest.mark.parametrize(
    ("signing", "verifying"),
    [TAGGED, REFERRER, BUNDLE],
    ids=["as a tag", "as a referrer", "as a bundle"],
)
def test_a_signed_image_verifies(
    cosign: Client,
    image: Layout,
    repository: Repository,
    signing: tuple[str, ...],
    verifying: tuple[str, ...],
) -> None:
    """A signature is found and proves the image's digest; before it there is none."""
    name = repository.at(image.digest)
    output = cosign.refused(*verification(*verifying), name)
    assert "no signatures" in output or "no valid bundles" in output
    sign(cosign, name, *signing)
    cosign.run(*verification(*verifying), name)
    if repository.registry.is_ours and signing:
        assert repository.referrers(image.digest)


def test_a_signature_does_not_verify_with_another_key(
    cosign: Client, image: Layout, repository: Repository
) -> None:
    """The key decides."""
    name = repository.at(image.digest)
    sign(cosign, name)
    cosign.run("generate-key-pair", "--output-key-prefix=other")
    local = ("--key=other.pub", "--insecure-ignore-tlog=true", "--allow-http-registry")
    assert "invalid signature" in cosign.refused("verify", *local, name)
