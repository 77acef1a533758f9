"""notation: signatures by a local, self-signed test key."""

import json
from pathlib import Path

import pytest
from tests.clients.client import Client
from tests.clients.images import Layout, write_layout
from tests.support.registry import Registry, Repository

pytestmark = pytest.mark.clients

PLAIN = "--insecure-registry"
POLICY = {
    "version": "1.0",
    "trustPolicies": [
        {
            "name": "everything",
            "registryScopes": ["*"],
            "signatureVerification": {"level": "strict"},
            "trustStores": ["ca:dtr.test"],
            "trustedIdentities": ["*"],
        }
    ],
}
SIGNATURE = "application/vnd.cncf.notary.signature"


@pytest.fixture
def notation(home: Path, registry: Registry) -> Client:
    """Give notation with a test key that it trusts, and the account."""
    account = {
        "NOTATION_USERNAME": registry.username,
        "NOTATION_PASSWORD": registry.password,
    }
    client = Client("notation", home, environment=account)
    client.run("cert", "generate-test", "--default", "dtr.test")
    policy = home / "policy.json"
    policy.write_text(json.dumps(POLICY))
    client.run("policy", "import", policy)
    return client


@pytest.fixture
def image(notation: Client, repository: Repository, tmp_path: Path) -> Layout:
    """Push an image that can be signed."""
    skopeo = Client("skopeo", notation.home)
    layout = write_layout(tmp_path / "layout", repository.name)
    options = ("--dest-tls-verify=false", "--dest-creds", repository.registry.credentials)
    skopeo.run("copy", *options, layout.source, f"docker://{repository.at('v1')}")
    return layout


@pytest.mark.parametrize("form", ["jws", "cose"])
@pytest.mark.parametrize("as_tag", ["true", "false"], ids=["as a tag", "as a referrer"])
def test_a_signed_image_verifies(
    notation: Client, image: Layout, repository: Repository, form: str, as_tag: str
) -> None:
    """A signature of either form is found, listed and verified; before it there is none."""
    name = repository.at(image.digest)
    assert "no signature" in notation.refused("verify", PLAIN, name)
    options = (PLAIN, f"--signature-format={form}", f"--force-referrers-tag={as_tag}")
    notation.run("sign", *options, name)
    assert "Successfully verified" in notation.run("verify", PLAIN, name)
    assert SIGNATURE in notation.run("list", PLAIN, name)
    if repository.registry.is_ours:
        kinds = [each["artifactType"] for each in repository.referrers(image.digest)]
        assert kinds == [SIGNATURE]


def test_a_signature_by_an_unknown_key_is_not_trusted(
    notation: Client, image: Layout, repository: Repository
) -> None:
    """Only keys in the trust store count."""
    name = repository.at(image.digest)
    notation.run("cert", "generate-test", "--default", "stranger.test")
    notation.run("sign", PLAIN, name)
    assert "verification failed" in notation.refused("verify", PLAIN, name)
