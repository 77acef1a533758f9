"""How `ucp` and `dtr` get at the control plane: told, asked, or found on the node itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from tests.cli.ucp_command import Ucp, administrator_of
from tests.support.server import UCP
from tests.ucp.plane import ADMINISTRATOR, PASSWORD, ControlPlane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """Give a control plane of one manager."""
    (tmp_path / "plane").mkdir()
    with ControlPlane(tmp_path / "plane") as running:
        yield running


@pytest.fixture
def ucp(plane: ControlPlane, tmp_path: Path) -> Ucp:
    """Give an administrator's command line."""
    return administrator_of(plane, tmp_path)


def without(ucp: Ucp, *names: str) -> Ucp:
    """Give the command line of somebody who is told less."""
    kept = {name: value for name, value in ucp.environment.items() if name not in names}
    return Ucp(kept)


def test_what_the_environment_says_is_enough(ucp: Ucp) -> None:
    """With the original's names."""
    assert "first" in ucp.good("node", "ls").out


def test_the_authority_may_be_given_itself(ucp: Ucp, plane: ControlPlane) -> None:
    """As the original took it; or not at all, with the insecure option."""
    ucp.environment["UCP_CA"] = plane.ca
    assert ucp.good("node", "ls", "--json").json[0]["name"] == "first"
    blind = without(ucp, "UCP_CA")
    assert "--ucp-insecure-tls" in blind.fails("node", "ls")
    assert "first" in blind.good("node", "ls", "--ucp-insecure-tls").out
    assert "cannot be read" in blind.fails("node", "ls", "--ucp-ca", "/nowhere")


def test_a_password_on_the_command_line_is_refused(ucp: Ucp) -> None:
    """Every user of the machine could read it; the message names the other ways."""
    message = ucp.fails("node", "ls", "--ucp-password", "hunter2")
    assert "UCP_PASSWORD" in message
    assert "--ucp-password-file" in message
    assert "hunter2" not in message


def test_a_password_may_come_from_a_file_or_from_standard_input(ucp: Ucp, tmp_path: Path) -> None:
    """Without the environment, which others of the same user can read."""
    told = without(ucp, "UCP_PASSWORD")
    path = tmp_path / "password"
    path.write_text(f"{PASSWORD}\n")
    assert "first" in told.good("node", "ls", "--ucp-password-file", path).out
    assert "first" in told.good("node", "ls", "--ucp-password", "-", stdin=f"{PASSWORD}\n").out
    assert "wrong" in told.fails("node", "ls", "--ucp-password", "-", stdin="nonsense\n")


@pytest.mark.parametrize(
    ("missing", "option"),
    [
        ("UCP_URL", "--ucp-url"),
        ("UCP_USERNAME", "--ucp-username"),
        ("UCP_PASSWORD", "--ucp-password"),
    ],
)
def test_without_a_terminal_nothing_is_asked(ucp: Ucp, missing: str, option: str) -> None:
    """It fails, naming the option and the variable."""
    message = without(ucp, missing).fails("status")
    assert message.startswith(f"{option} is needed")
    assert missing in message


def test_on_a_node_address_and_authority_are_its_own(ucp: Ucp, plane: ControlPlane) -> None:
    """Whoever is logged in there need not know either."""
    local = without(ucp, "UCP_URL", "UCP_CA")
    local.environment["UCP_DATA_DIR"] = str(plane.directory.root)
    assert "first" in local.good("node", "ls").out
    plane.directory.identity.write_text("{")
    assert "not one that UCP wrote" in local.fails("node", "ls")


def test_at_a_terminal_what_is_missing_is_asked_as_the_original_asked(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """And the password does not appear."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UCP_")}
    environment |= {"UCP_DATA_DIR": str(tmp_path / "none"), "UCP_INSECURE_TLS": "true"}
    terminal = pexpect.spawn(
        UCP[0], [*UCP[1:], "node", "ls"], env=environment, encoding="utf-8", timeout=60
    )
    terminal.expect_exact("ucp-url (The UCP URL including domain and port): ")
    terminal.sendline(plane.address)
    terminal.expect_exact("ucp-username (The UCP administrator username): ")
    terminal.sendline(ADMINISTRATOR)
    terminal.expect_exact("ucp-password: ")
    terminal.sendline(PASSWORD)
    shown = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 0, shown
    assert "first" in shown
    assert PASSWORD not in shown
