"""What administrators do with `ucp`."""

import io
import json
import re
import stat
import tarfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from tests.cli.ucp_command import Ucp, administrator_of
from tests.ucp.plane import PASSWORD, ControlPlane, report

from dtr.ucp import keys
from dtr.ucp.api import PREFIX
from dtr.ucp.authority import fingerprint
from dtr.ucp.model import TokenKind
from dtr.ucp.tokens import Token


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager and one worker that report."""
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as running:
        node = running.join("node2", "10.0.0.2")
        told = report(node.id, running.now, problems=["The fan is loud. Replace it."])
        with running.http(node) as http:
            assert http.post(f"{PREFIX}/agent/report", json=told).status_code == 200
        own = report(running.first.id, running.now)
        running.put(
            keys.report(running.first.id), json.dumps({**own, "received_at": running.now}).encode()
        )
        yield running


@pytest.fixture
def ucp(plane: ControlPlane, tmp_path: Path) -> Ucp:
    """Give an administrator's command line."""
    return administrator_of(plane, tmp_path)


def test_nodes_are_listed_and_inspected(ucp: Ucp) -> None:
    """For people and for scripts."""
    lines = ucp.good("node", "ls").out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["first", "ready", "yes"],
        ["node2", "ready", "-"],
    ]
    assert "The fan is loud" in ucp.good("node", "inspect", "node2").out
    assert ucp.good("node", "inspect", "node2", "--json").json["host_address"] == "10.0.0.2"
    assert "There are: first, node2" in ucp.fails("node", "inspect", "node/3")


def test_a_node_is_promoted_demoted_paused_and_resumed(ucp: Ucp) -> None:
    """A sentence each."""
    for change, said in (
        ("promote", "will be a manager"),
        ("demote", "will be a worker"),
        ("pause", "gets no new services"),
        ("resume", "can get new services again"),
    ):
        assert said in ucp.good("node", change, "node2").out
    assert "last manager" in ucp.fails("node", "demote", "first")


def test_a_node_is_removed_after_a_question(ucp: Ucp) -> None:
    """Which scripts answer with --yes."""
    assert "--yes" in ucp.fails("node", "rm", "node2")
    assert ucp.good("node", "rm", "node2", "--yes").out == "Removed node2.\n"
    assert len(ucp.good("node", "ls", "--json").json) == 1
    assert "last manager" in ucp.fails("node", "rm", "first", "--yes", "--force")


def test_the_token_is_shown_and_rotated(ucp: Ucp, plane: ControlPlane) -> None:
    """What is printed is the token and nothing else."""
    assert ucp.good("token", "show").out == f"{plane.token}\n"
    new = Token.parse(ucp.good("token", "rotate").out)
    assert new.secret != plane.token.secret
    shown = ucp.good("token", "show", "--json").json
    assert shown["join"] == f"UCP_JOIN_TOKEN={new} ucp join {plane.address}"


def test_tokens_of_both_kinds_are_made_counted_and_revoked(ucp: Ucp, plane: ControlPlane) -> None:
    """Each by itself; a list shows when they end and how often they were used, and no secret."""
    made = ucp.good("token", "rotate", "--kind", "worker", "--expires", "2h", "--json").json
    ends, begins = (datetime.fromisoformat(made[key]) for key in ("expires_at", "created_at"))
    assert (ends - begins).total_seconds() == 7200
    assert Token.parse(made["token"]).kind is TokenKind.WORKER
    plane.join("node3", "10.0.0.3")
    listed = ucp.good("token", "ls").out
    assert re.search(r"^manager .* 2 ", listed, re.MULTILINE)
    assert re.search(r"^worker .* 0 ", listed, re.MULTILINE)
    assert plane.token.secret not in listed
    told = ucp.good("token", "revoke", "--kind", "manager").out
    assert told == "Revoked the join token for managers. It was used 2 times.\n"
    message = ucp.fails("token", "show")
    assert "ucp token rotate --kind manager" in message
    assert ucp.good("token", "show", "--kind", "worker").out.strip() == made["token"]


@pytest.mark.parametrize("lifetime", ["0d", "", "1", "-1h", "2y", "x", "1.5h", "١h"])
def test_a_token_has_an_end(ucp: Ucp, lifetime: str) -> None:
    """A year at most, and some time at least."""
    assert "--expires takes" in ucp.fails("token", "rotate", f"--expires={lifetime}")


