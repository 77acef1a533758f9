"""`dtr config`: what is in effect, where it comes from, and what a server would refuse."""

import json
import socket
import sqlite3
from pathlib import Path

import pytest
from tests.cli.command import CommandLine, QuickCommandLine
from tests.support.processes import free_port

from dtr.server.settings import setting_fields


@pytest.fixture
def new(tmp_path: Path) -> QuickCommandLine:
    """Give the command line on a data directory that is yet to be made."""
    return QuickCommandLine(tmp_path, tmp_path / "data")


def test_every_value_is_shown_with_its_source(quick: QuickCommandLine, tmp_path: Path) -> None:
    """From the command line, the environment, the file, or by default."""
    file = tmp_path / "dtr.toml"
    file.write_text('[server]\nworkers = 3\ntrusted_proxies = ["10.0.0.0/8"]')
    shown = quick.run(
        "config", "show", "--json", "--config", file, environment={"DTR_LOG__LEVEL": "debug"}
    ).json
    assert [entry["key"] for entry in shown] == list(setting_fields())
    found = {entry["key"]: (entry["value"], entry["source"]) for entry in shown}
    assert found["server.workers"] == (3, f"file {file}")
    assert found["server.trusted_proxies"] == (["10.0.0.0/8"], f"file {file}")
    assert found["log.level"] == ("debug", "environment DTR_LOG__LEVEL")
    assert found["data.directory"] == (str(quick.data_dir), "the command line")
    assert found["server.listen"] == ("127.0.0.1:5000", "default")
    assert found["server.tls_cert"] == (None, "default")


def test_what_is_given_can_be_shown_alone(quick: QuickCommandLine) -> None:
    """Defaults are left out."""
    environment = {"DTR_LIMITS__URL_BYTES": "4096"}
    lines = quick.run("config", "show", "--changed", environment=environment).out.splitlines()
    assert [line.split()[0] for line in lines] == ["setting", "data.directory", "limits.url_bytes"]


@pytest.mark.parametrize("options", [(), ("--json",), ("--changed",)])
def test_no_secret_is_shown(quick: QuickCommandLine, options: tuple[str, ...]) -> None:
    """A database's URL may hold a password."""
    url = "postgresql://dtr:hunter2@db.example/dtr"
    ended = quick.run("config", "show", *options, environment={"DTR_DATABASE__URL": url})
    assert "***" in ended.out
    assert "hunter2" not in ended.out + ended.err
    assert "environment DTR_DATABASE__URL" in ended.out


SHORT = {"DTR_DATA__ADMIN_PASSWORD_FILE": "short"}
REFUSED = [
    ({"DTR_DATABASE__URL": "mysql://db.example/dtr"}, "must begin with postgresql://"),
    ({"DTR_DATABASE__URL": "postgresql://h:x/d"}, "port"),
    ({"DTR_DATA_DIRECTORY": "elsewhere"}, "did you mean DTR_DATA__DIRECTORY?"),
    ({"DTR_STORAGE__URL": "file:///nowhere/at/all"}, "is not there; make it, or mount it"),
    ({"DTR_STORAGE__URL": "replicated:"}, "needs the other replicas"),
    ({"DTR_SERVER__TLS_CERT": "text", "DTR_SERVER__TLS_KEY": "text"}, "not in PEM format"),
    ({"DTR_DATABASE__PASSWORD_FILE": "none", "DTR_DATABASE__URL": "postgresql://h/d"}, "none"),
    (SHORT, "The file short cannot be used: a password must have 8 to 1024 characters."),
    ({"DTR_DATA__ADMIN_PASSWORD_HASH_FILE": "short"}, "The file short cannot be used: "),
    ({"DTR_SERVER__LISTEN": "192.0.2.1:5000"}, "The address is not one of this machine"),
]


@pytest.mark.parametrize(("environment", "message"), REFUSED)
def test_the_check_refuses_what_cannot_work(
    new: QuickCommandLine,
    environment: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one sentence or two, and nothing is made."""
    monkeypatch.chdir(new.place)
    Path("short").write_text("short\n")
    Path("text").write_text("no certificate\n")
    given = {"DTR_SERVER__LISTEN": f"127.0.0.1:{free_port()}", **environment}
    assert message in new.run("config", "check", environment=given).message
    assert not new.data_dir.exists()


def test_the_server_refuses_the_same_in_the_same_words(new: QuickCommandLine) -> None:
    """It begins with the same checks."""
    given = {
        "DTR_SERVER__LISTEN": f"127.0.0.1:{free_port()}",
        "DTR_DATABASE__URL": "mysql://db.example/dtr",
    }
    checked = new.run("config", "check", environment=given).message
    server = CommandLine(new.place, new.data_dir)
    assert server.run("serve", environment=given).message == checked
    assert not new.data_dir.exists()


def test_the_check_refuses_metadata_of_another_version(quick: QuickCommandLine) -> None:
    """As the server does."""
    with sqlite3.connect(quick.data_dir / "dtr.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("INSERT INTO settings VALUES ('schema.oldest_program', '9999')")
    connection.close()
    assert "schema 9999" in quick.fails("config", "check")


def test_the_check_passes_beside_a_server_that_runs(quick: QuickCommandLine) -> None:
    """An address that somebody listens on is no fault of the settings."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        ended = quick.run("config", "check", environment={"DTR_SERVER__LISTEN": address})
    assert ended.status == 0, ended
    assert address in ended.out


def test_a_database_that_does_not_answer_is_found_where_it_is_asked(
    quick: QuickCommandLine,
) -> None:
    """Without `--connect` nothing is asked."""
    url = f"postgresql://dtr@127.0.0.1:{free_port()}/dtr?connect_timeout=1"
    environment = {"DTR_DATABASE__URL": url}
    assert quick.run("config", "check", environment=environment).status == 0


def test_the_sample_is_all_of_the_settings(quick: QuickCommandLine) -> None:
    """Each with its default, commented out."""
    sample = quick.run("config", "sample", names_data=False).out
    assert all(f"#{key.partition('.')[2]} = " in sample for key in setting_fields())
    assert json.dumps(sample)


def test_commands_of_the_cluster_refuse_unknown_variables(quick: QuickCommandLine) -> None:
    """They read no settings, and a mistyped variable would be as silent."""
    ended = quick.run("status", environment={"DTR_REPLICAID": "x"}, names_data=False)
    assert "did you mean DTR_REPLICA_ID?" in ended.message


def test_variables_of_the_control_plane_are_refused_where_it_is_asked(
    quick: QuickCommandLine,
) -> None:
    """An embedded registry reads none of them, so it does not look at them."""
    environment = {"UCP_HOSTADDRESS": "10.0.0.1"}
    ended = quick.run("status", "--ucp-url", "127.0.0.1:1", environment=environment)
    assert "UCP_HOSTADDRESS: is not a variable of UCP; did you mean" in ended.message
    assert quick.run("config", "check", environment=environment).status == 0
