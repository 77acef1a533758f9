"""A registry that grows: out of its directory onto PostgreSQL, and from one server to another."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.outages.images import Image, digest_of, manifest_of
from tests.support.postgresql import PASSWORD
from tests.support.server import ADMIN, ADMIN_PASSWORD, RunningServer, run_dtr

pytestmark = pytest.mark.server

Servers = Callable[..., RunningServer]
ALICE = ("alice", "alice's long enough password")
AS_ADMIN = (ADMIN, ADMIN_PASSWORD)
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def image(number: int, subject: str = "") -> Image:
    """Return an image whose base layer all have."""
    config = json.dumps({"number": number}).encode()
    layers = [b"base" * 50_000, f"layer {number}".encode()]
    payload = json.loads(manifest_of(config, layers))
    if subject:
        payload["subject"] = {"mediaType": MANIFEST, "digest": subject, "size": 1}
    blobs = {digest_of(each): each for each in (config, *layers)}
    return Image(json.dumps(payload).encode(), blobs)


def push(server: RunningServer, name: str, reference: str, pushed: Image) -> None:
    """Push an image as Alice."""
    with httpx.Client(base_url=server.url, auth=ALICE) as client:
        for digest, content in pushed.blobs.items():
            path = f"/v2/{name}/blobs/uploads/?digest={digest}"
            assert client.post(path, content=content).status_code == 201
        headers = {"content-type": MANIFEST}
        path = f"/v2/{name}/manifests/{reference}"
        assert client.put(path, content=pushed.payload, headers=headers).status_code == 201


def check_pull(
    server: RunningServer, name: str, reference: str, wanted: Image, auth: tuple[str, str]
) -> None:
    """Pull an image with all its blobs and compare the bytes."""
    with httpx.Client(base_url=server.url, auth=auth, follow_redirects=True) as client:
        answer = client.get(f"/v2/{name}/manifests/{reference}", headers={"accept": MANIFEST})
        assert (answer.status_code, answer.content) == (200, wanted.payload), (name, reference)
        for digest, content in wanted.blobs.items():
            assert client.get(f"/v2/{name}/blobs/{digest}").content == content


@pytest.mark.postgresql
def test_an_embedded_registry_grows_up(
    server: Servers, tmp_path: Path, postgresql_url: str
) -> None:
    """Its metadata go to PostgreSQL, its blobs stay; users, passwords and tokens are as before."""
    old = server("old")
    old.add_user(*ALICE)
    secret = json.loads(old.run("token", "create", "alice", "--label", "ci", "--json"))["token"]
    pushed = {f"v{number}": image(number) for number in range(12)}
    for tag, each in pushed.items():
        push(old, "alice/app", tag, each)
    bearer = httpx.get(
        f"{old.url}/auth/token?service=dtr&scope=repository:alice/app:pull", auth=ALICE
    ).json()["token"]
    old.stop()

    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(f"{PASSWORD}\n")
    place = postgresql_url.replace(f":{PASSWORD}@", "@")
    run_dtr(
        *("copy-metadata", "--from", f"sqlite:{old.data_dir}", "--to", place),
        *("--to-password-file", str(password)),
    )

    storage = f"file://{old.data_dir}"
    new = server("new", database_url=postgresql_url, storage_url=storage)
    for tag, each in pushed.items():
        check_pull(new, "alice/app", tag, each, ALICE)
        check_pull(new, "alice/app", each.digest, each, ("alice", secret))
    answer = httpx.get(
        f"{new.url}/v2/alice/app/tags/list", headers={"authorization": f"Bearer {bearer}"}
    )
    assert sorted(answer.json()["tags"]) == sorted(pushed)
    assert httpx.get(f"{new.url}/v2/", auth=("alice", "wrong")).status_code == 401
    again = image(99)
    push(new, "alice/app", "after", again)
    check_pull(new, "alice/app", "after", again, ALICE)
    assert "damaged" not in new.run("fsck", "--verify")


def test_a_registry_of_ours_is_imported_by_its_api(server: Servers, tmp_path: Path) -> None:
    """With tokens, page by page, and with what refers to images; tags that moved move here."""
    source = server("source", environment={"DTR_LIMITS__PAGE_ENTRIES": "2"})
    source.add_user(*ALICE)
    pushed = {f"v{number}": image(number) for number in range(5)}
    for number, (tag, each) in enumerate(pushed.items()):
        push(source, f"alice/app-{number % 3}", tag, each)
    push(source, "alice/app-0", "v3", pushed["v3"])
    signature = image(100, subject=pushed["v0"].digest)
    push(source, "alice/app-0", signature.digest, signature)

    target = server("target")
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(f"{ADMIN_PASSWORD}\n")
    command = (
        *("import", "--from-distribution", source.url, "--json"),
        *("--username", ADMIN, "--password-file", str(password)),
    )
    done = json.loads(target.run(*command))
    assert (done["repositories"], done["tags"], done["problems"]) == (3, 5, [])
    for number, (tag, each) in enumerate(pushed.items()):
        check_pull(target, f"alice/app-{number % 3}", tag, each, AS_ADMIN)
    check_pull(target, "alice/app-0", signature.digest, signature, AS_ADMIN)
    listed = httpx.get(
        f"{target.url}/v2/alice/app-0/referrers/{pushed['v0'].digest}", auth=AS_ADMIN
    ).json()
    assert [entry["digest"] for entry in listed["manifests"]] == [signature.digest]

    moved = image(50)
    push(source, "alice/app-1", "v1", moved)
    again = json.loads(target.run(*command))
    assert (again["tags"], again["manifests"]) == (1, 1)
    check_pull(target, "alice/app-1", "v1", moved, AS_ADMIN)
