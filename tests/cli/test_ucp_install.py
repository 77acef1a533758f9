"""`ucp install`, `join`, `restore` and `uninstall` on a machine: what is checked and written."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from tests.cli.ucp_command import Ucp, administrator_of
from tests.support.processes import requires
from tests.support.server import UCP
from tests.ucp.plane import ControlPlane

from dtr.cli.ucp.checks import check_clock, check_etcd_version
from dtr.ucp.bootstrap import read_bootstrap
from dtr.ucp.client import UcpError
from dtr.ucp.model import NodeIdentity, Role
from dtr.ucp.tokens import Token

ADDRESS = "127.45.67.89"


@pytest.fixture(autouse=True)
def _etcd() -> None:
    requires("etcd")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give where the machine's data directory will be."""
    return tmp_path / "ucp"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane to join."""
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as running:
        yield running


def install(data: Path, *more: str | Path) -> list[str | Path]:
    """Give the words of an install that starts nothing."""
    return ["install", "--host-address", ADDRESS, "--data-dir", data, "--no-start", *more]


def test_an_install_writes_everything_down(data: Path) -> None:
    """And says what to type next; the password is in a file and nowhere else."""
    ended = Ucp().good(*install(data, "--node-name", "Node1", "--san", "ucp.example"))
    password = (data / "initial_admin_password").read_text().strip()
    assert password not in ended.out + ended.err
    assert f"https://{ADDRESS}:8443" in ended.out
    assert "dtr install --ucp-node node1" in ended.out
    token = next(word for word in ended.out.split() if "UCPTKN-" in word).partition("=")[2]
    assert len(Token.parse(token).ca_fingerprint) == 64
    for path in data.rglob("*"):
        if path.is_file() and password in path.read_text():
            assert path.name == "initial_admin_password"
            assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_password_that_is_given_is_kept_as_a_hash_only(data: Path, tmp_path: Path) -> None:
    """Given by the original's variable, by a file, or on standard input."""
    path = tmp_path / "password"
    path.write_text("the first password\n")
    ways: list[tuple[list[str | Path], dict[str, str], str]] = [
        (["--admin-password-file", path], {}, ""),
        (["--admin-password", "-"], {}, "the first password\n"),
        ([], {"UCP_ADMIN_PASSWORD": "the first password", "UCP_ADMIN_USER": "boss"}, ""),
    ]
    for number, (words, environment, stdin) in enumerate(ways):
        where = data.with_name(f"ucp{number}")
        told = Ucp().run(*install(where, *words, "--json"), stdin=stdin, environment=environment)
        assert told.status == 0, told
        assert told.json["password_file"] is None
        assert told.json["administrator"] == environment.get("UCP_ADMIN_USER", "admin")
        for file in where.rglob("*"):
            assert not file.is_file() or "the first password" not in file.read_text()
    assert "password on the command line is refused" in Ucp().fails(
        *install(data, "--admin-password", "hunter2")
    )
    assert "8 to 1024" in Ucp().fails(*install(data, "--admin-password", "-"), stdin="short\n")


def test_a_second_install_says_that_there_is_one(data: Path) -> None:
    """And changes nothing."""
    Ucp().good(*install(data))
    before = (data / "bootstrap.json").read_bytes()
    assert "is already a node of UCP" in Ucp().fails(*install(data))
    assert (data / "bootstrap.json").read_bytes() == before


def test_an_install_that_was_cut_short_is_done_again(data: Path) -> None:
    """Without `node.json` nothing has begun."""
    Ucp().good(*install(data))
    (data / "node.json").unlink()
    Ucp().good(*install(data))