def test_no_secret_is_in_the_controllers_log(ucp: Ucp, plane: ControlPlane) -> None:
    """It tells who asked for what."""
    ucp.good("passwd", stdin="another long one\n")
    told = repr(plane.logs)
    assert "/administrators/admin/password" in told
    for secret in (PASSWORD, "another long one", plane.token.secret, "PRIVATE KEY"):
        assert secret not in told


def test_the_authority_is_printed_without_a_login(ucp: Ucp, plane: ControlPlane) -> None:
    """With its fingerprint for comparison, on the other stream."""
    for name in ("UCP_USERNAME", "UCP_PASSWORD", "UCP_CA"):
        del ucp.environment[name]
    ended = ucp.good("ca")
    assert ended.out == plane.ca
    assert fingerprint(plane.ca) in ended.err


def test_a_password_is_changed(ucp: Ucp, tmp_path: Path) -> None:
    """From a file, or from standard input."""
    path = tmp_path / "password"
    path.write_text("another long one\n")
    assert "too short" not in ucp.good("passwd", "--password-file", path).out
    assert "wrong" in ucp.fails("node", "ls")
    ucp.environment["UCP_PASSWORD"] = "another long one"
    ucp.good("passwd", "admin", stdin=f"{PASSWORD}\n")
    assert (
        "no administrator 'root'"
        in ucp.run(
            "passwd", "root", stdin="abcdefgh\n", environment={"UCP_PASSWORD": PASSWORD}
        ).message
    )


def test_the_status_says_what_is_wrong_and_what_is_survived(ucp: Ucp, plane: ControlPlane) -> None:
    """Scripts ask with --check."""
    shown = ucp.good("status").out
    assert "the loss of 0 more managers" in shown
    assert "node2: The fan is loud. Replace it." in shown
    found = ucp.good("status", "--json").json
    assert [manager["node"] for manager in found["managers"]] == ["first"]
    assert ucp.run("status", "--check").status == 1
    plane.now += 60
    problems = ucp.good("status", "--json").json["problems"]
    assert any("node2 has not reported for 60 s" in problem for problem in problems)


def test_without_a_majority_the_status_says_which_controllers_answer(
    ucp: Ucp, plane: ControlPlane
) -> None:
    """Nobody can log in then, and yet somebody must find out what to start."""
    plane.store.is_available = False
    message = ucp.fails("status")
    assert "No majority of etcd answers" in message
    assert f"- {plane.address}: it runs, and cannot reach a majority of etcd" in message
    address = plane.address
    plane.stop(plane.ports[0])
    assert f"- {address}: nothing listens there" in ucp.fails("status")


def test_a_backup_is_a_tar_that_only_its_owner_can_read(ucp: Ucp, tmp_path: Path) -> None:
    """It has everything, and replaces nothing."""
    path = tmp_path / "backup.tar"
    ucp.good("backup", "--output", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with tarfile.open(path) as archive:
        (member,) = archive.getmembers()
        file = archive.extractfile(member)
        assert file is not None
        documents = json.loads(file.read())["documents"]
    assert "PRIVATE KEY" in documents[keys.CONTROL_SECRETS]["ca_key"]
    assert not any(key.startswith(keys.SESSIONS) for key in documents)
    assert "there already" in ucp.fails("backup", "--output", path)
    assert "cannot be written" in ucp.fails("backup", "--output", tmp_path / "no" / "where")


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 2048])
def test_what_is_no_backup_is_not_restored(tmp_path: Path, content: bytes) -> None:
    """And nothing is written."""
    path = tmp_path / "backup.tar"
    path.write_bytes(content)
    where = tmp_path / "node"
    message = Ucp().fails(
        "restore", "--input", path, "--data-dir", where, "--host-address", "127.0.0.1"
    )
    assert "is not a backup" in message
    assert not where.exists()


def test_a_backup_with_a_path_in_it_writes_nothing(tmp_path: Path) -> None:
    """Archives of others are not unpacked."""
    path = tmp_path / "backup.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("../../etc/evil", "/etc/evil"):
            member = tarfile.TarInfo(name)
            member.size = 4
            archive.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("ucp-backup.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    message = Ucp().fails("restore", "--input", path, "--data-dir", tmp_path / "node")
    assert "is not a backup" in message