def test_a_directory_of_somebody_else_is_left_alone(data: Path) -> None:
    """Neither written to nor deleted."""
    data.mkdir()
    (data / "thesis.txt").write_text("mine")
    assert "not empty" in Ucp().fails(*install(data))
    assert "no node of UCP" in Ucp().fails("uninstall", "--yes", "--data-dir", data)
    assert [path.name for path in data.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("port", [2379, 2380, 8443])
def test_a_port_that_is_taken_is_named_before_anything_is_written(data: Path, port: int) -> None:
    """With how to find who has it."""
    with socket.socket() as taken:
        taken.bind((ADDRESS, port))
        taken.listen()
        message = Ucp().fails(*install(data))
    assert f"port {port}" in message
    assert "ss -ltnp" in message
    assert not data.exists()


def test_an_etcd_that_runs_at_loopback_is_in_the_way(data: Path) -> None:
    """As Debian's does from its installation on: UCP's own listens there besides its address."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 2379))
        taken.listen()
        message = Ucp().fails(*install(data))
    assert "127.0.0.1 at port 2379" in message
    assert "systemctl disable --now etcd" in message
    assert not data.exists()


@pytest.mark.parametrize("address", ["203.0.113.77", "fd00::203:113:77", "::ffff"])
def test_an_address_of_another_machine_is_refused(data: Path, address: str) -> None:
    """It is what all others would try to reach."""
    words: list[str | Path] = [
        "install",
        "--host-address",
        address,
        "--data-dir",
        data,
        "--no-start",
    ]
    assert "does not have the address" in Ucp().fails(*words)
    assert not data.exists()


def test_without_a_terminal_the_address_must_be_given(data: Path) -> None:
    """It cannot be guessed which of several is meant."""
    message = Ucp().fails("install", "--data-dir", data, "--no-start")
    assert message.startswith("--host-address is needed")


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("etcd Version: 3.5.1\nGit SHA: x", "lose data"),
        ("etcd Version: 3.5.0", "lose data"),
        ("etcd Version: 3.3.25", "too old"),
        ("", "does not show"),
    ],
)
def test_an_etcd_that_loses_data_is_refused(told: str, reason: str) -> None:
    """By its version."""
    with pytest.raises(UcpError, match=reason):
        check_etcd_version(told)


@pytest.mark.parametrize("version", ["3.4.23", "3.5.3", "3.6.0"])
def test_an_etcd_that_is_good_passes(version: str) -> None:
    """Debian's, and those after the repair."""
    check_etcd_version(f"etcd Version: {version}\n")


def test_a_clock_far_from_the_controllers_is_refused() -> None:
    """Certificates would be refused later, less clearly."""
    check_clock()
    with pytest.raises(UcpError, match="apart"):
        check_clock(1.0)


def test_at_a_terminal_the_password_is_asked_twice(data: Path) -> None:
    """And not shown."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UCP_")}
    words = [*UCP[1:], *map(str, install(data))]
    terminal = pexpect.spawn(sys.executable, words, env=environment, encoding="utf-8", timeout=60)
    terminal.expect_exact("admin-password: ")
    terminal.sendline("correct horse")
    terminal.expect_exact("admin-password (again): ")
    terminal.sendline("correct horse")
    shown = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0, shown
    assert "correct horse" not in shown
    assert not (data / "initial_admin_password").exists()


def join(data: Path, plane: ControlPlane, token: str | None = None) -> list[str | Path]:
    """Give the words of a join that starts nothing."""
    return [
        *("join", plane.address, "--token", token or str(plane.token), "--data-dir", data),
        *("--node-name", "node2", "--host-address", ADDRESS, "--no-start"),
    ]


def test_a_machine_joins(data: Path, plane: ControlPlane, tmp_path: Path) -> None:
    """Its key stays where it was made."""
    told = Ucp().good(*join(data, plane), "--json").json
    identity = NodeIdentity.model_validate_json((data / "node.json").read_bytes())
    assert told["node_id"] == identity.node_id
    assert plane.node(identity.node_id).host_address == ADDRESS
    assert stat.S_IMODE((data / "pki" / "node.key").stat().st_mode) == 0o600
    administrator = administrator_of(plane, tmp_path)
    assert "node2" in administrator.good("node", "ls").out
    assert "is already a node of UCP" in Ucp().fails(*join(data, plane))


def test_a_join_whose_answer_was_lost_goes_on(data: Path, plane: ControlPlane) -> None:
    """With the key that it made before it asked."""
    Ucp().good(*join(data, plane))
    before = NodeIdentity.model_validate_json((data / "node.json").read_bytes())
    (data / "node.json").unlink()
    Ucp().good(*join(data, plane))
    after = NodeIdentity.model_validate_json((data / "node.json").read_bytes())
    assert after.node_id == before.node_id


def test_an_impostor_learns_nothing(data: Path, plane: ControlPlane, tmp_path: Path) -> None:
    """The token names the authority, and what answers is another."""
    (tmp_path / "other").mkdir()
    with ControlPlane(tmp_path / "other") as impostor:
        message = Ucp().fails(*join(data, impostor, str(plane.token)))
        assert len(impostor.run(impostor.store.list("/ucp/nodes/"))[0]) == 1
    assert "not the control plane of this token" in message
    assert plane.token.secret not in message
    assert not (data / "node.json").exists()


def test_a_token_that_is_wrong_or_none_is_refused(data: Path, plane: ControlPlane) -> None:
    """With where to get one."""
    old = Token(plane.token.ca_fingerprint, "a" * 32)
    assert "ucp token show" in Ucp().fails(*join(data, plane, str(old)))
    assert "ucp token show" in Ucp().fails(*join(data, plane, "SWMTKN-1-x"))
    message = Ucp().fails("join", plane.address, "--data-dir", data)
    assert message.startswith("--token is needed")


def test_a_token_may_come_from_a_file_or_the_environment(
    data: Path, plane: ControlPlane, tmp_path: Path
) -> None:
    """So that it is in no list of processes."""
    path = tmp_path / "token"
    path.write_text(f"{plane.token}\n")
    words = [word for word in join(data, plane) if word not in {"--token", str(plane.token)}]
    Ucp().good(*words, "--token-file", path)
    (data / "node.json").unlink()
    environment = {"UCP_JOIN_TOKEN": str(plane.token)}
    assert Ucp().run(*words, environment=environment).status == 0


def test_a_workers_token_makes_a_worker(data: Path, plane: ControlPlane) -> None:
    """Without being asked for; and no manager, whoever asks."""
    words = join(data, plane, str(plane.worker_token))
    assert "worker token" in Ucp().fails(*words, "--role", "manager")
    told = Ucp().good(*words, "--json").json
    assert plane.node(told["node_id"]).role is Role.WORKER


def test_what_is_printed_puts_the_token_into_no_list_of_processes(
    data: Path, plane: ControlPlane, tmp_path: Path
) -> None:
    """Typed as it is, in a shell, it joins; its arguments have nothing secret."""
    shown = administrator_of(plane, tmp_path).good("token", "show", "--json").json
    arguments = shown["join"].partition(" ")[2]
    assert arguments == f"ucp join {plane.address}"
    assert plane.token.secret not in arguments
    assert shown["join"].startswith("UCP_JOIN_TOKEN=")
    told = Ucp().good(*install(data, "--node-name", "node1"), "--json").json
    assert told["join"] == f"UCP_JOIN_TOKEN={told['token']} ucp join {told['address']}"
    assert told["worker_token"].startswith("UCPTKN-1W-")


def test_uninstalling_deletes_the_directory_and_says_before_what(data: Path) -> None:
    """Only after a question, which scripts answer with --yes."""
    Ucp().good(*install(data, "--node-name", "node1"))
    told = Ucp().good("uninstall", "--data-dir", data, "--dry-run", "--json").json
    assert told["node"] == "node1"
    assert "pki" in told["deletes"]
    assert "--yes" in Ucp().fails("uninstall", "--data-dir", data)
    assert data.exists()
    Ucp().good("uninstall", "--data-dir", data, "--yes")
    assert not data.exists()
    assert "no node of UCP" in Ucp().fails("uninstall", "--data-dir", data, "--yes")


def test_a_backup_is_restored_on_a_fresh_machine(
    data: Path, plane: ControlPlane, tmp_path: Path
) -> None:
    """With the nodes that there were."""
    plane.join("worker", "10.0.0.7")
    backup = tmp_path / "backup.tar"
    administrator_of(plane, tmp_path).good("backup", "--output", backup)
    words: list[str | Path] = [
        "restore",
        "--input",
        backup,
        "--host-address",
        ADDRESS,
        "--data-dir",
        data,
    ]
    told = Ucp().good(*words, "--node-name", "first", "--no-start", "--json").json
    assert told["token"] != str(plane.token)
    assert told["node_id"] == plane.first.id
    bootstrap = read_bootstrap(data / "bootstrap.json")
    assert bootstrap is not None
    assert bootstrap.cluster.ca_certificate == plane.ca
    assert sum(key.startswith("/ucp/nodes/") for key in bootstrap.documents) == 1
